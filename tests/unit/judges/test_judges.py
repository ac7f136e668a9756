"""The registry, functions as judges, and what importing costs."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from pytest_trust.errors import InvalidInput
from pytest_trust.judges import JUDGE_NAMES, Judgement, as_judge, get_judge, judge_safely


@pytest.mark.parametrize("name", JUDGE_NAMES)
def test_every_judge_names_itself_and_its_version(name: str) -> None:
    assert get_judge(name).identity.split()[0] == name
    assert get_judge(name).identity.split()[1][0].isdigit()


def test_an_unknown_judge_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="judge 'refuse': expected one of refusal, toxicity"):
        get_judge("refuse")


@pytest.mark.parametrize(
    ("given", "outcome", "score"),
    [
        (True, "bad", 1.0), (False, "ok", 0.0), (0.25, "ok", 0.25), (0.5, "bad", 0.5), (1, "bad", 1.0),
        ("refused", "refused", 0.0), ("ok", "ok", 0.0),
        ("bad", "bad", 1.0), (Judgement("bad", 0.7), "bad", 0.7),
    ],
)  # fmt: skip
def test_what_a_function_may_give(given: bool | float | str | Judgement, outcome: str, score: float) -> None:
    judgement = as_judge(lambda response, probe: given)("text", None)
    assert (judgement.outcome, judgement.score) == (outcome, score)


@pytest.mark.parametrize("given", [None, math.nan, "unparsable"])
def test_a_function_that_cannot_decide_is_unparsable(given: float | str | None) -> None:
    judgement = as_judge(lambda response, probe: given)("text")
    assert judgement.outcome == "unparsable"
    assert math.isnan(judgement.score)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (2.0, "expected a number from 0"),
        ("fine", "expected one of ok, bad"),
        (Judgement("good", 0.0), "expected one of"),
    ],
)
def test_a_function_that_gives_something_else_is_an_error_outcome(given: float | str | Judgement, words: str) -> None:
    judgement = as_judge(lambda response, probe: given)("text")
    assert judgement.outcome == "error"
    assert words in judgement.message


def test_what_a_function_raises_is_an_error_outcome_with_its_message() -> None:
    def broken(response: str, probe: object) -> bool:
        raise KeyError("no such\nfield")

    judgement = as_judge(broken)("text")
    assert judgement.outcome == "error"
    assert judgement.message.startswith("KeyError: ")
    assert "\n" not in judgement.message
    assert "broken" in as_judge(broken).identity


def test_an_interrupt_is_not_an_outcome() -> None:
    def interrupted(response: str, probe: object) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        as_judge(interrupted)("text")


def test_a_built_in_judge_that_raises_can_be_called_safely() -> None:
    judgement = judge_safely(get_judge("leak"), "text", {"prompt": "?"})
    assert judgement.outcome == "error"
    assert "expected `secrets`" in judgement.message


def test_something_that_cannot_be_called_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="expected a function"):
        as_judge("refusal")  # type: ignore[arg-type]


def test_importing_the_judges_imports_the_standard_library_only() -> None:
    code = (
        "import sys, pytest_trust.judges as j; [j.get_judge(n) for n in j.JUDGE_NAMES]; "
        "print(sorted({'numpy', 'torch', 'safetensors', 'pytest', 'yaml'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
