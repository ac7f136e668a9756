"""Drift as numbers: the statistics of the divergences over many responses."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import InvalidInput
from pytest_trust.token_drift import TokenDrift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_trust.token_drift import Floats

__all__ = ["BASELINE_CANDIDATE", "CANDIDATE_BASELINE", "Drift", "TokenDrift", "summarise"]

CANDIDATE_BASELINE = "KL(candidate || baseline)"
"""What the candidate says that the baseline would not; on the candidate's responses, the paper's quantity."""
BASELINE_CANDIDATE = "KL(baseline || candidate)"
"""What the candidate has forgotten, on the baseline's responses."""

_FIRST = (1, 5, 20)


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """Statistics of the divergence between two models' next-token distributions. Larger means further apart.

    Compare its numbers: ``drift.mean <= 0.05``. A drift by itself is neither true nor false.
    """

    direction: str
    """Which way: ``KL(candidate || baseline)``, ``KL(baseline || candidate)``, or two other names."""
    on: str
    """The text the divergence is taken on, in words: ``candidate responses``."""
    tokens: int
    """Number of tokens."""
    responses: int
    """Number of responses (or texts)."""
    clusters: int
    """Number of clusters of probes; the errors are taken over them."""
    mean: float
    """Nats per token, each token counting the same (micro mean)."""
    error: float
    """Standard error of `mean`, clustered by probe cluster, nats per token; NaN for fewer than two
    clusters."""
    lower: float
    """Lower limit of the two-sided 95 % interval of `mean`, nats per token; at least 0."""
    upper: float
    """Upper limit of the two-sided 95 % interval of `mean`, nats per token."""
    macro_mean: float
    """Nats per token, each response counting the same: the mean of the responses' means."""
    per_sequence: float
    """Nats per response: the mean over responses of the sum over tokens (the paper's quantity)."""
    per_sequence_error: float
    """Clustered standard error of `per_sequence`, nats per response."""
    median: float
    """Median over tokens, nats."""
    p90: float
    """90th percentile over tokens, nats."""
    p99: float
    """99th percentile over tokens, nats."""
    p999: float
    """99.9th percentile over tokens, nats."""
    maximum: float
    """Largest token's divergence, nats."""
    same_top: float
    """Share of tokens whose most likely token is the same, 0 to 1; larger is closer."""
    js: float
    """Mean Jensen-Shannon divergence, nats per token, at most log 2; symmetric."""
    total_variation: float
    """Mean total variation, 0 to 1; symmetric."""
    delta_p: float
    """Mean change of the probability of the token that follows, candidate minus baseline, -1 to 1; positive:
    surer."""
    rms_delta_p: float
    """Root mean square of that change, 0 to 1."""
    first: Mapping[int, float] = field(default_factory=dict)
    """Nats per token over the first 1, 5 and 20 tokens of the answers (which decide refusals), by that
    number."""
    answer_mean: float = math.nan
    """Nats per token of the answers, reasoning left out; NaN without any."""
    reasoning_mean: float = math.nan
    """Nats per token of the reasoning; NaN without any."""
    masked_mass: Mapping[str, float] = field(default_factory=dict)
    """Mean probability that each side puts on ids the other does not have, by side; 0 where all ids are
    shared."""
    masked_tokens: int = 0
    """Tokens left out (template, think markers)."""
    infinite: int = 0
    """Tokens with an infinite divergence: the second model excludes what the first allows."""
    windowed: int = 0
    """Texts longer than the context, measured in overlapping windows."""

    def __bool__(self) -> bool:
        """Refused: ``assert trust.kl(...)`` would always pass."""
        raise TypeError("a drift is neither true nor false: compare one of its numbers, for example drift.mean <= 0.05")

    def as_record(self) -> dict[str, Any]:
        """Built-in types only, floats to 9 significant digits; what is not finite (undefined, infinite) is
        None."""
        record: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                record[name] = {str(key): _rounded(number) for key, number in value.items()}
            elif isinstance(value, float):
                record[name] = _rounded(value)
            else:
                record[name] = value
        return record


def summarise(
    token_drifts: Iterable[TokenDrift],
    *,
    direction: str = CANDIDATE_BASELINE,
    on: str = "candidate responses",
    windowed: int = 0,
) -> Drift:
    """Statistics over the responses.

    The micro mean is a ratio estimate, sum of divergences over number of tokens; its error is the linearised
    one over clusters with the factor G / (G - 1) (Cochran, Sampling Techniques, 3rd ed., eq. 6.13), its
    limits Student's t with G - 1 degrees of freedom.

    Args:
        token_drifts: the responses' tokens; empty ones are left out.
        direction: ``KL(x || y)`` where x and y are the `p` and `q` of every TokenDrift, in either order.
        on: the text that was measured, in words.
        windowed: number of texts that were measured in windows.

    Raises:
        InvalidInput: no tokens at all, or a direction that the token drifts do not hold.
    """
    import numpy

    drifts = [drift for drift in token_drifts if len(drift)]
    if not drifts:
        raise InvalidInput("no tokens to measure drift on; expected at least one response with a counted token")
    kl = [_in_direction(drift, direction) for drift in drifts]
    values = numpy.concatenate(kl).astype(numpy.float64)
    sums = numpy.array([column.sum(dtype=numpy.float64) for column in kl])
    counts = numpy.array([len(column) for column in kl], dtype=numpy.float64)
    clusters = [drift.cluster for drift in drifts]
    mean, error = _ratio(sums, counts, clusters)
    per_sequence, per_sequence_error = _ratio(sums, numpy.ones_like(counts), clusters)
    groups = len(set(clusters))
    lower, upper = _limits(mean, error, groups)
    median, p90, p99, p999 = (_quantile(values, share) for share in (0.5, 0.9, 0.99, 0.999))
    change = numpy.concatenate([_sign(drift) * drift.delta_p for drift in drifts]).astype(numpy.float64)
    answers = [column[drift.answer_start :] for drift, column in zip(drifts, kl, strict=True)]
    reasoning = [column[: drift.answer_start] for drift, column in zip(drifts, kl, strict=True)]
    first = {count: _mean([column[:count] for column in answers]) for count in _FIRST}
    return Drift(
        direction=direction,
        on=on,
        tokens=len(values),
        responses=len(drifts),
        clusters=groups,
        mean=mean,
        error=error,
        lower=lower,
        upper=upper,
        macro_mean=float((sums / counts).mean()),
        per_sequence=per_sequence,
        per_sequence_error=per_sequence_error,
        median=median,
        p90=p90,
        p99=p99,
        p999=p999,
        maximum=float(values.max()),
        same_top=_mean([drift.same_top for drift in drifts]),
        js=_mean([drift.js for drift in drifts]),
        total_variation=_mean([drift.total_variation for drift in drifts]),
        delta_p=float(change.mean()),
        rms_delta_p=float(numpy.sqrt((change**2).mean())),
        first=first,
        answer_mean=_mean(answers),
        reasoning_mean=_mean(reasoning),
        masked_mass=_masked_mass(drifts),
        masked_tokens=sum(drift.masked_tokens for drift in drifts),
        infinite=int(numpy.isinf(values).sum()),
        windowed=windowed,
    )


def _in_direction(drift: TokenDrift, direction: str) -> Floats:
    """The divergences of that direction; the names in it say which of the two columns it is."""
    found = re.fullmatch(r"KL\((.+) \|\| (.+)\)", direction)
    sides = found.groups() if found else ()
    if sides == (drift.p, drift.q):
        return drift.kl_pq
    if sides == (drift.q, drift.p):
        return drift.kl_qp
    raise InvalidInput(f"direction is {direction!r}; expected KL({drift.p} || {drift.q}) or KL({drift.q} || {drift.p})")


def _sign(drift: TokenDrift) -> float:
    """Makes delta_p candidate minus baseline, whichever of them is p; p minus q for other names."""
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


def _ratio(sums: NDArray[Any], counts: NDArray[Any], clusters: Sequence[str]) -> tuple[float, float]:
    """sum(sums) / sum(counts) and its clustered standard error."""
    import numpy

    mean = float(sums.sum() / counts.sum())
    _, index = numpy.unique(numpy.array(clusters, dtype=object).astype(str), return_inverse=True)
    groups = int(index.max()) + 1
    if groups < 2 or not math.isfinite(mean):
        return mean, math.nan
    residuals = numpy.bincount(index, weights=sums - mean * counts)
    variance = groups / (groups - 1) * float((residuals**2).sum()) / float(counts.sum()) ** 2
    return mean, math.sqrt(variance)


def _limits(mean: float, error: float, groups: int) -> tuple[float, float]:
    """Two-sided 95 % limits, the lower not below 0."""
    if math.isnan(error):
        return math.nan, math.nan
    from scipy.stats import t

    reach = float(t.ppf(0.975, groups - 1)) * error
    return max(0.0, mean - reach), mean + reach


def _quantile(values: NDArray[Any], share: float) -> float:
    """Linear interpolation between order statistics; inf where the upper neighbour is."""
    import numpy

    ordered = numpy.sort(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    weight = place - below
    if weight == 0.0:
        return float(ordered[below])
    return float(ordered[below] * (1.0 - weight) + ordered[below + 1] * weight)


def _rounded(value: float) -> float | None:
    return float(f"{value:.9g}") if math.isfinite(value) else None
