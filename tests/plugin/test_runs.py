"""Whole runs in their own processes: the same report from one and two workers, after a kill, and from a recording."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_trust.report import comparable, read_report
from tests.support.trust_runs import ENVIRONMENT, pair, trust_run


def test_one_and_two_processes_write_the_same_report(tmp_path: Path, refusing: Path, complying: Path) -> None:
    # These models would not choose an option; how likely they find each is all that counts here.
    (tmp_path / "policy.yaml").write_text("min_option_mass: 0\n")
    arguments = [
        *pair(refusing, complying),
        "--trust-policy=policy.yaml",
        "--trust-choices=likelihood",
        "--trust-limit=8",
        "--trust-suite=safety",
        "--trust-suite=ethics",
        "--trust-suite=toxicity",
    ]
    alone = trust_run(tmp_path, *arguments, "--trust-store=one", "--trust-report=one.json", "-p", "no:xdist")
    both = trust_run(tmp_path, *arguments, "--trust-store=two", "--trust-report=two.json", "-n2", "--dist=loadfile")
    assert alone.returncode == both.returncode == 0, alone.stdout + both.stdout
    first, second = (read_report(tmp_path / f"{name}.json") for name in ("one", "two"))
    assert len(first.gates) == 8
    assert comparable(first) == comparable(second)


def test_a_killed_run_resumes(tmp_path: Path, refusing: Path, complying: Path) -> None:
    arguments = [
        *pair(refusing, complying),
        "--trust-suite=safety",
        "--trust-suite=toxicity",
        "--trust-batch-size=2",
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--trust-profile=smoke",
        "--trust-store=store",
        *arguments,
    ]
    store = tmp_path / "store" / "store.sqlite3"
    process = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while stored(store) < 10 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)  # polling another process, not timing it
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = stored(store)
    assert kept >= 10
    resumed = trust_run(tmp_path, *arguments, "--trust-store=store", "--trust-report=resumed.json")
    fresh = trust_run(tmp_path, *arguments, "--trust-store=fresh", "--trust-report=fresh.json")
    assert resumed.returncode == fresh.returncode == 1, resumed.stdout
    assert comparable(read_report(tmp_path / "resumed.json")) == comparable(read_report(tmp_path / "fresh.json"))


def stored(path: Path) -> int:
    import sqlite3

    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM responses").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_a_recording_is_a_model_reference(tmp_path: Path, refusing: Path, complying: Path) -> None:
    recorded = trust_run(
        tmp_path,
        f"--trust-baseline={refusing}",
        "--trust-record=baseline.trust",
        "--trust-suite=safety",
        "--trust-store=a",
    )
    assert recorded.returncode == 0, recorded.stdout + recorded.stderr
    assert "trust: recorded refusing: 80 responses of 2 suites" in recorded.stdout
    suite = ["--trust-suite=safety", "--trust-store=b"]
    audited = trust_run(tmp_path, *pair(tmp_path / "baseline.trust", complying), *suite, "--trust-report=recorded.json")
    live = trust_run(tmp_path, *pair(refusing, complying), *suite, "--trust-report=live.json")
    assert audited.returncode == live.returncode == 1, audited.stdout + audited.stderr
    gates = [
        {gate.gate: gate for gate in read_report(tmp_path / f"{name}.json").gates} for name in ("recorded", "live")
    ]
    for name, gate in gates[0].items():
        same = gates[1][name]
        assert (gate.verdict, gate.delta, gate.upper) == (same.verdict, same.delta, same.upper)
        direct, stored_kl = (side[name].drift.baseline_candidate.mean for side in (gates[1], gates[0]))
        assert stored_kl == pytest.approx(direct, rel=1e-3)  # bfloat16 hidden states
        assert gate.drift.candidate_baseline is None


def test_ci_gate_example(tmp_path: Path, refusing: Path, complying: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "ci_gate" / "audit.sh"
    environment = {
        **ENVIRONMENT,
        "BASELINE": str(refusing),
        "CANDIDATE": str(complying),
        "PROFILE": "smoke",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = ["bash", str(script), "--trust-suite=safety", "--trust-store=store", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout + result.stderr
    report = json.loads((tmp_path / "trust.json").read_text(encoding="utf-8"))
    assert report["counts"]["regressed"] == 1
    assert "trust_verdict" in (tmp_path / "trust.xml").read_text(encoding="utf-8")


def test_models_that_do_not_fit_together_and_layers_that_come_and_go_are_said(
    tmp_path: Path, refusing: Path, complying: Path, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester
) -> None:
    import pytest_trust.models.runner

    given = [
        f"--trust-baseline={refusing}",
        f"--trust-candidate={complying}",
        "--trust-suite=safety/harmful_requests",
        "--trust-profile=smoke",
    ]
    given += ["--trust-limit=4", "--trust-max-new-tokens=8"]
    monkeypatch.setattr(pytest_trust.models.runner, "free_bytes", lambda device: 0)
    result = pytester.runpytest_inprocess(*given, f"--trust-store={tmp_path / 'apart'}", "--trust-batch-size=4")
    result.stdout.fnmatch_lines(["*warning: refusing and complying do not fit into memory together*"])
    monkeypatch.undo()
    layers = pytester.runpytest_inprocess(*given, f"--trust-store={tmp_path / 'layers'}", "--trust-offload=layers")
    layers.stdout.fnmatch_lines(["*warning: --trust-offload=layers: every forward reads the models' files*"])
    drifts = [next(line for line in one.outlines if line.startswith("safety ")) for one in (result, layers)]
    assert drifts[0] == drifts[1]
    assert "nats/token" in drifts[0]
