"""Bits per byte: how well each of two models predicts the same text, whatever their tokenizers. No divergence, and not called one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_trust.chunks import Chances, blank_tokens, chances
from pytest_trust.errors import InvalidInput
from pytest_trust.models.context_windows import Window, batches, padded, window_sizes, windows
from pytest_trust.models.heads import head_of
from pytest_trust.models.hidden_states import check_head, response_hidden
from pytest_trust.models.memory import halving
from pytest_trust.stats.estimates import Sample, Statistic
from pytest_trust.texts import checked_texts, loaded_model

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BitsPerByte", "bits_per_byte"]

_UNIT = "bits per byte"


@dataclass(frozen=True, slots=True, eq=False)
class BitsPerByte:
    """Bits that each model needs for a byte of the texts; smaller is better predicted. Compare its statistics, see `Statistic`."""

    a: Statistic
    """Of model a: minus log2 of the texts' probability over their UTF-8 bytes."""
    b: Statistic
    """Of model b."""
    difference: Statistic
    """a minus b on the same texts, with the paired error: above 0 where a predicts them worse."""
    bytes: int
    """UTF-8 bytes of the texts."""
    texts: int
    """Number of texts."""
    windowed: int
    """Texts that were longer than the context of at least one model, read in overlapping windows."""

    def __bool__(self) -> bool:
        """Refused, as for a drift."""
        raise TypeError(
            "bits per byte are neither true nor false: compare one of them, for example found.difference <= 0.02"
        )


def bits_per_byte(
    a: Any,
    b: Any,
    texts: Iterable[str],
    *,
    batch_size: int = 8,
    clusters: Sequence[str] | None = None,
    window: int | None = None,
    stride: int | None = None,
    store: Path | None = None,
    alpha: float = 0.05,
) -> BitsPerByte:
    """Bits per byte of plain texts under two models with any tokenizers.

    Every byte counts under both: each text is read behind the tokenizer's beginning-of-text token, or its end-of-text token where there is no
    other, so that the first token is predicted as well. It is the probability of one segmentation, the tokenizer's own (an upper bound on
    the bits of the text; Cao and Rimell, EMNLP 2021). Texts longer than a model's context are read in windows, as in `compare_models`.

    Args:
        a: a model reference, a pair (model, tokenizer), or an object with these attributes; `b` likewise.
        texts: texts that are not empty.
        batch_size: windows of one forward.
        clusters: one name a text; the errors are clustered by it. Default: every text by itself.
        window: longest piece in tokens; default: each model's own context, at most 4096. `stride`: half of it.
        store: directory for what loading a reference keeps.
        alpha: error rate of each one-sided limit that the statistics are compared by.

    Raises:
        InvalidInput: no texts or an empty one, a text with unknown tokens, a tokenizer with neither a beginning nor an end token, logits
            that are not finite.
        TrustError: a reference that cannot be loaded.
    """
    import numpy

    given, names = checked_texts(texts, clusters)
    sizes = numpy.array([len(text.encode("utf-8", "surrogatepass")) for text in given], dtype=float)
    sides, long = [], [False] * len(given)
    for name, reference in (("a", a), ("b", b)):
        bits, windowed = _bits(name, loaded_model(reference, name, store), given, batch_size, window, stride)
        sides.append(numpy.array(bits))
        long = [before or now for before, now in zip(long, windowed, strict=True)]
    sample = Sample(names, alpha)
    return BitsPerByte(
        a=sample.ratio(sides[0], sizes, _UNIT, least=0.0),
        b=sample.ratio(sides[1], sizes, _UNIT, least=0.0),
        difference=sample.ratio(sides[0] - sides[1], sizes, _UNIT),
        bytes=int(sizes.sum()),
        texts=len(given),
        windowed=sum(long),
    )


def _bits(
    name: str, loaded: tuple[Any, Any], texts: Sequence[str], batch_size: int, window: int | None, stride: int | None
) -> tuple[list[float], list[bool]]:
    """Bits of each text, and whether it was read in windows."""
    found, windowed = chances_of_texts(name, loaded, texts, batch_size, window, stride)
    return [-math.fsum(one.tokens) / math.log(2.0) for one in found], windowed


def chances_of_texts(
    name: str, loaded: tuple[Any, Any], texts: Sequence[str], batch_size: int, window: int | None, stride: int | None
) -> tuple[list[Chances], list[bool]]:
    """What a model gives each text behind a beginning token, and whether the text was read in windows."""
    model, tokenizer = loaded
    head = head_of(model)
    check_head(model, head)
    length, step = window_sizes([model], window, stride)
    blanks = blank_tokens(tokenizer, head.vocabulary)
    pieces: list[Window] = []
    for index, text in enumerate(texts):
        encoded = _encoded(name, tokenizer, index, text)
        row = (*encoded, encoded[0])  # the last one is not read; the state before it says what follows the text
        pieces += windows(index, row, (False,) * len(row), length, step)
    columns: list[list[list[float]]] = [[[], []] for _ in texts]
    parts: dict[int, tuple[Any, Any]] = {}

    def measure(chosen: Sequence[int]) -> None:
        ids, attended, response = padded([pieces[index] for index in chosen])
        found = chances(head, response_hidden(model, ids, attended, response), ids[response].tolist(), blanks, ())
        start = 0
        for index in chosen:
            stop = start + sum(pieces[index].measured)
            parts[index] = (found[0][start:stop], found[1][start:stop])
            start = stop

    for batch in batches(pieces, batch_size):
        halving(batch, measure)
    for index, piece in enumerate(pieces):  # in order of the text
        for column, values in zip(columns[piece.text], parts[index], strict=True):
            column.extend(values)
    result = []
    for index, (tokens, word) in enumerate(columns):
        one = Chances(np.array(tokens[:-1]), np.array(word), 0.0)
        if not np.isfinite(one.tokens).all():
            raise InvalidInput(
                f"{name}: the probability of text {index} is not a number above 0; check the model's weights and dtype"
            )
        result.append(one)
    return result, [sum(piece.text == index for piece in pieces) > 1 for index in range(len(texts))]


def _encoded(name: str, tokenizer: Any, index: int, text: str) -> tuple[int, ...]:
    """The text's ids behind a token that stands for its beginning."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not isinstance(start, int):
        raise InvalidInput(
            f"{name}: its tokenizer has neither a bos_token nor an eos_token to read a text behind; set one"
        )
    ids = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    if not ids or tokenizer.unk_token_id in ids:
        raise InvalidInput(
            f"{name}: text {index} has tokens that its tokenizer does not know; their bytes would be lost"
        )
    return (start, *ids)
