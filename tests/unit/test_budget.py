"""Budget forcing: a trace is closed after so many tokens, and the answer has a limit of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_trust.acquisition import Engine
from pytest_trust.errors import TrustError
from pytest_trust.jobs import Generation, Job, Response
from pytest_trust.probes import Message, Probe
from pytest_trust.reasoning import DEFAULT_TAGS, opened_by, split_reasoning
from pytest_trust.references import Reference, parse_reference
from tests.tiny_models import save_model

ASK = tuple(
    Probe(id=f"ask-{index}", cluster=f"ask-{index}", messages=(Message("user", "Is it wrong? " * (index + 1)),)) for index in range(5)
)
JOB = Job("dim/ask", "generate", ASK, Generation(7))
BUDGET = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "base")


def answers(store: Path, reference: Reference, job: Job, *, shares: bool = True, batch_size: int = 2) -> dict[str, Response]:
    with Engine(store=store, batch_size=batch_size) as engine:
        engine.runner(reference).shares = shares
        engine.acquire_side([job], reference)
        return {name: samples[0] for name, samples in engine.responses(reference, job).items()}


@pytest.mark.parametrize("shares", [True, False])
def test_an_open_trace_is_closed_and_the_model_answers(base: Path, tmp_path: Path, shares: bool) -> None:
    free = answers(tmp_path / "free", parse_reference(f"{base}?thinking=on"), replace(JOB, generation=Generation(BUDGET)), shares=shares)
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
        forced = answers(tmp_path / f"budget{budget}", reference, replace(JOB, generation=Generation(7, reasoning_budget=budget)))
        plain = answers(tmp_path / "plain", reference, JOB)
        assert {name: one.token_ids for name, one in forced.items()} == {name: one.token_ids for name, one in plain.items()}
        assert not any(one.closed for one in forced.values())


def test_samples_with_a_budget_are_their_own(base: Path, tmp_path: Path) -> None:
    """Another budget is another response, and a greedy key without a budget is what it was."""
    job = replace(JOB, generation=Generation(5, temperature=1.0, seed=3))
    short, long = (answers(tmp_path, parse_reference(f"{base}?thinking={budget}"), job) for budget in (2, 9))
    assert short != long
    assert short == answers(tmp_path / "again", parse_reference(f"{base}?thinking=2"), job)


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
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    reference = parse_reference(f"{save_model(tmp_path / 'model', template=template)}?thinking=on")
    with Engine(store=tmp_path / "store") as engine, pytest.raises(TrustError, match="no switch for thinking") as error:
        engine.acquire_side([JOB], reference)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["0", "-3", "2.5", "maybe"])
def test_a_wrong_budget_is_refused(value: str) -> None:
    with pytest.raises(TrustError, match="expected on or off, or the number of tokens"):
        parse_reference(f"org/name?thinking={value}")
