"""Judgements from the store: the judge is asked again for another answer, probe or judge, and after a failure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_trust.audit.judgement_cache import Remembered
from pytest_trust.engine.store import Store
from pytest_trust.judges import Judgement
from pytest_trust.probes import Probe
from pytest_trust.responses import Response

PROBE = Probe(id="a", cluster="a", text="Who?", secrets=("42",))


@dataclass
class Counting:
    identity: str = "counting 1"
    asked: list[str] = field(default_factory=list)

    def __call__(self, response: str, probe: object = None) -> Judgement:
        self.asked.append(response)
        if response == "fail":
            return Judgement("error", math.nan, "no idea")
        return Judgement("unparsable", math.nan) if response == "?" else Judgement("bad", 0.75)


def answer(text: str) -> Response:
    return Response(text, (1,), "stop", "", text, True, 3)


def ask(judge: Counting, store: Store, *texts: str, probe: Probe = PROBE) -> list[Judgement]:
    with Remembered(judge, store, [probe], {probe.id: tuple(map(answer, texts))}) as remembered:
        return [remembered(text, probe) for text in texts]


def test_a_judgement_is_asked_for_once(tmp_path: Path) -> None:
    judge = Counting()
    with Store(tmp_path) as store:
        first = ask(judge, store, "yes", "yes", "?")
        again = ask(judge, store, "yes", "?")
    assert judge.asked == ["yes", "?"]
    assert again[0] == first[0] == Judgement("bad", 0.75)
    assert again[1].outcome == "unparsable" and math.isnan(again[1].score)


def test_another_answer_probe_or_judge_is_asked(tmp_path: Path) -> None:
    judge, other = Counting(), Counting(identity="counting 2")
    with Store(tmp_path) as store:
        ask(judge, store, "yes")
        ask(judge, store, "no")
        ask(judge, store, "yes", probe=replace(PROBE, secrets=("43",)))
        ask(other, store, "yes")
    assert (judge.asked, other.asked) == (["yes", "no", "yes"], ["yes"])


def test_a_failure_is_not_remembered(tmp_path: Path) -> None:
    judge = Counting()
    with Store(tmp_path) as store:
        assert [ask(judge, store, "fail")[0].outcome for _ in range(2)] == ["error", "error"]
    assert judge.asked == ["fail", "fail"]
