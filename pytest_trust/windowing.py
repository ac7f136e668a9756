"""Rows longer than a model's context: read in overlapping windows, so that nothing is cut off and no position is beyond what it was made for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_trust.inference import Group, pairs

if TYPE_CHECKING:
    import torch

    States = list[list[torch.Tensor]]

Windows = list[tuple[int, int, int]]


def row_windows(length: int, start: int, context: int) -> Windows:
    """(first token, behind the last token, first token that is looked at) of each window over a row of `length` tokens of which those from
    `start` on are predicted. The last token of a window is not read; every further window goes half a context on."""
    window = context + 1
    if length <= window:
        return [(0, length, start)]
    found, first, end = [], start, window
    while True:
        if end > first:
            found.append((end - window, end, first))
            first = end
        if end == length:
            return found
        end = min(end + max(1, window // 2), length)


def in_windows(read: Callable[[Sequence[Group]], States], context: int | None) -> Callable[[Sequence[Group]], States]:
    """`read` (`Runner.hidden_states` or `Runner.alone`) for rows of any length: [tokens from `start` on, hidden size] of each, as there."""
    if context is None:
        return read

    def whole(groups: Sequence[Group]) -> States:
        if all(len(row) - 1 <= context for group in groups for row in group.rows):
            return read(groups)
        import torch

        cut, owners = [], []
        for index, group in enumerate(groups):
            if all(len(row) - 1 <= context for row in group.rows):
                cut.append(group)
                owners.append((index, -1))
                continue
            for number, (row, start) in enumerate(pairs(group)):
                for first, end, looked in row_windows(len(row), start, context):
                    cut.append(Group((row[first:end],), (looked - first,)))
                    owners.append((index, number))
        parts: list[list[list[torch.Tensor]]] = [[[] for _ in group.rows] for group in groups]
        for (index, number), states in zip(owners, read(cut), strict=True):
            if number < 0:
                parts[index] = [[one] for one in states]
            else:
                parts[index][number].append(states[0])
        return [[torch.cat(pieces) for pieces in rows] for rows in parts]

    return whole
