"""Limits of any metric by a bootstrap of whole clusters.

`pytest_trust.stats.corpus` computes them from sums, for metrics that allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_trust.errors import InvalidInput
from pytest_trust.stats.corrections import bca_levels, checked_level
from pytest_trust.stats.intervals import number_clusters


@dataclass(frozen=True)
class BootstrapInterval:
    """One-sided limits of a whole metric from a cluster bootstrap.

    lower is at level alpha / family, upper at alpha. undefined: resamples in which the statistic was not
    finite (left out). method: "BCa", or "percentile" where the acceleration or bias term is not defined.
    """

    estimate: float
    lower: float
    upper: float
    n_clusters: int
    resamples: int
    undefined: int
    method: str


def cluster_bootstrap(
    statistic: Callable[..., float],
    data: npt.ArrayLike | tuple[npt.ArrayLike, ...],
    clusters: Sequence[Hashable] | None = None,
    *,
    alpha: float = 0.05,
    family: int = 1,
    resamples: int = 2000,
    seed: int = 0,
) -> BootstrapInterval:
    """Limits of `statistic` by resampling whole clusters, both sides of a pair together.

    `data` is one array whose first axis is the probe, or a tuple of such arrays (for example baseline and
    candidate outcomes); `statistic` is called with them as positional arguments, restricted to the drawn
    probes, and returns one number: for a comparison, candidate metric - baseline metric. For ratios and
    corpus metrics (BBQ's bias score, ICAT, F1), whose mean over probes does not exist. BCa limits (Efron
    1987) with the cluster jackknife's acceleration where they are defined. Raises InvalidInput for fewer than
    2 clusters or an undefined estimate.
    """
    arrays = tuple(np.asarray(part) for part in (data if isinstance(data, tuple) else (data,)))
    n = len(arrays[0]) if arrays and arrays[0].ndim else 0
    if any(part.ndim == 0 or len(part) != n for part in arrays):
        raise InvalidInput("data has arrays of unequal length, expected one row per probe in each of them")
    if resamples < 100:
        raise InvalidInput(f"resamples={resamples!r} given, expected at least 100")
    level = checked_level(alpha, family)
    index = number_clusters(clusters, n)
    count = int(index.max()) + 1 if n else 0
    if count < 2:
        raise InvalidInput(f"{count} clusters given, expected at least 2: a bootstrap of one cluster says nothing")
    order = np.argsort(index, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(index))[:-1])

    def value(rows: npt.NDArray[Any]) -> float:
        # An undefined resample is counted, not warned about.
        with np.errstate(divide="ignore", invalid="ignore"):
            try:
                return float(statistic(*(part[rows] for part in arrays)))
            except ZeroDivisionError:
                return float("nan")

    estimate = value(np.arange(n))
    if not np.isfinite(estimate):
        raise InvalidInput(f"statistic is {estimate} on the data as given, expected a finite number")
    random = np.random.default_rng(seed)
    draws = np.array(
        [value(np.concatenate([members[c] for c in random.integers(count, size=count)])) for _ in range(resamples)]
    )
    finite = draws[np.isfinite(draws)]
    undefined = resamples - finite.size
    if finite.size < 100:
        raise InvalidInput(
            f"statistic was undefined in {undefined} of {resamples} resamples: too few probes for this metric"
        )
    jackknife = np.array(
        [value(np.concatenate([m for other, m in enumerate(members) if other != c])) for c in range(count)]
    )
    low, high, method = bca_levels(estimate, finite, jackknife, level, 1 - alpha)
    lower, upper = np.quantile(finite, [low, high])
    return BootstrapInterval(
        estimate=estimate,
        lower=min(float(lower), estimate),
        upper=max(float(upper), estimate),
        n_clusters=count,
        resamples=resamples,
        undefined=undefined,
        method=method,
    )
