"""Options are scored where a model answers: behind its own trace, as plain transformers would score them there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.audit.executor import LocalExecutor
from pytest_trust.audit.record_file import write_recording
from pytest_trust.engine.engine import Engine
from pytest_trust.judges.samples import judge_options
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Probe
from pytest_trust.responses import Generation, Job, OptionScores
from tests.support.pairs import acquire
from tests.support.pairs import drift as drift_of
from tests.support.tiny_models import CHATML, save_model
from tests.support.traced_choices import JOB, OPTIONS, PROBES, TAGS, TRACED, traced_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return traced_model(tmp_path_factory.mktemp("models") / "random")


def opened(store: Path, *, batch_size: int | None = 2, tags: Sequence[tuple[str, str]] = TAGS) -> Engine:
    return Engine(store, batch_size=batch_size, reasoning_tags=tuple(tags))


def scores(store: Path, model: Reference, job: Job = JOB, **settings: Any) -> dict[str, OptionScores]:
    with opened(store, **settings) as engine:
        engine.acquire([job], [model])
        return engine.model(model).options(job)


class Plain:
    """The same numbers with transformers alone: one sequence at a time, no cache, no padding, none of our code."""

    def __init__(self, directory: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModelForCausalLM.from_pretrained(directory).eval()

    def prompt(self, probe: Probe) -> list[int]:
        if not probe.messages:
            return list(self.tokenizer(probe.text)["input_ids"])
        messages = [{"role": message.role, "content": message.content} for message in probe.messages]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def greedy(self, ids: list[int], count: int) -> list[int]:
        import torch

        said: list[int] = []
        for _ in range(count):
            with torch.no_grad():
                said.append(int(self.model(torch.tensor([ids + said]), use_cache=False).logits[0, -1].argmax()))
        return said

    def log_likelihood(self, before: list[int], option: list[int]) -> float:
        import torch

        with torch.no_grad():
            logits = self.model(torch.tensor([before + option]), use_cache=False).logits[0]
        log_p = logits.double().log_softmax(-1)
        places = range(len(before) - 1, len(before) + len(option) - 1)
        return sum(float(log_p[place, token]) for place, token in zip(places, option, strict=True))

    def lead_in(self, probe: Probe) -> list[int]:
        """The tokens up to the end of the closing tag; nothing for a probe without a trace."""
        said = self.greedy(self.prompt(probe), 48)
        text = self.tokenizer.decode(said)
        for opening, closing in TAGS:
            if text.strip().startswith(opening):
                return next(said[:n] for n in range(48) if closing in self.tokenizer.decode(said[:n]))
        return []

    def scores(self, probe: Probe) -> list[float]:
        gap = "" if probe.messages else " "
        before = self.prompt(probe) + (self.lead_in(probe) if probe.messages else [])
        rows = [list(self.tokenizer(gap + option, add_special_tokens=False)["input_ids"]) for option in probe.options]
        return [self.log_likelihood(before, row) for row in rows]


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_log_likelihoods_are_those_of_plain_transformers_behind_the_model_s_own_trace(
    model: Reference, tmp_path: Path, batch_size: int | None
) -> None:
    found, plain = scores(tmp_path, model, batch_size=batch_size), Plain(model.location)
    assert found.keys() == {probe.id for probe in JOB.probes}
    for probe in JOB.probes:
        assert found[probe.id].log_likelihoods == pytest.approx(plain.scores(probe), abs=1e-4)
        assert (found[probe.id].lead_in is not None) == (probe.id in TRACED)
    for name, (opening, closing) in zip(sorted(TRACED), TAGS, strict=True):
        lead_in = found[name].lead_in
        assert lead_in is not None
        assert lead_in.text.strip().startswith(opening)
        assert lead_in.text.endswith(closing)
        assert lead_in.reasoning
        assert lead_in.complete


def test_a_model_without_a_trace_is_scored_right_behind_its_prompt(model: Reference, tmp_path: Path) -> None:
    with_tags, without = (
        scores(tmp_path / name, model, tags=tags) for name, tags in (("a", TAGS), ("b", [("<plan>", "</plan>")]))
    )
    for name in with_tags:
        assert (with_tags[name] == without[name]) == (name not in TRACED)
    assert all(one.lead_in is None for one in without.values())


def test_a_trace_that_does_not_end_leaves_its_probe_unscored(model: Reference, tmp_path: Path) -> None:
    short = replace(JOB, generation=Generation(16, reasoning_budget=8, closes=False))
    found = scores(tmp_path, model, short)
    samples = judge_options(short.probes, found)
    for probe in short.probes:
        (sample,) = samples[probe.id]
        assert (sample.outcome == "truncated") == (probe.id in TRACED)
        if probe.id in TRACED:
            assert found[probe.id].log_likelihoods == ()
            assert sample.reasoning
    with opened(tmp_path) as engine:
        assert engine.model(model).stored(short) == {(probe.id, 0) for probe in short.probes}


def test_a_budget_closes_the_trace_and_the_options_come_behind_its_tag(model: Reference, tmp_path: Path) -> None:
    forced = replace(JOB, probes=PROBES[:1], generation=Generation(16, reasoning_budget=8))
    found, plain = scores(tmp_path, model, forced)["probe-0"], Plain(model.location)
    before = plain.prompt(PROBES[0])
    tag = plain.tokenizer(f"\n{TAGS[0][1]}\n", add_special_tokens=False)["input_ids"]
    before += [*plain.greedy(before, 8), *tag]
    assert plain.tokenizer.decode(plain.greedy(before, 1)).startswith(" ")  # so its answer begins with a blank
    rows = [plain.tokenizer(f" {option}", add_special_tokens=False)["input_ids"] for option in OPTIONS]
    assert found.log_likelihoods == pytest.approx([plain.log_likelihood(before, row) for row in rows], abs=1e-4)
    assert found.lead_in is not None
    assert found.lead_in.closed


def test_a_recording_has_the_same_scores_and_traces(model: Reference, tmp_path: Path) -> None:
    live = scores(tmp_path / "store", model)
    with opened(tmp_path / "store") as engine:
        write_recording(tmp_path / "model.trust", LocalExecutor(engine), model, [JOB])
    recorded = parse_reference(str(tmp_path / "model.trust"))
    with opened(tmp_path / "other") as engine:
        engine.acquire([JOB], [recorded])
        assert engine.model(recorded).options(JOB) == live


def test_a_recording_that_was_scored_with_another_limit_is_refused(model: Reference, tmp_path: Path) -> None:
    with opened(tmp_path / "store") as engine:
        write_recording(tmp_path / "model.trust", LocalExecutor(engine), model, [JOB])
    recorded = parse_reference(str(tmp_path / "model.trust"))
    longer = replace(JOB, generation=replace(JOB.generation, reasoning_budget=64))
    with opened(tmp_path / "other") as engine, pytest.raises(Exception, match="lacks probes that this run needs"):
        engine.acquire([longer], [recorded])


def test_drift_is_measured_behind_each_model_s_own_trace(model: Reference, tmp_path: Path) -> None:
    other = parse_reference(str(save_model(tmp_path / "other", seed=4, scale=3.0)))
    job = replace(JOB, probes=PROBES[:1], drift=frozenset({"probe-0"}))
    with opened(tmp_path / "store") as engine:
        acquire(engine, [job], model, other)
        found = drift_of(engine, job, model, other)
        assert engine.model(other).options(job)["probe-0"].lead_in is None
    sides = [Plain(model.location), Plain(other.location)]
    befores = [sides[0].prompt(PROBES[0]) + sides[0].lead_in(PROBES[0]), sides[1].prompt(PROBES[0])]
    expected = []
    for option in OPTIONS:
        row = sides[0].tokenizer(option, add_special_tokens=False)["input_ids"]
        logs = [_log_p(side, before, row) for side, before in zip(sides, befores, strict=True)]
        expected += (logs[1].exp() * (logs[1] - logs[0])).sum(-1).tolist()
    assert found.candidate_baseline["probe-0"].kl_pq.tolist() == pytest.approx(expected, abs=1e-4)


def _log_p(side: Plain, before: list[int], row: list[int]) -> Any:
    import torch

    with torch.no_grad():
        logits = side.model(torch.tensor([before + row]), use_cache=False).logits[0]
    return logits[len(before) - 1 : -1].double().log_softmax(-1)


def test_a_template_that_opens_the_trace(tmp_path: Path) -> None:
    opening = CHATML.replace("{% if enable_thinking is defined and enable_thinking %}<think>\n{% endif %}", "<think>\n")
    model = parse_reference(str(save_model(tmp_path / "model", seed=3, scale=3.0, template=opening)))
    ends_at_once = PROBES[2]  # this model's first token there is its end token
    probes = tuple(probe for probe in PROBES if probe != ends_at_once)
    job = replace(JOB, probes=PROBES, generation=Generation(16, reasoning_budget=6))
    found, plain = scores(tmp_path / "store", model, job, tags=[("<think>", "</think>")]), Plain(model.location)
    assert found[ends_at_once.id].log_likelihoods == ()
    for probe in probes:
        before = plain.prompt(probe)
        before += [*plain.greedy(before, 6), *plain.tokenizer("\n</think>\n", add_special_tokens=False)["input_ids"]]
        rows = [plain.tokenizer(option, add_special_tokens=False)["input_ids"] for option in OPTIONS]
        expected = [plain.log_likelihood(before, row) for row in rows]
        assert found[probe.id].log_likelihoods == pytest.approx(expected, abs=1e-4)


def test_a_second_run_loads_nothing(model: Reference, tmp_path: Path) -> None:
    first = scores(tmp_path, model)
    with opened(tmp_path) as engine:
        engine.acquire([JOB], [model])
        assert engine.model(model).options(JOB) == first
        assert not engine.local(model).loaded
        assert engine.local(model)._tokenizer is None


def test_the_trace_leaves_room_for_the_options_in_the_context(tmp_path: Path) -> None:
    model = parse_reference(str(save_model(tmp_path / "model", seed=3, scale=3.0, max_position_embeddings=44)))
    job = replace(JOB, probes=PROBES[:1], generation=Generation(16, reasoning_budget=4096, closes=False))
    with opened(tmp_path / "store") as engine:
        engine.acquire([job], [model])
        (scored,) = engine.model(model).options(job).values()
        prompt = engine.local(model).prompts(PROBES[:1])["probe-0"].ids
    assert scored.lead_in is not None
    assert scored.lead_in.finish_reason == "length"
    assert len(prompt) + len(scored.lead_in.token_ids) < 44
    assert json.dumps(scored.log_likelihoods) == "[]"


def test_behind_a_shared_template_each_model_keeps_its_own_trace(model: Reference, tmp_path: Path) -> None:
    other = CHATML.replace("assistant\n", "helper\n")
    baseline = parse_reference(str(save_model(tmp_path / "baseline", seed=4, scale=3.0, template=other)))
    job = replace(JOB, probes=PROBES[:1], drift=frozenset({"probe-0"}))
    with Engine(tmp_path / "store", batch_size=2, reasoning_tags=TAGS, template="shared") as engine:
        acquire(engine, [job], baseline, model)
        found = drift_of(engine, job, baseline, model)
    sides = [Plain(baseline.location), Plain(model.location)]
    prompt = sides[0].prompt(PROBES[0])
    befores = [prompt, prompt + sides[1].lead_in(PROBES[0])]
    expected = []
    for option in OPTIONS:
        row = sides[1].tokenizer(option, add_special_tokens=False)["input_ids"]
        logs = [_log_p(side, before, row) for side, before in zip(sides, befores, strict=True)]
        expected += (logs[1].exp() * (logs[1] - logs[0])).sum(-1).tolist()
    assert found.candidate_baseline["probe-0"].kl_pq.tolist() == pytest.approx(expected, abs=1e-4)
