"""Texts longer than a model's context, read in overlapping windows.

`in_windows` and `row_windows` are for prompts with responses, whose rows a `Runner` reads. `windows`, `batches` and
`padded` are for plain texts, which are run in padded batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import InvalidInput
from pytest_trust.models.runner import Group, pairs

if TYPE_CHECKING:
    import torch

    States = list[list[torch.Tensor]]

Windows = list[tuple[int, int, int]]

# Longest window, whatever context a model claims: attention over more costs memory that no budget here covers.
_LONGEST_WINDOW = 4096

WINDOW_TOO_LARGE = (
    "out of memory for a single window of a text: give a smaller window, a smaller dtype or another device"
)


def spans(count: int, length: int, stride: int, first: int) -> Windows:
    """Overlapping windows over `count` tokens, of which those from `first` on are predicted, each in one window.

    Each is (first token, index behind the last token, first token that this window predicts). A window has at most
    `length` tokens; each further one ends at most `stride` tokens later. A window that predicts nothing is left out.
    """
    found, end = [], min(length, count)
    while True:
        if end > first:
            found.append((max(0, end - length), end, first))
            first = end
        if end == count:
            return found
        end = min(end + stride, count)


def row_windows(length: int, start: int, context: int) -> Windows:
    """The windows over a row of `length` tokens, of which those from `start` on are predicted.

    A window has one token more than the context, since its last token is predicted and not read. Each further window
    ends half a window later.
    """
    window = context + 1
    return spans(length, window, max(1, window // 2), start)


def in_windows(read: Callable[[Sequence[Group]], States], context: int | None) -> Callable[[Sequence[Group]], States]:
    """`read` (`Runner.hidden_states` or `Runner.alone`) for rows of any length; it returns the same shapes."""
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


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a text."""

    text: int
    """Index of the text."""
    start: int
    """Index in the text of the piece's first token."""
    ids: tuple[int, ...]
    measured: tuple[bool, ...]
    """Whether a token is measured in this window."""
    skipped: int
    """Number of special tokens that this window would measure and leaves out."""


def window_sizes(models: Sequence[Any], window: int | None, stride: int | None) -> tuple[int, int]:
    """Window and stride in tokens. The defaults are the smallest context of the models, and half of the window."""
    length = min(map(_context, models)) if window is None else window
    step = max(1, length // 2) if stride is None else stride
    if length < 2 or not 1 <= step < length:
        raise InvalidInput(f"window is {length} and stride {step}; expected 2 or more and a smaller stride")
    return length, step


def windows(text: int, ids: tuple[int, ...], special: tuple[bool, ...], length: int, stride: int) -> Iterator[Window]:
    """Windows of one text.

    The first measures all but its first token; each further one measures its last `stride` tokens.
    """
    for start, end, first in spans(len(ids), length, stride, 1) or [(0, len(ids), 1)]:  # a text of one token
        measured = tuple(index >= first and not special[index] for index in range(start, end))
        yield Window(text, start, ids[start:end], measured, sum(special[first:end]))


def batches(pieces: Sequence[Window], size: int) -> Iterator[list[int]]:
    """Indices of the windows in batches, longest first, so that a batch has little padding."""
    order = sorted(range(len(pieces)), key=lambda index: (-len(pieces[index].ids), index))
    for start in range(0, len(order), max(1, size)):
        yield order[start : start + max(1, size)]


def padded(pieces: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, attention mask and response mask, padded on the right."""
    import torch

    longest = max(len(piece.ids) for piece in pieces)
    ids = torch.zeros(len(pieces), longest, dtype=torch.long)
    attended, response = torch.zeros_like(ids), torch.zeros(len(pieces), longest, dtype=torch.bool)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece.ids)] = torch.tensor(piece.ids)
        attended[row, : len(piece.ids)] = 1
        response[row, : len(piece.ids)] = torch.tensor(piece.measured)
    return ids, attended, response


def stated_context(setting: Callable[[str], object]) -> int | None:
    """The longest context in tokens that a configuration states, read by `setting`; None where it states none."""
    values = (setting(name) for name in ("max_position_embeddings", "n_positions"))
    return next((value for value in values if isinstance(value, int) and value > 1), None)


def _context(model: Any) -> int:
    """Longest input of a model in tokens, at most `_LONGEST_WINDOW`."""
    config = model.config.get_text_config(decoder=True)
    stated = stated_context(lambda name: getattr(config, name, None))
    return min(stated or _LONGEST_WINDOW, _LONGEST_WINDOW)
