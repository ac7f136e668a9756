"""Limits at any time: valid however often one looks, tight enough to stop, and clusters count as one look each."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_trust.stats.anytime import STAKES, anytime_limits, chance_to_decide, decided, log_capital
from pytest_trust.stats.intervals import Floats

LEVELS = {"lower_level": 0.05, "upper_level": 0.05}


def flips(random: np.random.Generator, runs: int, n: int, worse: float, better: float) -> Floats:
    u = random.random((runs, n))
    return (u < worse).astype(float) - (u > 1 - better)


def ever_refuted(differences: Floats, mean: float, level: float, *, worse: bool) -> float:
    """Share of runs in which the capital reaches 1 / level after some pair, [runs, n] looked at after every one."""
    gains = (differences - mean) / (1 + mean) if worse else (mean - differences) / (1 - mean)
    best = np.full(len(differences), -np.inf)
    logs = np.zeros((len(differences), STAKES.size))
    for t in range(differences.shape[1]):
        logs += np.log1p(STAKES * gains[:, t, None])
        best = np.maximum(best, np.logaddexp.reduce(logs, axis=1) - np.log(STAKES.size))
    return float(np.mean(best >= -np.log(level)))


@pytest.mark.parametrize(("worse", "better"), [(0.02, 0.02), (0.1, 0.1), (0.3, 0.3)])
def test_no_more_false_alarms_than_the_level_however_often_one_looks(worse: float, better: float) -> None:
    differences = flips(np.random.default_rng(1), 4000, 200, worse, better)
    assert ever_refuted(differences, 0.0, 0.05, worse=True) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)


@pytest.mark.parametrize(("worse", "better", "margin"), [(0.05, 0.0, 0.05), (0.15, 0.05, 0.1), (0.35, 0.3, 0.05)])
def test_a_candidate_at_the_margin_is_hardly_ever_held(worse: float, better: float, margin: float) -> None:
    differences = flips(np.random.default_rng(2), 4000, 200, worse, better)
    assert ever_refuted(differences, margin, 0.05, worse=False) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)


def test_looking_after_every_pair_with_the_fixed_sample_test_would_cry_wolf() -> None:
    """The reason for all this: the exact test at every look alarms far more often than its level."""
    from pytest_trust.stats.intervals import mcnemar_p

    differences = flips(np.random.default_rng(3), 2000, 200, 0.2, 0.2)
    worse, better = (differences > 0).cumsum(axis=1), (differences < 0).cumsum(axis=1)
    assert np.mean((mcnemar_p(better, worse) <= 0.05).any(axis=1)) > 0.1


def test_the_capital_is_the_e_process_of_discordant_pairs() -> None:
    differences = np.array([1.0, 0.0, 1.0, -1.0, 1.0, 0.0])
    expected = np.log(np.mean((1 + STAKES) ** 3 * (1 - STAKES)))
    found = log_capital(differences, np.ones(6), 0.0, largest=1, scale=1, worse=True)
    assert found == pytest.approx(expected, abs=1e-12)


def test_limits_enclose_the_mean_and_only_get_better() -> None:
    differences = flips(np.random.default_rng(4), 1, 400, 0.3, 0.05)[0]
    before = (-1.0, 1.0)
    for last in (20, 50, 100, 200, 400):
        looks = [look for look in (20, 50, 100, 200, 400) if look <= last]
        found = anytime_limits(differences, np.ones(400), looks, largest=1, **LEVELS)
        assert before[0] <= found.lower < 0.25 < found.upper <= before[1]
        before = (found.lower, found.upper)
    assert decided(found, 0.05) == "regressed"
    assert found.e_value > 20


def test_without_a_flip_a_gate_is_held_after_a_few_times_its_margins_inverse() -> None:
    zeros = np.zeros(120)
    found = anytime_limits(zeros, np.ones(120), [30, 60, 120], largest=1, **LEVELS)
    assert decided(found, 0.05) == "held"
    assert decided(anytime_limits(zeros, np.ones(120), [30], largest=1, **LEVELS), 0.05) == ""
    assert found.lower < 0


def test_probes_of_one_cluster_are_one_observation() -> None:
    alone = anytime_limits(np.ones(8), np.ones(8), [8], largest=1, **LEVELS)
    copied = anytime_limits(np.full(8, 5.0), np.full(8, 5.0), [8], largest=5, **LEVELS)
    apart = anytime_limits(np.ones(40), np.ones(40), [40], largest=1, **LEVELS)
    assert copied.lower == pytest.approx(alone.lower, abs=1e-6)
    assert apart.lower > copied.lower + 0.2


def test_a_gate_is_given_up_only_when_the_end_would_not_tell() -> None:
    levels = {"lower_level": 0.003, "upper_level": 0.05}
    one = np.zeros(24)
    one[0] = 1.0
    assert chance_to_decide(one[:8], np.ones(8), 96, margin=0.05, **levels) == 1.0
    assert chance_to_decide(one, np.ones(24), 24, margin=0.05, **levels) == 1.0
    assert chance_to_decide(one, np.ones(24), 30, margin=0.05, **levels) < 0.05
    assert chance_to_decide(one, np.ones(24), 2000, margin=0.05, **levels) > 0.3
    many = np.array([1.0, 0.0] * 20)
    assert chance_to_decide(many, np.ones(40), 96, margin=0.05, **levels) > 0.95
