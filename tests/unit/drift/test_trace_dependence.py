"""How much an answer depends on its trace: the model reads its own answer behind other traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_trust.audit.executor import LocalExecutor
from pytest_trust.audit.record_file import write_recording
from pytest_trust.drift.trace_cuts import cut_response
from pytest_trust.drift.trace_dependence import Dependence, stored_dependence
from pytest_trust.engine.engine import Engine
from pytest_trust.models.framing import Framing
from pytest_trust.models.generation import finish
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.reasoning import split_reasoning
from pytest_trust.responses import Generation, Job
from tests.support import traced_choices
from tests.support.pairs import acquire
from tests.support.scripted_models import scripted_model
from tests.support.tiny_models import save_model

PROBES = tuple(
    Probe(id=f"ask-{i}", cluster=f"ask-{i}", messages=(Message("user", "Is it wrong? " * i),)) for i in (1, 2, 3, 4)
)
JOB = Job("dim/ask", "generate", PROBES, Generation(60), drift=frozenset(probe.id for probe in PROBES))
ANSWER = "Sure, here. Sure, here again."
TRACE, OTHER = "first add the numbers, then divide", "The nurse said that"
# By prompt length: a trace and an answer, an empty trace, a trace without an answer, an answer without a trace.
REPLIES = {
    "candidate": [f"{TRACE}</think>\n\n{ANSWER}", f"\n\n</think>\n\n{ANSWER}", "first add", ANSWER],
    "baseline": [f"{OTHER}</think>\nI am sorry.", f"{OTHER}</think>\nI am sorry.", ANSWER, ANSWER],
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
            text = texts[int(runner.loaded.tokenizer.decode(row.prompt).count("wrong?")) - 1]
            if not opened["on"] and text != ANSWER:
                text = f"<think>{text}"
            ids = runner.loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
            found.append(finish(runner.loaded, [*ids, runner.loaded.tokenizer.eos_token_id], row.plain))
        return found

    monkeypatch.setattr(
        "pytest_trust.models.reasoning_budget.stream", lambda *given: [list(enumerate(answer(*given[:3])))]
    )
    return opened


def measured(store: Path, baseline: Reference, candidate: Reference, job: Job = JOB) -> tuple[Dependence, Dependence]:
    """The baseline's and the candidate's."""
    with Engine(store, batch_size=2) as engine:
        acquire(engine, [job], baseline, candidate)
        return (
            stored_dependence(engine, job, baseline, candidate, "baseline"),
            stored_dependence(engine, job, candidate, baseline, "candidate"),
        )


def log_p(directory: Path, context: Sequence[int], text: Sequence[int]) -> torch.Tensor:
    """[tokens, vocabulary], by a plain forward of transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*context, *text]])).logits[0]
    return logits[len(context) - 1 : -1].double().log_softmax(-1)


@pytest.mark.parametrize("thinking", ["", "?thinking=on"])
def test_it_is_what_plain_forwards_give(models: tuple[Path, Path], replies: Any, tmp_path: Path, thinking: str) -> None:
    from transformers import AutoTokenizer

    replies["on"] = bool(thinking)  # then the template has opened the trace
    baseline, candidate = (parse_reference(f"{directory}{thinking}") for directory in models)
    before, found = measured(tmp_path, baseline, candidate)
    assert found.answers.keys() == {"half", "none", "other"}
    assert found.answers["none"].keys() == found.answers["other"].keys() == {"ask-1"}
    tokenizer = AutoTokenizer.from_pretrained(models[0])
    with Engine(tmp_path) as engine:
        prompt = engine.local(candidate).prompts(PROBES)["ask-1"].ids

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    opening, trace, closing = encode("" if thinking else "<think>"), encode(TRACE), encode("</think>\n\n")
    answer = [*encode(ANSWER), tokenizer.eos_token_id]
    full = log_p(models[1], [*prompt, *opening, *trace, *closing], answer)
    for kind, other in {"half": trace[: len(trace) // 2], "none": [], "other": encode(OTHER)}.items():
        behind = log_p(models[1], [*prompt, *opening, *other, *closing], answer)
        drift = found.answers[kind]["ask-1"].by_token
        assert drift is not None
        assert (drift.p, drift.q, drift.suite, len(drift)) == ("full", kind, JOB.suite, len(answer))
        # float32 forwards of another shape; the states are 32 wide
        assert float(drift.kl_pq.sum()) == pytest.approx(float((full.exp() * (full - behind)).sum()), abs=1e-4)
        assert float(drift.kl_pq.sum()) > 0.1
        assert drift.same_top.tolist() == (full.argmax(-1) == behind.argmax(-1)).tolist()
    # Of the baseline's two traces, the candidate has one of its own for the first probe only.
    assert before.answers["half"].keys() == before.answers["none"].keys() == {"ask-1", "ask-2"}
    assert before.answers["other"].keys() == {"ask-1"}


def test_it_is_stored_and_not_measured_again(
    models: tuple[Path, Path], replies: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline, candidate = (parse_reference(str(directory)) for directory in models)
    first = measured(tmp_path, baseline, candidate)
    monkeypatch.setattr("pytest_trust.drift.trace_dependence.measure", None)
    monkeypatch.setattr("pytest_trust.engine.rendered.Rendered.load", None)
    second = measured(tmp_path, baseline, candidate)
    for one, again in zip(first, second, strict=True):
        assert {kind: list(found) for kind, found in one.answers.items()} == {
            kind: list(found) for kind, found in again.answers.items()
        }
        assert all(
            answer.by_token.to_bytes() == again.answers[kind][name].by_token.to_bytes()
            for kind, found in one.answers.items()
            for name, answer in found.items()
        )


def test_an_equal_trace_of_the_other_model_changes_nothing(
    models: tuple[Path, Path], replies: Any, tmp_path: Path
) -> None:
    itself = parse_reference(str(models[1]))
    _, found = measured(tmp_path, itself, replace(itself, label="again"))
    assert found.answers["other"]["ask-1"].nats == pytest.approx(0.0, abs=1e-6)
    assert found.answers["none"]["ask-1"].nats > 0.1


def test_a_recording_cannot_read_but_lends_its_trace(models: tuple[Path, Path], replies: Any, tmp_path: Path) -> None:
    baseline, candidate = (parse_reference(str(directory)) for directory in models)
    _, live = measured(tmp_path / "live", baseline, candidate)
    path = tmp_path / "baseline.trust"
    with Engine(tmp_path / "record") as engine:
        write_recording(path, LocalExecutor(engine), baseline, [JOB])
    before, found = measured(tmp_path / "again", parse_reference(str(path)), candidate)
    assert not before.answers
    assert "is not run here" in before.reason
    assert found.answers["other"]["ask-1"].nats == pytest.approx(live.answers["other"]["ask-1"].nats, abs=1e-5)


def test_a_response_longer_than_the_context_is_read_in_windows(tmp_path: Path, replies: Any) -> None:
    pair = [
        parse_reference(str(save_model(tmp_path / name, seed=seed, max_position_embeddings=48)))
        for seed, name in enumerate(("baseline", "candidate"))
    ]
    _, found = measured(tmp_path / "store", *pair)
    answer = found.answers["none"]["ask-1"]
    assert answer.by_token is not None
    assert answer.by_token.windowed
    assert 0 < answer.nats < float("inf")


def test_without_traces_nothing_is_loaded_or_measured(tmp_path: Path, refusing: Path, complying: Path) -> None:
    before, found = measured(tmp_path, parse_reference(str(refusing)), parse_reference(str(complying)))
    assert not before.answers
    assert not found.answers
    assert found.reason == "no response of the candidate has a trace and an answer after it"


def deciding_model(directory: Path) -> Path:
    """Thinks "first add good" and answers Yes; had it not thought "good", it would answer No.

    Its one attention head looks at all tokens alike. The word "good" writes a mark, and the mark makes `</think>` go on
    to Yes instead of No.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    after = {"</think>": "No", "Yes": "<end>"}
    scripted_model(directory, "<think> first add good </think> No", sharpness=40.0, then=after)
    model, ids = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory).get_vocab()
    layer, width, mark = model.model.layers[0], model.config.hidden_size, ids["wrong"]
    with torch.no_grad():
        layer.input_layernorm.weight.fill_(1.0)
        layer.self_attn.v_proj.weight[mark, ids["good"]] = 12 / width**0.5  # over about 12 tokens of a prompt: 1
        layer.self_attn.o_proj.weight.copy_(torch.eye(width))
        model.lm_head.weight[:, mark] = 0.0
        model.lm_head.weight[ids["Yes"], mark] = 20 / width**0.5
        model.lm_head.weight[ids["No"], ids["</think>"]] = 8 / width**0.5
    model.save_pretrained(directory)
    return directory


def test_an_answer_that_its_trace_decides_and_one_that_ignores_it(tmp_path: Path) -> None:
    from pytest_trust.drift.dependence_summary import dependence_record

    ignoring = scripted_model(tmp_path / "ignoring", "<think> first add the number </think> Sure here is how")
    pair = (parse_reference(str(ignoring)), parse_reference(str(deciding_model(tmp_path / "deciding"))))
    before, found = measured(tmp_path / "store", *pair)
    with Engine(tmp_path / "store") as engine:
        assert {one[0].answer for one in engine.model(pair[1]).responses(JOB).values()} == {"Yes"}
    record = dependence_record([before], [found])
    assert record is not None
    for kind in ("half", "none", "other"):
        assert record.baseline[kind].mean == pytest.approx(0.0, abs=1e-6)
        assert (record.baseline[kind].changed, record.baseline[kind].begins_otherwise) == (0.0, 0.0)
        assert record.candidate[kind].mean > 3.0
        assert (record.candidate[kind].changed, record.candidate[kind].begins_otherwise) == (1.0, 1.0)
        assert record.candidate[kind].changed_lower > 0.5
        assert record.change[kind].mean == pytest.approx(record.candidate[kind].mean, abs=1e-6)
        assert record.change[kind].probes == len(PROBES)


def test_choices_are_what_plain_forwards_give(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    directory = deciding_model(tmp_path / "deciding")
    ignoring = scripted_model(tmp_path / "ignoring", "<think> first add the number </think> No", sharpness=5.0)
    pair = (parse_reference(str(ignoring)), parse_reference(str(directory)))
    probes = tuple(replace(probe, options=("Yes", "No"), answer="No") for probe in PROBES)
    job = Job("dim/pick", "choose", probes, Generation(20), drift=frozenset({"ask-2"}))
    before, found = measured(tmp_path / "store", *pair, job)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with Engine(tmp_path / "store") as engine:
        prompt = engine.local(pair[1]).prompts(probes)["ask-2"].ids
        assert engine.model(pair[1]).options(job)["ask-2"].lead_in.reasoning == "first add good"

    def choice(trace: str) -> torch.Tensor:
        """Of Yes and No."""
        context = [*prompt, *tokenizer(f"<think> {trace} </think>", add_special_tokens=False)["input_ids"]]
        options = tokenizer.convert_tokens_to_ids(["Yes", "No"])
        return torch.cat([log_p(directory, context, [option])[0, [option]] for option in options]).log_softmax(-1)

    full = choice("first add good")
    for kind, trace in {"half": "first", "none": "", "other": "first add the number"}.items():
        behind, answer = choice(trace), found.answers[kind]["ask-2"]
        assert answer.nats == pytest.approx(float((full.exp() * (full - behind)).sum()), abs=1e-4)
        assert answer.nats > 1.0
        assert (answer.changed, answer.begins_otherwise, answer.tokens) == (True, None, 2)
        assert before.answers[kind]["ask-2"].nats == pytest.approx(0.0, abs=1e-6)
        assert before.answers[kind]["ask-2"].changed is False


def test_choices_behind_an_equal_trace_are_the_same(tmp_path: Path) -> None:
    model = traced_choices.traced_model(tmp_path / "model")
    job = replace(traced_choices.JOB, drift=frozenset(probe.id for probe in traced_choices.JOB.probes))
    with Engine(tmp_path / "store", batch_size=2, reasoning_tags=traced_choices.TAGS) as engine:
        acquire(engine, [job], model, replace(model, label="again"))
        found = stored_dependence(engine, job, model, replace(model, label="again"), "baseline")
    assert found.answers["none"].keys() == traced_choices.TRACED
    for name in traced_choices.TRACED:
        assert found.answers["other"][name].nats == pytest.approx(0.0, abs=1e-6)
        assert found.answers["none"][name].nats > 1e-4


def test_the_answers_of_samples_do_not_count_as_changed(tmp_path: Path) -> None:
    from pytest_trust.drift.dependence_summary import dependence_record

    model = parse_reference(str(scripted_model(tmp_path / "model", "<think> first </think> Sure", sharpness=40.0)))
    job = replace(JOB, generation=Generation(20, temperature=0.7), samples=2)
    found = measured(tmp_path / "store", model, model, job)[1]
    record = dependence_record([found], [found])
    assert record is not None
    assert record.candidate["none"].changed is None
    assert record.candidate["none"].responses == len(PROBES)


@pytest.fixture(scope="module")
def merging() -> Framing:
    """A tokenizer that has a token for the end of a sentence and the beginning of a closing tag together."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(kinds.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(["<think>It is 4.</think>\nIt is 4."] * 9, trainer)
    return Framing(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>"), frozenset({0}))


@pytest.mark.parametrize("trace", ["It is 4", "It is 4.", " It is 4. ", "\nIt ‑ is 4 ä", "4", "é"])
def test_a_tag_that_shares_a_token_with_the_trace_stays_whole(merging: Framing, trace: str) -> None:
    text = f"<think>{trace}</think>\nIt is 4."
    ids = merging.tokenizer(text)["input_ids"]
    split = split_reasoning(text)
    cut = cut_response(merging, ids, text, split.trace_at, split.answer_at)
    decode = merging.tokenizer.decode
    assert text[slice(*split.trace_at)] == trace.strip()
    assert decode(ids[: cut.start]) + decode(cut.answer) == text
    assert decode(cut.answer) == "It is 4."
    closed = decode(cut.behind(()))
    assert closed.split() == ["<think></think>"] or closed.split() == ["<think>", "</think>"]
    assert closed.endswith("</think>\n")
    half = decode(cut.half)
    assert half.startswith("<think>") and half.endswith("</think>\n")
    assert decode(cut.trace).strip().startswith(trace.strip())


def test_the_token_that_a_trace_shares_with_its_tag_is_there(merging: Framing) -> None:
    """Else the test before it would show nothing."""
    ids = merging.tokenizer("<think>It is 4.</think>")["input_ids"]
    assert ".</" in [merging.tokenizer.decode([token]) for token in ids]
