"""Expected maximum, Holm, Rogan-Gladen and the cluster bootstrap against direct computation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pytest_trust.errors import InvalidInput
from pytest_trust.stats.corrections import cluster_bootstrap, correct_rate, expected_maximum, holm


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.integers(1, 8))
def test_expected_maximum_is_the_mean_over_all_subsets(scores: list[float], k: int) -> None:
    if k > len(scores):
        assert np.isnan(expected_maximum(scores, k))
        return
    direct = np.mean([max(subset) for subset in combinations(scores, k)])
    assert expected_maximum(scores, k) == pytest.approx(direct, rel=1e-9, abs=1e-9)


def test_expected_maximum_at_its_ends_and_for_many_samples() -> None:
    scores = np.random.default_rng(0).random(1000)
    assert expected_maximum(scores, 1) == pytest.approx(scores.mean())
    assert expected_maximum(scores, 1000) == pytest.approx(scores.max())
    # Uniform scores: k / (k + 1); 1,000 samples leave about 0.01.
    assert expected_maximum(scores, 500) == pytest.approx(500 / 501, abs=0.01)
    assert expected_maximum([0.2, float("nan"), 0.6], 2) == pytest.approx(0.6)
    with pytest.raises(InvalidInput, match="k=0"):
        expected_maximum([1.0], 0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-9, abs=1e-12)


def test_holm_refuses_what_is_not_a_p_value() -> None:
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        holm([0.1, 1.5])


def test_corrected_rate() -> None:
    # 30 % judged bad by a judge that finds 80 % of the bad and passes 90 % of the good: (0.3 - 0.1) / 0.7.
    assert correct_rate(0.3, 0.8, 0.9).value == pytest.approx(2 / 7)
    assert correct_rate(0.05, 0.8, 0.9).value == 0.0
    assert correct_rate(0.3, 1.0, 1.0).value == pytest.approx(0.3)
    assert correct_rate(0.3, 0.8, 0.9).lower is None
    known = correct_rate(0.3, 0.8, 0.9, n=200)
    measured = correct_rate(0.3, 0.8, 0.9, n=200, n_sensitivity=50, n_specificity=50)
    assert measured.lower < known.lower < known.value < known.upper < measured.upper
    with pytest.raises(InvalidInput, match="no better than chance"):
        correct_rate(0.3, 0.4, 0.6)
    with pytest.raises(InvalidInput, match=r"rate=1\.2"):
        correct_rate(1.2, 0.9, 0.9)


def test_corrected_rate_limits_cover() -> None:
    random = np.random.default_rng(4)
    truth, sensitivity, specificity, draws = 0.2, 0.85, 0.93, 2000
    observed = truth * sensitivity + (1 - truth) * (1 - specificity)
    covered = 0
    for _ in range(draws):
        interval = correct_rate(
            random.binomial(300, observed) / 300,
            random.binomial(80, sensitivity) / 80,
            random.binomial(80, specificity) / 80,
            n=300,
            n_sensitivity=80,
            n_specificity=80,
        )
        covered += interval.lower <= truth <= interval.upper
    assert 0.935 <= covered / draws <= 0.985


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
