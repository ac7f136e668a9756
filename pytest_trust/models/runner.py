"""Forward passes that compute shared beginnings once: prompts, options and responses run as trees (`token_trees`).

Positions and masks are always given, so the columns of a batch may hold padding anywhere. After a prefill each row's
keys and values are picked out of the tree along its path. They lie right-aligned in buffers of full length.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import InvalidInput
from pytest_trust.models.identity import BALANCED, on_cuda
from pytest_trust.models.kv_buffers import buffer_cache
from pytest_trust.models.memory import BatchLimits, return_large_blocks
from pytest_trust.models.token_trees import Ids, Pack, packs, tree_inputs, tree_tokens

if TYPE_CHECKING:
    import torch
    from transformers import Cache

    from pytest_trust.models.heads import Head
    from pytest_trust.models.loaded import LoadedModel

# Fewest and most tokens of a row of trees; one longer sequence makes a longer row. Longer rows share more and have less
# padding, but attend to more tokens that their mask hides. With prompts of 95 tokens 512 is twice as fast as 128.
_TREE_COLUMNS = (128, 512)
# Above this the mask of a tree costs more than it shares.
LONGEST_TREE = 2048
# Tokens of a forward over trees: enough for products at full speed, and few enough for little memory.
_CPU_FORWARD = 512
_GPU_FORWARD = 16_384

# Rows of a batch on a GPU.
_GPU_ROWS = 256
# Share of a GPU's free memory that may be used; freed memory is fragmented.
_USED = 0.9
# Rows of a batch on a CPU. A product takes 2.2 ms a row with 19 rows, 1.1 ms with 96 and still 0.95 ms with 256.
_CPU_ROWS = 96

# Bytes of a batch's keys and values on a CPU if all rows reached their limits. Few do, and columns that are not reached
# take no memory.
_CPU_STATES = 3 * 2**28


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences that begin with the same prompt, and for each the index of its first predicted token (1 or more)."""

    rows: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]


@dataclass(slots=True)
class Prefilled:
    """Prompts after their forward."""

    cache: Cache
    """Keys and values, right-aligned in as many columns as the longest prompt has tokens."""
    last: torch.Tensor
    """[rows, hidden size]: the states that predict what follows the prompts."""
    lengths: torch.Tensor
    """[rows]: tokens of each prompt."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """The states of one forward."""

    states: torch.Tensor
    """[states, hidden size]"""
    places: dict[int, list[int]]
    """By row number, the places of the states that predict the row's tokens."""


class Runner:
    """A loaded model's forward passes.

    `shares` says whether shared beginnings are computed once. It is false for models whose states are not one key and
    value per position (sliding windows, recurrent layers), and for models that take no custom mask. Those are run by
    plain forwards and transformers' `generate`. A small trial against the plain forward decides this, not a list of
    names.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.model: Any = loaded.model
        self.body: Any = getattr(self.model, self.model.base_model_prefix, None)
        self.device = loaded.device
        if self.device == "cpu":
            return_large_blocks()
        pad = loaded.tokenizer.pad_token_id
        # Any id will do, since padding is masked.
        self.pad_id = pad if isinstance(pad, int) else min(loaded.eos_ids, default=0)
        self.head = self._find_head()
        self.shares = self._can_share()

    def limits(self, probed: int = 0) -> BatchLimits:
        """Rows and tokens that a batch may hold.

        The rows are at most 96 on a CPU and 256 elsewhere. The tokens' states fit a quarter of the free memory, and on
        a CPU 768 MiB. With `probed`, the bytes of a forward that `probe` has measured, they fit nearly all the memory
        that the forward leaves.
        """
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
        bytes_free = free_bytes(self.device)
        if probed:
            # Twice, since all rows move into new buffers when a longer row joins them.
            return BatchLimits(_GPU_ROWS, max(1, (int(_USED * bytes_free) - probed) // (2 * states)))
        activations = 8 * int(config.hidden_size) * element
        on_cpu = self.device == "cpu"
        tokens = (min(bytes_free // 4, _CPU_STATES) if on_cpu else bytes_free // 4) // (states + activations)
        return BatchLimits(_CPU_ROWS if on_cpu else _GPU_ROWS, max(1, tokens))

    def probe(self) -> int:
        """Bytes that the largest forward and a step's logits take on GPUs, beside the weights and a batch's states.

        0 where this is not known: for a model that shares no beginnings, or where not even this fits.
        """
        import torch

        if not self.shares or self.head is None:
            return 0
        columns, vocabulary, head = _TREE_COLUMNS[1], self.head.vocabulary, self.head
        # No two prompts begin alike, so that nothing is shared.
        prompts = [
            (row % vocabulary, row // vocabulary, *(0,) * (columns - 2)) for row in range(_GPU_FORWARD // columns)
        ]

        def run() -> None:
            with torch.inference_mode():
                last = self.prefill(prompts).last
                logits = head.logits(last.repeat(-(-_GPU_ROWS // len(last)), 1)).float()
                logits.sort(dim=-1)  # as where samples are drawn from the likeliest tokens

        try:
            return peak_bytes(run)
        except (MemoryError, RuntimeError) as error:
            from pytest_trust.models.memory import out_of_memory

            if not out_of_memory(error):
                raise
            return 0

    def prefill(self, prompts: Sequence[Ids], *, reserve: int = 0) -> Prefilled:
        """Run distinct prompts. The buffers have room for `reserve` further tokens of each."""
        import torch

        longest = max(map(len, prompts))
        cache = buffer_cache(self.model, longest + reserve)
        last: dict[int, torch.Tensor] = {}
        for pack in self._packs(prompts):
            tree = buffer_cache(self.model, max(len(row.ids) for row in pack.rows))
            hidden = self._forward_tree(pack, tree)
            picked = torch.zeros(len(pack.paths), longest, dtype=torch.long)
            for place, (line, path) in enumerate(pack.paths.values()):
                picked[place, longest - len(path) :] = torch.tensor(path) + line * hidden.shape[1]
            picked = picked.to(self.device)
            rows = torch.tensor(list(pack.paths), device=self.device)
            targets: Sequence[Any] = cache.layers
            for layer, source in zip(targets, tree.layers, strict=True):
                layer.take(len(prompts), rows, source, picked)
            last |= dict(zip(pack.paths, hidden.flatten(0, 1)[picked[:, -1].to(hidden.device)], strict=True))
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        return Prefilled(cache, torch.stack([last[index] for index in range(len(prompts))]).to(self.device), lengths)

    def step(self, ids: torch.Tensor, seen: torch.Tensor, positions: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Post-norm states [rows, hidden size] of one more token a row. Its keys and values are added to the cache.

        `ids` and `positions` are [rows]. `seen` [rows, columns] says which columns a row attends to, the new one
        included.
        """
        import torch

        mask = torch.zeros(seen.shape, dtype=self.model.dtype, device=self.device)
        mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)
        hidden: torch.Tensor = self.body(
            input_ids=ids[:, None],
            attention_mask=mask[:, None, None],
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden[:, -1]

    def hidden_states(self, groups: Sequence[Group]) -> list[list[torch.Tensor]]:
        """For each row the post-norm states [tokens, hidden size] that predict its tokens from `start` on, by group."""
        found: dict[int, torch.Tensor] = {}
        for part in self.predictions(groups):
            found |= {index: part.states[places] for index, places in part.places.items()}
        rows = iter([found[index] for index in range(len(found))])
        return [[next(rows) for _ in group.rows] for group in groups]

    def predictions(self, groups: Sequence[Group]) -> Iterator[Predictions]:
        """The states that predict the rows' tokens from their starts on, forward by forward.

        Row numbers count over all groups.
        """
        import torch

        with torch.inference_mode():
            if self.shares and max(len(row) for group in groups for row in group.rows) <= LONGEST_TREE:
                yield from self._by_trees(groups)
                return
            for index, (row, start) in enumerate(row for group in groups for row in pairs(group)):
                states = self._alone(row, start)
                yield Predictions(states, {index: list(range(len(states)))})

    def _by_trees(self, groups: Sequence[Group]) -> Iterator[Predictions]:
        import torch

        rows = [row for group in groups for row in pairs(group)]
        for pack in self._packs([row[:-1] for row, _ in rows]):
            hidden = self._forward_tree(pack)
            wanted: dict[int, int] = {}  # place in the forward -> place among the states that are kept
            places = {
                index: [
                    wanted.setdefault(line * hidden.shape[1] + place, len(wanted))
                    for place in path[rows[index][1] - 1 :]
                ]
                for index, (line, path) in pack.paths.items()
            }
            kept = torch.tensor(list(wanted), device=hidden.device)
            yield Predictions(hidden.flatten(0, 1)[kept], places)

    def _packs(self, sequences: Sequence[Ids]) -> Iterator[Pack]:
        longest = max(map(len, sequences))
        least, most = _TREE_COLUMNS
        tokens, columns = _GPU_FORWARD, max(longest, min(most, max(least, 5 * longest)))
        if self.device == "cpu":  # forwards of about equal size; a small one would stream the weights for a few tokens
            lines = tree_tokens(sequences) / (columns - longest / 2)
            tokens = columns * math.ceil(lines / max(1, round(lines * columns / _CPU_FORWARD)))
        return packs(sequences, columns=columns, tokens=tokens)

    def _forward_tree(self, pack: Pack, cache: Cache | None = None) -> torch.Tensor:
        """Post-norm states [rows, columns, hidden size]."""
        ids, positions, mask = tree_inputs(pack, pad_id=self.pad_id, dtype=self.model.dtype, device=self.device)
        kept: dict[str, Any] = {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
        output = self.body(input_ids=ids, attention_mask=mask, position_ids=positions, **kept)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def alone(self, groups: Sequence[Group]) -> list[list[torch.Tensor]]:
        """As `hidden_states`, with each row in a forward of its own."""
        return [[self._alone(row, start) for row, start in pairs(group)] for group in groups]

    def _alone(self, row: Ids, start: int) -> torch.Tensor:
        import torch

        ids = torch.tensor([list(row[:-1])], device=self.device)
        body = self.body if self.body is not None else self.model
        with torch.inference_mode():
            output = body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        if not hasattr(output, "last_hidden_state"):
            raise InvalidInput(
                f"{self.loaded.identity.label}: {type(self.model).__name__} gives no hidden states: "
                "options and drift cannot be measured"
            )
        hidden: torch.Tensor = output.last_hidden_state[0, start - 1 :]
        return hidden

    def _find_head(self) -> Head | None:
        from pytest_trust.models.heads import head_of

        try:
            return head_of(self.model)
        except InvalidInput:
            return None

    def _can_share(self) -> bool:
        """Whether a forward over a tree, and a step from its states, give the states of plain forwards."""
        import torch
        from transformers.cache_utils import DynamicCache, DynamicLayer

        if self.body is None or self.body is self.model or self.head is None:
            return False
        if "position_ids" not in inspect.signature(self.body.forward).parameters:
            return False
        vocabulary = self.head.vocabulary
        stem = tuple((7 * index + 3) % vocabulary for index in range(14))
        rows = [(*stem, *(token % vocabulary for token in tail)) for tail in ((5, 11, 2), (13,), (9, 4))]
        longest, further = max(map(len, rows)), 1 % vocabulary
        try:
            if not all(type(layer) is DynamicLayer for layer in DynamicCache(config=self.model.config).layers):
                return False
            with torch.inference_mode():
                (trees,) = self._by_trees([Group(tuple(rows), (1,) * len(rows))])
                done = self.prefill(rows, reserve=1)
                seen = torch.arange(longest + 1, device=self.device) >= longest - done.lengths[:, None]
                states = self.step(torch.full_like(done.lengths, further), seen, done.lengths, done.cache)
                for index, row in enumerate(rows):
                    plain = self._alone((*row, further, further), 1)
                    if not (
                        _alike(trees.states[trees.places[index]], plain[: len(row) - 1])
                        and _alike(states[index], plain[-1])
                    ):
                        return False
        except (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError, IndexError):
            return False
        return True


def _alike(found: torch.Tensor, plain: torch.Tensor) -> bool:
    # A wrong mask or position moves the states by their own size, 16-bit rounding by some hundredths of it.
    return float((plain.float() - found.float()).norm()) <= 0.05 * float(plain.float().norm()) + 1e-6


def pairs(group: Group) -> list[tuple[tuple[int, ...], int]]:
    return list(zip(group.rows, group.starts, strict=True))


def free_bytes(device: str) -> int:
    """Memory that a batch may use: free on a GPU, available (without swapping) otherwise."""
    if on_cuda(device):
        import torch

        devices: list[int | str] = [*range(torch.cuda.device_count())] if device == BALANCED else [device]
        # Memory that this process has freed stays with its allocator.
        kept = sum(torch.cuda.memory_reserved(one) - torch.cuda.memory_allocated(one) for one in devices)
        return kept + sum(int(torch.cuda.mem_get_info(one)[0]) for one in devices)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if "SC_PHYS_PAGES" in names else 4 << 30


def peak_bytes(run: Callable[[], None]) -> int:
    """Peak bytes that `run` allocates on all GPUs together, beside what is allocated before it."""
    import torch

    devices = range(torch.cuda.device_count())
    before = sum(torch.cuda.memory_allocated(device) for device in devices)
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    run()
    return sum(torch.cuda.max_memory_allocated(device) for device in devices) - before
