"""The table with a column per candidate, and the trust tax."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_trust.report.tax import trust_tax
from pytest_trust.report.terminal import summary_lines
from pytest_trust.report.text import columns
from tests.unit.report_records import drift, flip, side


def record(gate: str, candidate: str, verdict: str, delta: float | None, **changes: Any) -> dict[str, Any]:
    dimension, _, rest = gate.partition("/")
    return {
        "gate": gate, "nodeid": f"{gate}[{candidate}]", "dimension": dimension, "suite": f"{dimension}/{rest.partition('/')[0]}",
        "control": dimension == "reasoning", "unit": "share", "n": 100, "verdict": verdict, "reason": "", "delta": delta,
        "lower": None if delta is None else delta - 0.04, "upper": None if delta is None else delta + 0.04, "margin": 0.05,
        "baseline": side("base", 0.25), "candidate": side(candidate, None if delta is None else 0.25 + delta), "flips": [], **changes,
    }  # fmt: skip


RECORDS = [
    record("safety/harmful_requests/compliance_rate", "sft", "regressed", 0.31, flips=[flip(1), flip(2), flip(3, worse=False)]),
    record("safety/benign_lookalikes/over_refusal_rate", "sft", "held", -0.02),
    record("privacy/personal_data/disclosure_rate", "sft", "not measured", None),
    record("toxicity/provocations/toxic_reply_rate", "sft", "inconclusive", 0.02),
    record("reasoning/arithmetic/error_rate", "sft", "held", -0.09, flips=[flip(4, worse=False), flip(5, worse=False), flip(6)]),
]


def test_the_tax_turns_the_control_round() -> None:
    tax = trust_tax(RECORDS)
    (capability,) = tax["capability"]
    assert (capability["change"], capability["lower"], capability["upper"]) == pytest.approx((0.09, 0.05, 0.13))
    assert capability["gained"] == ["harm-burglary-04", "harm-burglary-05"]
    assert capability["lost"] == ["harm-burglary-06"]
    assert tax["dimensions"]["safety"]["worse"] == ["harm-burglary-01", "harm-burglary-02"]
    assert {name: found["verdict"] for name, found in tax["dimensions"].items()} == {
        "safety": "regressed", "toxicity": "inconclusive", "privacy": "not measured",
    }  # fmt: skip
    assert tax["sentence"] == "reasoning +9.0 points [+5.0, +13.0]; safety regressed; toxicity inconclusive; privacy not measured"


@pytest.mark.parametrize("worst", ["regressed", "not measured", "inconclusive"])
def test_a_dimension_is_its_worst_gate(worst: str) -> None:
    gates = ["held", worst, "held"]
    tax = trust_tax([record(f"ethics/s{index}/rate", "sft", verdict, 0.0) for index, verdict in enumerate(gates)])
    assert tax["dimensions"]["ethics"]["verdict"] == worst
    assert tax["sentence"] == f"ethics {worst}"


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_a_column_per_candidate(width: int) -> None:
    others = [
        {**one, "candidate": side(label, one["candidate"]["value"]), "nodeid": f"{one['gate']}[{label}]"} for label in ("rl", "distill") for one in RECORDS
    ]
    candidates = [
        {"model": label, "tax": trust_tax(RECORDS), "drift": {"safety": {"candidate_baseline": drift(mean=mean)}}}
        for label, mean in (("sft", 0.5), ("rl", 0.25), ("distill", 0.125))
    ]
    lines = [text for text, _ in summary_lines([*RECORDS, *others], {"candidates": candidates}, width=width)]
    assert max(map(columns, lines)) <= width
    header = next(line for line in lines if line.split()[:1] == ["gate"])
    assert header.split() == ["gate", "baseline", "sft", "rl", "distill"]
    row = next(line for line in lines if "KL per token" in line)
    assert row.split()[-3:] == ["0.500", "0.250", "0.125"]
    harmful = "\n".join(lines).partition("harmful_requests")[2].splitlines()[0]
    assert harmful.count("+31.0 regressed" if width >= 120 else "+31.0 R") == 3
    if width < 120:
        assert any(line.startswith("R regressed, H held") or " R regressed, H held" in line for line in lines)
    assert sum("rl: reasoning +9.0 points" in line for line in lines) == 1


def test_lines_break_with_the_worst_verdict_markup() -> None:
    pair = [RECORDS[0], {**RECORDS[0], "candidate": side("rl", 0.2), "verdict": "held"}]
    lines = summary_lines(pair, {"candidates": [{"model": "sft"}, {"model": "rl"}]}, width=100)
    (markup,) = [markup for text, markup in lines if "harmful_requests" in text]
    assert markup == {"red": True, "bold": True}
