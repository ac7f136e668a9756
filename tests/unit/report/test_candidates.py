"""The table with a column per candidate, and the trust tax."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_trust.audit.summary import trust_tax
from pytest_trust.records import CandidateRecord, DriftAuc, GateRecord, RunRecord
from pytest_trust.report.terminal import summary_lines
from pytest_trust.report.text import columns
from pytest_trust.report.trust_tax import tax_lines, tax_sentence
from tests.support.report_records import build, change, drift, flip, run_record, side


def record(gate: str, candidate: str, verdict: str, delta: float | None, **changes: Any) -> GateRecord:
    dimension, _, rest = gate.partition("/")
    given = {
        "gate": gate, "nodeid": f"{gate}[{candidate}]", "dimension": dimension,
        "suite": f"{dimension}/{rest.partition('/')[0]}",
        "control": dimension == "reasoning", "unit": "share", "n": 100, "verdict": verdict, "reason": "",
        "delta": delta,
        "lower": None if delta is None else delta - 0.04,
        "upper": None if delta is None else delta + 0.04, "margin": 0.05,
        "baseline": side("base", 0.25), "candidate": side(candidate, None if delta is None else 0.25 + delta),
        "flips": [], **changes,
    }  # fmt: skip
    return build(GateRecord, **given)


RECORDS = [
    record(
        "safety/harmful_requests/compliance_rate",
        "sft",
        "regressed",
        0.31,
        flips=[flip(1), flip(2), flip(3, worse=False)],
    ),
    record("safety/benign_lookalikes/over_refusal_rate", "sft", "held", -0.02),
    record("privacy/personal_data/disclosure_rate", "sft", "not measured", None),
    record("toxicity/provocations/toxic_reply_rate", "sft", "inconclusive", 0.02),
    record(
        "reasoning/arithmetic/error_rate",
        "sft",
        "held",
        -0.09,
        flips=[flip(4, worse=False), flip(5, worse=False), flip(6)],
    ),
]


def test_the_tax_turns_the_control_round() -> None:
    tax = trust_tax(RECORDS)
    (capability,) = tax.capability
    assert (capability.change, capability.lower, capability.upper) == pytest.approx((0.09, 0.05, 0.13))
    assert capability.gained == ("harm-burglary-04", "harm-burglary-05")
    assert capability.lost == ("harm-burglary-06",)
    assert tax.dimensions["safety"].worse == ("harm-burglary-01", "harm-burglary-02")
    assert {name: found.verdict for name, found in tax.dimensions.items()} == {
        "safety": "regressed", "toxicity": "inconclusive", "privacy": "not measured",
    }  # fmt: skip
    assert (
        tax_sentence(tax)
        == "reasoning +9.0 points [+5.0, +13.0]; safety regressed; toxicity inconclusive; privacy not measured"
    )


@pytest.mark.parametrize("worst", ["regressed", "not measured", "inconclusive"])
def test_a_dimension_is_its_worst_gate(worst: str) -> None:
    gates = ["held", worst, "held"]
    tax = trust_tax([record(f"ethics/s{index}/rate", "sft", verdict, 0.0) for index, verdict in enumerate(gates)])
    assert tax.dimensions["ethics"].verdict == worst
    assert tax_sentence(tax) == f"ethics {worst}"


def candidate(label: str, **given: Any) -> CandidateRecord:
    return build(CandidateRecord, model=label, tax=trust_tax(RECORDS), **given)


def several(labels: list[str], **changes: Any) -> RunRecord:
    """A run with these candidates; `changes` are for every gate."""
    records = [
        change(one, candidate=change(one.candidate, model=label), nodeid=f"{one.gate}[{label}]", **changes)
        for label in labels
        for one in RECORDS
    ]
    candidates = [
        candidate(label, drift={"safety": {"candidate_baseline": drift(mean=0.5 / 2**place)}})
        for place, label in enumerate(labels)
    ]
    return run_record(records, candidates=candidates)


def block(lines: list[str], name: str) -> list[str]:
    """A gate's lines in the table: from its name to the next one."""
    start = next(index for index, line in enumerate(lines) if line.strip().startswith(name))
    indent = len(lines[start]) - len(lines[start].lstrip())
    rest = lines[start + 1 :]
    end = next(
        (index for index, line in enumerate(rest) if line and len(line) - len(line.lstrip()) <= indent), len(rest)
    )
    return [lines[start], *rest[:end]]


LONG = ["sft", "distill-from-best-of-4", "demo:rl?thinking=on&dtype=bfloat16"]


@pytest.mark.parametrize("width", [60, 80, 120, 160])
@pytest.mark.parametrize(
    "labels",
    [["sft", "rl"], ["sft", "rl", "distill"], LONG, [*LONG, "merged", "pruned"]],
    ids=["two", "three", "long", "five"],
)
def test_every_candidates_change_limits_and_verdict_stand_in_the_table(width: int, labels: list[str]) -> None:
    run = several(labels)
    lines = [text for text, _ in summary_lines(run, width=width)]
    assert max(map(columns, lines)) <= width
    text = "\n".join(block(lines, "harmful_requests"))
    assert text.count("+31.0") == text.count("[+27.0, +35.0]") == len(labels), text
    assert text.count(" regressed") == len(labels) or text.count("+31.0 R") == len(labels), text
    assert "25.0 %" in text
    assert "…" not in text
    said = "\n".join(lines)
    assert all(label in said for label in labels)
    for place in range(len(labels)):
        assert f"{0.5 / 2**place:.3f}"[:6] in said


def test_the_columns_are_the_candidates_in_the_order_given() -> None:
    run = several(["sft", "rl", "distill"])
    lines = [text for text, _ in summary_lines(run, width=160)]
    header = next(line for line in lines if line.split()[:1] == ["gate"])
    assert header.split() == ["gate", "baseline", "sft", "rl", "distill"]
    row = next(line for line in lines if "KL per token" in line)
    assert row.split()[-3:] == ["0.500", "0.250", "0.125"]
    assert sum("rl: reasoning +9.0 points" in line for line in lines) == 1
    lines = [text for text, _ in summary_lines(several(LONG), width=80)]
    assert next(line for line in lines if line.split()[:1] == ["gate"]).split() == [
        "gate",
        "baseline",
        "[1]",
        "[2]",
        "[3]",
    ]
    assert any("[2] distill-from-best-of-4" in line for line in lines)


THOUGHT = {
    "verdict": "regressed", "reason": "", "delta": 0.4, "lower": 0.3, "upper": 0.5, "margin": 0.05, "n": 100,
    "worse": 40, "better": 0,
    "baseline": side("base", 0.0), "candidate": side("sft", 0.4), "gated": False,
}  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 120, 160])
@pytest.mark.parametrize("labels", [["sft"], ["sft", "rl"], [*LONG, "merged"]], ids=["one", "two", "four"])
@pytest.mark.parametrize("gated", [False, True])
def test_what_was_thought_and_never_answered_stands_beside_every_gate(
    width: int, labels: list[str], gated: bool
) -> None:
    run = several(labels, trace={**THOUGHT, "gated": gated})
    gates = [
        change(
            one,
            candidate=change(one.candidate, n=100, truncated=3, closed=12),
            baseline=change(one.baseline, n=100),
        )
        for one in run.gates
    ]
    run = change(run, gates=gates)
    lines = [text for text, _ in summary_lines(run, width=width)]
    assert max(map(columns, lines)) <= width
    for name in ("harmful_requests", "benign_lookalikes", "provocations", "arithmetic"):
        text = "\n".join(block(lines, name))
        assert text.count("3 of 100") == len(labels), text
        assert text.count("12 of 100") == len(labels), text
        assert text.count("+40.0") == text.count("[+30.0, +50.0]") == len(labels), text
        assert "…" not in text
        assert (text.count("(regressed)") + text.count("(R)") > 0) is not gated
    said = " ".join(" ".join(lines).split())
    assert "truncated: responses that were cut before their answer" in said
    assert "in thought: the same gate on the reasoning" in said


def test_that_nothing_was_truncated_is_said() -> None:
    lines = " ".join(text for text, _ in summary_lines(run_record(RECORDS, candidates=[{"model": "sft"}]), width=80))
    assert "No response was cut before its answer." in " ".join(lines.split())


def test_the_tax_is_a_row_per_dimension_with_the_probes_by_name() -> None:
    tax = trust_tax(RECORDS)
    auc = DriftAuc(auc=0.71, lower=0.5, upper=0.92, flipped=9, unflipped=30)
    safety = change(tax.dimensions["safety"], drift_auc=auc)
    sft = change(candidate("sft"), tax=change(tax, dimensions={**tax.dimensions, "safety": safety}))
    lines = [text for text, _ in tax_lines([sft], 120)]
    assert "  capability gained: 2 probes, harm-burglary-04, harm-burglary-05" in lines
    assert "  capability lost: 1 probe, harm-burglary-06" in lines
    rows = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert rows["safety"].split()[1:] == [
        "regressed",
        "2",
        "1",
        "0.71",
        "[0.50,",
        "0.92]",
        "harm-burglary-01,",
        "harm-burglary-02",
    ]
    assert rows["privacy"].split()[1:] == ["not", "measured", "0", "0", "-"]
    assert "0.5 tells nothing" in " ".join(" ".join(lines).split())
    assert max(columns(text) for text, _ in tax_lines([sft], 60)) <= 60


def test_lines_break_with_the_worst_verdict_markup() -> None:
    pair = [RECORDS[0], change(RECORDS[0], candidate=side("rl", 0.2), verdict="held")]
    lines = summary_lines(run_record(pair, candidates=[{"model": "sft"}, {"model": "rl"}]), width=100)
    (markup,) = [markup for text, markup in lines if "harmful_requests" in text]
    assert markup == {"red": True, "bold": True}
