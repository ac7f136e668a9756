"""Several candidates in one run: a test per gate and candidate, the baseline measured once, a column per candidate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_trust.report import comparable, read_report
from tests.support.trust_runs import trust_run

SUITES = ("--trust-suite=safety/harmful_requests", "--trust-suite=reasoning/arithmetic", "--trust-limit=30")


def candidates(refusing: Path, complying: Path) -> list[str]:
    return [
        f"--trust-baseline={refusing}",
        f"--trust-candidate=after={complying}",
        f"--trust-candidate=same={refusing}",
    ]


def test_a_test_per_gate_and_candidate(tmp_path: Path, refusing: Path, complying: Path) -> None:
    arguments = [*candidates(refusing, complying), *SUITES, "--trust-store=store"]
    result = trust_run(tmp_path, *arguments, "--trust-report=report.json", "-v", "-p", "no:xdist")
    assert "safety::test_harmful_requests[compliance_rate-after] FAILED" in result.stdout, result.stdout + result.stderr
    assert "safety::test_harmful_requests[compliance_rate-same] SKIPPED" in result.stdout
    report = read_report(tmp_path / "report.json")
    verdicts = {(gate.candidate.model, gate.suite): gate.verdict for gate in report.gates}
    assert verdicts["after", "safety/harmful_requests"] == "regressed"
    assert verdicts["same", "safety/harmful_requests"] != "regressed"
    assert [candidate.model for candidate in report.candidates] == ["after", "same"]
    assert [candidate.identical for candidate in report.candidates] == [False, True]
    assert [candidate.counts["regressed"] for candidate in report.candidates] == [1, 0]
    assert report.candidates[0].tax.dimensions["safety"].verdict == "regressed"
    assert "safety regressed" in result.stdout
    header = next(line for line in result.stdout.splitlines() if line.split()[:2] == ["gate", "baseline"])
    assert header.split() == ["gate", "baseline", "after", "same"]
    # Each candidate's verdicts are what a run of it alone gives.
    alone = trust_run(
        tmp_path,
        f"--trust-baseline={refusing}",
        f"--trust-candidate=after={complying}",
        *SUITES,
        "--trust-store=alone",
        "--trust-report=alone.json",
    )
    assert alone.returncode == 1, alone.stdout
    mine = [gate for gate in report.gates if gate.candidate.model == "after"]
    for gate, single in zip(mine, read_report(tmp_path / "alone.json").gates, strict=True):
        assert replace(gate, nodeid="") == replace(single, nodeid="")
    two = trust_run(tmp_path, *arguments, "--trust-report=two.json", "-n2", "--dist=loadfile")
    assert two.returncode == 1, two.stdout
    assert comparable(read_report(tmp_path / "two.json")) == comparable(report)


def test_a_candidate_that_cannot_load_fails_alone(tmp_path: Path, refusing: Path, complying: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in complying.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 100 if file.suffix == ".safetensors" else None])
    result = trust_run(
        tmp_path,
        f"--trust-baseline={refusing}",
        f"--trust-candidate={broken}",
        f"--trust-candidate=after={complying}",
        *SUITES,
        "--trust-store=store",
    )
    assert result.returncode == 1
    assert "1 regressed" in result.stdout, result.stdout + result.stderr
    assert "broken" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--trust-candidate=demo:sft", "--trust-candidate=demo:sft"],
            "demo:sft is the label of 2 candidates: name them apart",
        ),
        (["--trust-candidate=a=demo:sft", "--trust-candidate=a=demo:aligned"], "a is the label of 2 candidates"),
        (["--trust-candidate=sft="], "a label without a model: write NAME=MODEL"),
        (["--trust-candidate=a=demo:sft?label=b"], "the label is given twice"),
    ],
)
def test_wrong_labels(pytester: pytest.Pytester, arguments: list[str], message: str) -> None:
    result = pytester.runpytest("--trust-baseline=demo:instruct", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.strip()]
    assert message in line


def test_candidates_from_the_ini_file(pytester: pytest.Pytester) -> None:
    pytester.makeini(
        "[pytest]\ntrust_baseline = demo:instruct\ntrust_candidate =\n    sft=demo:sft\n    demo:aligned\n"
    )
    result = pytester.runpytest("--collect-only", "-q", "--trust-suite=safety/harmful_requests")
    result.stdout.fnmatch_lines(["*compliance_rate-sft]", "*compliance_rate-demo:aligned]"])
