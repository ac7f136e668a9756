"""Keys and values of a batch in buffers of full length: rows are added, replaced and taken out without the others being moved."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Cache


@functools.cache
def _buffer_class() -> Any:
    """A cache layer that writes into buffers of full length, where transformers' own copies everything at every token."""
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
            """Fill these of `count` rows from places [rows, columns] of another layer, counted over all its rows and columns."""
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
            """Keep these rows, and add those of another layer (None: of none), in the last `columns` columns of each."""
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
                    # not left as it was allocated: a masked NaN is still a NaN
                    part[:, :, : columns - there] = 0
                    part[:, :, columns - there : columns] = states[chosen, :, keys.shape[2] - there :]
                start += len(chosen)
            self._expose()

        def put(self, rows: torch.Tensor, others: Any, other_rows: torch.Tensor, columns: int) -> None:
            """Put rows of another layer in the places of these, and use the last `columns` columns."""
            rows, other_rows = rows.to(self.key_buffer.device), other_rows.to(self.key_buffer.device)
            for buffer, states in zip((self.key_buffer, self.value_buffer), others._expose(), strict=True):
                buffer[rows, :, self.used - states.shape[2] : self.used] = states[other_rows]
            self.start = self.used - columns
            self._expose()

        def close_up(self, rows: torch.Tensor, sources: torch.Tensor, count: int, columns: int) -> None:
            """Put rows in the places of others, keep the first `count`, and use the last `columns` columns."""
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
    """Keep rows of a cache made by `prefill`, and add rows of another (or None) behind them."""
    for index, layer in enumerate(cache.layers):
        layer.merge(rows, None if others is None else others.layers[index], other_rows, columns, capacity)


def replace_rows(
    cache: Any, rows: torch.Tensor, others: Any, other_rows: torch.Tensor, *, columns: int, room: int
) -> bool:
    """Put rows of another cache in the places of rows, without moving the rest, where there is `room` for further tokens of them; whether
    there is. `columns` are the tokens of the longest row, afterwards."""
    first = cache.layers[0]
    if columns > first.used or first.used + room > first.capacity:
        return False
    for layer, other in zip(cache.layers, others.layers, strict=True):
        layer.put(rows, other, other_rows, columns)
    return True


def close_up(cache: Any, rows: torch.Tensor, sources: torch.Tensor, count: int, columns: int) -> None:
    """Put rows of a cache in the places of others, and keep the first `count`. `columns` are the tokens of the longest row, afterwards."""
    for layer in cache.layers:
        layer.close_up(rows, sources, count, columns)
