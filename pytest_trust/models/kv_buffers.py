"""Keys and values of a batch in buffers of full length, so that rows are replaced without moving the others."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Cache


@functools.cache
def _buffer_class() -> Any:
    """A cache layer that writes into buffers of full length. transformers' own copies all columns at every token."""
    from transformers.cache_utils import DynamicLayer

    class BufferLayer(DynamicLayer):
        def __init__(self, capacity: int) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # transformers does not annotate it
            self.capacity = capacity
            self.start, self.used = 0, 0  # the columns that are in use

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            if not self.is_initialized:
                self.dtype, self.device = key_states.dtype, key_states.device
                self._allocate(key_states, value_states, key_states.shape[0])
                self.is_initialized = True
            before, self.used = self.used, self.used + key_states.shape[-2]
            self.key_buffer[:, :, before : self.used] = key_states
            self.value_buffer[:, :, before : self.used] = value_states
            return self._expose()

        def _allocate(self, keys: torch.Tensor, values: torch.Tensor, rows: int) -> None:
            self.key_buffer = keys.new_empty(rows, keys.shape[1], self.capacity, keys.shape[3])
            self.value_buffer = values.new_empty(rows, values.shape[1], self.capacity, values.shape[3])

        def _expose(self) -> tuple[torch.Tensor, torch.Tensor]:
            self.keys, self.values = (
                buffer[:, :, self.start : self.used] for buffer in (self.key_buffer, self.value_buffer)
            )
            return self.keys, self.values

        def take(self, count: int, rows: torch.Tensor, source: Any, places: torch.Tensor) -> None:
            """Fill `rows` of `count` rows from `places` [rows, columns] in another layer's flattened columns."""
            keys, values = source._expose()
            rows, places = rows.to(keys.device), places.to(keys.device)  # layers may lie on several devices
            if not self.is_initialized:
                self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
                self._allocate(keys, values, count)
                self.used = places.shape[1]
            for buffer, states in ((self.key_buffer, keys), (self.value_buffer, values)):
                buffer[rows, :, : self.used] = states.transpose(1, 2).flatten(0, 1)[places].transpose(1, 2)
            self._expose()

        def merge(self, rows: torch.Tensor, others: Any, other_rows: torch.Tensor, columns: int, capacity: int) -> None:
            """Keep `rows`, add `other_rows` of another layer (None: nothing), each with its last `columns` columns."""
            parts = [(*self._expose(), rows)]
            if others is not None:
                parts.append((*others._expose(), other_rows))
            self.capacity, self.start, self.used = capacity, 0, columns
            self._allocate(parts[0][0], parts[0][1], sum(len(chosen) for *_, chosen in parts))
            start = 0
            for keys, values, chosen in parts:
                there, chosen = min(columns, keys.shape[2]), chosen.to(keys.device)
                for buffer, states in ((self.key_buffer, keys), (self.value_buffer, values)):
                    part = buffer[start : start + len(chosen)]
                    # What was allocated may hold NaN, which a mask does not remove.
                    part[:, :, : columns - there] = 0
                    part[:, :, columns - there : columns] = states[chosen, :, keys.shape[2] - there :]
                start += len(chosen)
            self._expose()

        def put(self, rows: torch.Tensor, others: Any, other_rows: torch.Tensor, columns: int) -> None:
            """Put `other_rows` of another layer in the places of `rows`, and use the last `columns` columns."""
            rows, other_rows = rows.to(self.key_buffer.device), other_rows.to(self.key_buffer.device)
            for buffer, states in zip((self.key_buffer, self.value_buffer), others._expose(), strict=True):
                buffer[rows, :, self.used - states.shape[2] : self.used] = states[other_rows]
            self.start = self.used - columns
            self._expose()

        def close_up(self, rows: torch.Tensor, sources: torch.Tensor, count: int, columns: int) -> None:
            """Move `sources` to the places of `rows`, keep the first `count` rows and the last `columns` columns."""
            rows, sources = rows.to(self.key_buffer.device), sources.to(self.key_buffer.device)
            self.start = self.used - columns
            for states in self._expose():
                states[rows] = states[sources]
            self.key_buffer, self.value_buffer = self.key_buffer[:count], self.value_buffer[:count]
            self._expose()

        def get_seq_length(self) -> int:
            return self.used - self.start

    return BufferLayer


def buffer_cache(model: Any, capacity: int) -> Cache:
    from transformers.cache_utils import Cache, DynamicCache

    layers = len(DynamicCache(config=model.config).layers)
    cache: Cache = Cache(layers=[_buffer_class()(capacity) for _ in range(layers)])
    return cache


def merge_caches(
    cache: Any, rows: torch.Tensor, others: Any, other_rows: torch.Tensor, *, columns: int, capacity: int
) -> None:
    """Keep `rows` of a cache made by `Runner.prefill`, and add `other_rows` of another one, if any, behind them."""
    for index, layer in enumerate(cache.layers):
        layer.merge(rows, None if others is None else others.layers[index], other_rows, columns, capacity)


def replace_rows(
    cache: Any, rows: torch.Tensor, others: Any, other_rows: torch.Tensor, *, columns: int, room: int
) -> bool:
    """Put `other_rows` of another cache in the places of `rows`; the other rows stay where they are.

    Returns False, and changes nothing, where the buffers do not have `room` for further tokens. `columns` is the number
    of tokens of the longest row afterwards.
    """
    first = cache.layers[0]
    if columns > first.used or first.used + room > first.capacity:
        return False
    for layer, other in zip(cache.layers, others.layers, strict=True):
        layer.put(rows, other, other_rows, columns)
    return True


def close_up(cache: Any, rows: torch.Tensor, sources: torch.Tensor, count: int, columns: int) -> None:
    """Move rows `sources` of a cache to the places of `rows`, and keep the first `count` rows.

    `columns` is the number of tokens of the longest row afterwards.
    """
    for layer in cache.layers:
        layer.close_up(rows, sources, count, columns)
