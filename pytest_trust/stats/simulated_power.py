"""What a graded gate could see before anything has been measured: power by simulation of the verdict itself."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pytest_trust.stats.comparison import compare_scores

_DRAWS = 400
_FINEST = 0.002


@lru_cache(maxsize=256)
def detectable_graded(
    n_clusters: int,
    background: float,
    *,
    minus: bool = False,
    margin: float,
    alpha: float = 0.05,
    family: int = 1,
    power: float = 0.8,
) -> float | None:
    """Smallest true Δ for which a graded gate that has not been measured is `regressed` with probability `power`.

    The power is the share of 400 seeded draws that `compare_scores` calls regressed; its standard error is 2 points. In
    each draw a share `background` of the clusters changes to better and a share `background` + 2 Δ to worse. The amount
    of a change is uniform on 0 to 1, so the mean difference is Δ. The other clusters do not change. With `minus` a
    second score of the cluster is subtracted, in which a share `background` changes to either side.
    The answer is rounded up to a grid of 0.002. It is None when no Δ reaches the power.
    """
    if n_clusters < 2:
        return None
    random = np.random.default_rng(0)
    kind, size, other, other_size = random.random((4, _DRAWS, n_clusters))
    better = size * (kind < background)
    rest = other_size * ((other > 1 - background).astype(np.float64) - (other < background)) if minus else 0.0
    same = np.zeros(n_clusters)

    def reaches_power(steps: int) -> bool:
        differences = size * (kind > 1 - background - 2 * steps * _FINEST) - better - rest
        regressed = (
            compare_scores(same, one, margin=margin, alpha=alpha, family=family, power=power).regressed
            for one in differences
        )
        return sum(regressed) >= power * _DRAWS

    low, high = 0, int((0.5 - background) / _FINEST)
    if high < 1 or not reaches_power(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches_power(middle) else (middle, high)
    return high * _FINEST
