"""Confidence limits of paired differences and of single rates.

Everything here is a pure function of numbers. There are two families of limits:

* **score limits** for binary outcomes: Tango (1998), with a continuity and a skewness correction. They are functions
  of the counts `(better, worse, n)` and broadcast over arrays. With clusters the counts are divided by a design effect
  first. Sparse graded outcomes use them too, as the least width of their limits;
* **cluster-robust t limits** for graded outcomes, with the C/(C-1) correction and C - 1 degrees of freedom.

Larger is worse everywhere. A difference is candidate - baseline: `worse` counts pairs with difference +1, `better`
those with -1.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from pytest_trust.errors import InvalidInput

Floats = npt.NDArray[np.float64]

_HALVINGS = 46  # leave 3e-14 of an interval of length 2


def score_statistic(
    better: npt.ArrayLike, worse: npt.ArrayLike, n: npt.ArrayLike, difference: npt.ArrayLike, critical: float
) -> Floats:
    """Corrected score statistic for Δ = `difference`; a value below `-critical` rejects Δ >= `difference`.

    Tango (1998, Statistics in Medicine 17): (worse - better - nΔ) / sqrt(n(2q̃ + Δ(1 - Δ))). q̃ is the constrained
    maximum-likelihood estimate of the share of `better` pairs. Without a correction, an upper limit at 5 % wrongly
    excludes the truth in up to 6.9 % of samples. (This was enumerated for n = 20 to 2000; the worst cases have few
    flips, all in one direction, or nearly every pair flipped.) So the numerator gets a correction k, from the
    first-order Edgeworth and continuity terms of P(D <= d):

        k = span / 2 - (critical² - 1) / 6 * κ3 / κ2,   not below 0.

    κ2 and κ3 are the cumulants of one pair's difference under the hypothesis. span is the lattice step of D: 1, or 2
    when every pair is discordant, since D then has the parity of n; (2ψ̃ - 1)^n interpolates. With k at most 5 % of the
    samples on that grid are wrongly excluded (tests/unit checks a part of the grid).
    Arguments broadcast; counts may be fractional (counts divided by a design effect).
    """
    b, w, n, d = (np.asarray(value, dtype=np.float64) for value in (better, worse, n, difference))
    half = (b + w) - (2 * n - (w - b)) * d
    q = (np.sqrt(np.maximum(half * half + 8 * n * b * d * (1 - d), 0)) + half) / (4 * n)
    q = np.clip(q, np.maximum(0.0, -d), (1 - d) / 2)  # both shares non-negative, sum at most 1
    discordant = np.clip(2 * q + d, 0.0, 1.0)
    variance = np.maximum(discordant - d * d, 1e-300)
    third = d - 3 * discordant * d + 2 * d**3
    parity = np.maximum(2 * discordant - 1, 0.0) ** n
    k = 0.5 + 0.5 * parity - (critical * critical - 1) / 6 * third / variance
    statistic: Floats = (w - b + np.maximum(k, 0.0) - n * d) / np.sqrt(n * variance)
    return statistic


def score_upper(better: npt.ArrayLike, worse: npt.ArrayLike, n: npt.ArrayLike, critical: float) -> Floats:
    """Upper limit of Δ = P(worse) - P(better): the largest Δ that `score_statistic` does not reject.

    `critical` is the one-sided quantile (1.645 for 95 %). Arguments broadcast. The limit is in (delta, 1], or 1 where
    delta, the observed difference, is 1. The lower limit is `-score_upper(worse, better, n, critical)`.
    """
    b, w, n = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in (better, worse, n)))
    low, width = (w - b) / n, 1 - (w - b) / n
    # A call of the statistic costs the same for 1 point or 64. So few limits try many points at once; many bisect.
    pieces = 64 if b.size <= 16 else 2
    inner = (np.arange(1, pieces) / pieces).reshape(-1, *[1] * b.ndim)
    for _ in range(int(np.ceil(_HALVINGS / np.log2(pieces)))):
        rejected = score_statistic(b, w, n, low + width * inner, critical) < -critical
        low = low + width / pieces * np.count_nonzero(~rejected, axis=0)
        width = width / pieces
    return np.asarray(np.minimum(low + width, 1.0), dtype=np.float64)


def mcnemar_p(better: npt.ArrayLike, worse: npt.ArrayLike) -> Floats:
    """Exact one-sided McNemar p-value: P(X >= worse), X ~ Binomial(better + worse, 1/2). 1 without flips."""
    b, w = np.asarray(better, dtype=np.float64), np.asarray(worse, dtype=np.float64)
    total = b + w
    # The regularised incomplete beta is the binomial tail. binomtest gives the same number, but for one pair at a time.
    tail = special.betainc(np.maximum(w, 1.0), b + 1.0, 0.5)
    return np.asarray(np.where((w > 0) & (total > 0), tail, 1.0), dtype=np.float64)


def mcnemar_lower(better: npt.ArrayLike, worse: npt.ArrayLike, n: npt.ArrayLike, level: float) -> Floats:
    """Lower confidence limit of Δ that is positive exactly when the exact McNemar test rejects at `level`.

    The sign is the test's; the size is the score limit's. Where the two disagree in sign, the score limit is replaced.
    When the test does not reject, the limit is 0. When it rejects, the limit is (2r - 1)(better + worse) / n. r is the
    Clopper-Pearson limit of the discordant split (the transformed limit of Fagerland, Lydersen and Laake 2014).
    That limit alone would be too tight for large Δ, since it takes the observed discordance as known.
    """
    b, w, n = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in (better, worse, n)))
    score = -score_upper(w, b, n, -float(special.ndtri(level)))
    split = special.betaincinv(np.maximum(w, 1.0), b + 1.0, level)
    exact = np.maximum((2 * split - 1) * (b + w) / n, np.finfo(np.float64).tiny)
    rejects = mcnemar_p(b, w) <= level
    return np.asarray(np.where(rejects, np.where(score > 0, score, exact), np.minimum(score, 0.0)), dtype=np.float64)


@dataclass(frozen=True)
class ClusterSums:
    """Per-cluster totals of a sequence of values.

    sums: shape [C]; sizes: shape [C], values per cluster; n: number of values; mean: mean of the values.
    error: cluster-robust standard error of the mean, with the C/(C-1) correction; 0.0 for one cluster.
    scale: the largest absolute value; moved: the sum of absolute values; squares: shape [C], sums of squares.
    """

    sums: Floats
    sizes: Floats
    n: int
    mean: float
    error: float
    scale: float
    moved: float
    squares: Floats

    @property
    def clusters(self) -> int:
        return int(self.sums.size)

    def design_effect(self, critical: float = 0.0) -> float:
        """`design_effect` of these sums, with differences in units of the largest one."""
        scale = self.scale or 1.0
        return float(design_effect(self.sums / scale, self.sizes, self.squares / scale**2, critical=critical))


# Number of pseudo-clusters. With 1, gates in clusters of 20 were wrongly held in 5.7 % of draws, with 1.5 in 4.4 %.
_UNSEEN = 1.5


def design_effect(sums: Floats, sizes: Floats, squares: Floats, *, critical: float = 0.0) -> Floats:
    """The variance of the mean difference, divided by what it would be for independent pairs; at least 1.

    sums = D_j [..., C], sizes [C], squares = Σ d_i² by cluster [..., C]; differences in [-1, 1]; returns [...].

    The estimate is Σ D_j² / Σ d_i² about zero, with pseudo-clusters added in which every difference is 1, the largest.
    Without any non-zero difference the result is the (size-weighted) cluster size: each cluster then counts as one
    observation. The more clusters have moved, the less the pseudo-clusters weigh.

    The estimate is low exactly when large clusters happened not to regress, that is when Δ is low too. For an upper
    limit, half of its linear regression on Δ over `critical` standard errors is therefore added (0 adds nothing). The
    half and the number of pseudo-clusters are set by simulation (benchmarks/calibration.py, "held means held").
    """
    size, count = float(sizes @ sizes / sizes.sum()), sizes.size
    small = count / (count - 1) if count > 1 else 1.0
    between = np.sum(sums * sums, axis=-1)
    within = np.sum(squares, axis=-1) + _UNSEEN * size
    ratio = (small * between + _UNSEEN * size * size) / within
    if critical > 0.0:
        together = np.sum((sums * sums - ratio[..., None] * squares) * sums, axis=-1)
        ratio = ratio + critical / 2 * np.maximum(together, 0.0) / (within * np.sqrt(between + size * size))
    return np.asarray(np.clip(ratio, 1.0, None) if size > 1.0 else np.ones_like(ratio), dtype=np.float64)


def cluster_sums(values: Floats, index: npt.NDArray[np.intp]) -> ClusterSums:
    """Totals of `values` [n] by cluster number `index` [n], 0..C-1, every cluster occupied."""
    sums = np.bincount(index, weights=values).astype(np.float64)
    sizes = np.bincount(index).astype(np.float64)
    n, count = int(values.size), int(sums.size)
    mean = float(values.mean())
    if count > 1 and float(np.ptp(values)) > 0.0:
        residual = sums - sizes * mean
        error = float(np.sqrt(count / (count - 1) * (residual @ residual))) / n
    else:
        error = 0.0  # exactly 0: rounding in the mean would leave 1e-17
    return ClusterSums(
        sums=sums,
        sizes=sizes,
        n=n,
        mean=mean,
        error=error,
        scale=float(np.abs(values).max()),
        moved=float(np.abs(values).sum()),
        squares=np.bincount(index, weights=values * values).astype(np.float64),
    )


def number_clusters(clusters: Sequence[Hashable] | None, n: int) -> npt.NDArray[np.intp]:
    """Cluster labels as numbers 0..C-1 in order of appearance, shape [n]; with None each value is its own cluster.

    Raises InvalidInput for another number of labels than n, and for labels that cannot be hashed.
    """
    if clusters is None:
        return np.arange(n, dtype=np.intp)
    labels: list[Any] = list(clusters)
    if len(labels) != n:
        raise InvalidInput(
            f"clusters has {len(labels)} labels, expected one per score ({n}): pass equally long sequences"
        )
    numbers: dict[Hashable, int] = {}
    try:
        return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.intp)
    except TypeError:
        raise InvalidInput(
            "clusters has an unhashable label, expected strings or numbers: pass one label per score"
        ) from None


def renumber(index: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Cluster numbers without gaps, after some values were dropped."""
    return np.unique(index, return_inverse=True)[1].astype(np.intp)


def sign_flip_p(sums: Floats, *, integral: bool) -> float:
    """Exact one-sided p-value of the total of `sums` [C] when every sign is as likely as its opposite.

    It is exact if the two sides are exchangeable within a cluster. With `integral` sums (binary outcomes) the
    distribution is a convolution; for clusters of one probe this *is* the exact McNemar test. Otherwise all 2^C sign
    patterns are listed, so C must be at most 16.
    """
    sizes = np.abs(sums[sums != 0])
    if sizes.size == 0:
        return 1.0
    if integral:
        return _integral_sign_flip_p(np.rint(sums).astype(np.int64))
    patterns = (np.arange(1 << sizes.size)[:, None] >> np.arange(sizes.size)) & 1  # [2^C, C]
    totals = patterns @ (2 * sizes) - sizes.sum()
    slack = 1e-9 * float(sizes.sum())  # totals that differ only by the order of summation are ties
    return float(np.mean(totals >= float(sums.sum()) - slack))


def _integral_sign_flip_p(sums: npt.NDArray[np.int64]) -> float:
    from scipy import signal, stats

    magnitudes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    distribution = np.ones(1)  # of the sum of the magnitudes that came out positive
    for magnitude, count in zip(magnitudes.tolist(), counts.tolist(), strict=True):
        spaced = np.zeros(magnitude * count + 1)
        spaced[::magnitude] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        product = distribution.size * spaced.size
        distribution = np.convolve(distribution, spaced) if product < 1e7 else signal.fftconvolve(distribution, spaced)
    positive = int(sums[sums > 0].sum())
    return float(np.clip(distribution[positive:].sum(), 0.0, 1.0))


@dataclass(frozen=True)
class RateInterval:
    """Mean score of one side with two-sided confidence limits; the limits are None when they cannot be computed."""

    mean: float
    lower: float | None
    upper: float | None
    n: int
    n_clusters: int
    confidence: float
    method: str


def rate_interval(
    scores: npt.ArrayLike, clusters: Sequence[Hashable] | None = None, *, confidence: float = 0.95
) -> RateInterval | None:
    """Mean of one side's scores with two-sided limits; None when nothing was measured (NaN is not measured).

    Binary scores get Wilson's limits (1927); with clusters, the counts are divided by the design effect and the
    quantile is Student's t. Graded scores get cluster-robust t limits; a single cluster, or a single value, has none.
    Raises InvalidInput for a confidence outside (0, 1), and as `number_clusters` and `score_array` do.
    """
    values = score_array(scores, "scores")
    if not 0.0 < confidence < 1.0:
        raise InvalidInput(f"confidence={confidence!r} given, expected a number between 0 and 1, such as 0.95")
    index = number_clusters(clusters, values.size)
    kept = ~np.isnan(values)
    if not kept.any():
        return None
    values, index = values[kept], renumber(index[kept])
    totals = cluster_sums(values, index)
    n, count, mean = totals.n, totals.clusters, totals.mean
    tail = (1 - confidence) / 2
    quantile = -float(special.ndtri(tail))
    if is_binary(values):
        if count < n:
            # The design effect is about the mean: an outcome that all values share does not count as correlation.
            independent = mean * (1 - mean) / n
            size = float(totals.sizes @ totals.sizes / n)
            effect = size if independent == 0.0 else float(np.clip(totals.error**2 / independent, 1.0, None))
            quantile = -float(special.stdtrit(max(count - 1, 1), tail))
            effective = n / (effect if count > 1 else n)
            method = "Wilson, counts over the design effect"
        else:
            effective, method = float(n), "Wilson"
        lower, upper = _wilson(mean, effective, quantile)
        return RateInterval(mean, lower, upper, n, count, confidence, method)
    if count < 2:
        return RateInterval(mean, None, None, n, count, confidence, "no limits from one cluster")
    half = -float(special.stdtrit(count - 1, tail)) * totals.error
    return RateInterval(mean, mean - half, mean + half, n, count, confidence, "cluster-robust t")


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    centre = share + z * z / (2 * n)
    half = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    scale = 1 + z * z / n
    lower = 0.0 if share == 0.0 else max(0.0, (centre - half) / scale)
    upper = 1.0 if share == 1.0 else min(1.0, (centre + half) / scale)
    return lower, upper


def is_binary(*sides: Floats) -> bool:
    """Whether every value is 0 or 1."""
    return all(bool(np.all((side == 0.0) | (side == 1.0))) for side in sides)


def score_array(values: npt.ArrayLike, name: str) -> Floats:
    """One side's scores as float64 [n]; None and NaN were not measured. Raises InvalidInput for infinity and text."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise InvalidInput(
            f"{name} has shape {array.shape}, expected a flat sequence of numbers: pass one score per probe"
        )
    if array.dtype.kind == "O":
        wrong = next((v for v in array.tolist() if v is not None and not isinstance(v, int | float | np.number)), None)
        if wrong is not None:
            raise InvalidInput(f"{name} has {wrong!r}, expected numbers: pass NaN for a score that was not measured")
    elif array.dtype.kind not in "biuf":
        raise InvalidInput(f"{name} has values of type {array.dtype}, expected numbers: convert them first")
    result = array.astype(np.float64)
    if np.isinf(result).any():
        position = int(np.flatnonzero(np.isinf(result))[0])
        raise InvalidInput(
            f"{name}[{position}] is infinite, expected a finite number: pass NaN for a score not measured"
        )
    return result
