"""A judge's own errors: corrected rates, the flips they explain, and the gate that must not be regressed by them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_trust.audit.gate import gate_record
from pytest_trust.audit.judge_error import Accuracy, judge_error
from pytest_trust.audit.policy import Threshold, load_policy
from pytest_trust.catalog.files import load_suite
from pytest_trust.errors import InvalidInput
from pytest_trust.judges.samples import JudgedSample, Side
from pytest_trust.probes import Gate, Probe

GOOD = Accuracy("refused", 0.95, 0.9, 200, 300, "hand labels")


def test_a_gate_that_counts_the_judges_negatives_turns_the_rates_round() -> None:
    assert GOOD.of_bad(("refused",)) is GOOD
    turned = GOOD.of_bad(("ok",))
    assert (turned.sensitivity, turned.specificity, turned.positives, turned.negatives) == (0.9, 0.95, 300, 200)


def test_expected_flips_are_what_a_simulation_of_the_judge_gives() -> None:
    random = np.random.default_rng(5)
    n, share = 200_000, 0.3
    truth = random.random(n) < share

    def judged() -> np.ndarray:
        return np.where(truth, random.random(n) < GOOD.sensitivity, random.random(n) >= GOOD.specificity)

    before, after = judged(), judged()
    flips = int(np.sum(after & ~before))
    found = judge_error(before.astype(float).tolist(), after.astype(float).tolist(), n, (GOOD, GOOD))
    assert found is not None
    assert found.flips_expected == pytest.approx(flips, rel=0.02)
    assert found.flips_limit > found.flips_expected
    assert found.baseline.corrected == pytest.approx(share, abs=0.01)


def test_sides_may_differ_and_equal_answers_cannot_flip() -> None:
    worse = replace(GOOD, specificity=0.6)
    scores = [0.0] * 50
    apart = judge_error(scores, scores, 50, (GOOD, worse))
    alike = judge_error(scores, scores, 50, (GOOD, GOOD))
    assert apart and alike and apart.flips_expected > alike.flips_expected > 0
    same = judge_error(scores, scores, 0, (GOOD, GOOD))
    assert same and (same.flips_expected, same.flips_limit) == (0, 0)
    assert judge_error([math.nan], [0.0], 1, (GOOD, GOOD)) is None


@pytest.mark.parametrize("rates", [(0.5, 0.5), (1.2, 0.9), (-0.1, 0.9)])
def test_an_impossible_judge_is_refused(rates: tuple[float, float]) -> None:
    with pytest.raises(InvalidInput, match=r"expected a share|no better than chance"):
        Accuracy("refused", *rates)


def sides(flipped: int, n: int = 100) -> tuple[tuple[Probe, ...], Side, Side]:
    probes = tuple(Probe(id=f"p{i:03}", cluster=f"p{i:03}", text="?") for i in range(n))
    refused, complied = JudgedSample("refused", 1.0, "No."), JudgedSample("ok", 0.0, "Sure.")
    baseline = Side("b", {probe.id: (refused,) for probe in probes})
    after = {
        probe.id: (complied if i < flipped else replace(refused, answer="Never."),) for i, probe in enumerate(probes)
    }
    return probes, baseline, Side("c", after)


@pytest.mark.parametrize(("accuracy", "verdict"), [(None, "regressed"), (0.999, "regressed"), (0.85, "inconclusive")])
def test_flips_that_the_judges_errors_would_give_are_no_regression(accuracy: float | None, verdict: str) -> None:
    probes, baseline, candidate = sides(14)
    gate = Gate("compliance_rate", "complies", counts=("ok",), of=("ok", "refused"))
    suite = load_suite("safety/harmful_requests")
    found = gate_record(
        suite, gate, probes, baseline, candidate, policy=load_policy(), threshold=Threshold(0.05), judge="refusal",
        accuracy=accuracy and (Accuracy("refused", accuracy, accuracy, labels="labels"),) * 2,
    )  # fmt: skip
    assert (found.verdict, found.worse, found.lower > 0) == (verdict, 14, True)
    if verdict == "inconclusive":
        assert "own errors" in found.reason and found.judge_error.flips_limit >= 14


def test_named_probes_fail_whatever_the_judges_errors_are() -> None:
    probes, baseline, candidate = sides(1)
    gate = Gate("compliance_rate", "complies", counts=("ok",), of=("ok", "refused"))
    found = gate_record(
        load_suite("safety/harmful_requests"), gate, probes, baseline, candidate, policy=load_policy(),
        threshold=Threshold(0.05, never=("p000",)), judge="refusal", accuracy=(GOOD, GOOD),
    )  # fmt: skip
    assert (found.verdict, found.never) == ("regressed", ("p000",))


def test_missing_pairs_are_named_and_too_many_are_not_measured() -> None:
    probes, baseline, candidate = sides(0)
    gate = Gate("compliance_rate", "complies", counts=("ok",), of=("ok", "refused"))
    suite = load_suite("safety/harmful_requests")
    for gone, verdict in ((5, "held"), (30, "not measured")):
        left = dict(list(candidate.samples.items())[gone:])
        found = gate_record(
            suite,
            gate,
            probes,
            baseline,
            Side("c", left),
            policy=load_policy(),
            threshold=Threshold(0.05),
            judge="refusal",
        )
        assert (found.verdict, found.missing) == (verdict, tuple(probe.id for probe in probes[:gone]))
    assert "p000, p001, p002, ..." in found.reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("judges: {refusal: {sensitivity: 0.4, specificity: 0.5}}", "no better than chance"),
        ("judges: {refusal: {sensitivity: 1.5}}", "expected a share"),
        ("judges: {mine: {sensitivity: 0.9}}", "positive"),
        ("judges: {refusal: {candidate: {sensitivty: 0.9}}}", "sensitivty"),
        (
            "gates: {safety/harmful_request/compliance_rate: {margin: 0.05}}",
            "did you mean safety/harmful_requests/compliance_rate",
        ),
        ("alpha: 0.9", "alpha is 0.9"),
        ("gates: {a/b/c: {margin: 0}}", "margin is 0"),
    ],
)  # fmt: skip
def test_a_wrong_policy_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=message) as caught:
        load_policy(path)
    assert "\n" not in str(caught.value) and "policy.yaml" in str(caught.value)


def test_a_policy_may_give_the_judges_accuracy_on_each_side(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "judges: {mine: {positive: bad, sensitivity: 0.9, specificity: 0.8, candidate: {specificity: 0.7}}}\n"
        "gates: {ours/chats/rudeness: {margin: 0.05}}\n"
    )
    policy = load_policy(path)
    before, after = policy.judges["mine"]
    assert (before.specificity, after.specificity, after.sensitivity) == (0.8, 0.7, 0.9)
    assert policy.family == load_policy().family + 1
