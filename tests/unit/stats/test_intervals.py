"""Limits against published values, other libraries and the enumeration of every possible sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from scipy.stats import binom, binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from pytest_trust.errors import InvalidInput
from pytest_trust.stats.intervals import (
    cluster_sums,
    design_effect,
    mcnemar_lower,
    mcnemar_p,
    rate_interval,
    score_statistic,
    score_upper,
    sign_flip_p,
)

Z95 = -float(special.ndtri(0.05))


def tango_statistic(better: int, worse: int, n: int, difference: float) -> float:
    """Tango's uncorrected statistic from its definition: the constrained maximum found numerically."""
    shares = np.linspace(max(0.0, -difference), (1 - difference) / 2, 20001)[1:-1]
    same = n - better - worse
    log_likelihood = (
        special.xlogy(better, shares)
        + special.xlogy(worse, shares + difference)
        + special.xlogy(same, 1 - 2 * shares - difference)
    )
    q = shares[np.argmax(log_likelihood)]
    return float((worse - better - n * difference) / np.sqrt(n * (2 * q + difference * (1 - difference))))


def correction(better: int, worse: int, n: int, difference: float, critical: float) -> float:
    """What the corrected statistic adds to Tango's."""
    corrected = float(score_statistic(better, worse, n, difference, critical))
    return corrected - tango_statistic(better, worse, n, difference)


@pytest.mark.parametrize(
    ("better", "worse", "n", "lower", "upper"),
    # Cavo et al. 2012 (6 and 16 flips of 161), as in the tests of the R package contingencytables.
    [(16, 6, 161, -0.1240, -0.0054)],
)
def test_statistic_without_correction_gives_the_published_tango_limits(
    better: int, worse: int, n: int, lower: float, upper: float
) -> None:
    critical = 1.959964
    # At its own limits the uncorrected statistic is the critical value; 1e-4 in the limit is 0.004 in z here.
    assert tango_statistic(better, worse, n, lower) == pytest.approx(critical, abs=0.005)
    assert tango_statistic(better, worse, n, upper) == pytest.approx(-critical, abs=0.005)
    # The corrected limit lies outside the published one, by less than one flip.
    corrected = float(score_upper(better, worse, n, critical))
    assert upper < corrected < upper + 1 / n


@pytest.mark.parametrize(
    ("better", "worse", "n", "difference"), [(3, 9, 80, 0.2), (0, 4, 60, 0.15), (25, 20, 200, 0.1)]
)
def test_correction_is_at_most_one_flip(better: int, worse: int, n: int, difference: float) -> None:
    spread = np.sqrt(n * difference * (1 - difference))
    # The numerator grows by 0 to 1; the standard deviation under the hypothesis is at least `spread`.
    assert -1e-3 <= correction(better, worse, n, difference, Z95) <= 1 / spread


def weights(n: int, better: float, worse: float) -> np.ndarray:
    """Probability of every (number of discordant pairs, worse among them) [n + 1, n + 1]."""
    discordant = np.arange(n + 1)
    share = worse / (better + worse)
    return binom.pmf(discordant, n, better + worse)[:, None] * binom.pmf(
        discordant[None, :], discordant[:, None], share
    )


def table(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    total, worse = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    possible = worse <= total
    return np.where(possible, total - worse, 0), np.where(possible, worse, 0), possible


@pytest.mark.parametrize("n", [20, 40, 60, 100])
@pytest.mark.parametrize("margin", [0.01, 0.03, 0.05, 0.1, 0.2])
def test_upper_limit_is_wrongly_below_the_truth_in_at_most_five_percent(n: int, margin: float) -> None:
    better, worse, possible = table(n)
    held = possible & (score_statistic(better, worse, n, margin, Z95) < -Z95)
    for background in [0.0, *np.geomspace(0.05 / n, (1 - margin) / 2, 25)]:
        assert weights(n, background, background + margin)[held].sum() <= 0.05 + 1e-9


def test_uncorrected_limit_would_not_be_enough() -> None:
    n, margin = 60, 0.0435  # Tango's limit without a flip is z²/(n + z²) = 0.0431
    better, worse, _ = table(n)
    q = np.maximum(0.0, better / n * 0)  # no better flips are possible here
    plain = (worse - better - n * margin) / np.sqrt(n * (2 * q + margin * (1 - margin)))
    assert weights(n, 0.0, margin)[(plain < -Z95) & (better == 0)].sum() > 0.06


@pytest.mark.parametrize("n", [20, 50])
@pytest.mark.parametrize("level", [0.05, 0.05 / 14])
def test_lower_limit_covers_and_has_the_sign_of_the_exact_test(n: int, level: float) -> None:
    better, worse, possible = table(n)
    lower = mcnemar_lower(better, worse, n, level)
    rejects = mcnemar_p(better, worse) <= level
    assert np.array_equal((lower > 0)[possible], rejects[possible])
    for truth in [0.0, 0.02, 0.05, 0.1, 0.3, 0.6]:
        for background in [0.0, 0.5 / n, 0.05, 0.1, (1 - truth) / 2]:
            if background + background + truth == 0:
                continue
            probability = weights(n, background, background + truth)
            assert probability[possible & (lower > truth)].sum() <= level + 1e-9


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 200))
def test_limits_enclose_the_difference(better: int, worse: int, same: int) -> None:
    n = max(better + worse + same, 1)
    delta = (worse - better) / n
    assert float(mcnemar_lower(better, worse, n, 0.05)) <= delta + 1e-12
    upper = float(score_upper(better, worse, n, Z95))
    assert delta <= upper <= 1
    assert upper > delta or delta == 1
    # The limit and the test at a margin are the same statement.
    for margin in (0.01, 0.05, 0.2):
        rejected = float(score_statistic(better, worse, n, margin, Z95)) < -Z95
        assert rejected == (upper < margin) or abs(upper - margin) < 1e-9 or margin < delta


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 300), st.integers(0, 300))
def test_p_value_is_that_of_scipy_and_statsmodels(better: int, worse: int) -> None:
    expected = binomtest(worse, better + worse, 0.5, alternative="greater").pvalue if better + worse else 1.0
    assert float(mcnemar_p(better, worse)) == pytest.approx(expected, rel=1e-9)
    if worse > better:
        both = mcnemar(np.array([[5, better], [worse, 5]]), exact=True).pvalue
        assert 2 * float(mcnemar_p(better, worse)) == pytest.approx(both, rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=200))
def test_sign_flip_of_single_probes_is_mcnemar(sums: list[float]) -> None:
    values = np.array(sums)
    expected = float(mcnemar_p((values < 0).sum(), (values > 0).sum()))
    assert sign_flip_p(values, integral=True) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_sign_flip_by_convolution_equals_listing(sums: list[int]) -> None:
    values = np.array(sums, dtype=float)
    listed = sign_flip_p(values, integral=False)
    assert sign_flip_p(values, integral=True) == pytest.approx(listed, abs=1e-12)


def test_sign_flip_of_many_uneven_clusters_is_normal_in_the_limit() -> None:
    values = np.random.default_rng(0).integers(-30, 31, size=4000).astype(float)
    score = values.sum() / np.sqrt((values**2).sum())
    # Berry-Esseen: the error of the normal tail is of order 1/sqrt(4000).
    assert sign_flip_p(values, integral=True) == pytest.approx(special.ndtr(-score), abs=0.01)


def test_design_effect_spans_single_probes_to_whole_clusters() -> None:
    sizes, ones = np.full(30, 4.0), np.zeros(30)
    nothing = design_effect(ones, sizes, ones)
    assert nothing == pytest.approx(4.0)  # nothing moved: a cluster counts as one pair
    whole = np.where(np.arange(30) < 10, 4.0, 0.0)
    assert design_effect(whole, sizes, whole) == pytest.approx(4.0, rel=0.05)
    apart = np.where(np.arange(30) < 20, 1.0, 0.0)
    assert 1.0 <= design_effect(apart, sizes, apart) < 2.0
    assert design_effect(apart, np.ones(30), apart) == 1.0


def test_cluster_robust_error_is_that_of_the_sandwich() -> None:
    random = np.random.default_rng(3)
    index = np.repeat(np.arange(12), random.integers(1, 6, size=12))
    values = random.normal(size=index.size) + random.normal(size=12)[index]
    import statsmodels.api as sm

    fit = sm.OLS(values, np.ones(index.size)).fit(
        cov_type="cluster", cov_kwds={"groups": index, "use_correction": False}
    )
    totals = cluster_sums(values, index)
    assert totals.error == pytest.approx(float(fit.bse[0]) * np.sqrt(12 / 11), rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 50), st.integers(1, 50))
def test_rate_interval_of_binary_scores_is_wilson(ones: int, n: int) -> None:
    ones = min(ones, n)
    interval = rate_interval([1] * ones + [0] * (n - ones))
    assert interval is not None
    lower, upper = proportion_confint(ones, n, method="wilson")
    assert (interval.lower, interval.upper) == pytest.approx((lower, upper), abs=1e-12)


def test_rate_interval_of_clusters_and_of_nothing() -> None:
    scores = [1, 1, 1, 1, 0, 0, 0, 0] * 5
    alone = rate_interval(scores)
    shared = rate_interval(scores, [i // 4 for i in range(40)])
    assert alone is not None
    assert shared is not None
    assert shared.mean == alone.mean == 0.5
    assert shared.upper - shared.lower > 1.5 * (alone.upper - alone.lower)
    assert rate_interval([float("nan")] * 3) is None
    single = rate_interval([0.3, 0.4], ["a", "a"])
    assert single is not None
    assert single.lower is None
    graded = rate_interval([0.1, 0.2, 0.6, float("nan")])
    assert graded is not None
    assert graded.n == 3
    assert graded.lower < 0.3 < graded.upper


def test_rate_interval_refuses_what_is_not_a_score() -> None:
    with pytest.raises(InvalidInput, match="infinite"):
        rate_interval([0.0, float("inf")])
    with pytest.raises(InvalidInput, match=r"confidence=1\.5"):
        rate_interval([0.0], confidence=1.5)
