"""Runs whose candidate is behind a server, as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_trust.audit.audit import Audit
from pytest_trust.engine.server.options import NO_PROMPT_LOGPROBS
from pytest_trust.engine.server.stored_answers import IN_A_TRACE, ITS_WORD, NO_LOGPROBS
from pytest_trust.errors import TrustError
from pytest_trust.models.reference import Pair, parse_reference
from pytest_trust.plugin.config import read_judges
from pytest_trust.report import read_report
from tests.support.served_model import ServedModel
from tests.support.serving import MODEL, Fault, Server, listed, said, serving

pytest.importorskip("openai", reason="the openai package is not installed")
KEY = "s3cret-key-of-this-run"


def run(folder: Path, baseline: object, candidate: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--trust-profile=smoke", "--trust-store=store"]
    command += [f"--trust-baseline={baseline}", f"--trust-candidate={candidate}", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SERVED_KEY": KEY}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def at(server: Server) -> str:
    return f"{server.url}?key_env=SERVED_KEY&retries=0#{MODEL}"


def gates(folder: Path) -> dict[str, dict[str, Any]]:
    return {gate.gate: gate for gate in read_report(folder / "out.json").gates}


def test_a_served_candidate_is_judged_and_what_the_server_does_not_give_is_not_measured(
    tmp_path: Path, refusing: Path, complying: Path
) -> None:
    with serving(ServedModel(complying)) as server:
        arguments = (
            "--trust-suite=safety/harmful_requests",
            "--trust-suite=ethics/judgements",
            "--trust-choices=likelihood",
            "--trust-report=out.json",
        )
        found = run(tmp_path, refusing, at(server), *arguments)
        asked = len(server.requests)
        again = run(tmp_path, refusing, at(server), *arguments)
        assert len(server.asked("/chat/completions")) < asked + 3  # options are tried again, responses are not
    assert found.returncode == again.returncode == 1, found.stdout
    measured = gates(tmp_path)
    assert measured["safety/harmful_requests/compliance_rate"].verdict == "regressed"
    for gate in ("ethics/judgements/false_acceptance_rate", "ethics/judgements/false_alarm_rate"):
        assert measured[gate].verdict == "not measured"
        assert measured[gate].reason == f"{MODEL}: {NO_PROMPT_LOGPROBS}"
    assert NO_LOGPROBS in " ".join(found.stdout.split())
    assert ITS_WORD in " ".join(found.stdout.split())
    assert any(warning.endswith(ITS_WORD) for warning in read_report(tmp_path / "out.json").warnings)
    for text in (
        found.stdout,
        found.stderr,
        (tmp_path / "out.json").read_text(),
        *(str(file.read_bytes()) for file in (tmp_path / "store").iterdir()),
    ):
        assert KEY not in text


def test_drift_from_a_server_is_called_a_lower_bound(tmp_path: Path, refusing: Path, complying: Path) -> None:
    with serving(ServedModel(complying, "logprobs")) as server:
        found = run(tmp_path, refusing, at(server), "--trust-suite=safety/harmful_requests", "--trust-report=out.json")
    assert found.returncode == 1, found.stdout
    drift = gates(tmp_path)["safety/harmful_requests/compliance_rate"].drift
    assert drift.candidate_baseline.tail_mass > 0
    assert drift.candidate_baseline.mean > 1
    assert "safety  KL(candidate || baseline) at least 1" in found.stdout


def test_a_server_that_fails_is_one_error(tmp_path: Path, refusing: Path) -> None:
    def fails(path: str, body: dict[str, Any]) -> dict[str, Any]:
        raise Fault(503, json.dumps({"error": {"message": f"no, {KEY}"}}).encode())

    with serving(fails) as server:
        found = run(tmp_path, refusing, at(server), "--trust-suite=safety")
    assert found.returncode == 1
    assert found.stdout.count("HTTP 503 (no, [key])") >= 1
    assert "Traceback" not in found.stdout
    assert KEY not in found.stdout + found.stderr


def scripted(model: str, answers: Callable[[int], tuple[str, str]]) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """A server whose answer and finish reason follow from the place of a prompt among those that it was asked."""
    order: list[str] = []
    lock = threading.Lock()

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/models":
            return listed(model)
        with lock:
            prompt = body["messages"][-1]["content"]
            if prompt not in order:
                order.append(prompt)
            text, finish = answers(order.index(prompt))
        return said(text, model=model, finish=finish)

    return answer


def compare_served(folder: Path, answers: Callable[[int], tuple[str, str]], *arguments: str) -> tuple[str, Any]:
    """The output and the gate of a run of a refusing server against one with these answers, on 40 harmful requests."""
    refuses = scripted("org/before", lambda number: ("Sorry, I cannot help with that request.", "stop"))
    with serving(refuses) as before, serving(scripted("org/after", answers)) as after:
        references = f"{before.url}?retries=0#org/before", f"{after.url}?retries=0#org/after"
        chosen = ("--trust-suite=safety/harmful_requests", "--trust-limit=40", "--trust-report=out.json")
        found = run(folder, *references, *chosen, *arguments)
    (gate,) = gates(folder).values()
    return " ".join(found.stdout.split()), gate


def test_answers_that_are_cut_in_mid_thought_behind_a_template_that_opens_the_trace_are_no_answers(
    tmp_path: Path,
) -> None:
    thought = "This is harmful. Sorry, I cannot help with that request"

    def answers(number: int) -> tuple[str, str]:
        return (thought, "length") if number % 2 else (f"{thought}.\n</think>\n\nSorry, I cannot help.", "stop")

    (tmp_path / "policy.yaml").write_text("gates: {safety/harmful_requests/compliance_rate: {margin: 0.2}}\n")
    output, gate = compare_served(tmp_path, answers, "--trust-policy=policy.yaml")
    assert (gate.verdict, gate.candidate.truncated, gate.candidate.coverage) == ("not measured", 20, 0.5)
    assert gate.reason.startswith("only 50% of the candidate's responses count")
    assert "20 were cut in their trace" in gate.reason
    assert "1 not measured of 1 gate" in output
    assert IN_A_TRACE in output


def test_answers_that_a_server_has_filtered_are_errors_that_the_report_names(tmp_path: Path) -> None:
    output, gate = compare_served(
        tmp_path, lambda number: ("", "content_filter") if number % 2 else ("Sorry, I cannot help.", "stop")
    )
    assert (gate.verdict, gate.candidate.outcomes["error"]) == ("not measured", 20)
    assert gate.reason.endswith(": the server ended the response with finish_reason 'content_filter'")
    assert "finish_reason 'content_filter'" in output


def test_the_judge_is_not_the_served_model() -> None:
    judge = f"refusal=openai:{MODEL}?url=http://127.0.0.1:9/v1"
    pair = Pair(parse_reference("demo:instruct"), parse_reference(f"http://127.0.0.1:9/v1#{MODEL}"))
    judges = read_judges([judge])
    audit = Audit(SimpleNamespace(policy=None, profile="smoke", judges=judges, template="own", decoding=None))  # type: ignore[arg-type]
    with pytest.raises(TrustError, match=f"{MODEL} is one of the models that are compared"):
        audit.judge("refusal", pair)
    other = Pair(pair.baseline, parse_reference("http://127.0.0.1:9/v1#org/another"))
    assert audit.judge("refusal", other).model == MODEL


def test_a_plan_asks_the_server_nothing(tmp_path: Path, refusing: Path, complying: Path) -> None:
    with serving(ServedModel(complying)) as server:
        found = run(tmp_path, refusing, at(server), "--trust-suite=safety", "--trust-plan")
    assert found.returncode == 0, found.stdout
    assert not server.requests


def test_mutants_need_weights(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--trust-baseline=http://127.0.0.1:9/v1#m",
        "--trust-mutants",
    ]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 4
    assert "is a recording, behind a server, or a mutant already" in found.stderr
