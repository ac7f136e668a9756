"""Forward passes that compute shared prefixes once: rows that begin alike, options and responses of one prompt.

Key and value states live in buffers that are made once per batch at full length. Columns may hold padding anywhere, since
positions and attention mask are always given; so the prefix that a whole batch shares is computed on one row and copied.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import InvalidInput

if TYPE_CHECKING:
    import torch
    from transformers import Cache

    from pytest_trust.heads import Head
    from pytest_trust.models import LoadedModel

Ids = tuple[int, ...]

# A shared beginning below this many tokens is not worth a forward of its own.
_WORTH_SHARING = 8


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences that begin with the same prompt, and for each the index of the first token that is looked at (1 or more)."""

    rows: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]


@dataclass(slots=True)
class Prefilled:
    """Rows after their forward. `hidden` [rows, columns, hidden size] is right-aligned and leaves out the `shared` beginning."""

    cache: Cache
    hidden: torch.Tensor
    shared: torch.Tensor
    mask: torch.Tensor
    lengths: torch.Tensor

    def state(self, row: int, length: int, position: int) -> torch.Tensor:
        """The state at a position of a row of `length` tokens, [hidden size]."""
        offset = position - self.shared.shape[0]
        if offset < 0:
            return self.shared[position]
        return self.hidden[row, self.hidden.shape[1] - (length - self.shared.shape[0]) + offset]


class Runner:
    """A loaded model's forward passes.

    `shares` is false for models whose states are not one key and value per position (sliding windows, recurrent layers, unusual
    forwards): those are run by plain forwards and transformers' `generate`. It is decided by a small trial against the plain
    forward, not by a list of names.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.model: Any = loaded.model
        self.body: Any = getattr(self.model, self.model.base_model_prefix, None)
        self.device = loaded.device
        pad = loaded.tokenizer.pad_token_id
        # Any id will do: padding is masked, and many models pad with their end token.
        self.pad_id = pad if isinstance(pad, int) else min(loaded.eos_ids, default=0)
        self.head = self._find_head()
        self.shares = self._can_share()

    def limit_rows(self, columns: int, batch_size: int | None) -> int:
        """Rows of a batch: what was asked for, else as many as help (64 on a CPU, 256 elsewhere) and fit a quarter of the free memory."""
        if batch_size is not None:
            return batch_size
        config: Any = self.model.config.get_text_config(decoder=True)
        heads: int = int(
            getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None) or 1
        )
        width = int(
            getattr(config, "head_dim", None)
            or config.hidden_size // max(1, int(getattr(config, "num_attention_heads", 1)))
        )
        element = int(self.model.dtype.itemsize)
        states = 2 * int(config.num_hidden_layers) * heads * width * element
        activations = 8 * int(config.hidden_size) * element
        fit = free_bytes(self.device) // 4 // max(1, (states + activations) * columns)
        return max(1, min(64 if self.device == "cpu" else 256, fit))

    def prefill(self, rows: Sequence[Ids], *, reserve: int = 0) -> Prefilled:
        """Run rows of at least one token each, leaving room for `reserve` further tokens."""
        import torch

        count, longest = len(rows), max(map(len, rows))
        shared = common_prefix(rows) if count > 1 else 0
        shared = min(shared, min(map(len, rows)) - 1)
        if shared < _WORTH_SHARING:
            shared = 0
        cache = _buffer_cache(self.model, longest + reserve)
        mask = torch.zeros(count, longest + reserve, dtype=torch.long, device=self.device)
        mask[:, :shared] = 1
        prefix = torch.empty(0, int(self.model.config.get_text_config(decoder=True).hidden_size))
        if shared:
            ids = torch.tensor([list(rows[0][:shared])], device=self.device)
            positions = torch.arange(shared, device=self.device)[None]
            prefix = self.step(ids, mask[:1, :shared], positions, cache)[0]
            select_rows(cache, torch.zeros(count, dtype=torch.long, device=self.device))
        columns = longest - shared
        ids = torch.full((count, columns), self.pad_id, device=self.device)
        for index, row in enumerate(rows):
            rest = list(row[shared:])
            ids[index, columns - len(rest) :] = torch.tensor(rest, device=self.device)
            mask[index, longest - len(rest) : longest] = 1
        lengths = mask.sum(-1)
        positions = (mask[:, :longest].cumsum(-1) - 1).clamp(min=0)[:, shared:]
        hidden = self.step(ids, mask[:, :longest], positions, cache)
        return Prefilled(cache, hidden, prefix, mask, lengths)

    def step(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Post-norm hidden states [rows, columns, hidden size] of further tokens; their states are added to the cache."""
        hidden: torch.Tensor = self.body(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        return hidden

    def hidden_states(self, groups: Sequence[Group]) -> list[list[torch.Tensor]]:
        """Per group and row the post-norm states that predict the tokens from `start` on, [tokens, hidden size]; one batch."""
        import torch

        with torch.inference_mode():
            return (
                self._grouped(groups)
                if self.shares
                else [[self._plain(row, start) for row, start in pairs(group)] for group in groups]
            )

    def alone(self, groups: Sequence[Group]) -> list[list[torch.Tensor]]:
        """The same of each row by itself: no padding, no neighbours, no shared beginning."""
        return [[self.hidden_states([Group((row,), (start,))])[0][0] for row, start in pairs(group)] for group in groups]

    def _plain(self, row: Ids, start: int) -> torch.Tensor:
        import torch

        ids = torch.tensor([list(row[:-1])], device=self.device)
        body = self.body if self.body is not None else self.model
        output = body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        if not hasattr(output, "last_hidden_state"):
            raise InvalidInput(
                f"{self.loaded.identity.label}: {type(self.model).__name__} gives no hidden states: options and drift cannot be measured"
            )
        hidden: torch.Tensor = output.last_hidden_state[0, start - 1 :]
        return hidden

    def _grouped(self, groups: Sequence[Group]) -> list[list[torch.Tensor]]:
        import torch

        # What the rows of a group share runs once; the last token of a row is predicted, never read.
        stems, members, tails = [], [], []
        for group in groups:
            length = min(common_prefix(group.rows), min(map(len, group.rows)) - 1)
            for row in group.rows:
                if not length:  # nothing in common: every row is its own stem
                    stems.append(row[:-1])
                    members.append((len(stems) - 1, len(row) - 1))
                else:
                    members.append((len(stems), length))
                tails.append(row[members[-1][1] : -1])
            if length:
                stems.append(group.rows[0][:length])
        done = self.prefill(stems, reserve=max(map(len, tails)))
        tail_states: dict[int, torch.Tensor] = {}
        chosen = [index for index, tail in enumerate(tails) if tail]
        if chosen:
            tail_states = self._tails(
                done, [members[index][0] for index in chosen], [tails[index] for index in chosen], chosen
            )
        result, index = [], 0
        for group in groups:
            of_group = []
            for row, start in pairs(group):
                stem, length = members[index]
                states = [done.state(stem, length, position) for position in range(start - 1, length)]
                parts = [torch.stack(states)] if states else []
                if index in tail_states:
                    parts.append(tail_states[index][max(0, start - 1 - length) : len(tails[index])])
                of_group.append(torch.cat(parts))
                assert of_group[-1].shape[0] == len(row) - start
                index += 1
            result.append(of_group)
        return result

    def _tails(self, done: Prefilled, stems: list[int], tails: list[Ids], names: list[int]) -> dict[int, torch.Tensor]:
        import torch

        rows = torch.tensor(stems, device=self.device)
        used, width = int(done.cache.get_seq_length()), max(map(len, tails))
        select_rows(done.cache, rows)
        ids = torch.full((len(tails), width), self.pad_id, device=self.device)
        own = torch.zeros(len(tails), width, dtype=torch.long, device=self.device)
        for index, tail in enumerate(tails):
            ids[index, : len(tail)] = torch.tensor(list(tail), device=self.device)
            own[index, : len(tail)] = 1
        positions = done.lengths[rows][:, None] + torch.arange(width, device=self.device)
        hidden = self.step(ids, torch.cat([done.mask[rows, :used], own], 1), positions, done.cache)
        return {name: hidden[index] for index, name in enumerate(names)}

    def _find_head(self) -> Head | None:
        from pytest_trust.heads import head_of

        try:
            return head_of(self.model)
        except InvalidInput:
            return None

    def _can_share(self) -> bool:
        """Try the shared forward on a few tokens against the plain one."""
        import torch
        from transformers.cache_utils import DynamicCache, DynamicLayer

        if self.body is None or self.body is self.model or self.head is None:
            return False
        if "position_ids" not in inspect.signature(self.body.forward).parameters:
            return False
        vocabulary = self.head.vocabulary
        first = tuple((7 * index + 3) % vocabulary for index in range(14))
        rows = [(*first, 5 % vocabulary, 11 % vocabulary, 2 % vocabulary), (*first, 13 % vocabulary)]
        try:
            if not all(type(layer) is DynamicLayer for layer in DynamicCache(config=self.model.config).layers):
                return False
            with torch.inference_mode():
                done = self.prefill(rows, reserve=1)
                last = done.lengths[:, None]
                token = torch.full((2, 1), 1 % vocabulary, device=self.device)
                done.mask[:, len(rows[0])] = 1
                shared = self.head.logits(self.step(token, done.mask, last, done.cache)[:, -1]).float()
                for index, row in enumerate(rows):
                    plain = (
                        self.model(
                            input_ids=torch.tensor([[*row, 1 % vocabulary]], device=self.device), use_cache=False
                        )
                        .logits[0, -1]
                        .float()
                    )
                    # A wrong mask or position moves the logits by their own size; 16-bit rounding by some hundredths of it.
                    if not float((plain - shared[index]).norm()) <= 0.05 * float(plain.norm()) + 1e-6:
                        return False
        except (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError, IndexError):
            return False
        return True


def pairs(group: Group) -> list[tuple[tuple[int, ...], int]]:
    return list(zip(group.rows, group.starts, strict=True))


def common_prefix(rows: Sequence[tuple[int, ...]]) -> int:
    """Number of leading ids that all rows share."""
    low, high = min(rows), max(rows)  # in lexicographic order, what the extremes share all share
    return next(
        (index for index, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )


def free_bytes(device: str) -> int:
    """Memory that a batch may use: free on a GPU, available (without swapping) otherwise."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if "SC_PHYS_PAGES" in names else 4 << 30


@functools.cache
def _buffer_class() -> Any:
    """A cache layer that writes into buffers of full length, where transformers' own copies everything at every token."""
    from transformers.cache_utils import DynamicLayer

    class BufferLayer(DynamicLayer):  # type: ignore[no-untyped-call]
        def __init__(self, capacity: int) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.capacity = capacity
            self.used = 0

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            if not self.is_initialized:
                self.dtype, self.device = key_states.dtype, key_states.device
                self._allocate(key_states, value_states, key_states.shape[0])
                self.is_initialized = True
            start, self.used = self.used, self.used + key_states.shape[-2]
            self.key_buffer[:, :, start : self.used] = key_states
            self.value_buffer[:, :, start : self.used] = value_states
            return self._expose()

        def _allocate(self, keys: torch.Tensor, values: torch.Tensor, rows: int) -> None:
            self.key_buffer = keys.new_empty(rows, keys.shape[1], self.capacity, keys.shape[3])
            self.value_buffer = values.new_empty(rows, values.shape[1], self.capacity, values.shape[3])

        def _expose(self) -> tuple[torch.Tensor, torch.Tensor]:
            self.keys, self.values = self.key_buffer[:, :, : self.used], self.value_buffer[:, :, : self.used]
            return self.keys, self.values

        def select(self, rows: torch.Tensor) -> None:
            keys, values = self._expose()
            self._allocate(keys, values, len(rows))
            self.key_buffer[:, :, : self.used] = keys[rows]
            self.value_buffer[:, :, : self.used] = values[rows]
            self._expose()

        def get_seq_length(self) -> int:
            return self.used

    return BufferLayer


def _buffer_cache(model: Any, capacity: int) -> Cache:
    from transformers.cache_utils import Cache, DynamicCache

    layers = len(DynamicCache(config=model.config).layers)
    cache: Cache = Cache(layers=[_buffer_class()(capacity) for _ in range(layers)])
    return cache


def select_rows(cache: Any, rows: torch.Tensor) -> None:
    """Keep (or repeat) these rows of a cache made by `prefill`."""
    for layer in cache.layers:
        layer.select(rows)
