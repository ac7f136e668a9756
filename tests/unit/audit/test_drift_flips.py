"""Whether drift predicts flips."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_trust.audit.drift_flips import drift_by_flip, drift_by_outcome, flip_auc
from pytest_trust.records import DriftByFlip
from tests.support.token_drifts import token_drift

VALUES = st.lists(st.integers(0, 6).map(float), min_size=5, max_size=12)


def by_flip(flipped: list[float], unflipped: list[float]) -> DriftByFlip:
    return DriftByFlip(flipped=tuple(flipped), unflipped=tuple(unflipped))


@settings(deadline=None)  # the first call imports scipy
@given(VALUES, VALUES)
def test_the_auc_is_the_share_of_pairs(flipped: list[float], unflipped: list[float]) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in flipped for b in unflipped]
    found = flip_auc([by_flip(flipped, unflipped)])
    assert found is not None
    assert found.auc == pytest.approx(sum(pairs) / len(pairs))
    assert 0 <= found.lower <= found.auc <= found.upper <= 1
    turned = flip_auc([by_flip(unflipped, flipped)])
    assert turned is not None
    assert turned.auc == pytest.approx(1 - found.auc)


def test_the_limits_are_hanley_and_mcneils() -> None:
    """Their formula written out, for 20 and 40 probes."""
    flipped, unflipped = [float(2 * i) for i in range(20)], [float(i) for i in range(40)]
    found = flip_auc([by_flip(flipped, unflipped)])
    assert found is not None
    auc = found.auc
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    error = math.sqrt((auc * (1 - auc) + 19 * (q1 - auc**2) + 39 * (q2 - auc**2)) / 800)
    assert found.upper - auc == pytest.approx(1.96 * error)


def test_too_few_say_nothing() -> None:
    assert flip_auc([by_flip([1.0] * 4, [0.0] * 40)]) is None


def test_groups_hold_what_was_compared_and_measured() -> None:
    drifts = {"a": 1.0, "b": 2.0, "c": math.inf, "d": 3.0}
    assert drift_by_flip(drifts, flipped=["b", "x"], compared=["a", "b", "c"]) == by_flip([2.0], [1.0])


def test_drift_by_the_candidate_s_outcome():
    drifts = [token_drift("a", 4), token_drift("b", 6, seed=1), token_drift("c", 5, seed=2), token_drift("d", 0)]
    found = drift_by_outcome(drifts, {"a": "ok", "b": "refused", "c": "ok", "d": "ok"})
    assert (found["refused"].probes, found["refused"].mean) == (1, pytest.approx(drifts[1].kl_pq.mean()))
    both = (drifts[0].kl_pq.sum() + drifts[2].kl_pq.sum()) / 9
    assert (found["ok"].probes, found["ok"].mean) == (2, pytest.approx(both))
    assert drift_by_outcome(drifts, {}) == {}
