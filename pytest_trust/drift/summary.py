"""Statistics of the divergences over many responses, each with its unit and the limits it is compared by."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_trust.drift.token_drift import TokenDrift
from pytest_trust.errors import InvalidInput
from pytest_trust.records import DriftSummary
from pytest_trust.stats.estimates import Sample, Statistic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_trust.drift.token_drift import Floats

__all__ = ["BASELINE_CANDIDATE", "CANDIDATE_BASELINE", "Drift", "Statistic", "TokenDrift", "summarise"]

CANDIDATE_BASELINE = "KL(candidate || baseline)"
"""It shows what the candidate says that the baseline would not.

On the candidate's responses it is the paper's quantity.
"""
BASELINE_CANDIDATE = "KL(baseline || candidate)"
"""On the baseline's responses it shows what the candidate has forgotten."""

NATS, PROBABILITY = "nats per token", "probability"
_FIRST = (1, 5, 20)
_NONE = Statistic(math.nan)
# The baseline's entropy in nats at each level of confidence: from the first number, below the second.
_CONFIDENCE = {"sure": (-math.inf, 0.1), "unsure": (0.1, 1.0), "open": (1.0, math.inf)}


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """Statistics of the divergence between two models' next-token distributions. Larger means further apart.

    Compare its statistics: ``drift.mean <= 0.05`` is true when the upper confidence limit is at most 0.05, see
    `Statistic`. A drift by itself is neither true nor false. ``print(drift)`` shows the table.
    """

    direction: str
    """The direction: ``KL(candidate || baseline)``, ``KL(baseline || candidate)``, or two other names."""
    on: str
    """The text the divergence is taken on, in words: ``candidate responses``."""
    tokens: int
    """Number of tokens."""
    responses: int
    """Number of responses (or texts)."""
    clusters: int
    """Number of clusters of probes; the errors are those of the mean over clusters."""
    mean: Statistic
    """Nats per token, each token counting the same (micro mean)."""
    error: float
    """Standard error of `mean`, clustered by probe cluster, nats per token; NaN for fewer than two clusters."""
    lower: float
    """Lower limit of the two-sided 95 % interval of `mean`, nats per token; at least 0."""
    upper: float
    """Upper limit of the two-sided 95 % interval of `mean`, nats per token."""
    macro_mean: Statistic
    """Nats per token, each response counting the same: the mean of the responses' means."""
    per_sequence: Statistic
    """Nats per response: the mean over responses of the sum over tokens (the paper's quantity)."""
    per_sequence_error: float
    """Clustered standard error of `per_sequence`, nats per response."""
    median: Statistic
    """Median over tokens, nats."""
    p90: Statistic
    """90th percentile over tokens, nats."""
    p99: Statistic
    """99th percentile over tokens, nats."""
    p999: Statistic
    """99.9th percentile over tokens, nats."""
    maximum: Statistic
    """Largest divergence of a token, nats. It describes these tokens only, so it is compared without limits."""
    same_top: Statistic
    """Share of tokens whose most likely token is the same, 0 to 1; larger is closer."""
    js: Statistic
    """Mean Jensen-Shannon divergence, nats per token, at most log 2; symmetric."""
    total_variation: Statistic
    """Mean total variation, 0 to 1; symmetric."""
    delta_p: Statistic
    """Mean change of the probability of the token that follows, candidate minus baseline, -1 to 1.

    It is positive where the candidate is surer.
    """
    rms_delta_p: Statistic
    """Root mean square of that change, 0 to 1."""
    first: Mapping[int, Statistic] = field(default_factory=dict)
    """Nats per token over the first 1, 5 and 20 tokens of the answers, by that number. These tokens decide refusals."""
    rest: Statistic = _NONE
    """Nats per token after the first 20 tokens of the answers; NaN without any."""
    by_confidence: Mapping[str, Statistic] = field(default_factory=dict)
    """Nats per token where the baseline was `sure` (entropy below 0.1 nats), `unsure` (below 1) and `open` (1 or more).

    A kind without tokens is NaN. A model that drifts where its baseline was sure says something else, not the same in
    other words.
    """
    answer_mean: Statistic = _NONE
    """Nats per token of the answers, reasoning left out; NaN without any."""
    reasoning_mean: Statistic = _NONE
    """Nats per token of the reasoning; NaN without any."""
    answer_per_sequence: Statistic = _NONE
    """Nats per response in its answer, given its own trace.

    On the candidate's responses it is E[KL(p_c(y | x, z) || p_b(y | x, z))], where z is the candidate's sampled trace
    and both models read it. With `reasoning_per_sequence`, D(z), it adds up to `per_sequence` (chain rule). Another
    quantity is KL(p_c(y | x, z) || p_b(y | x)), where the baseline reads no trace: an audit's `answer_without_trace`.
    """
    reasoning_per_sequence: Statistic = _NONE
    """Nats per response in its reasoning; 0 for responses without any."""
    masked_mass: Mapping[str, float] = field(default_factory=dict)
    """Mean probability that each side puts on ids the other does not have, by side; 0 where all ids are shared."""
    tail_mass: Statistic = _NONE
    """Mean probability beyond the tokens that a top-k recording keeps; NaN where all probabilities are known.

    Where it is a number, every divergence is a lower bound. Its upper limit is then infinite, so that ``drift.mean <=
    x`` is false for every x.
    """
    masked_tokens: int = 0
    """Number of tokens left out (template, think markers)."""
    infinite: int = 0
    """Number of tokens with an infinite divergence: the second model excludes what the first allows."""
    windowed: int = 0
    """Number of texts longer than the context, measured in overlapping windows."""

    def __bool__(self) -> bool:
        """Refused: ``assert trust.kl(...)`` would always pass."""
        raise TypeError("a drift is neither true nor false: compare one of its numbers, for example drift.mean <= 0.05")

    def table(self) -> str:
        """The statistics under the names of llama.cpp's ``perplexity --kl-divergence``, ± one clustered standard error.

        As there, Δp is in percentage points: candidate minus baseline (a minus b in `compare_models`).
        """
        rows: list[tuple[str, Statistic, float, str]] = [
            ("Mean KLD", self.mean, 1, ""),
            ("Maximum KLD", self.maximum, 1, ""),
            ("99.9% KLD", self.p999, 1, ""),
            ("99.0% KLD", self.p99, 1, ""),
            ("90.0% KLD", self.p90, 1, ""),
            ("Median KLD", self.median, 1, ""),
            ("Mean Δp", self.delta_p, 100, " %"),
            ("RMS Δp", self.rms_delta_p, 100, " %"),
            ("Same top p", self.same_top, 100, " %"),
        ]
        lines = [
            f"{self.direction} on {self.on}: {self.tokens} tokens of {self.responses} responses, KLD in nats per token"
        ]
        for name, value, factor, unit in rows:
            digits = 3 if unit else 6
            error = f" ± {factor * value.error:.{digits}f}" if value.error > 0 else ""
            lines.append(f"{name:<12}{factor * float(value):>12.{digits}f}{error}{unit}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def as_record(self) -> DriftSummary:
        """The drift as reports have it, floats to 9 significant digits. A number that is not finite is None."""
        record: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                record[name] = {str(key): _rounded(number) for key, number in value.items()}
            elif isinstance(value, float):
                record[name] = _rounded(value)
            else:
                record[name] = value
        return DriftSummary(**record)


def summarise(
    token_drifts: Iterable[TokenDrift],
    *,
    direction: str = CANDIDATE_BASELINE,
    on: str = "candidate responses",
    windowed: int = 0,
    alpha: float = 0.05,
) -> Drift:
    """Statistics over the responses.

    Means over tokens (micro means) are ratio estimates: the sum of divergences over the number of tokens. Their errors
    are linearised over clusters, their limits are Student's t; see `estimates.Sample`. The macro mean and the mean per
    sequence are means over responses, with errors of the same kind.

    Args:
        token_drifts: the responses' divergences; responses without counted tokens are left out.
        direction: ``KL(x || y)``, where x and y are the `p` and `q` of every TokenDrift, in either order.
        on: the text that was measured, in words.
        windowed: number of texts that were measured in windows, beside those that say so themselves.
        alpha: error rate of each one-sided limit that statistics are compared by (the policy's ``alpha``), above 0 and
            below 0.5.

    Raises:
        InvalidInput: no tokens at all, a direction that the token drifts do not hold, or an `alpha` out of range.
    """
    import numpy

    drifts = [drift for drift in token_drifts if len(drift)]
    if not drifts:
        raise InvalidInput("no tokens to measure drift on; expected at least one response with a counted token")
    if not 0 < alpha < 0.5:
        raise InvalidInput(f"alpha is {alpha}; expected a number above 0 and below 0.5, such as 0.05")
    kl = [_in_direction(drift, direction) for drift in drifts]
    sample = Sample([drift.cluster for drift in drifts], alpha)
    sums = _sums(kl)
    counts = numpy.array([len(column) for column in kl], dtype=numpy.float64)
    ones = numpy.ones_like(counts)
    mean = sample.mean(kl, NATS, least=0.0)
    per_sequence = sample.ratio(sums, ones, "nats per response", least=0.0)
    reach = sample.reach(0.975) * mean.error
    median, p90, p99, p999 = (sample.quantile(kl, share, NATS) for share in (0.5, 0.9, 0.99, 0.999))
    change = [_sign(drift) * drift.delta_p.astype(numpy.float64) for drift in drifts]
    square = sample.mean([column**2 for column in change], "")
    rms = math.sqrt(square)
    doubts = [drift.entropy_q if _sign(drift) > 0 else drift.entropy_p for drift in drifts]  # the baseline's
    answers = [column[drift.answer_start :] for drift, column in zip(drifts, kl, strict=True)]
    reasoning = [column[: drift.answer_start] for drift, column in zip(drifts, kl, strict=True)]
    tails = [drift.tail for drift in drifts if drift.tail is not None]
    found = Drift(
        direction=direction,
        on=on,
        tokens=int(counts.sum()),
        responses=len(drifts),
        clusters=sample.groups,
        mean=mean,
        error=mean.error,
        lower=max(0.0, float(mean) - reach) if not math.isnan(reach) else math.nan,
        upper=float(mean) + reach,
        macro_mean=sample.ratio(sums / counts, ones, NATS, least=0.0),
        per_sequence=per_sequence,
        per_sequence_error=per_sequence.error,
        median=median,
        p90=p90,
        p99=p99,
        p999=p999,
        maximum=sample.exactly(max(float(column.max()) for column in kl), NATS),
        same_top=sample.mean([drift.same_top for drift in drifts], "share of tokens", least=0.0, most=1.0),
        js=sample.mean([drift.js for drift in drifts], NATS, least=0.0, most=math.log(2.0)),
        total_variation=sample.mean([drift.total_variation for drift in drifts], PROBABILITY, least=0.0, most=1.0),
        delta_p=sample.mean(change, PROBABILITY, least=-1.0, most=1.0),
        # The error of the square root follows from that of the square by the delta method.
        rms_delta_p=sample.statistic(rms, square.error / (2 * rms) if rms else square.error, PROBABILITY, least=0.0),
        first={count: sample.mean([column[:count] for column in answers], NATS, least=0.0) for count in _FIRST},
        rest=sample.mean([column[_FIRST[-1] :] for column in answers], NATS, least=0.0),
        by_confidence={
            name: sample.mean(
                [column[(low <= doubt) & (doubt < high)] for column, doubt in zip(kl, doubts, strict=True)],
                NATS,
                least=0.0,
            )
            for name, (low, high) in _CONFIDENCE.items()
        },
        answer_mean=sample.mean(answers, NATS, least=0.0),
        reasoning_mean=sample.mean(reasoning, NATS, least=0.0),
        answer_per_sequence=sample.ratio(_sums(answers), ones, "nats per response", least=0.0),
        reasoning_per_sequence=sample.ratio(_sums(reasoning), ones, "nats per response", least=0.0),
        tail_mass=sample.mean(tails, PROBABILITY, least=0.0, most=1.0)
        if len(tails) == len(drifts)
        else Statistic(math.nan, PROBABILITY),
        masked_mass=_masked_mass(drifts),
        masked_tokens=sum(drift.masked_tokens for drift in drifts),
        infinite=sum(int(numpy.isinf(column).sum()) for column in kl),
        windowed=windowed + sum(drift.windowed for drift in drifts),
    )
    return _lower_bounds(found) if tails else found


def _sums(columns: Sequence[Floats]) -> Floats:
    import numpy

    return numpy.array([column.sum(dtype=numpy.float64) for column in columns])


def _in_direction(drift: TokenDrift, direction: str) -> Floats:
    """The divergences of that direction. Its two names say which column it is."""
    found = re.fullmatch(r"KL\((.+) \|\| (.+)\)", direction)
    sides = found.groups() if found else ()
    if sides == (drift.p, drift.q):
        return drift.kl_pq
    if sides == (drift.q, drift.p):
        return drift.kl_qp
    raise InvalidInput(f"direction is {direction!r}; expected KL({drift.p} || {drift.q}) or KL({drift.q} || {drift.p})")


# What is exact although a tail is unknown.
_EXACT = ("same_top", "delta_p", "rms_delta_p", "tail_mass", "masked_mass")


def _lower_bounds(found: Drift) -> Drift:
    """The drift without upper limits for divergences of which only a lower bound is known."""

    def unbounded(value: Statistic) -> Statistic:
        return Statistic(
            value, value.unit, error=value.error, lower_limit=value.lower_limit, upper_limit=math.inf, level=value.level
        )

    changed: dict[str, Any] = {"upper": math.inf}
    for name in found.__slots__:
        value = getattr(found, name)
        if isinstance(value, Statistic) and name not in _EXACT:
            changed[name] = unbounded(value)
        elif isinstance(value, Mapping) and name not in _EXACT:
            changed[name] = {key: unbounded(one) for key, one in value.items()}
    return replace(found, **changed)


def _sign(drift: TokenDrift) -> float:
    """The factor that makes delta_p candidate minus baseline, whichever of them is p; 1 for other names, p minus q."""
    return -1.0 if drift.q == "candidate" else 1.0


def _masked_mass(drifts: Sequence[TokenDrift]) -> dict[str, float]:
    import numpy

    mass: dict[str, list[NDArray[Any]]] = {}
    for drift in drifts:
        for side, column in ((drift.p, drift.masked_p), (drift.q, drift.masked_q)):
            mass.setdefault(side, []).append(numpy.zeros(len(drift)) if column is None else column)
    return {side: _mean(columns) for side, columns in sorted(mass.items())}


def _mean(columns: Sequence[NDArray[Any]]) -> float:
    """Mean over all entries in float64; NaN for none."""
    import numpy

    count = sum(len(column) for column in columns)
    return float(sum(column.sum(dtype=numpy.float64) for column in columns) / count) if count else math.nan


def _rounded(value: float) -> float | None:
    return float(f"{value:.9g}") if math.isfinite(value) else None
