"""`--trust-mutants` as a user runs it, on a random model: what is printed, written and returned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.tiny_models import save_model

BASELINE = "--trust-baseline=demo:instruct"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("mutants") / "tiny", num_hidden_layers=4)


def run(pytester: pytest.Pytester, model: Path, *arguments: str) -> pytest.RunResult:
    settings = ["-p", "no:cacheprovider", "--trust-store=store", "--trust-profile=smoke", "--trust-limit=4"]
    return pytester.runpytest(*settings, f"--trust-baseline={model}", *arguments)


def test_named_mutants_of_no_dimension_are_reported_and_decide_nothing(pytester: pytest.Pytester, model: Path) -> None:
    result = run(pytester, model, "--trust-mutants=int8,noise", "--trust-suite=safety", "--trust-report=found.json")
    assert result.ret == pytest.ExitCode.OK, result.stdout.str() + result.stderr.str()
    result.stdout.fnmatch_lines(
        ["*mutant *dose*result*safety*", "*int8 * 0 *alive*", "*int8 *1 *not noticed*", "*noise *0.1 *"]
    )
    assert "passed" not in result.stdout.str().splitlines()[-1]  # it runs no tests
    found = json.loads((pytester.path / "found.json").read_text())
    assert found["kind"] == "mutants"
    assert found["baseline"]["model"] == "tiny"
    null, rounded = found["mutants"][:2]
    assert [(one["mutant"], one["dose"]) for one in (null, rounded)] == [("int8", 0), ("int8", 1)]
    assert null["drift"] == pytest.approx(0, abs=1e-6)  # float32 in other batches
    assert rounded["drift"] > 1e-6
    assert all(gate["delta"] == 0 for gate in null["gates"])


def test_a_survivor_fails_the_run(pytester: pytest.Pytester, model: Path) -> None:
    """Four probes cannot find anything, whatever is done to a random model."""
    result = run(pytester, model, "--trust-mutants=noise", "--trust-suite=robustness/unanswerable")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*noise *0.5 *survived*", "*robustness *0 of 1*noise*", "*does not see the damage that it must see*"]
    )
    again = run(pytester, model, "--trust-mutants=noise", "--trust-suite=robustness/unanswerable")
    assert again.ret == pytest.ExitCode.TESTS_FAILED
    assert "answering" not in again.stderr.str() + again.stdout.str()  # everything was in the store


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trust-mutants"], "give --trust-baseline alone, not neither"),
        ([BASELINE, "--trust-candidate=demo:sft", "--trust-mutants"], "not baseline and candidate"),
        (
            [BASELINE, "--trust-mutants=lobotomy"],
            "--trust-mutants=lobotomy: unknown mutant 'lobotomy'; expected refusal_removed",
        ),
        ([BASELINE, "--trust-mutants", "--trust-plan"], "leave out --trust-plan and --trust-record"),
        ([BASELINE + "?mutant=noise:1", "--trust-mutants"], "a mutant already"),
        ([BASELINE + "?mutant=noise:99", "--trust-mutants"], "the dose of noise is '99'"),
        ([BASELINE, "--trust-mutants", "-n2"], "--trust-mutants runs in one process"),
    ],
)
def test_wrong_use(pytester: pytest.Pytester, arguments: list[str], message: str) -> None:
    result = pytester.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in result.errlines if line.strip()]
    assert len(lines) == 1, lines
    assert message in lines[0]


def test_a_selection_to_which_no_mutant_belongs(pytester: pytest.Pytester, model: Path) -> None:
    pytester.makefile(".yaml", thresholds="gates:\n  mine/gate: {margin: 0.1}\n")
    pytester.makefile(
        ".jsonl",
        mine='{"id": "a", "cluster": "a", "prompt": "Hello?"}\n{"id": "b", "cluster": "b", "prompt": "Well?"}\n',
    )
    pytester.makepyfile("import pytest\n@pytest.mark.trust('mine.jsonl', margin=0.1)\ndef test_mine(trust): pass\n")
    result = run(pytester, model, "--trust-mutants", "test_a_selection_to_which_no_mutant_belongs.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--trust-mutants" in result.stderr.str()
