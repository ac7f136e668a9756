"""The paired comparison of one gate: scores of both sides in, limits and a verdict out.

No model, no pytest. Three things may veto or force a verdict: a judge's own error, named probes that must never flip
and an absolute ceiling. The caller applies them to the result of `decide`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pytest_trust.errors import InvalidInput
from pytest_trust.stats.corrections import checked_level
from pytest_trust.stats.intervals import ClusterSums, cluster_sums, is_binary, number_clusters, renumber, score_array
from pytest_trust.stats.paired_limits import UNKNOWN, Plan, binary_limits, graded_limits

Verdict = Literal["held", "regressed", "inconclusive", "not measured"]


@dataclass(frozen=True)
class Comparison:
    """Paired statistics of one gate. Larger is worse; delta = candidate - baseline.

    verdict       held: upper < margin. regressed: lower > 0 and not held. inconclusive: neither.
                  not measured: no pairs, too few clusters, or too many pairs missing; `reason` says which.
    delta         mean difference over the measured pairs; None without pairs.
    lower, upper  one-sided limits at alpha / family and at alpha; None when they cannot be computed.
    p_value       one-sided, of "no regression", not corrected for the family. It is at most alpha / family
                  exactly when lower > 0.
    n, n_clusters pairs measured on both sides, and their clusters.
    n_missing     pairs left out because a side is NaN.
    detectable    smallest true regression that this gate would call `regressed` with probability `power`, given
                  these pairs and their background of flips (or their spread); None when no size reaches it.
    needed        number of pairs, these included, at which the upper limit falls under the margin with
                  probability `power`. Further pairs are assumed to have a true difference of 0. None unless the
                  verdict is inconclusive, and None beyond ten million.
    worse, better flips towards and away from bad; None for graded scores.
    identical     every measured pair has exactly equal scores.
    """

    verdict: Verdict
    delta: float | None
    lower: float | None
    upper: float | None
    p_value: float | None
    n: int
    n_clusters: int
    n_missing: int
    detectable: float | None
    needed: int | None
    margin: float
    alpha: float
    family: int
    power: float
    method: str
    reason: str
    worse: int | None
    better: int | None
    baseline_mean: float | None
    candidate_mean: float | None
    identical: bool

    @property
    def held(self) -> bool:
        """A regression beyond the margin is ruled out."""
        return self.verdict == "held"

    @property
    def regressed(self) -> bool:
        """A regression is shown and one beyond the margin is not ruled out."""
        return self.verdict == "regressed"

    def __bool__(self) -> bool:
        raise TypeError("a Comparison is neither true nor false: assert its .held, or read its .verdict")

    def describe(self) -> str:
        """One line: the verdict, the difference with its limits, the margin, the pairs and what could be detected."""
        if self.delta is None or self.lower is None or self.upper is None:
            return f"{self.verdict}: {self.reason}"
        line = (
            f"{self.verdict}: Δ {self.delta:+.4g}, limits {self.lower:+.4g} to {self.upper:+.4g}, "
            f"margin {self.margin:g}, {self.n} pairs in {self.n_clusters} clusters"
        )
        if self.worse is not None:
            line += f", {self.worse} worse and {self.better} better"
        if self.reason:
            line += f"; {self.reason}"
        elif self.verdict == "inconclusive" and self.needed is not None:
            line += f"; about {self.needed} pairs would tell"
        elif self.verdict == "held" and self.detectable is not None:
            line += f"; would have seen a regression of {self.detectable:.3g}"
        return line


def compare_scores(
    baseline: npt.ArrayLike,
    candidate: npt.ArrayLike,
    *,
    margin: float,
    clusters: Sequence[Hashable] | None = None,
    alpha: float = 0.05,
    family: int = 1,
    power: float = 0.8,
    min_clusters: int = 2,
    max_missing: float = 0.2,
) -> Comparison:
    """Compare two equally long sequences of scores, paired by position; larger is worse, NaN is not measured.

    `clusters` labels probes that are variants of one item (default: each probe is its own cluster). `family` is
    the number of gates in the policy: the lower limit is at alpha / family, the upper one at alpha.

    The scores and their clusters (C of them) choose the method:

    - Binary (0 and 1 only), one probe per cluster. The exact McNemar test decides the sign of the lower limit. Tango's
      score limits with continuity and skewness correction give its size (`intervals.score_statistic`).
    - Binary, several probes in a cluster. An exact sign-flip test on cluster sums decides the sign. The size comes from
      the same score limits on counts divided by the design effect, with t quantiles on C - 1 degrees of freedom.
    - Graded. Cluster-robust t with the C/(C-1) correction and C - 1 degrees of freedom. With fewer than 12 clusters a
      regression also needs the sign-flip test. With fewer than 20 clusters that moved at all, the limits are at
      least as wide as the score limits in units of the largest difference.
    - All differences exactly zero: delta, lower and upper are 0, and there is no interval.
    - All differences equal and not zero: the limits have zero width where the sign-flip test agrees.

    Raises InvalidInput (a ValueError) for unequal lengths, text or infinite scores, and parameters out of range.
    """
    checked_level(alpha, family)
    _check(margin, power, min_clusters, max_missing)
    old, new = score_array(baseline, "baseline"), score_array(candidate, "candidate")
    if old.size != new.size:
        raise InvalidInput(
            f"baseline has {old.size} scores and candidate {new.size}, expected one each per probe: "
            "pass NaN for a probe that one side did not answer"
        )
    index = number_clusters(clusters, old.size)
    kept = ~(np.isnan(old) | np.isnan(new))
    missing = int(old.size - kept.sum())
    old, new, index = old[kept], new[kept], renumber(index[kept])
    totals = cluster_sums(new - old, index) if old.size else None
    binary = is_binary(old, new) if old.size else False

    reason = _not_measured(totals, missing, min_clusters, max_missing)
    limits = UNKNOWN
    if totals is not None and totals.clusters >= 2:
        plan = Plan(margin=float(margin), alpha=float(alpha), family=int(family), power=float(power))
        limits = (binary_limits if binary else graded_limits)(totals, plan)
    verdict = "not measured" if reason else decide(limits.lower, limits.upper, margin)
    if verdict == "inconclusive":
        reason = "too few pairs to tell"
    return Comparison(
        verdict=verdict,
        delta=totals.mean if totals else None,
        lower=limits.lower,
        upper=limits.upper,
        p_value=limits.p_value,
        n=int(old.size),
        n_clusters=totals.clusters if totals else 0,
        n_missing=missing,
        detectable=limits.detectable,
        needed=limits.needed if verdict == "inconclusive" else None,
        margin=float(margin),
        alpha=float(alpha),
        family=int(family),
        power=float(power),
        method=limits.method,
        reason=reason,
        worse=int(np.count_nonzero(new > old)) if binary else None,
        better=int(np.count_nonzero(new < old)) if binary else None,
        baseline_mean=float(old.mean()) if old.size else None,
        candidate_mean=float(new.mean()) if old.size else None,
        identical=bool(old.size) and bool(np.array_equal(old, new)),
    )


def decide(lower: float | None, upper: float | None, margin: float) -> Verdict:
    """The verdict of two one-sided limits; the caller applies whatever may veto or force one to the result."""
    if lower is None or upper is None:
        return "not measured"
    if upper < margin:
        return "held"
    return "regressed" if lower > 0.0 else "inconclusive"


def _not_measured(totals: ClusterSums | None, missing: int, min_clusters: int, max_missing: float) -> str:
    """Why the gate is not measured, in words; empty when it is."""
    if totals is None:
        return f"no pair was measured on both sides ({missing} missing)"
    if missing > max_missing * (totals.n + missing):
        return f"{missing} of {totals.n + missing} pairs are missing, at most {max_missing:.0%} may be"
    if totals.clusters < min_clusters:
        return f"pairs come from {totals.clusters} cluster(s), at least {min_clusters} are needed"
    return ""


def _check(margin: float, power: float, min_clusters: int, max_missing: float) -> None:
    if not _is_number(margin) or not np.isfinite(margin) or margin <= 0:
        raise InvalidInput(f"margin={margin!r} given, expected a finite number above 0, such as 0.05")
    if not _is_number(power) or not 0.5 <= power < 1.0:
        raise InvalidInput(f"power={power!r} given, expected a number from 0.5 to below 1, such as 0.8")
    if isinstance(min_clusters, bool) or not isinstance(min_clusters, int | np.integer) or min_clusters < 2:
        raise InvalidInput(f"min_clusters={min_clusters!r} given, expected a whole number, at least 2")
    if not _is_number(max_missing) or not 0.0 <= max_missing < 1.0:
        raise InvalidInput(f"max_missing={max_missing!r} given, expected a share from 0 to below 1, such as 0.2")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
