"""Bits per byte: how well each of two models predicts the same text, whatever their tokenizers.

This is no divergence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_trust.drift.cross_tokenizer.chances import chances_of_texts
from pytest_trust.drift.texts import checked_texts, loaded_model
from pytest_trust.stats.estimates import Sample, Statistic

if TYPE_CHECKING:
    from pathlib import Path

_UNIT = "bits per byte"


@dataclass(frozen=True, slots=True, eq=False)
class BitsPerByte:
    """Bits that each model needs for a byte of the texts; fewer bits mean a better prediction.

    Compare its statistics, see `Statistic`.
    """

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

    Each text is read behind the tokenizer's beginning-of-text token, or its end-of-text token where there is no other.
    The first token is then predicted as well, so that every byte counts under both models. The probability is that of
    one segmentation, the tokenizer's own, which gives an upper bound on the bits of the text (Cao and Rimell, EMNLP
    2021). Texts longer than a model's context are read in windows, as in `compare_models`.

    Args:
        a: a model reference, a pair (model, tokenizer), or an object with these attributes.
        b: the other model, in the same forms.
        texts: texts that are not empty.
        batch_size: windows of one forward.
        clusters: one name a text; the errors are clustered by it. Default: every text by itself.
        window: longest piece in tokens; default: each model's own context, at most 4096.
        stride: new tokens of each further window; default: half a window.
        store: directory for what loading a reference keeps.
        alpha: error rate of each one-sided limit that the statistics are compared by.

    Raises:
        InvalidInput: no texts or an empty one, a text with unknown tokens, a tokenizer with neither a beginning nor an
            end token, logits that are not finite.
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
