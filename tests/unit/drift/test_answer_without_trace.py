"""KL(p_c(y

x, z) || p_b(y | x)): the candidate's answer after its trace, which the baseline has not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from pytest_trust.audit.executor import LocalExecutor
from pytest_trust.audit.record_file import write_recording
from pytest_trust.drift.pair_drift import PairDrift
from pytest_trust.drift.summary import summarise
from pytest_trust.engine.engine import Engine
from pytest_trust.models.generation import finish
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.responses import Generation, Job
from tests.support.pairs import acquire
from tests.support.pairs import drift as drift_of
from tests.support.tiny_models import save_model

PROBES = tuple(
    Probe(id=f"ask-{i}", cluster=f"ask-{i}", messages=(Message("user", "Is it wrong? " * i),)) for i in (1, 2, 3)
)
JOB = Job("dim/ask", "generate", PROBES, Generation(60), drift=frozenset(probe.id for probe in PROBES))
ANSWER = "Sure, here. Sure, here again."
# By prompt length: a trace and an answer (whose beginning comes again later), a trace without an answer, an answer
# without a trace.
REPLIES = {
    "candidate": ["first add the numbers</think>\n\n" + ANSWER, "first add", ANSWER],
    "baseline": ["I am sorry."] * 3,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("models")
    return save_model(directory / "baseline", seed=1), save_model(directory / "candidate", seed=2)


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Models that say what is asked of them here; their weights are their own."""
    opened = {"on": False}

    def answer(runner: Any, rows: Sequence[Any], generation: Generation) -> list[Any]:
        texts = REPLIES[Path(runner.loaded.identity.text.partition("?")[0]).name]
        found = []
        for row in rows:
            text = texts[_place(runner, row)]
            if not opened["on"] and "</think>" in text:
                text = f"<think>{text}"
            ids = runner.loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
            found.append(finish(runner.loaded, [*ids, runner.loaded.tokenizer.eos_token_id], row.plain))
        return found

    monkeypatch.setattr(
        "pytest_trust.models.reasoning_budget.stream", lambda *given: [list(enumerate(answer(*given[:3])))]
    )
    return opened


def _place(runner: Any, row: Any) -> int:
    return int(runner.loaded.tokenizer.decode(row.prompt).count("wrong?")) - 1


def measured(store: Path, baseline: Reference, candidate: Reference) -> PairDrift:
    with Engine(store, batch_size=2) as engine:
        acquire(engine, [JOB], baseline, candidate)
        return drift_of(engine, JOB, baseline, candidate)


def log_p(directory: Path, context: Sequence[int], text: Sequence[int]) -> torch.Tensor:
    """[tokens, vocabulary], by a plain forward of transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*context, *text]])).logits[0]
    return logits[len(context) - 1 : -1].double().log_softmax(-1)


@pytest.mark.parametrize("thinking", ["", "?thinking=on"])
def test_it_is_what_two_plain_forwards_give(
    models: tuple[Path, Path], replies: Any, tmp_path: Path, thinking: str
) -> None:
    from transformers import AutoTokenizer

    replies["on"] = bool(thinking)
    baseline, candidate = (parse_reference(f"{directory}{thinking}") for directory in models)
    found = measured(tmp_path, baseline, candidate)
    assert found.answer_without_trace.keys() == {"ask-1"}
    tokenizer = AutoTokenizer.from_pretrained(models[0])
    with Engine(tmp_path) as engine:
        prompt = engine.local(baseline).prompts(PROBES)["ask-1"].ids
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    trace = encode(("" if thinking else "<think>") + "first add the numbers</think>\n\n")
    answer = [*encode(ANSWER), tokenizer.eos_token_id]
    # where the template has opened a trace for the baseline too, the baseline is given an empty one
    empty = encode("\n</think>\n\n") if thinking else []
    p, q = log_p(models[1], [*prompt, *trace], answer), log_p(models[0], [*prompt, *empty], answer)
    expected = (p.exp() * (p - q)).sum(-1)
    drift = found.answer_without_trace["ask-1"]
    assert drift.kl_pq == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)
    assert (drift.p, drift.q, drift.answer_start) == ("candidate", "baseline", 0)
    # the other form, in which both read the trace, is the answer's part of the whole: the chain rule
    both = log_p(models[0], [*prompt, *trace], answer)
    whole = found.candidate_baseline["ask-1"]
    assert whole.kl_pq[whole.answer_start :] == pytest.approx(
        (p.exp() * (p - both)).sum(-1).numpy(), rel=1e-4, abs=1e-6
    )
    assert whole.masked_tokens > 0  # the trace's tags
    assert whole.answer_start == len(trace) - whole.masked_tokens
    summary = summarise(found.candidate_baseline.values())
    assert float(summary.per_sequence) == pytest.approx(
        summary.reasoning_per_sequence + summary.answer_per_sequence, rel=1e-9
    )
    assert not numpy.allclose(drift.kl_pq, whole.kl_pq[whole.answer_start :])


def test_it_is_stored_and_only_what_is_missing_is_measured(
    models: tuple[Path, Path], replies: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline, candidate = (parse_reference(str(directory)) for directory in models)
    first = measured(tmp_path, baseline, candidate)
    monkeypatch.setattr("pytest_trust.drift.measure.measure", None)
    second = measured(tmp_path, baseline, candidate)
    assert first.answer_without_trace["ask-1"].to_bytes() == second.answer_without_trace["ask-1"].to_bytes()


@pytest.mark.parametrize("topk", [0, 64])
def test_of_a_recorded_candidate(models: tuple[Path, Path], replies: Any, tmp_path: Path, topk: int) -> None:
    baseline, candidate = (parse_reference(str(directory)) for directory in models)
    live = measured(tmp_path / "live", baseline, candidate).answer_without_trace["ask-1"]
    path = tmp_path / "candidate.trust"
    with Engine(tmp_path / "record") as engine:
        write_recording(path, LocalExecutor(engine), candidate, [JOB], topk=topk)
    found = measured(tmp_path / "again", baseline, parse_reference(str(path))).answer_without_trace["ask-1"]
    if topk:
        assert (found.kl_pq <= live.kl_pq + 1e-4).all()
        assert found.tail is not None
    else:
        assert found.kl_pq == pytest.approx(live.kl_pq, rel=0.05, abs=2e-3)  # states in 16 bits


def test_a_recorded_baseline_cannot_read_it(models: tuple[Path, Path], replies: Any, tmp_path: Path) -> None:
    baseline, candidate = (parse_reference(str(directory)) for directory in models)
    with Engine(tmp_path / "record") as engine:
        write_recording(tmp_path / "baseline.trust", LocalExecutor(engine), baseline, [JOB])
    found = measured(tmp_path, parse_reference(str(tmp_path / "baseline.trust")), candidate)
    assert not found.answer_without_trace
    assert "the baseline is a recording" in found.answer_without_trace_reason


def test_of_a_model_against_itself_it_is_what_the_trace_does(
    models: tuple[Path, Path], replies: Any, tmp_path: Path
) -> None:
    """Zero drift in the chain rule's form, but not in this one: reasoning changes the same model's answers."""
    itself = parse_reference(str(models[1]))
    found = measured(tmp_path, itself, replace(itself, label="again"))
    assert float(found.candidate_baseline["ask-1"].kl_pq.max()) <= 1e-6
    assert float(found.answer_without_trace["ask-1"].kl_pq.mean()) > 1e-3
