"""Which limits a comparison gets: binary or graded, clustered or not, and what they could have seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from pytest_trust.stats import power as powers
from pytest_trust.stats.intervals import ClusterSums, Floats, mcnemar_lower, mcnemar_p, score_upper, sign_flip_p

FEW_CLUSTERS = 12  # with fewer, a graded regression also needs the sign-flip test, which lists at most 2^11 patterns
FEW_MOVED = 20  # with fewer clusters that differ at all, a t limit misses what has not happened yet
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Plan:
    """What a gate asks of its comparison."""

    margin: float
    alpha: float
    family: int
    power: float

    @property
    def level(self) -> float:
        """The level of the lower limit, corrected for the policy's family of gates."""
        return self.alpha / self.family


@dataclass(frozen=True)
class Limits:
    """One-sided limits, the p-value that decides the sign of the lower one, and the power behind them."""

    lower: float | None
    upper: float | None
    p_value: float | None
    detectable: float | None
    needed: int | None
    method: str


UNKNOWN = Limits(None, None, None, None, None, "")


@dataclass(frozen=True)
class Counts:
    """What the score limits take: differences as flips (in units of the largest), divided by the design effect."""

    better: float
    worse: float
    n: float
    effect: float

    @property
    def background(self) -> float:
        """Share of pairs that flip to better when nothing regresses; at least half a flip."""
        return max(min(self.better, (self.better + self.worse) / 2), 0.5) / self.n


def effective_counts(totals: ClusterSums, critical: float = 0.0) -> Counts:
    """Flips (or differences in units of the largest) divided by the design effect; `critical` is `design_effect`'s."""
    effect, scale = totals.design_effect(critical), totals.scale or 1.0
    net, moved = totals.mean * totals.n, totals.moved
    unit = scale * effect
    return Counts(
        better=max(moved - net, 0.0) / 2 / unit,
        worse=max(moved + net, 0.0) / 2 / unit,
        n=totals.n / effect,
        effect=effect,
    )


def binary_limits(totals: ClusterSums, plan: Plan) -> Limits:
    """Limits of differences in {-1, 0, 1}."""
    counts = effective_counts(totals)
    if totals.clusters == totals.n:
        better, worse = round(counts.better), round(counts.worse)
        p_value = float(mcnemar_p(better, worse))
        lower = float(mcnemar_lower(better, worse, totals.n, plan.level))
        upper = float(score_upper(better, worse, totals.n, -float(special.ndtri(plan.alpha))))
        method = "exact McNemar test, corrected Tango score limits"
    else:
        lower, upper, score_p = _clustered_score(totals, plan)
        p_value = max(sign_flip_p(totals.sums, integral=True), score_p)
        lower = _signed(lower, p_value <= plan.level)
        method = f"sign-flip test on cluster sums, score limits with design effect {counts.effect:.2f}"
    pairs = max(int(counts.n), 1)
    needed = None
    if lower <= 0.0 and upper >= plan.margin:
        pairs_needed = powers.needed_flips(
            counts.better, counts.worse, pairs, margin=plan.margin, alpha=plan.alpha, power=plan.power
        )
        if pairs_needed is not None:
            needed = max(totals.n + 1, int(np.ceil(pairs_needed * counts.effect)))
    return Limits(
        lower=lower,
        upper=upper,
        p_value=p_value,
        detectable=powers.detectable_flips(
            pairs,
            counts.background,
            margin=plan.margin,
            alpha=plan.alpha,
            family=plan.family,
            power=plan.power,
        ),
        needed=needed,
        method=method,
    )


def clustered_score_p(better: npt.ArrayLike, worse: npt.ArrayLike, degrees: int) -> Floats:
    """p-value of the continuity-corrected score statistic at Δ = 0, from counts divided by the design effect [...]."""
    b, w = np.asarray(better, dtype=np.float64), np.asarray(worse, dtype=np.float64)
    score = (w - b - 0.5) / np.sqrt(np.maximum(b + w, _TINY))
    return np.asarray(np.where(b + w > 0, special.stdtr(degrees, -score), 1.0), dtype=np.float64)


def _clustered_score(totals: ClusterSums, plan: Plan) -> tuple[float, float, float]:
    """Lower limit, upper limit and p-value, from counts over the design effect and t quantiles on C - 1 degrees."""
    degrees, scale = totals.clusters - 1, totals.scale or 1.0
    low, high = (float(special.stdtrit(degrees, 1 - tail)) for tail in (plan.level, plan.alpha))
    down, up = effective_counts(totals), effective_counts(totals, high)
    lower = -float(score_upper(down.worse, down.better, down.n, low))
    upper = float(score_upper(up.better, up.worse, up.n, high))
    return scale * lower, scale * upper, float(clustered_score_p(down.better, down.worse, degrees))


def _signed(lower: float, rejects: bool) -> float:
    """The lower limit with the sign that the test of no regression gives it."""
    return max(lower, _TINY) if rejects else min(lower, 0.0)


def graded_limits(totals: ClusterSums, plan: Plan) -> Limits:
    """Limits of differences on any scale."""
    if totals.scale == 0.0:
        return Limits(0.0, 0.0, 1.0, None, None, "all differences are exactly zero: no interval")
    degrees, error, mean = totals.clusters - 1, totals.error, totals.mean
    if error == 0.0:
        # Equal differences leave no spread to estimate. Only their common sign is evidence.
        p_value = 0.5**totals.clusters if mean > 0 else 1.0
        lower = upper = mean
        method = "all differences are equal: sign-flip test, no interval"
    else:
        p_value = float(special.stdtr(degrees, -mean / error))
        lower = mean - float(special.stdtrit(degrees, 1 - plan.level)) * error
        upper = mean + float(special.stdtrit(degrees, 1 - plan.alpha)) * error
        method = f"cluster-robust t, {degrees} degrees of freedom"
        if totals.clusters < FEW_CLUSTERS:
            p_value = max(p_value, sign_flip_p(totals.sums, integral=False))
            method += ", sign-flip test"
        moved = int(np.count_nonzero(totals.sums))
        if moved < min(FEW_MOVED, totals.clusters):
            floor, ceiling, score_p = _clustered_score(totals, plan)
            lower, upper = min(lower, floor), max(upper, ceiling)
            p_value = max(p_value, score_p)
            method += f", score limits ({moved} clusters moved)"
    return Limits(
        lower=min(_signed(lower, p_value <= plan.level), mean),
        upper=upper,
        p_value=p_value,
        detectable=powers.detectable_shift(
            error, degrees, margin=plan.margin, alpha=plan.alpha, family=plan.family, power=plan.power
        ),
        needed=powers.needed_shift(
            mean, error, totals.n, totals.clusters, margin=plan.margin, alpha=plan.alpha, power=plan.power
        ),
        method=method,
    )
