"""The verdict of one gate: rule, invariances, coverage and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_trust.errors import InvalidInput, TrustError
from pytest_trust.stats.comparison import compare_scores, decide

NAN = float("nan")


@st.composite
def paired_scores(draw: st.DrawFn) -> tuple[list[float], list[float], list[int]]:
    n = draw(st.integers(2, 40))
    scores = st.sampled_from([0.0, 1.0]) if draw(st.booleans()) else st.floats(0, 1, width=32)
    column = st.lists(scores, min_size=n, max_size=n)
    clusters = draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)) if draw(st.booleans()) else list(range(n))
    return draw(column), draw(column), clusters


@given(paired_scores())
@settings(max_examples=60, deadline=None)
def test_limits_enclose_delta_and_nothing_is_nan(data: tuple[list[float], list[float], list[int]]) -> None:
    old, new, clusters = data
    result = compare_scores(old, new, margin=0.05, clusters=clusters, family=3)
    assert result.delta is not None
    if result.n_clusters < 2:
        assert result.verdict == "not measured"
        assert (result.lower, result.upper) == (None, None)
        return
    numbers = [result.delta, result.lower, result.upper, result.p_value]
    assert all(math.isfinite(number) for number in numbers)
    assert result.lower <= result.delta + 1e-9
    assert result.delta <= result.upper + 1e-9
    assert (result.lower > 0) == (result.p_value <= 0.05 / 3)
    assert result.needed is None or result.needed > result.n
    assert "\n" not in result.describe()


@given(paired_scores())
@settings(max_examples=60, deadline=None)
def test_order_of_probes_and_unmeasured_pairs_do_not_matter(
    data: tuple[list[float], list[float], list[int]],
) -> None:
    old, new, clusters = data
    result = compare_scores(old, new, margin=0.05, clusters=clusters)
    order = np.random.default_rng(0).permutation(len(old))
    shuffled = compare_scores(
        np.array(old)[order], np.array(new)[order], margin=0.05, clusters=[clusters[i] for i in order]
    )
    extended = compare_scores(
        [*old, NAN, 1.0], [*new, 0.0, NAN], margin=0.05, clusters=[*clusters, 99, 0], max_missing=0.6
    )
    assert (extended.n, extended.n_missing) == (result.n, 2)
    for other in (shuffled, extended):
        assert other.verdict == result.verdict
        for field in ("delta", "lower", "upper", "p_value"):
            ours, theirs = getattr(result, field), getattr(other, field)
            assert ours == theirs or ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@given(paired_scores())
@settings(max_examples=40, deadline=None)
def test_swapping_the_sides_negates_delta(data: tuple[list[float], list[float], list[int]]) -> None:
    old, new, clusters = data
    forward = compare_scores(old, new, margin=0.05, clusters=clusters)
    back = compare_scores(new, old, margin=0.05, clusters=clusters)
    assert forward.delta == pytest.approx(-back.delta, abs=1e-12)
    assert (forward.worse, forward.better) == (back.better, back.worse)
    assert not (forward.regressed and back.regressed)


@given(paired_scores(), st.lists(st.floats(0.001, 2), min_size=2, max_size=5))
@settings(max_examples=40, deadline=None)
def test_a_wider_margin_never_turns_held_into_anything_else(
    data: tuple[list[float], list[float], list[int]], margins: list[float]
) -> None:
    old, new, clusters = data
    held = [compare_scores(old, new, margin=margin, clusters=clusters).held for margin in sorted(margins)]
    assert held == sorted(held)


def test_rule() -> None:
    assert decide(-0.1, 0.04, 0.05) == "held"
    assert decide(0.01, 0.04, 0.05) == "held"  # worse, but by less than the margin
    assert decide(0.01, 0.05, 0.05) == "regressed"
    assert decide(0.0, 0.06, 0.05) == "inconclusive"
    assert decide(None, None, 0.05) == "not measured"


def test_clear_cases() -> None:
    worse = compare_scores([0] * 30, [1] * 12 + [0] * 18, margin=0.05, family=14)
    assert worse.regressed
    assert not worse.held
    assert (worse.worse, worse.better, worse.p_value) == (12, 0, pytest.approx(2**-12))
    assert "exact McNemar" in worse.method
    same = compare_scores([0] * 200, [0] * 200, margin=0.05)
    assert same.held
    assert same.identical
    assert 0.01 < same.upper < 0.02  # about 3/n: no flip was seen, which is not zero width
    assert same.lower < 0
    few = compare_scores([0] * 20, [0] * 20, margin=0.05)
    assert few.verdict == "inconclusive"
    assert 55 < few.needed < 200
    assert "too few" in few.describe()


def test_family_widens_the_lower_limit_only() -> None:
    old, new = [0] * 60, [1] * 8 + [0] * 52
    alone = compare_scores(old, new, margin=0.05)
    of_many = compare_scores(old, new, margin=0.05, family=20)
    assert alone.lower > of_many.lower
    assert alone.upper == of_many.upper
    assert alone.p_value == of_many.p_value


def test_clusters_count_as_one_when_their_probes_move_together() -> None:
    old, new = np.zeros(120), np.repeat([1, 0, 0, 0, 0, 0], 20)
    clusters = np.repeat(np.arange(6), 20)
    assert compare_scores(old, new, margin=0.05, family=1).regressed
    clustered = compare_scores(old, new, margin=0.05, clusters=clusters)
    assert clustered.verdict == "inconclusive"
    assert clustered.p_value >= 0.5  # one cluster in one direction
    assert clustered.upper > 0.4


def test_no_flip_in_clusters_is_bounded_by_the_number_of_clusters() -> None:
    zeros = np.zeros(400)
    clustered = compare_scores(zeros, zeros, margin=0.05, clusters=np.repeat(np.arange(20), 20))
    assert clustered.upper > 3 / 20
    assert clustered.verdict == "inconclusive"


def test_graded_scores_are_a_paired_t_test() -> None:
    random = np.random.default_rng(2)
    old = random.random(40)
    new = old + random.normal(0.05, 0.1, size=40)
    result = compare_scores(old, new, margin=0.02)
    expected = stats.ttest_rel(new, old, alternative="greater")
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert result.lower == pytest.approx(expected.confidence_interval(0.95).low, rel=1e-9)
    two_sided = stats.ttest_rel(new, old).confidence_interval(0.9)
    assert result.upper == pytest.approx(two_sided.high, rel=1e-9)
    assert result.worse is None


def test_equal_differences() -> None:
    none = compare_scores([0.2, 0.5, 0.7], [0.2, 0.5, 0.7], margin=0.01)
    assert (none.delta, none.lower, none.upper, none.verdict) == (0, 0, 0, "held")
    assert none.identical
    shifted = compare_scores([0.0, 0.25, 0.5] * 4, [0.25, 0.5, 0.75] * 4, margin=0.1)
    assert (shifted.lower, shifted.upper, shifted.verdict) == (0.25, 0.25, "regressed")
    three = compare_scores([0.0, 0.25, 0.5], [0.25, 0.5, 0.75], margin=0.1)
    assert three.p_value == 1 / 8
    assert three.verdict == "inconclusive"
    better = compare_scores([0.25, 0.5, 0.75], [0.0, 0.25, 0.5], margin=0.1)
    assert better.held


def test_rare_graded_differences_are_not_bounded_by_what_was_not_seen() -> None:
    old = np.linspace(0, 0.5, 100)
    new = old.copy()
    new[0] += 0.4
    result = compare_scores(old, new, margin=0.05)
    naive = 0.004 + 1.66 * 0.04 / 10
    assert result.upper > 1.3 * naive
    assert "1 clusters moved" in result.method


def test_not_measured() -> None:
    nothing = compare_scores([NAN, 1], [0, None], margin=0.05)
    assert nothing.verdict == "not measured"
    assert (nothing.n, nothing.n_missing, nothing.delta) == (0, 2, None)
    assert "no pair" in nothing.describe()
    one = compare_scores([0, 1, 0], [1, 1, 1], margin=0.05, clusters=["a", "a", "a"])
    assert one.verdict == "not measured"
    assert "1 cluster" in one.reason
    gaps = compare_scores([0] * 70 + [NAN] * 30, [0] * 100, margin=0.05)
    assert gaps.verdict == "not measured"
    assert "30 of 100 pairs are missing" in gaps.reason
    assert compare_scores([0] * 85 + [NAN] * 15, [0] * 100, margin=0.05).held
    assert compare_scores([], [], margin=0.05).verdict == "not measured"
    assert compare_scores([0] * 50, [0] * 50, margin=0.5, min_clusters=60).verdict == "not measured"


def test_a_comparison_has_no_truth_value() -> None:
    with pytest.raises(TypeError, match=r"\.held"):
        assert compare_scores([0, 1], [0, 1], margin=0.05)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"baseline": [0, 1, 1]}, "baseline has 3 scores and candidate 2"),
        ({"margin": 0}, "margin=0 "),
        ({"margin": NAN}, "margin=nan"),
        ({"margin": "5%"}, "margin='5%'"),
        ({"alpha": 0.6}, "alpha=0.6"),
        ({"alpha": 0}, "alpha=0 "),
        ({"family": 0}, "family=0"),
        ({"family": 1.5}, "family=1.5"),
        ({"power": 1}, "power=1 "),
        ({"min_clusters": 1}, "min_clusters=1"),
        ({"max_missing": 1}, "max_missing=1"),
        ({"candidate": ["a", "b"]}, "candidate"),
        ({"candidate": [0, "b", None]}, "candidate"),
        ({"candidate": [0, float("inf")]}, r"candidate\[1\] is infinite"),
        ({"candidate": [[0, 1]]}, "shape"),
        ({"clusters": ["a"]}, "clusters has 1 labels"),
        ({"clusters": [["a"], ["b"]]}, "unhashable"),
    ],
)
def test_bad_input_is_one_line_that_says_what_was_given(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as error:
        compare_scores(**{"baseline": [0, 1], "candidate": [0, 1], "margin": 0.05, **arguments})  # type: ignore[arg-type]
    assert isinstance(error.value, TrustError)
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)


def test_global_random_state_is_neither_read_nor_moved() -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    compare_scores(np.linspace(0, 1, 30), np.linspace(0, 1, 30) ** 2, margin=0.05)
    assert np.array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_clustered_gates_at_the_margin_are_rarely_held(correlation: float) -> None:
    random = np.random.default_rng(11)
    clusters, margin, draws = np.repeat(np.arange(40), 4), 0.1, 300
    held = 0
    for _ in range(draws):
        shared = random.random(40)[clusters] < margin
        own = random.random(160) < margin
        together = (random.random(40) < correlation)[clusters]
        held += compare_scores(np.zeros(160), np.where(together, shared, own), margin=margin, clusters=clusters).held
    # 5 % at most, and the 99.9 % limit of 300 draws of 5 %.
    assert held <= stats.binom.ppf(0.999, draws, 0.05)


def test_no_false_alarm_without_a_change() -> None:
    random = np.random.default_rng(12)
    clusters, draws = np.repeat(np.arange(30), 3), 300
    alarms = 0
    for _ in range(draws):
        rate = random.beta(0.5, 2, size=30)[clusters]
        alarms += compare_scores(
            random.random(90) < rate, random.random(90) < rate, margin=0.01, clusters=clusters
        ).regressed
    assert alarms <= stats.binom.ppf(0.999, draws, 0.05)
