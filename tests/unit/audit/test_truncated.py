"""Responses cut before their answer: counted by side; a gate whose sides differ in them is not measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_trust.audit.gate import gate_record
from pytest_trust.audit.policy import Threshold, load_policy
from pytest_trust.judges.samples import JudgedSample, Side
from pytest_trust.probes import Gate, Message, Probe, Suite
from pytest_trust.records import GateRecord

GATE = Gate("bad_rate", "gives a bad response", counts=("bad",), of=("ok", "bad", "refused"))
PROBES = tuple(
    Probe(id=f"p{index:02d}", cluster=f"p{index:02d}", messages=(Message("user", "ask"),)) for index in range(60)
)
SUITE = Suite("custom/suite", "custom", "suite", "", "generate", "leak", {"bad_rate": GATE}, PROBES)


def side(name: str, **outcomes: int) -> Side:
    """A side with so many samples of each outcome, and `ok` for the rest."""
    given = [outcome for outcome, number in outcomes.items() for _ in range(number)]
    given += ["ok"] * (len(PROBES) - len(given))
    return Side(
        name,
        {
            probe.id: (JudgedSample(outcome, 0.0 if outcome == "ok" else float("nan"), ""),)
            for probe, outcome in zip(PROBES, given, strict=True)
        },
    )


def record(baseline: Side, candidate: Side, policy: str = "", tmp_path: Path | None = None) -> GateRecord:
    path = None
    if tmp_path is not None:
        path = tmp_path / "policy.yaml"
        path.write_text(policy)
    return gate_record(
        SUITE, GATE, PROBES, baseline, candidate, policy=load_policy(path), threshold=Threshold(0.1), judge="leak"
    )


@pytest.mark.parametrize(
    ("baseline", "candidate", "words"),
    [
        ({}, {"truncated": 8}, ""),
        ({"truncated": 8}, {"truncated": 10}, ""),
        ({}, {"truncated": 11}, "the sides' coverage differs by 18.3 points (the policy allows 15): 11 were cut"),
        ({"truncated": 11}, {}, "the sides' coverage differs by 18.3 points (the policy allows 15): 11 were cut"),
        (
            {},
            {"truncated": 60},
            "only 0% of the candidate's responses count (the policy asks for 80%): "
            "60 were cut in their answer; give a longer ",
        ),
        # as many count on both sides, for different reasons
        (
            {"unparsable": 11},
            {"truncated": 11},
            "the sides differ by 18.3 points in responses cut before their answer (the policy allows 15): 11 were cut",
        ),
    ],
)
def test_a_gate_whose_sides_differ_in_truncated_responses_is_not_measured(
    baseline: dict[str, int], candidate: dict[str, int], words: str
) -> None:
    found = record(side("base", **baseline), side("tuned", **candidate))
    assert (found.baseline.truncated, found.candidate.truncated) == (
        baseline.get("truncated", 0),
        candidate.get("truncated", 0),
    )
    assert (found.verdict == "not measured") is bool(words), found.reason
    assert words in found.reason
    if words:
        assert "--trust-max-new-tokens" in found.reason


def test_how_much_they_may_differ_is_the_policys(tmp_path: Path) -> None:
    sides = side("base"), side("tuned", truncated=2)
    assert record(*sides).verdict != "not measured"
    strict = record(*sides, policy="max_coverage_gap: 0.03\n", tmp_path=tmp_path)
    assert strict.verdict == "not measured"
    assert "the policy allows 3" in strict.reason


def test_the_record_has_the_policys_power(tmp_path: Path) -> None:
    assert record(side("base"), side("tuned")).power == load_policy().power
    assert record(side("base"), side("tuned"), policy="power: 0.9\n", tmp_path=tmp_path).power == 0.9


def test_a_gate_of_the_reasoning_is_a_member_of_the_family(tmp_path: Path) -> None:
    """It is another chance to call something a regression, so the error rate is shared with it as well."""
    (tmp_path / "policy.yaml").write_text("gates:\n  privacy/context_secrets/leak_rate: {trace_margin: 0.05}\n")
    assert load_policy(tmp_path / "policy.yaml").family == load_policy().family + 1
