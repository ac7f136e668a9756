"""Limits that hold whenever one stops: betting confidence sequences for the mean of paired differences.

Source: Waudby-Smith and Ramdas (2024, JRSS-B 86, "Estimating means of bounded random variables by betting").
A gambler bets against "the mean difference is m". If m is the truth, the gambler's capital is a non-negative
supermartingale. By Ville's inequality it then reaches 1 / level with probability at most `level`, however often one
looks. For binary unclustered outcomes and m = 0 the capital is the e-process on the discordant pairs:
(1 + u)^worse (1 - u)^better, mixed over the stakes u. Pure functions of numbers; larger is worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from pytest_trust.stats.intervals import Floats

#: Share of the error rate that is spent on stopping early. The fixed-sample test at the end of the budget has the rest.
STOPPING_SHARE = 0.2
#: A gate is given up when its chance to be decided by the end of its budget is below this.
FUTILE = 0.02
_LEAST_CLUSTERS = 16  # fewer give too poor an estimate of the spread to give up on
_NODES = 24
#: Stakes, spread by the arcsine law. Stakes near 0 win from small steady differences, stakes near 1 where no flip goes
#: against the bet; both have the same weight.
STAKES: Floats = np.sin(np.pi * (np.arange(_NODES) + 0.5) / (2 * _NODES)) ** 2


@dataclass(frozen=True)
class Anytime:
    """A gate at its last look.

    lower, upper: the tightest limits of all looks; they are valid at all looks together.
    e_value: the largest capital against "no regression"; above 1 / level it refutes that.
    clusters: how many were looked at.
    """

    lower: float
    upper: float
    e_value: float
    clusters: int


def log_capital(sums: Floats, sizes: Floats, mean: float, *, largest: float, scale: float, worse: bool) -> float:
    """Log of the capital, mixed over the stakes, of a bet that the mean difference is above (`worse`) or below `mean`.

    sums, sizes: [clusters] sums of differences and numbers of probes; the order of the clusters does not matter.
    largest: size of the largest possible cluster; scale: largest possible difference. Both must be known beforehand.
    """
    sign = 1.0 if worse else -1.0
    reach = largest * (scale + sign * mean)
    if reach <= 0.0:
        return float("inf")
    gains = sign * (sums - mean * sizes) / reach  # [clusters], at least -1
    logs = np.log1p(np.maximum(STAKES[:, None] * gains[None, :], -1 + 1e-12)).sum(axis=1)
    return float(special.logsumexp(logs) - np.log(_NODES))


def anytime_limits(
    sums: Floats,
    sizes: Floats,
    looks: Sequence[int],
    *,
    lower_level: float,
    upper_level: float,
    largest: float,
    scale: float = 1.0,
) -> Anytime:
    """One-sided limits of the mean difference after the last of `looks`, at `lower_level` and `upper_level`.

    looks: how many clusters had been seen at each look; the other arguments are those of `log_capital`.
    The probability that the lower (upper) limit is on the wrong side of the true mean at any look is at most its level.
    """
    lower, upper, most = -scale, scale, 0.0
    for look in looks:
        part = sums[:look], sizes[:look]
        lower = max(lower, _limit(*part, -np.log(lower_level), largest=largest, scale=scale, worse=True))
        upper = min(upper, _limit(*part, -np.log(upper_level), largest=largest, scale=scale, worse=False))
        most = max(most, log_capital(*part, 0.0, largest=largest, scale=scale, worse=True))
    return Anytime(lower, upper, float(np.exp(min(most, 700.0))), looks[-1] if looks else 0)


def _limit(sums: Floats, sizes: Floats, needed: float, *, largest: float, scale: float, worse: bool) -> float:
    """The furthest mean that the capital refutes.

    The capital falls (`worse`) or rises steadily with the mean, so bisection finds the limit.
    """
    refuted, kept = (-scale, scale) if worse else (scale, -scale)
    for _ in range(40):
        middle = (refuted + kept) / 2
        if log_capital(sums, sizes, middle, largest=largest, scale=scale, worse=worse) >= needed:
            refuted = middle
        else:
            kept = middle
    return refuted


def decided(limits: Anytime, margin: float) -> Literal["held", "regressed", ""]:
    """The verdict of the limits by the rule that holds for every gate; empty while they decide nothing."""
    if limits.upper < margin:
        return "held"
    return "regressed" if limits.lower > 0.0 else ""


def chance_to_decide(
    sums: Floats, sizes: Floats, budget: int, *, margin: float, lower_level: float, upper_level: float
) -> float:
    """Predicted probability that the fixed-sample test at the end of the budget (probes) says held or regressed.

    The prediction is a normal approximation given the pairs seen so far; the spread is at least that of half a flip.
    It serves only to give a gate up. Giving up can only make the gate inconclusive, so it spends no error rate.
    """
    n, clusters = float(sizes.sum()), sums.size
    if clusters < _LEAST_CLUSTERS or n >= budget:
        return 1.0
    mean = float(sums.sum()) / n
    residual = sums - mean * sizes
    # The variance of one probe, with clustering allowed for.
    variance = max(float(residual @ residual) * clusters / (clusters - 1) / n, 0.5 / n)
    final = np.sqrt(variance / budget)
    # The spread of the final mean: the part already seen is fixed, the mean of the rest is only estimated.
    spread = (budget - n) / budget * np.sqrt(variance * (1 / (budget - n) + 1 / n))
    to_hold = margin + float(special.ndtri(upper_level)) * final
    to_regress = max(-float(special.ndtri(lower_level)) * final, to_hold)
    return float(special.ndtr((to_hold - mean) / spread) + special.ndtr((mean - to_regress) / spread))
