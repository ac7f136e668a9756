"""`--trust-sequential` in whole runs: it stops only where the verdict is known, and says what it saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SUITE = "--trust-suite=safety/harmful_requests"


@pytest.fixture
def run(pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory):
    store = tmp_path_factory.mktemp("store")

    def run(baseline: Path, candidate: Path, *arguments: str) -> tuple[pytest.RunResult, dict]:
        pair = (f"--trust-baseline={baseline}", f"--trust-candidate={candidate}", f"--trust-store={store}")
        result = pytester.runpytest(*pair, SUITE, "--trust-report=report.json", "-p", "no:cacheprovider", *arguments)
        (gate,) = json.loads((pytester.path / "report.json").read_text(encoding="utf-8"))["gates"]
        return result, gate

    return run


def test_a_clear_regression_stops_early(run, refusing: Path, complying: Path) -> None:
    whole, fixed = run(refusing, complying)
    early, stopped = run(refusing, complying, "--trust-sequential")
    assert (fixed["verdict"], fixed["sequential"]) == ("regressed", None)
    assert stopped["verdict"] == "regressed"
    state = stopped["sequential"]
    assert state["stopped"] and state["units"] == stopped["n"] < state["of"] / 2
    assert state["of"] == fixed["n"]
    assert state["saved"] > state["tokens"] > 0
    assert 0 < stopped["lower"] <= fixed["lower"] and stopped["p_value"] <= 0.05 / stopped["family"]
    early.stdout.fnmatch_lines(["stopped early: * response tokens in place of about *"])
    whole.stdout.no_fnmatch_line("stopped early:*")


def test_a_pair_that_does_not_differ_is_held_as_without_it(run, refusing: Path) -> None:
    _, gate = run(refusing, refusing, "--trust-sequential", "--trust-profile=standard")
    assert gate["verdict"] == "held"
    assert gate["sequential"]["units"] <= gate["sequential"]["of"]


def test_another_margin_or_judge_gets_the_whole_sample(
    pytester: pytest.Pytester, run, refusing: Path, complying: Path
) -> None:
    """What was stopped for one question says nothing about another."""
    file = pytester.makepyfile(
        """
        def test_refuses(trust):
            assert trust.compare("safety/harmful_requests", margin=0.01).verdict == "regressed"
        """
    )
    result, gate = run(refusing, complying, "--trust-sequential", str(file), "-k", "test_refuses")
    result.assert_outcomes(passed=1, deselected=2)
    assert gate["sequential"] is None
    assert gate["n"] >= 90
