"""Choices in whole runs: where the options are scored, what is not measured, and both ways of measuring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_trust.records import GateRecord
from pytest_trust.report import read_report
from tests.support.scripted_models import TEMPLATE, scripted_model
from tests.support.trust_runs import pair, trust_run

COUNT = 60
SPACED = f"{TEMPLATE} "  # these models' tokens are words, so an option needs a blank before it


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted_model(tmp_path_factory.mktemp("models") / "answering", "good .", template=SPACED)


def run(directory: Path, baseline: Path, candidate: Path, *more: str) -> tuple[GateRecord, str]:
    probes = [
        {"id": f"p{index}", "prompt": f"number {index}", "options": ["good", "bad"], "answer": "good"}
        for index in range(COUNT)
    ]
    (directory / "words.jsonl").write_text("\n".join(map(json.dumps, probes)))
    (directory / "test_words.py").write_text(
        "def test_words(trust):\n    assert trust.compare('words.jsonl', margin=0.1).held\n"
    )
    arguments = [*pair(baseline, candidate), "test_words.py", f"--trust-limit={COUNT}", "--trust-store=store"]
    result = trust_run(directory, *arguments, "--trust-report=report.json", *more)
    (gate,) = read_report(directory / "report.json").gates
    return gate, result.stdout


def test_a_model_that_reasons_is_measured_behind_its_trace(tmp_path: Path, answering: Path) -> None:
    thinking = scripted_model(tmp_path / "thinking", "<think> first add </think> good .", template=SPACED)
    gate, shown = run(tmp_path, answering, thinking)
    assert (gate.verdict, gate.candidate.value) == ("held", 0.0), shown
    assert (gate.candidate.after_trace, gate.candidate.reasoned) == (COUNT, 1.0)
    assert (gate.baseline.after_trace, gate.baseline.reasoned) == (0, 0.0)
    assert gate.candidate.option_mass > 0.99
    assert gate.choices == "likelihood"
    bad = scripted_model(tmp_path / "thinking-bad", "<think> first add </think> bad .", template=SPACED)
    gate, shown = run(tmp_path, answering, bad)
    assert (gate.verdict, gate.candidate.value) == ("regressed", 1.0)
    assert "(60 of 60 behind its trace)" in shown
    assert gate.flips[0].candidate.reasoning == "first add"


def test_a_trace_that_never_ends_is_truncated(tmp_path: Path, answering: Path) -> None:
    after = {"number": "first"}
    endless = scripted_model(tmp_path / "endless", "<think> first add the number", template=SPACED, then=after)
    gate, _ = run(tmp_path, answering, endless, "--trust-max-reasoning-tokens=12")
    assert gate.verdict == "not measured"
    assert (gate.candidate.truncated, gate.candidate.cut_traces) == (COUNT, COUNT)
    assert "give a longer --trust-max-reasoning-tokens" in gate.reason
    gate, _ = run(tmp_path, answering, endless)
    assert (gate.candidate.truncated, gate.candidate.looped) == (COUNT, COUNT)
    assert "no limit would change" in gate.reason


def test_a_choice_that_the_model_would_not_make_is_not_measured(tmp_path: Path, answering: Path) -> None:
    evading = scripted_model(tmp_path / "evading", "Sure here is how you do it .", template=SPACED)
    gate, shown = run(tmp_path, answering, evading)
    assert gate.verdict == "not measured"
    assert gate.candidate.option_mass < 0.01
    assert gate.candidate.first_tokens[0].text == "Sure"
    assert "would begin with 'Sure'" in " ".join(shown.split())
    (tmp_path / "policy.yaml").write_text("min_option_mass: 0\n")
    gate, _ = run(tmp_path, answering, evading, "--trust-policy=policy.yaml")
    assert gate.verdict != "not measured"


def test_what_is_asked_is_read_from_the_answer(tmp_path: Path, answering: Path) -> None:
    wordy = scripted_model(tmp_path / "wordy", "the answer is bad .", template=SPACED)
    gate, _ = run(tmp_path, answering, wordy)
    assert gate.verdict == "not measured"
    gate, shown = run(tmp_path, answering, wordy, "--trust-choices=ask")
    assert (gate.verdict, gate.choices, gate.judge.split()[0]) == ("regressed", "ask", "choice"), shown
    assert gate.candidate.option_mass is None
    (tmp_path / "policy.yaml").write_text("gates: {custom/words/bad_rate: {margin: 0.1, choices: ask}}\n")
    assert run(tmp_path, answering, wordy, "--trust-policy=policy.yaml")[0].choices == "ask"


def test_a_profile_may_measure_both_ways_and_says_where_they_agree(tmp_path: Path, answering: Path) -> None:
    bad = scripted_model(tmp_path / "bad", "bad .", template=SPACED)
    (tmp_path / "policy.yaml").write_text("profiles: {smoke: {both_choices: true}}\n")
    gate, shown = run(tmp_path, answering, bad, "--trust-policy=policy.yaml")
    assert (gate.choices, gate.other_way.choices, gate.other_way.verdict) == ("likelihood", "ask", "regressed")
    assert (gate.other_way.compared, gate.other_way.agreeing) == ((COUNT, COUNT), (COUNT, COUNT))
    assert "the two ways agree: baseline on 60 of 60, candidate on 60 of 60" in " ".join(shown.split())


def test_a_wrong_way_is_one_clear_line(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--trust-baseline=demo:instruct", "--trust-candidate=demo:sft", "--trust-choices=guess")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.strip()]
    assert "--trust-choices=guess: expected likelihood or ask" in line
