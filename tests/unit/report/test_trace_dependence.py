"""Trace dependence in the drift diff and in the trust tax."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_trust.records import DriftRecord, TraceDependenceRecord
from pytest_trust.report.drift_diff import drift_diff
from pytest_trust.report.json_report import read_report, write_report
from pytest_trust.report.trace_dependence import dependence_lines, tax_dependence
from tests.support.report_records import build, drift, drifts, regressed, run_record

HALF = {
    "mean": 4.284, "error": 1.39, "lower": 1.145, "upper": 7.423, "responses": 10, "clusters": 10, "tokens": 129,
    "infinite": 0, "changed": 0.8, "changed_lower": 0.49, "changed_upper": 0.943, "begins_otherwise": 0.4,
}  # fmt: skip
ALONE = {**HALF, "mean": 2.8, "lower": None, "upper": None, "error": None, "changed": None, "responses": 1}


def record(**changes: Any) -> TraceDependenceRecord:
    given = {"candidate": {"half": HALF, "none": {**HALF, "mean": 9.638, "changed": 1.0}}, "baseline": {}}
    return build(TraceDependenceRecord, **{**given, **changes})


def test_a_row_per_model_and_trace() -> None:
    change = {"other": {"mean": -1.51, "error": 0.4, "lower": -2.3, "upper": -0.7, "probes": 9, "clusters": 9}}
    lines = dependence_lines(record(baseline={"other": ALONE}, change=change), 100)
    assert [line.split("  ")[1:] and " ".join(line.split()) for line in lines] == [
        [],
        "trace dependence in its place nats per answer answers changed begin otherwise responses",
        "baseline the other's 2.8 - 40 % 1",
        "candidate half of it 4.3 [1.1, 7.4] 80 % [49, 94] 40 % 10",
        "candidate nothing 9.6 [1.1, 7.4] 100 % [49, 94] 40 % 10",
        "Δ the other's -1.5 [-2.3, -0.70] 9",
    ]
    assert dependence_lines(None, 100) == []


def test_an_infinite_divergence_has_no_mean() -> None:
    (_, _, line) = dependence_lines(record(candidate={"half": {**HALF, "infinite": 1, "mean": None}}), 80)
    assert "infinite" in line


def test_the_drift_diff_has_it_below_the_drift() -> None:
    gate = regressed(drift={"candidate_baseline": drift(), "trace_dependence": record()})
    text = drift_diff(gate, width=80)
    assert (
        text.index("drift, nats per token")
        < text.index("trace dependence  in its place")
        < text.index("harm-burglary-01")
    )
    assert "trace dependence" not in drift_diff(regressed(), width=80)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_tax_has_a_row_per_dimension_and_model(width: int) -> None:
    found = {
        "privacy": build(DriftRecord, trace_dependence=record()),
        "safety": build(DriftRecord, trace_dependence=record(baseline={"none": ALONE})),
        "ethics": build(DriftRecord),
    }
    lines = tax_dependence(found, width)
    assert max(map(len, lines)) <= width
    assert [line.split()[:2] for line in lines[1:]] == [
        ["safety", "baseline"],
        ["safety", "candidate"],
        ["privacy", "candidate"],
    ]
    assert "9.6 [1.1, 7.4], 100 %" in lines[2]
    assert ("4.3 [1.1, 7.4], 80 %" in lines[2]) == (width == 120)
    assert tax_dependence({"ethics": build(DriftRecord)}, width) == []


def test_the_report_keeps_it(tmp_path: Any) -> None:
    kept = {name: build(DriftRecord, trace_dependence=record()) for name in drifts()}
    run = run_record([regressed()], drift=kept)
    write_report(tmp_path / "report.json", run)
    assert read_report(tmp_path / "report.json").candidates[0].drift["safety"].trace_dependence == record()
