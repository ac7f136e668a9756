"""The cluster bootstrap against direct computation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pytest_trust.errors import InvalidInput
from tests.support.benchmark_modules import benchmark_module

cluster_bootstrap = benchmark_module("cluster_bootstrap").cluster_bootstrap


def test_bootstrap_of_a_mean_is_the_t_interval() -> None:
    values = np.random.default_rng(5).normal(size=200)
    interval = cluster_bootstrap(np.mean, values, resamples=4000)
    half = stats.t.ppf(0.95, 199) * values.std(ddof=1) / np.sqrt(200)
    assert interval.estimate == values.mean()
    # The bootstrap's own error at 4,000 resamples is about 4 % of the width.
    assert interval.upper - interval.estimate == pytest.approx(half, rel=0.1)
    assert interval.estimate - interval.lower == pytest.approx(half, rel=0.1)
    assert interval.method == "BCa"
    assert interval == cluster_bootstrap(np.mean, values, resamples=4000)


def test_bootstrap_keeps_pairs_and_clusters_together() -> None:
    random = np.random.default_rng(6)
    clusters = np.repeat(np.arange(40), 10)
    level = random.normal(size=40)[clusters]
    old, new = level, level + 0.1
    paired = cluster_bootstrap(lambda a, b: float(b.mean() - a.mean()), (old, new), clusters)
    assert paired.upper - paired.lower < 1e-9  # the shared level cancels only when pairs stay pairs
    clustered = cluster_bootstrap(np.mean, old, clusters)
    loose = cluster_bootstrap(np.mean, old)
    assert clustered.upper - clustered.lower > 2 * (loose.upper - loose.lower)
    corrected = cluster_bootstrap(np.mean, old, clusters, family=20)
    assert corrected.lower < clustered.lower
    assert corrected.upper == clustered.upper


def test_bootstrap_of_a_ratio_that_is_sometimes_undefined() -> None:
    biased = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    known = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0])

    def share(b: np.ndarray, k: np.ndarray) -> float:
        return int(b.sum()) / int(k.sum())

    interval = cluster_bootstrap(share, (biased, known))
    assert interval.undefined > 0
    assert 0 <= interval.lower <= 0.5 <= interval.upper <= 1


def test_bootstrap_refuses_what_it_cannot_resample() -> None:
    with pytest.raises(InvalidInput, match="1 clusters"):
        cluster_bootstrap(np.mean, [1.0, 2.0], ["a", "a"])
    with pytest.raises(InvalidInput, match="unequal length"):
        cluster_bootstrap(np.dot, ([1.0], [1.0, 2.0]))
    with pytest.raises(InvalidInput, match="finite"):
        cluster_bootstrap(lambda x: float("nan"), [1.0, 2.0])
    with pytest.raises(InvalidInput, match="alpha"):
        cluster_bootstrap(np.mean, [1.0, 2.0], alpha=0.7)
