"""Power against simulation and against its own definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytest_trust.stats.comparison import compare_scores
from pytest_trust.stats.power import detectable_flips, detectable_shift, flip_power, needed_flips, needed_shift
from pytest_trust.stats.simulated_power import detectable_graded


@pytest.mark.parametrize(("n", "background", "margin"), [(40, 0.02, 0.05), (150, 0.05, 0.05), (600, 0.02, 0.02)])
def test_detectable_change_is_called_regressed_as_often_as_stated(n: int, background: float, margin: float) -> None:
    change = detectable_flips(n, background, margin=margin, family=7)
    assert change is not None
    random = np.random.default_rng(n)
    draws = 300
    regressed = 0
    for _ in range(draws):
        outcome = random.choice([-1, 0, 1], size=n, p=[background, 1 - 2 * background - change, background + change])
        old = np.where(outcome == -1, 1, 0)
        new = np.where(outcome == 1, 1, 0)
        regressed += compare_scores(old, new, margin=margin, family=7).regressed
    # 80 % exactly; three standard errors of the simulation.
    assert regressed / draws == pytest.approx(0.8, abs=3 * np.sqrt(0.16 / draws))


def test_detectable_change_shrinks_with_pairs_and_grows_with_the_family() -> None:
    sizes = [detectable_flips(n, 0.02, margin=0.01) for n in (30, 60, 200, 1000)]
    assert all(size is not None for size in sizes)
    assert sizes == sorted(sizes, reverse=True)
    assert detectable_flips(60, 0.02, margin=0.01, family=20) > sizes[1]
    assert detectable_flips(4, 0.0, margin=0.01) is None  # four flips in one direction are p = 1/16


def test_beyond_the_exact_range_the_approximation_continues_it() -> None:
    exact = detectable_flips(4000, 0.02, margin=0.005)
    beyond = detectable_flips(4001, 0.02, margin=0.005)
    assert beyond == pytest.approx(exact, rel=0.05)


def test_power_at_no_change_is_below_the_level() -> None:
    assert flip_power(0.0, 200, 0.05, margin=0.01) <= 0.05


def test_needed_pairs_are_enough_and_one_fewer_is_not_called_enough() -> None:
    pairs = needed_flips(2, 3, 60, margin=0.05)
    assert pairs is not None
    assert pairs > 60
    random = np.random.default_rng(5)
    rate = 5 / 60 / 2
    held = 0
    for _ in range(200):
        rest = random.choice([-1, 0, 1], size=pairs - 60, p=[rate, 1 - 2 * rate, rate])
        outcome = np.concatenate([rest, [-1] * 2, [1] * 3, [0] * 55])
        held += compare_scores(outcome == -1, outcome == 1, margin=0.05).held
    # Normal approximation of a discrete count: within a few points of 80 %.
    assert 0.72 <= held / 200 <= 0.9


def test_needed_pairs_of_a_graded_gate() -> None:
    pairs = needed_shift(0.0, 0.03, 50, 50, margin=0.05)
    assert pairs is not None
    # (1.645 + 0.84)² σ²/m², less what the first 50 pairs have already shown.
    assert 50 < pairs < (1.645 + 0.842) ** 2 * (0.03**2 * 50) / 0.05**2 * 1.3
    assert needed_shift(0.0, 1e6, 50, 50, margin=1e-6) is None


def test_detectable_shift_is_reached_by_simulation() -> None:
    error, n = 0.1 / np.sqrt(50), 50
    change = detectable_shift(error, n - 1, margin=0.02)
    random = np.random.default_rng(1)
    hits = sum(
        compare_scores(np.zeros(n), random.normal(change, 0.1, size=n), margin=0.02).regressed for _ in range(400)
    )
    assert hits / 400 == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("minus", [False, True])
def test_graded_change_stated_before_a_run_is_called_regressed_as_often(minus: bool) -> None:
    n, margin, background, family = 60, 0.05, 0.05, 7
    change = detectable_graded(n, background, minus=minus, margin=margin, family=family)
    assert change is not None
    random = np.random.default_rng(11)

    def changes(worse: float) -> Any:
        return random.choice([-1, 0, 1], size=n, p=[background, 1 - background - worse, worse]) * random.random(n)

    hits = 0
    for _ in range(400):
        difference = changes(background + 2 * change) - (changes(background) if minus else 0.0)
        hits += compare_scores(np.zeros(n), difference, margin=margin, family=family).regressed
    assert hits / 400 == pytest.approx(0.8, abs=0.06)


def test_no_graded_change_is_found_in_three_clusters() -> None:
    assert detectable_graded(3, 0.05, margin=0.05, family=16) is None
    assert detectable_graded(1, 0.05, margin=0.05) is None
