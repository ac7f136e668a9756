"""Budget forcing: a trace is closed after so many tokens, and the answer has a limit of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_trust.engine.engine import Engine
from pytest_trust.errors import TrustError
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.reasoning import DEFAULT_TAGS, opened_by, split_reasoning
from pytest_trust.responses import Generation, Job, Response
from tests.support.tiny_models import save_model

ASK = tuple(
    Probe(id=f"ask-{index}", cluster=f"ask-{index}", messages=(Message("user", "Is it wrong? " * (index + 1)),))
    for index in range(5)
)
JOB = Job("dim/ask", "generate", ASK, Generation(7))
BUDGET = 6


def answers(
    store: Path, reference: Reference, job: Job, *, shares: bool = True, batch_size: int = 2
) -> dict[str, Response]:
    with Engine(store, batch_size=batch_size) as engine:
        engine.loaded(reference).shares = shares
        engine.acquire([job], [reference])
        return {name: samples[0] for name, samples in engine.model(reference).responses(job).items()}


@pytest.mark.parametrize("shares", [True, False])
def test_an_open_trace_is_closed_and_the_model_answers(base: Path, tmp_path: Path, shares: bool) -> None:
    free = answers(
        tmp_path / "free",
        parse_reference(f"{base}?thinking=on"),
        replace(JOB, generation=Generation(BUDGET)),
        shares=shares,
    )
    forced = answers(tmp_path / "forced", parse_reference(f"{base}?thinking={BUDGET}"), JOB, shares=shares)
    assert sum(one.closed for one in forced.values()) >= 3
    for name, one in forced.items():
        # Up to the budget nothing is different.
        assert one.token_ids[: len(free[name].token_ids)] == free[name].token_ids
        if not one.closed:
            continue
        assert one.complete
        assert "</think>" in one.text
        assert one.reasoning == free[name].text.strip()
        tag = len(one.token_ids) - BUDGET - 7
        assert one.finish_reason == "stop" or tag > 0  # what is beyond both limits is the closing tag


def test_the_batch_does_not_matter_and_neither_does_the_path(base: Path, tmp_path: Path) -> None:
    reference = parse_reference(f"{base}?thinking={BUDGET}")
    one, all_, general = (
        answers(tmp_path / name, reference, JOB, batch_size=size, shares=shares)
        for name, size, shares in (("one", 1, True), ("all", 5, True), ("general", 5, False))
    )
    assert one == all_ == general


def test_without_a_trace_the_budget_takes_nothing_from_the_answer(base: Path, tmp_path: Path) -> None:
    reference = parse_reference(str(base))
    for budget in (2, 7, 20):  # below, at and above the answer's limit
        forced = answers(
            tmp_path / f"budget{budget}", reference, replace(JOB, generation=Generation(7, reasoning_budget=budget))
        )
        plain = answers(tmp_path / "plain", reference, JOB)
        assert {name: one.token_ids for name, one in forced.items()} == {
            name: one.token_ids for name, one in plain.items()
        }
        assert not any(one.closed for one in forced.values())


def test_samples_with_a_budget_are_their_own(base: Path, tmp_path: Path) -> None:
    """Another budget is another response, and a greedy key without a budget is what it was."""
    job = replace(JOB, generation=Generation(5, temperature=1.0, seed=3))
    short, long = (answers(tmp_path, parse_reference(f"{base}?thinking={budget}"), job) for budget in (2, 9))
    assert short != long
    assert short == answers(tmp_path / "again", parse_reference(f"{base}?thinking=2"), job)


SEPARATE = replace(JOB, generation=Generation(7, reasoning_budget=12, closes=False))


def test_separate_limits_close_nothing(base: Path, tmp_path: Path) -> None:
    """Trace and answer have a limit each. A trace that reaches its limit is truncated, and its response ends there."""
    thinking = parse_reference(f"{base}?thinking=on")
    found = answers(tmp_path / "separate", thinking, SEPARATE)
    free = answers(tmp_path / "free", thinking, replace(JOB, generation=Generation(12)))
    assert any(not one.complete for one in found.values())
    for name, one in found.items():
        assert not one.closed
        if not one.complete:
            assert one.token_ids == free[name].token_ids
    plain = parse_reference(str(base))
    without = answers(tmp_path / "without", plain, SEPARATE)
    assert {name: one.token_ids for name, one in without.items()} == {
        name: one.token_ids for name, one in answers(tmp_path / "plain", plain, JOB).items()
    }


@pytest.mark.parametrize(("limit", "budget"), [(3, 12), (12, 3)])
def test_an_answer_has_its_limit_after_a_trace_of_any_length(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, budget: int
) -> None:
    """Told by a model that writes a short trace and then without end."""
    from types import SimpleNamespace
    from typing import Any

    from transformers import AutoTokenizer

    from pytest_trust.models import reasoning_budget as module
    from pytest_trust.models.generation import Row

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<think>", "</think>"])
    loaded: Any = SimpleNamespace(tokenizer=tokenizer, eos_ids=frozenset({tokenizer.eos_token_id}))
    script = tokenizer("<think>a</think>" + "b" * 40, add_special_tokens=False)["input_ids"]

    def general(runner: Any, rows: list[Row], generation: Generation) -> list[list[int]]:
        return [script[len(row.read) - 1 :][: generation.max_new_tokens] for row in rows]

    monkeypatch.setattr("pytest_trust.models.generation._generate_general", general)
    for closes in (True, False):
        generation = Generation(limit, reasoning_budget=budget, closes=closes)
        runner: Any = SimpleNamespace(loaded=loaded, shares=False)
        (((number, made),),) = [
            part for part in module.responses(runner, [Row((5,))], [""], generation, DEFAULT_TAGS) if part
        ]
        assert number == 0
        assert made.response.text == "<think>a</think>" + "b" * limit
        assert not made.closed


@pytest.mark.parametrize("pair", DEFAULT_TAGS)
def test_every_format_is_closed_by_its_own_tag(pair: tuple[str, str]) -> None:
    opened = split_reasoning(f"{pair[0]} so first")
    assert not opened.complete
    closed = split_reasoning(f"{pair[0]} so first\n{opened.closing}\n done")
    assert (closed.reasoning, closed.answer, closed.complete) == ("so first", "done", True)
    assert closed.closing == ""
    by_template = opened_by(f"<|im_start|>assistant\n{pair[0]}\n")
    closed = split_reasoning(f"so first\n{by_template}\n done", opened_by_template=True)
    assert (closed.reasoning, closed.answer, closed.complete) == ("so first", "done", True)


def test_a_template_that_knows_no_thinking_is_refused(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    reference = parse_reference(f"{save_model(tmp_path / 'model', template=template)}?thinking=on")
    with Engine(tmp_path / "store") as engine, pytest.raises(TrustError, match="no switch for thinking") as error:
        engine.acquire([JOB], [reference])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["0", "-3", "2.5", "maybe"])
def test_a_wrong_budget_is_refused(value: str) -> None:
    with pytest.raises(TrustError, match="expected on, off, low, medium, high, or the number of tokens"):
        parse_reference(f"org/name?thinking={value}")
