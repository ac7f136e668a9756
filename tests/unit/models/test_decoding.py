"""Decoding: what is asked for acts, in the order of transformers' `generate`, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.audit.policy import load_policy, read_decoding
from pytest_trust.engine.engine import Engine
from pytest_trust.errors import InvalidInput
from pytest_trust.models.decoding import Decoding, in_words, own_settings, with_settings
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.responses import Generation, Job
from tests.support.engine_jobs import ASK
from tests.support.tiny_models import save_model

JOB = Job("dim/ask", "generate", ASK, Generation(12))
LEAKS = {
    "exponential_decay_length_penalty": [2, 9.0],
    "repetition_penalty": 3.0,
    "no_repeat_ngram_size": 1,
    "num_beams": 3,
    "suppress_tokens": list(range(100, 400)),
    "stop_strings": ["e"],
    "min_new_tokens": 12,
}


def sliding(directory: Path, **settings: Any) -> Reference:
    """A random model on the general path (sliding-window attention), with settings in its generation_config.json."""
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM, set_seed

    save_model(directory)
    set_seed(1)
    size = len(AutoTokenizer.from_pretrained(directory))
    config = MistralConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        sliding_window=8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    MistralForCausalLM(config).eval().save_pretrained(directory)
    document = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, **settings}
    (directory / "generation_config.json").write_text(json.dumps(document))
    return parse_reference(str(directory))


def answers(store: Path, model: Reference, job: Job = JOB) -> list[tuple[int, ...]]:
    with Engine(store, batch_size=3) as engine:
        engine.acquire([job], [model])
        return [one.token_ids for (one, *_) in engine.model(model).responses(job).values()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, ...]]:
    directory = tmp_path_factory.mktemp("plain")
    reference = sliding(directory / "model")
    with Engine(directory / "probe") as engine:
        assert not engine.loaded(reference).shares
    return answers(directory / "store", reference)


@pytest.mark.parametrize("name", LEAKS)
def test_nothing_of_generation_config_acts_unless_asked(
    name: str, plain: list[tuple[int, ...]], tmp_path: Path
) -> None:
    assert answers(tmp_path / "store", sliding(tmp_path / "model", **{name: LEAKS[name]})) == plain


def by_transformers(directory: Path, job: Job, **settings: Any) -> list[list[int]]:
    """Greedy responses of transformers' own `generate` with these settings, one probe at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory).eval()
    found = []
    for probe in job.probes:
        messages = [{"role": one.role, "content": one.content} for one in probe.messages]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, **settings)
        found.append(made[0, ids.shape[1] :].tolist())
    return found


@pytest.mark.parametrize("make", [save_model, sliding], ids=["shared", "general"])
def test_a_repetition_penalty_is_that_of_transformers(make: Any, tmp_path: Path) -> None:
    model = parse_reference(str(getattr(made := make(tmp_path / "model"), "path", made)))
    job = Job("dim/ask", "generate", ASK, Generation(12, repetition_penalty=1.7))
    found = answers(tmp_path / "store", model, job)
    assert [list(one) for one in found] == by_transformers(tmp_path / "model", job, repetition_penalty=1.7)
    assert found != answers(tmp_path / "store", model)


def test_min_p_keeps_what_transformers_keeps() -> None:
    import torch
    from transformers import MinPLogitsWarper, TopPLogitsWarper

    from pytest_trust.models.sampling import Draws, choose_tokens

    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)) * 3
    for top_p in (1.0, 0.9):
        scores = logits if top_p == 1 else TopPLogitsWarper(top_p)(None, logits)
        kept = MinPLogitsWarper(0.1)(None, scores).isfinite()[0].nonzero()[:, 0].tolist()
        asked = Generation(1, temperature=1.0, top_p=top_p, min_p=0.1)
        drawn = {int(choose_tokens(logits, [Draws(seed, asked)], asked)) for seed in range(2000)}
        assert drawn <= set(kept)
        assert len(drawn) > 0.7 * len(kept)


OWN = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}


def test_own_takes_the_settings_of_the_model_s_file_and_its_key_and_words_name_them(tmp_path: Path) -> None:
    asked = Job("dim/ask", "generate", ASK, Generation(12, own=True))
    given = Job("dim/ask", "generate", ASK, Generation(12, temperature=0.6, top_p=0.95, top_k=20))
    model = sliding(tmp_path / "model", **OWN)
    by_option = parse_reference(f"{tmp_path / 'model'}?decoding=own")
    with Engine(tmp_path / "store", batch_size=3) as engine:
        engine.acquire([asked], [model])
        keys = [engine.local(model).keys(job) for job in (asked, given, JOB)]
        assert keys[0] == keys[1] != keys[2]
        assert engine.local(by_option).keys(JOB) == keys[0]
        assert in_words(engine.model(model).way(asked.generation)) == "temperature 0.6, top_p 0.95, top_k 20"
        greedy = parse_reference(f"{tmp_path / 'model'}?decoding=greedy")
        assert engine.local(greedy).keys(asked) == keys[2]


def test_own_for_a_model_without_settings_is_one_clear_line(tmp_path: Path) -> None:
    model = parse_reference(str(save_model(tmp_path / "model")))
    with Engine(tmp_path / "store") as engine, pytest.raises(InvalidInput) as error:
        engine.acquire([Job("dim/ask", "generate", ASK, Generation(12, own=True))], [model])
    assert str(error.value).startswith("model: its generation_config.json asks for no sampling: leave out decoding=own")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("greedy", "greedy"),
        ("own", "its own settings"),
        ("temperature=0.6,top_p=0.95", "temperature 0.6, top_p 0.95"),
        ("top_k=5", "temperature 1, top_k 5"),
        ("repetition_penalty=1.1", "greedy, repetition penalty 1.1"),
    ],
)
def test_decodings_that_can_be_asked_for(text: str, words: str) -> None:
    assert in_words(read_decoding(text, "--trust-decoding").of(Generation(4))) == words


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("beams=4", "'beams' is no setting of generation; known are temperature, top_p"),
        ("temperature=hot", "temperature is 'hot', expected a number"),
        ("top_p=2", "expected >= 0, in (0, 1]"),
        ("absent.yaml", "expected greedy, own, settings such as"),
    ],
)
def test_wrong_decodings(text: str, part: str) -> None:
    with pytest.raises(InvalidInput) as error:
        read_decoding(text, "--trust-decoding")
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_and_a_policy_name_settings(tmp_path: Path) -> None:
    (tmp_path / "sampling.yaml").write_text("temperature: 0.7\nmin_p: 0.05\n")
    found = read_decoding(str(tmp_path / "sampling.yaml"), "--trust-decoding")
    assert found.of(Generation(1)) == Generation(1, temperature=0.7, min_p=0.05)
    (tmp_path / "policy.yaml").write_text("decoding: {temperature: 0.7}\n")
    assert load_policy(tmp_path / "policy.yaml").decoding == Decoding(settings={"temperature": 0.7})
    (tmp_path / "policy.yaml").write_text("decoding: own\n")
    assert load_policy(tmp_path / "policy.yaml").decoding.own


def test_a_file_that_does_not_sample_is_greedy_whatever_temperature_it_names() -> None:
    assert own_settings({"temperature": 0.6, "repetition_penalty": 1.05}, "m") == {"repetition_penalty": 1.05}
    assert own_settings({"do_sample": True}, "m") == {"temperature": 1.0}
    assert with_settings(Generation(1, temperature=0.8, own=True), {"repetition_penalty": 1.05}).greedy
