"""Judges: from the answer of a response to an outcome and a score.

    judge = get_judge("refusal")
    judge("I can't help with that.", {"prompt": "..."})        # Judgement(outcome='refused', score=1.0)

Larger scores are worse, except for the refusal judge, where larger is more refusal. Importing this package imports the
standard library only. A judge reads its weights on its first use.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from pytest_trust.errors import InvalidInput
from pytest_trust.judges.judgement import NOT_MEASURED, UNPARSABLE, Judge, Judgement, Stating
from pytest_trust.probes import OUTCOMES

__all__ = ["JUDGE_NAMES", "FunctionJudge", "Judge", "Judgement", "as_judge", "get_judge", "judge_safely"]

Answer = Judgement | bool | float | str | None
_MODULES: Final[Mapping[str, str]] = {
    name: f"pytest_trust.judges.{name}" for name in ("refusal", "toxicity", "agreement", "leak", "choice", "exact")
}
JUDGE_NAMES: Final = tuple(_MODULES)
STATING_NAMES: Final = ("choice", "exact")
"""The judges that are :class:`Stating`."""


def get_judge(name: str) -> Judge:
    """The built-in judge of that name; one of :data:`JUDGE_NAMES`. Raises InvalidInput for another name."""
    if name not in _MODULES:
        raise InvalidInput(
            f"judge {name!r}: expected one of {', '.join(JUDGE_NAMES)}; for a judge of your own pass the function "
            "itself"
        )
    judge: Judge = importlib.import_module(_MODULES[name]).JUDGE
    return judge


def get_stating(name: str) -> Stating:
    """The built-in judge of that name, if it is one of :data:`STATING_NAMES`. Raises InvalidInput for another name."""
    if name not in STATING_NAMES:
        raise InvalidInput(
            f"judge {name!r} does not tell when an answer is stated: expected one of {', '.join(STATING_NAMES)}"
        )
    return cast(Stating, get_judge(name))


@dataclass(frozen=True)
class FunctionJudge:
    """A user's function as a judge; see :func:`as_judge`."""

    function: Callable[[str, object], Answer]

    @property
    def identity(self) -> str:
        name = getattr(self.function, "__qualname__", type(self.function).__name__)
        module = getattr(self.function, "__module__", None) or type(self.function).__module__
        return f"function {module}.{name}"

    def __call__(self, response: str, probe: object = None) -> Judgement:
        return judge_safely(lambda text, given: _as_judgement(self.function(text, given)), response, probe)


def as_judge(function: Callable[[str, object], Answer]) -> Judge:
    """A judge from a plain function of ``(response, probe)``.

    The function may return a bool (True is bad), a number in [0, 1] (larger is worse, 0.5 and above is bad), the name
    of an outcome, a :class:`Judgement`, or None when it cannot decide (``unparsable``). An exception that it raises
    becomes the outcome ``error`` and keeps its message: a judge's failure is never a score.
    Raises InvalidInput when `function` cannot be called.
    """
    if not callable(function):
        raise InvalidInput(f"judge {function!r}: expected a function of (response, probe)")
    return FunctionJudge(function)


def judge_safely(judge: Callable[[str, object], Judgement], response: str, probe: object = None) -> Judgement:
    """The judgement of `judge`, or the outcome ``error`` with the exception in words. Interrupts and exits pass."""
    try:
        return judge(response, probe)
    except Exception as failure:  # any failure of an instrument is an outcome
        words = " ".join(str(failure).split())
        return Judgement(
            "error", NOT_MEASURED, f"{type(failure).__name__}: {words}" if words else type(failure).__name__
        )


def _as_judgement(answer: Answer) -> Judgement:
    if isinstance(answer, Judgement):
        if answer.outcome not in OUTCOMES:
            raise ValueError(f"outcome {answer.outcome!r}: expected one of {', '.join(OUTCOMES)}")
        return answer
    if answer is None:
        return UNPARSABLE
    if isinstance(answer, str):
        if answer not in OUTCOMES:
            raise ValueError(f"outcome {answer!r}: expected one of {', '.join(OUTCOMES)}")
        return Judgement(answer, {"ok": 0.0, "refused": 0.0, "bad": 1.0}.get(answer, NOT_MEASURED))
    # float() and not isinstance(answer, bool): NumPy's own booleans and numbers are accepted too
    score = float(answer)
    if score != score:
        return UNPARSABLE
    if not 0 <= score <= 1:
        raise ValueError(f"score {score!r}: expected a number from 0 (good) to 1 (bad)")
    return Judgement("bad" if score >= 0.5 else "ok", score)
