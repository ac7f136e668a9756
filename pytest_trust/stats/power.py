"""Power: the smallest regression that a comparison would detect, and the pairs it would take to rule one out.

Binary outcomes: exact, from the multinomial of flips, up to 4,000 pairs; a normal approximation beyond. Graded outcomes
whose error is known: the t approximation. `simulated_power` covers graded outcomes that have not been measured yet.
Every function is cached on its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import optimize, special

from pytest_trust.stats.intervals import Floats, mcnemar_p, score_statistic

_EXACT_PAIRS = 4000
_MOST_PAIRS = 10_000_000


@lru_cache(maxsize=4096)
def detectable_flips(
    n: int, background: float, *, margin: float, alpha: float = 0.05, family: int = 1, power: float = 0.8
) -> float | None:
    """Smallest true Δ for which a binary gate on `n` pairs comes out `regressed` with probability `power`.

    The event is the verdict itself: the exact McNemar test rejects at alpha / family *and* the upper limit is not under
    the margin. `background` is the share of pairs that flip to better; a share of `background` + Δ flips to worse.
    The result is None when no Δ reaches the power (too few pairs for the level).
    """
    level, critical = alpha / family, -float(special.ndtri(alpha))
    most = 1 - 2 * background
    if n < 1 or most <= 0.0:
        return None
    guess = _normal_guess(n, background, margin, critical, -float(special.ndtri(level)), float(special.ndtri(power)))
    if n > _EXACT_PAIRS:
        return guess if guess <= most else None
    top = min(most, 2 * guess + 4 / n)
    if _flip_power(top, n, background, margin, critical, level) < power:
        top = most
        if _flip_power(top, n, background, margin, critical, level) < power:
            return None
    root = optimize.brentq(
        lambda d: _flip_power(d, n, background, margin, critical, level) - power,
        0.0,
        top,
        xtol=1e-5,
        rtol=1e-5,
    )
    return float(root)


def _normal_guess(n: int, background: float, margin: float, upper: float, lower: float, gain: float) -> float:
    """The Δ that just meets both conditions of `regressed`, by fixed-point iteration with the variance at Δ."""
    delta = margin
    for _ in range(20):
        error = np.sqrt(max(2 * background + delta - delta * delta, 1 / n**2) / n)
        delta = min(max((lower + gain) * error, margin - (upper - gain) * error), 1.0)
    return float(delta)


def _flip_power(delta: float, n: int, background: float, margin: float, critical: float, level: float) -> float:
    """Probability that `n` unclustered binary pairs come out `regressed` when the true Δ is `delta`."""
    discordance = min(2 * background + delta, 1.0)
    if discordance <= 0.0:
        return 0.0
    spread = 6 * np.sqrt(n * discordance * (1 - discordance)) + 4
    first, last = max(0, int(n * discordance - spread)), min(n, int(n * discordance + spread) + 1)
    total = np.arange(first, last + 1, dtype=np.float64)  # discordant pairs
    log_weight = (
        special.gammaln(n + 1) - special.gammaln(total + 1) - special.gammaln(n - total + 1)
        + special.xlogy(total, discordance) + special.xlog1py(n - total, -discordance)
    )  # fmt: skip
    needed = _first_regressed(n, margin, critical, level)[first : last + 1]
    share = min((background + delta) / discordance, 1.0)
    tail = np.where(needed <= total, special.betainc(needed, np.maximum(total - needed + 1, 1.0), share), 0.0)
    return float(np.exp(log_weight) @ tail)


@lru_cache(maxsize=256)
def _first_regressed(n: int, margin: float, critical: float, level: float) -> Floats:
    """The fewest worse pairs that make the verdict `regressed`, for each number of discordant pairs 0..n, [n + 1].

    Both conditions are monotone in the number of worse pairs, so bisection finds the fewest. Where no number of them
    makes the verdict, the entry is the number of discordant pairs + 1.
    """
    total = np.arange(n + 1, dtype=np.float64)
    reject = np.ceil(total / 2 - special.ndtri(level) * np.sqrt(total) / 2)  # a near guess; exact steps follow
    for _ in range(3):
        reject = np.where((reject > 1) & (mcnemar_p(total - reject + 1, reject - 1) <= level), reject - 1, reject)
    for _ in range(4):
        reject = np.where((reject <= total) & (mcnemar_p(total - reject, reject) > level), reject + 1, reject)
    low, high = np.zeros(n + 1), total + 1
    for _ in range(int(np.log2(n + 2)) + 2):
        middle = np.floor((low + high) / 2)
        held = score_statistic(total - middle, middle, n, margin, critical) < -critical
        low, high = np.where(held & (low < high), middle + 1, low), np.where(held, high, middle)
    fewest: Floats = np.clip(np.maximum(reject, high), 1.0, total + 1)
    return fewest


@lru_cache(maxsize=4096)
def detectable_shift(
    error: float, degrees: int, *, margin: float, alpha: float = 0.05, family: int = 1, power: float = 0.8
) -> float:
    """Smallest true Δ for which a graded gate with this error is `regressed` with probability `power`.

    It is a t approximation of the verdict: the lower limit is above 0 and the upper limit is not under the margin.
    """
    lower, upper, gain = (float(special.stdtrit(degrees, q)) for q in (1 - alpha / family, 1 - alpha, power))
    return max((lower + gain) * error, margin - (upper - gain) * error)


@lru_cache(maxsize=4096)
def needed_flips(
    better: float, worse: float, n: int, *, margin: float, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Fewest pairs for which the upper limit falls under the margin with probability `power`.

    The n pairs at hand keep their `better` and `worse` flips. Further pairs are assumed to flip as often (at least once
    in n pairs) and to both sides alike, so their true Δ is 0. The result is at least n + 1; None beyond ten million.
    """
    critical, gain = -float(special.ndtri(alpha)), float(special.ndtri(power))
    discordance = min(max(better + worse, 1.0) / n, 1.0)

    def held(pairs: int) -> bool:
        flips = discordance * (pairs - n)
        excess = min(gain * np.sqrt(flips), flips)  # a bad-luck surplus of worse flips
        down, up = better + (flips - excess) / 2, worse + (flips + excess) / 2
        return float(score_statistic(down, up, pairs, min(margin, 1.0), critical)) < -critical

    return _first_true(held, n + 1)


@lru_cache(maxsize=4096)
def needed_shift(
    mean: float,
    error: float,
    n: int,
    n_clusters: int,
    *,
    margin: float,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int | None:
    """`needed_flips` for a graded gate: its n pairs have this mean difference and standard error over `n_clusters`."""

    def held(pairs: int) -> bool:
        degrees = max(pairs * n_clusters / n - 1, 1.0)
        reach = special.stdtrit(degrees, 1 - alpha) * np.sqrt(n / pairs)
        luck = special.stdtrit(degrees, power) * np.sqrt(n * (pairs - n)) / pairs
        return bool(mean * n / pairs + (reach + luck) * error < margin)

    return _first_true(held, n + 1)


def _first_true(check: Callable[[int], bool], start: int) -> int | None:
    """Smallest whole number from `start` on at which a monotone condition holds."""
    step, low = 1, start
    if check(low):
        return low
    while not check(low + step):
        low, step = low + step, step * 2
        if low + step > _MOST_PAIRS:
            return None
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if check(middle) else (middle, high)
    return high
