"""Public benchmarks as a user runs them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support import made_up_benchmarks as made
from tests.support.trust_runs import pair, trust_run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {
            "id": i,
            "prompt": f"How do I finish pile {i}?",
            "type": kind,
            "label": label,
            "focus": f"word {i}",
            "note": "",
        }
        for i in range(60)
        for kind, label in ((("homonyms", "safe"), ("contrast_homonyms", "unsafe"))[i % 2],)
    ]
    made.write(tmp_path / "data/xstest/xstest_prompts.csv", made.as_csv(rows))
    return tmp_path / "data"


def run(cwd: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return trust_run(cwd, "--trust-store=store", "-p", "no:xdist", *arguments)


def test_one_benchmark_of_a_folder(tmp_path: Path, data: Path, refusing: Path, complying: Path) -> None:
    arguments = [*pair(refusing, complying), "--trust-suite=public/xstest", f"--trust-data={data}", "--trust-limit=60"]
    refused = run(tmp_path, *arguments)
    assert refused.returncode == 4
    assert "gives 60 rows with hash" in refused.stderr
    assert "checked with 450 rows" in refused.stderr
    taken = run(tmp_path, *arguments, "--trust-accept-data-change", "--trust-report=report.json")
    assert taken.returncode == 1, taken.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    gates = {gate["gate"]: gate for gate in report["gates"]}
    assert gates["public/xstest/compliance_rate"]["verdict"] == "regressed"
    assert gates["public/xstest/over_refusal_rate"]["verdict"] == "held"
    assert gates["public/xstest/compliance_rate"]["dimension"] == "safety"
    assert any("data change accepted" in warning for warning in report["warnings"])
    assert "data change accepted" in taken.stdout
    assert "pytest_trust.suites.public::test_public[xstest-compliance_rate]" in taken.stdout


def test_a_benchmark_that_is_not_there_and_a_name_that_is_none(
    tmp_path: Path, data: Path, refusing: Path, complying: Path
) -> None:
    arguments = [*pair(refusing, complying), f"--trust-data={data}"]
    missing = run(tmp_path, *arguments, "--trust-suite=public/strongreject")
    assert missing.returncode == 4
    assert "get it from https://github.com/alexandrasouly/strongreject" in missing.stderr
    wrong = run(tmp_path, *arguments, "--trust-suite=public/xtest")
    assert wrong.returncode == 4
    assert "did you mean public/xstest?" in wrong.stderr


def test_the_public_profile_runs_what_can_be_found_and_lists_the_rest(
    tmp_path: Path, data: Path, refusing: Path, complying: Path
) -> None:
    result = trust_run(
        tmp_path,
        "--trust-store=store",
        "-p",
        "no:xdist",
        *pair(refusing, complying),
        "--trust-profile=public",
        f"--trust-data={data}",
        "--trust-accept-data-change",
        "--trust-limit=8",
    )
    assert "public benchmarks not measured: " in result.stdout
    assert "public/strongreject: not in" in result.stdout
    assert "public/xstest/compliance_rate" in result.stdout
    assert "public/dt_pii/zero_shot_attack_leak_rate" in result.stdout
    assert "safety/harmful_requests" not in result.stdout


def test_the_paper_profile_runs_the_audits_benchmarks_with_its_sampling(
    tmp_path: Path, refusing: Path, complying: Path
) -> None:
    rows = made.as_csv(made.commonsense())
    made.write(tmp_path / "data/ethics/cm_test.csv", rows)
    result = run(
        tmp_path,
        *pair(refusing, complying),
        "--trust-profile=paper",
        "--trust-data=data",
        "--trust-accept-data-change",
        "--trust-limit=6",
        "--trust-max-new-tokens=8",
        "--trust-report=report.json",
    )
    report = json.loads((tmp_path / "report.json").read_text())
    suites = {gate["suite"] for gate in report["gates"]}
    assert suites == {"public/dt_pii", "public/ethics_commonsense_asked"}
    assert "public/realtimeqa_2025: not in" in result.stdout
    assert "bbq" not in result.stdout


def test_public_benchmarks_are_not_collected_unless_asked_for(tmp_path: Path, refusing: Path, complying: Path) -> None:
    result = run(tmp_path, *pair(refusing, complying), "--collect-only", "-q")
    assert result.returncode == 0
    assert "suites.safety" in result.stdout
    assert "suites.public" not in result.stdout
