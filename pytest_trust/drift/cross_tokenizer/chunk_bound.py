"""A lower bound of the divergence of two models with different tokenizers, from the words that both delimit.

There is no KL divergence between distributions over different tokens. Both models do give chances to the same *words*.
Chunks and their likelihoods are those of Approximate Likelihood Matching (Minixhofer, Vulić, Ponti 2025, arXiv
2503.20083, section 3), which trains a student by the binarised divergence below. The factor w is its "outcome chunk
debiasing".

**What is computed.** A chunk ends where a word ends (white space follows a character that is none) and both
tokenizations have a boundary. The last chunk ends with the text. Let s be the text before chunk c, with prefix tokens t
under a model, and w(t) the chance that this model's next token begins with white space. Then

    P(c | s) = prod p(tokens of c | tokens before) * w(tokens up to the end of c) / w(tokens up to its beginning)

is the chance that the text goes on with exactly c and the word ends there, given that a word has ended at s. The first
chunk is divided by nothing. The last chunk takes the chance of an end token in place of w. With Q likewise under the
other model, a chunk gives

    b(c | s) = P log(P / Q) + (1 - P) log((1 - P) / (1 - Q)),

the divergence of the two models' chances of the one event "this chunk and no other".

**What it bounds.** The next chunk partitions all continuations of s, and "c or not" merges all cells but c. Merging
never raises a divergence (data processing). So b(c | s) <= KL(P(. | s) || Q(. | s)) over the next chunk holds for every
s and c, on any text. On text sampled from P, the chain rule over chunks gives, in expectation,

    E sum b(c | s) <= E sum KL(P(. | s) || Q(. | s)) <= KL(P || Q) of whole texts, in nats per text.

**What it does not bound.** The last line needs texts of P that were sampled at temperature 1. On greedy answers or a
user's texts only the sum over these places is bounded, not KL(P || Q). It is no upper bound: equal chances of each seen
word leave every other word free.

**What it assumes.** P and Q are exact where a model writes a word only in the tokens that its tokenizer would cut it
into, and neither tokenizer merges across the end of a word. Mass that a model puts on other segmentations is missing
from P and Q. This can move b either way, by a fraction of a percent in trained models (Cao and Rimell, EMNLP 2021).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_trust.drift.cross_tokenizer.chances import Chances, ends_of_tokens
from pytest_trust.errors import InvalidInput
from pytest_trust.stats.estimates import Sample, Statistic

if TYPE_CHECKING:
    from pathlib import Path

    import numpy
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ChunkBound:
    """The chunk-level lower bound of a divergence, see `pytest_trust.drift.cross_tokenizer.chunk_bound`.

    It is no KL: compare it with other chunk bounds, never with a KL.
    """

    direction: str
    """The divergence that it bounds from below: ``a || b``."""
    per_chunk: Statistic
    """Nats per chunk: the mean over chunks of the binarised divergence."""
    per_text: Statistic
    """Nats per text: the mean over texts of the sum over its chunks."""
    chunks: int
    """Number of chunks (mostly words) of the texts."""
    texts: int
    """Number of texts."""
    left_out: int
    """UTF-8 bytes that no chunk holds: those after the end of a text's last chunk, and all of a text without chunks."""

    def __bool__(self) -> bool:
        """Refused, as for a drift."""
        raise TypeError(
            "a bound is neither true nor false: compare one of its numbers, for example found.per_chunk <= 0.02"
        )


def chunk_bound(
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
) -> ChunkBound:
    """A lower bound of the divergence of a and b on plain texts, whatever their tokenizers.

    `pytest_trust.drift.cross_tokenizer.chunk_bound` says what exactly is bounded. The arguments are those of
    `bits_per_byte`, which reads the texts in the same way. A text's last word is left out, since a plain text does not
    say whether the word ends there.

    Raises:
        InvalidInput: as `bits_per_byte`; no text with two words; a "slow" tokenizer, which does not tell where its
            tokens are.
        TrustError: a reference that cannot be loaded.
    """
    import numpy

    from pytest_trust.drift.cross_tokenizer.chances import chances_of_texts
    from pytest_trust.drift.texts import checked_texts, loaded_model

    given, names = checked_texts(texts, clusters)
    sides = []
    for name, reference in (("a", a), ("b", b)):
        loaded = loaded_model(reference, name, store)
        found = chances_of_texts(name, loaded, given, batch_size, window, stride)[0]
        sides.append([(ends_of_tokens(loaded[1], text, name), one) for text, one in zip(given, found, strict=True)])
    values, left_out = [], 0
    for text, side_a, side_b in zip(given, *sides, strict=True):
        chunks, covered = chunk_divergences(text, *side_a, *side_b, ended=False)
        values.append(chunks)
        left_out += len(text[covered:].encode("utf-8", "surrogatepass"))
    if not any(len(one) for one in values):
        raise InvalidInput("no text has a word with another after it; expected at least one with two words")
    sample = Sample(names, alpha)
    return ChunkBound(
        direction="a || b",
        per_chunk=sample.mean(values, "nats per chunk", least=0.0),
        per_text=sample.ratio(
            numpy.array([one.sum() for one in values]), numpy.ones(len(values)), "nats per text", least=0.0
        ),
        chunks=sum(map(len, values)),
        texts=len(given),
        left_out=left_out,
    )


def chunk_divergences(
    text: str, p_ends: Sequence[int], p: Chances, q_ends: Sequence[int], q: Chances, *, ended: bool
) -> tuple[Floats, int]:
    """b(c | s) of each chunk in nats, and the number of characters that the chunks cover.

    Args:
        text: the text.
        p_ends: the places where p's tokens end in the text, in characters (`ends_of_tokens`).
        p: p's log-probabilities.
        q_ends: the places where q's tokens end.
        q: q's log-probabilities.
        ended: whether the text ends here, with the chance `end` under each model. A text that was cut has no chunk for
            its last word.
    """
    import numpy

    counts = [{end: index + 1 for index, end in enumerate(ends)} for ends in (p_ends, q_ends)]
    places = [end for end in sorted(counts[0].keys() & counts[1].keys()) if _ends_a_word(text, end)]
    covered = places[-1] if places else 0
    logs = []
    for count, side in zip(counts, (p, q), strict=True):
        total = numpy.concatenate([[0.0], side.tokens.cumsum()])
        at = [0, *(count[end] for end in places)]
        marks = [0.0, *(float(side.word[index]) for index in at[1:])]
        chunks = [
            total[stop] - total[start] + after - before
            for (start, before), (stop, after) in itertools.pairwise(zip(at, marks, strict=True))
        ]
        if ended and len(side.tokens) > at[-1]:
            chunks.append(total[-1] - total[at[-1]] + side.end - marks[-1])
        logs.append(chunks)
    if ended and len(logs[0]) != len(logs[1]):  # one side has no tokens after the last word: it has no last chunk
        logs = [one[: len(places)] for one in logs]
    elif ended and len(logs[0]) > len(places):
        covered = len(text)
    return binary_divergence(*(numpy.minimum(numpy.array(one, dtype=float), 0.0) for one in logs)), covered


def binary_divergence(log_p: Floats, log_q: Floats) -> Floats:
    """KL of (p, 1 - p) and (q, 1 - q) in nats, from log p and log q.

    It is at least 0, and infinite where q excludes what p allows.
    """
    import numpy

    with numpy.errstate(divide="ignore", invalid="ignore"):
        p = numpy.exp(log_p)
        rest_p, rest_q = (numpy.log(-numpy.expm1(one)) for one in (log_p, log_q))
        here = numpy.where(p > 0, p * (log_p - log_q), 0.0)
        other = numpy.where(p < 1, -numpy.expm1(log_p) * (rest_p - rest_q), 0.0)
    found: Floats = numpy.maximum(here + other, 0.0)
    return found


def _ends_a_word(text: str, end: int) -> bool:
    return 0 < end < len(text) and not text[end - 1].isspace() and text[end].isspace()
