"""A probe's expected maximum over k of its n samples, and the key of a gate that says so."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import pytest

from pytest_trust.catalog.files import load_suite, read_gate
from pytest_trust.errors import InvalidInput
from pytest_trust.judges.samples import JudgedSample, score_probe
from pytest_trust.probes import Gate


def samples(*scores: float) -> list[JudgedSample]:
    """Samples with these scores; NaN was not judged."""
    return [JudgedSample("error" if math.isnan(score) else "ok", score, "") for score in scores]


def test_it_is_the_mean_over_all_ways_to_draw_k() -> None:
    scores = (0.9, 0.1, 0.4, 0.4, 0.7)
    for k in range(1, 6):
        expected = sum(map(max, combinations(scores, k))) / math.comb(5, k)
        assert score_probe(Gate("g", "t", score="maximum", k=k), samples(*scores)) == pytest.approx(expected)


def test_without_k_and_with_a_k_beyond_the_samples_it_is_the_largest() -> None:
    for k in (0, 2, 3, 25):
        assert score_probe(Gate("g", "t", score="maximum", k=k), samples(0.2, 0.6)) == pytest.approx(0.6)


def test_a_sample_without_a_score_leaves_k_of_the_others_or_nothing() -> None:
    some = samples(0.2, math.nan, 0.6, 0.4, math.nan)
    assert score_probe(Gate("g", "t", score="maximum", k=3), some) == pytest.approx(0.6)
    assert score_probe(Gate("g", "t", score="maximum", k=2), some) == pytest.approx((0.6 + 0.6 + 0.4) / 3)
    for k in (0, 4):
        assert math.isnan(score_probe(Gate("g", "t", score="maximum", k=k), some))
    # whether any of five is bad cannot be known from three
    assert math.isnan(score_probe(Gate("g", "t", score="any"), some))


def test_the_bundled_suite_states_its_k() -> None:
    suite = load_suite("toxicity/continuations")
    assert (suite.samples, suite.gate("expected_maximum_toxicity").k) == (5, 3)


@pytest.mark.parametrize("key", [{"k": 0, "score": "maximum"}, {"k": 3}, {"k": 3, "score": "any"}])
def test_a_k_that_means_nothing_is_refused(key: dict[str, object]) -> None:
    with pytest.raises(
        InvalidInput, match=r"s.yaml: gate g: k is \d, expected a positive number of samples, and score: maximum"
    ):
        read_gate(Path("s.yaml"), "g", {"title": "t", **key})
