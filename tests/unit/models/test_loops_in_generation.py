"""Responses that loop are stopped, are the beginning of what would have been generated, and count as truncated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_trust.engine.engine import Engine
from pytest_trust.judges import get_judge
from pytest_trust.judges.samples import judge_responses
from pytest_trust.models import generation as module
from pytest_trust.models.generation import Row, generate
from pytest_trust.models.loops import LoopRule
from pytest_trust.models.memory import BatchLimits
from pytest_trust.models.reasoning_budget import responses
from pytest_trust.models.reference import parse_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.reasoning import DEFAULT_TAGS
from pytest_trust.responses import Generation, Job, Response
from tests.support.scripted_models import scripted_model
from tests.support.tiny_models import save_model

SMALL = LoopRule(repeats=3, tokens=12, longest=8, look_every=4)
NEVER = LoopRule(repeats=3, tokens=10**9, longest=8)
PROMPTS = [tuple((7 * index + 11 * place) % 390 + 5 for place in range(9 + index)) for index in range(24)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from pytest_trust.models.loading import load_model
    from pytest_trust.models.runner import Runner

    # half of what a model with such weights says loops, with blocks of 1 to 5 tokens
    directory = save_model(tmp_path_factory.mktemp("llama") / "m", initializer_range=0.1)
    return Runner(load_model(parse_reference(str(directory)), cache=directory.parent / "store"))


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.15, "seed": 3}], ids=["greedy", "sampled"])
def test_a_stopped_response_is_the_beginning_of_the_one_without_a_stop(
    llama: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    rows = [Row(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    generation = Generation(64, **settings)
    monkeypatch.setattr(module, "RULE", NEVER)
    whole = generate(llama, rows, generation)
    monkeypatch.setattr(module, "RULE", SMALL)
    for shares in (True, False):
        monkeypatch.setattr(llama, "shares", shares)
        for limits in (None, BatchLimits(5, 10**6)):
            made = generate(llama, rows, generation, limits)
            assert 3 <= [one.finish_reason for one in made].count("loop") < len(made)
            for free, one in zip(whole, made, strict=True):
                assert one.token_ids == free.token_ids[: SMALL.stop(free.token_ids)]
                assert free.finish_reason == "length" or one == free
                assert (one.finish_reason == "loop") == (SMALL.block(one.token_ids) > 0)


def test_transformers_own_generate_does_not_go_on_with_rows_that_loop(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RULE", SMALL)
    rows = [Row(prompt) for prompt in PROMPTS]
    made = generate(llama, rows, Generation(64))
    looping = [row for row, one in zip(rows, made, strict=True) if one.finish_reason == "loop"]
    longest = max(len(one.token_ids) for one in made if one.finish_reason == "loop")
    steps: list[int] = []
    body = llama.model.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        return body(*args, **kwargs)

    monkeypatch.setattr(llama, "shares", False)
    monkeypatch.setattr(llama.model, "forward", counting)
    generate(llama, looping, Generation(200))
    assert len(steps) == longest < 64


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Says what `script` says, character by character; `<think>` and `</think>` are tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(save_model(tmp_path_factory.mktemp("written") / "m"))
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def say(
    tokenizer: Any, script: str, generation: Generation, monkeypatch: pytest.MonkeyPatch, rule: LoopRule = SMALL
) -> Any:
    ids = tokenizer(script, add_special_tokens=False)["input_ids"]
    loaded: Any = SimpleNamespace(tokenizer=tokenizer, eos_ids=frozenset({tokenizer.eos_token_id}))

    def general(runner: Any, rows: list[Row], generation: Generation) -> list[list[int]]:
        return [ids[len(row.read) - 1 :][: generation.max_new_tokens] for row in rows]

    monkeypatch.setattr(module, "_generate_general", general)
    monkeypatch.setattr(module, "RULE", rule)
    runner: Any = SimpleNamespace(loaded=loaded, shares=False)
    made = [one for part in responses(runner, [Row((5,))], [""], generation, DEFAULT_TAGS) for one in part]
    return made[0][1]


LOOPING_TRACE = "<think>" + "ab" * 100
LOOPING_ANSWER = "<think>so</think>" + "ab" * 100


def test_a_trace_that_loops_ends_its_response_where_nothing_closes_it(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for generation in (Generation(60), Generation(8, reasoning_budget=60, closes=False)):
        free = say(written, LOOPING_TRACE, generation, monkeypatch, NEVER).response
        made = say(written, LOOPING_TRACE, generation, monkeypatch).response
        assert (free.finish_reason, made.finish_reason) == ("length", "loop")
        assert len(made.token_ids) < len(free.token_ids)
        assert made.token_ids == free.token_ids[: len(made.token_ids)]


def test_a_trace_that_its_budget_closes_gets_to_its_answer_though_it_loops(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who gives a budget asks for an answer after it; a stored response of this kind stays what it was."""
    generation = Generation(8, reasoning_budget=60)
    made = say(written, LOOPING_TRACE, generation, monkeypatch)
    assert made == say(written, LOOPING_TRACE, generation, monkeypatch, NEVER)
    assert made.closed
    assert made.response.finish_reason == "length"


@pytest.mark.parametrize(("limit", "budget"), [(60, None), (60, 200), (60, 5), (4, 60)])
@pytest.mark.parametrize("closes", [True, False])
def test_an_answer_that_loops_is_stopped_within_its_limit(
    written: Any, monkeypatch: pytest.MonkeyPatch, limit: int, budget: int | None, closes: bool
) -> None:
    """Beyond its limit it was cut before it looped."""
    generation = Generation(limit, reasoning_budget=budget, closes=closes)
    free = say(written, LOOPING_ANSWER, generation, monkeypatch, NEVER)
    made = say(written, LOOPING_ANSWER, generation, monkeypatch)
    assert not made.closed
    if limit == 4:
        assert made == free
        assert made.response.text == "<think>so</think>" + "ab" * 2
        return
    assert (free.response.finish_reason, made.response.finish_reason) == ("length", "loop")
    assert len(made.response.token_ids) < len(free.response.token_ids)
    assert free.response.text.startswith(made.response.text)


def test_the_next_turn_of_the_plain_format_ends_a_response_before_its_loop(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = written("so.\nUser:" + "ab" * 40, add_special_tokens=False)["input_ids"]
    loaded: Any = SimpleNamespace(tokenizer=written, eos_ids=frozenset({written.eos_token_id}))
    monkeypatch.setattr(module, "_LOOK_EVERY", 1000)  # so that the loop is seen first
    monkeypatch.setattr(module, "RULE", SMALL)
    monkeypatch.setattr(module, "_generate_general", lambda runner, rows, generation: [ids])
    runner: Any = SimpleNamespace(loaded=loaded, shares=False)
    (made,) = generate(runner, [Row((5,), plain=True)], Generation(len(ids)))
    assert (made.text, made.finish_reason) == ("so.", "stop")


def test_what_looped_is_truncated_with_and_without_a_trace() -> None:
    probe = Probe(id="p", cluster="p", messages=(Message("user", "ask"),))
    response = Response("I agree. " * 40, (1,) * 120, "loop", "", "I agree. " * 40, True, 3)
    for name in ("agreement", "refusal", "exact"):
        for one in (response, replace(response, reasoning="so", answer="", complete=False)):
            ((sample,),) = judge_responses(get_judge(name), name, [probe], {"p": (one,)}).values()
            assert (sample.outcome, sample.looped) == ("truncated", True)
            assert sample.score != sample.score
    ((cut,),) = judge_responses(
        get_judge("agreement"), "agreement", [probe], {"p": (replace(response, finish_reason="length"),)}
    ).values()
    assert (cut.outcome, cut.looped) == ("bad", False)


def test_a_run_stores_what_looped_and_reads_it_again(tmp_path: Path) -> None:
    """With the rule as it ships, on a model that says one sentence for ever."""
    model = parse_reference(str(scripted_model(tmp_path / "model", "first add the number", then={"number": "first"})))
    probe = Probe(id="p", cluster="p", messages=(Message("user", "ask"),))
    job = Job("dim/ask", "generate", (probe,), Generation(1000))
    with Engine(tmp_path / "store") as engine:
        engine.acquire([job], [model])
        ((made,),) = engine.model(model).responses(job).values()
    assert made.finish_reason == "loop"
    assert module.RULE.tokens <= len(made.token_ids) < 1000
    with Engine(tmp_path / "store") as engine:
        ((again,),) = engine.model(model).responses(job).values()
    assert again == made
