"""Plain texts for two models: loading what was given as a model, and cutting long texts into overlapping windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    import torch

__all__ = ["Window", "batches", "checked_texts", "loaded_model", "padded", "window_sizes", "windows"]

# Longest window, whatever context a model claims: attention over more costs memory that no budget here covers.
_LONGEST_WINDOW = 4096


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a text from its token `start` on: which of its tokens are measured here, how many special ones are left out."""

    text: int
    start: int
    ids: tuple[int, ...]
    measured: tuple[bool, ...]
    skipped: int


def checked_texts(texts: Iterable[str], clusters: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The texts and one cluster each. Raises InvalidInput for none, an empty one, or other numbers of texts and clusters."""
    given = [texts] if isinstance(texts, str) else list(texts)
    if not given:
        raise InvalidInput("no texts; expected at least one")
    for index, text in enumerate(given):
        if not isinstance(text, str) or not text.strip():
            raise InvalidInput(f"text {index} is {text!r}; expected a string that is not empty")
    if clusters is not None and len(clusters) != len(given):
        raise InvalidInput(f"{len(clusters)} clusters for {len(given)} texts; expected one a text")
    return given, list(clusters) if clusters is not None else [str(index) for index in range(len(given))]


def loaded_model(given: Any, name: str, store: Path | None) -> tuple[Any, Any]:
    """Model and tokenizer of a reference, a pair, or an object with both as attributes; `name` is for errors."""
    if isinstance(given, str):
        from pytest_trust.config import default_store
        from pytest_trust.models import load_model
        from pytest_trust.references import parse_reference

        given = load_model(parse_reference(given), cache=store or default_store())
    if hasattr(given, "model") and hasattr(given, "tokenizer"):
        given = (given.model, given.tokenizer)
    if not (isinstance(given, tuple) and len(given) == 2 and hasattr(given[0], "get_output_embeddings")):
        raise InvalidInput(f"{name} is a {type(given).__name__}; expected a reference or (model, tokenizer)")
    if given[0].training:
        raise InvalidInput(f"{name} is in training mode; call model.eval() first")
    return given


def window_sizes(models: Sequence[Any], window: int | None, stride: int | None) -> tuple[int, int]:
    """Window and stride in tokens: what was asked for, else the smallest context of the models and half of it."""
    length = min(map(_context, models)) if window is None else window
    step = max(1, length // 2) if stride is None else stride
    if length < 2 or not 1 <= step < length:
        raise InvalidInput(f"window is {length} and stride {step}; expected 2 or more and a smaller stride")
    return length, step


def windows(text: int, ids: tuple[int, ...], special: tuple[bool, ...], length: int, stride: int) -> Iterator[Window]:
    """The first window measures all but its first token, every further one its last `stride` tokens."""
    end = min(length, len(ids))
    start, first = 0, 1
    while True:
        measured = tuple(start + i >= first and not special[start + i] for i in range(end - start))
        yield Window(text, start, ids[start:end], measured, sum(special[first:end]))
        if end == len(ids):
            return
        first, end = end, min(end + stride, len(ids))
        start = end - length


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


def _context(model: Any) -> int:
    """Longest input of a model in tokens."""
    config = model.config.get_text_config(decoder=True)
    stated = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return min(int(stated), _LONGEST_WINDOW) if isinstance(stated, int) and stated > 1 else _LONGEST_WINDOW
