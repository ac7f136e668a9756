"""Sequences that begin alike, laid out as trees: every distinct beginning is one token of one forward.

Sorted sequences are laid into rows of bounded length; each row is a forest. A token attends to the tokens on its own
path, and its position is its depth. Its state is therefore that of a forward over its sequence alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Ids = tuple[int, ...]


@dataclass(slots=True)
class TreeRow:
    """One row of tokens. `parents` are places in the row (-1: the first token of a sequence)."""

    ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)

    def add(self, token: int, parent: int) -> int:
        self.ids.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1 if parent >= 0 else 0)
        return len(self.ids) - 1


@dataclass(frozen=True, slots=True)
class Pack:
    """Rows of one forward."""

    rows: tuple[TreeRow, ...]
    paths: dict[int, tuple[int, list[int]]]
    """By the index of a sequence, its row and the places of its tokens there."""


def packs(sequences: Sequence[Ids], *, columns: int, tokens: int) -> Iterator[Pack]:
    """Packs of rows. A row has at most `columns` tokens, a pack at most `tokens`, padding included.

    A sequence that is longer than `columns` makes a longer row. Sequences are taken in lexicographic order, so that
    those which begin alike meet in one row.
    """
    rows: list[TreeRow] = []
    paths: dict[int, tuple[int, list[int]]] = {}
    width, last, path = columns, (), []  # type: int, Ids, list[int]
    for index in sorted(range(len(sequences)), key=lambda index: sequences[index]):
        sequence = sequences[index]
        shared = common_prefix([last, sequence]) if rows else 0
        if not rows or len(rows[-1].ids) + len(sequence) - shared > columns:
            wider = max(width, len(sequence))
            if rows and (len(rows) + 1) * wider > tokens:
                yield Pack(tuple(rows), paths)
                rows, paths, wider = [], {}, max(columns, len(sequence))
            rows.append(TreeRow())
            width, shared = wider, 0
        path = path[:shared]
        for token in sequence[shared:]:
            path.append(rows[-1].add(token, path[-1] if path else -1))
        paths[index], last = (len(rows) - 1, list(path)), sequence
    if rows:
        yield Pack(tuple(rows), paths)


def tree_tokens(sequences: Sequence[Ids]) -> int:
    """Number of distinct beginnings of the sequences: the tokens of one tree over all of them."""
    last: Ids = ()
    total = 0
    for sequence in sorted(sequences):
        total, last = total + len(sequence) - common_prefix([last, sequence]), sequence
    return total


def common_prefix(rows: Sequence[Ids]) -> int:
    """Number of leading ids that all rows share."""
    low, high = min(rows), max(rows)  # in lexicographic order, what the extremes share all share
    return next(
        (index for index, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )


def tree_inputs(
    pack: Pack, *, pad_id: int, dtype: torch.dtype, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A pack as a model's input: ids and positions [rows, columns], and an additive mask [rows, 1, columns,
    columns].
    """
    import numpy as np
    import torch

    width = max(len(row.ids) for row in pack.rows)
    ids = np.full((len(pack.rows), width), pad_id, np.int64)
    positions = np.zeros((len(pack.rows), width), np.int64)
    # Padding attends to itself, since a softmax over nothing is NaN.
    seen = np.broadcast_to(np.eye(width, dtype=bool), (len(pack.rows), width, width)).copy()
    for index, row in enumerate(pack.rows):
        ids[index, : len(row.ids)] = row.ids
        positions[index, : len(row.ids)] = row.depths
        for place, parent in enumerate(row.parents):
            if parent >= 0:
                seen[index, place] |= seen[index, parent]
    mask = torch.zeros(seen.shape, dtype=dtype)
    mask.masked_fill_(torch.from_numpy(~seen), torch.finfo(dtype).min)
    return torch.from_numpy(ids).to(device), torch.from_numpy(positions).to(device), mask[:, None].to(device)
