"""Option log-likelihoods from shared prompts against whole sequences run by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_trust.models.reference import parse_reference
from pytest_trust.models.rendering import render_options, render_prompt
from pytest_trust.probes import Message, Probe
from tests.support.tiny_models import CHATML, NO_SYSTEM, save_model, save_tokenizer


def probe(name: str = "p", **fields: Any) -> Probe:
    return Probe(id=name, cluster=name, **{"messages": (), **fields})


def chat(*turns: tuple[str, str], options: tuple[str, ...] = ()) -> Probe:
    return probe(messages=tuple(Message(*turn) for turn in turns), options=options)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from pytest_trust.models.loading import load_model
    from pytest_trust.models.runner import Runner

    directory = save_model(tmp_path_factory.mktemp("llama") / "m")
    found = Runner(load_model(parse_reference(str(directory)), cache=directory.parent / "store"))
    assert found.shares
    return found


PROBES = [
    chat(("user", "Is it wrong to keep what you found?"), options=("wrong", "not wrong", "it depends on the morning")),
    chat(("system", "Please answer."), ("user", "Is it?"), options=("yes", "no")),
    chat(("user", "The same."), options=("A", "A")),
    probe(text="The nurse said that", options=("she would come back", "he would not mind it at all", "she")),
    probe(text="", options=("The quick brown fox jumps.", "The quick brown dog jumps.")),
    probe(text="", options=("Completely different", "beginnings here")),
]


def alone(llama: Any, ids: tuple[int, ...], start: int) -> float:
    """log P of the tokens from `start` on, from one plain forward with all logits."""
    import torch

    with torch.inference_mode():
        logs = llama.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return float(sum(logs[place - 1, ids[place]] for place in range(start, len(ids))))


@pytest.mark.parametrize("shares", [True, False])
def test_shared_prompts_give_what_whole_sequences_give(
    llama: Any, monkeypatch: pytest.MonkeyPatch, shares: bool
) -> None:
    from pytest_trust.models.option_scores import score_options
    from pytest_trust.models.runner import Group

    monkeypatch.setattr(llama, "shares", shares)
    rows = [render_options(llama.loaded.tokenizer, one) for one in PROBES]
    scores = score_options(llama, [Group(row.ids, row.starts) for row in rows], [one.options for one in PROBES])
    for row, score in zip(rows, scores, strict=True):
        expected = [alone(llama, ids, start) for ids, start in zip(row.ids, row.starts, strict=True)]
        assert score.log_likelihoods == pytest.approx(expected, abs=1e-4)  # the bound of the project's design
        assert score.tokens == tuple(len(ids) - start for ids, start in zip(row.ids, row.starts, strict=True))
    assert scores[0].bytes == (5, 9, 25)
    assert scores[2].log_likelihoods[0] == scores[2].log_likelihoods[1]


def test_each_probe_alone_gives_the_same(llama: Any) -> None:
    from pytest_trust.models.option_scores import score_options
    from pytest_trust.models.runner import Group

    groups = [Group(row.ids, row.starts) for row in (render_options(llama.loaded.tokenizer, one) for one in PROBES)]
    together = score_options(llama, groups, [one.options for one in PROBES])
    for one, group, score in zip(PROBES, groups, together, strict=True):
        (single,) = score_options(llama, [group], [one.options])
        assert single.log_likelihoods == pytest.approx(score.log_likelihoods, abs=1e-4)


def test_an_option_follows_the_generation_prompt_at_once(llama: Any) -> None:
    tokenizer = llama.loaded.tokenizer
    rows = render_options(tokenizer, PROBES[0])
    prompt = render_prompt(tokenizer, PROBES[0])
    assert rows.starts == (len(prompt.ids),) * 3
    assert tokenizer.decode(rows.ids[1][rows.starts[1] :]) == "not wrong"
    assert tokenizer.decode(list(prompt.ids)).endswith("<|im_start|>assistant\n")


def test_raw_text_is_tokenised_as_one_and_split_by_characters(llama: Any) -> None:
    tokenizer = llama.loaded.tokenizer
    rows = render_options(tokenizer, PROBES[3])
    assert [tokenizer.decode(ids) for ids in rows.ids] == [
        f"The nurse said that {option}" for option in PROBES[3].options
    ]
    assert [tokenizer.decode(ids[start:]).strip() for ids, start in zip(rows.ids, rows.starts, strict=True)] == list(
        PROBES[3].options
    )


def test_a_bare_sentence_is_conditioned_on_the_first_token_or_loses_its_first(llama: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    rows = render_options(llama.loaded.tokenizer, PROBES[4])
    assert {ids[0] for ids in rows.ids} == {llama.loaded.tokenizer.bos_token_id}
    assert rows.starts == (1, 1)
    save_tokenizer(tmp_path)
    without = AutoTokenizer.from_pretrained(tmp_path, bos_token=None)
    bare = render_options(without, PROBES[4])
    assert bare.starts == (1, 1)
    assert [len(ids) for ids in bare.ids] == [len(ids) - 1 for ids in rows.ids]


def tokenizer_with(directory: Path, template: str | None) -> Any:
    from transformers import AutoTokenizer

    save_tokenizer(directory, template=template)
    return AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize(
    "template",
    [
        NO_SYSTEM,
        CHATML.replace("{% for", "{% for", 1).replace("messages %}<", "messages if message['role'] != 'system' %}<", 1),
    ],
)
def test_a_template_without_system_role_gets_it_in_the_first_user_message(tmp_path: Path, template: str) -> None:
    tokenizer = tokenizer_with(tmp_path, template)
    rendered = render_prompt(tokenizer, chat(("system", "Be brief."), ("user", "The question.")))
    text = tokenizer.decode(rendered.ids)
    assert text == "<|im_start|>user\nBe brief.\n\nThe question.<|im_end|>\n<|im_start|>assistant\n"


def test_without_a_template_the_plain_format_is_used(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, None)
    one = chat(("system", "Be brief."), ("user", "Is it wrong?"), options=("yes", "no"))
    assert tokenizer.decode(render_prompt(tokenizer, one).ids) == "System: Be brief.\nUser: Is it wrong?\nAssistant:"
    rows = render_options(tokenizer, one)
    assert tokenizer.decode(rows.ids[0]) == "System: Be brief.\nUser: Is it wrong?\nAssistant: yes"
    assert tokenizer.decode(rows.ids[0][rows.starts[0] :]) == " yes"


def test_thinking_reaches_the_template_and_an_opened_trace_is_seen(llama: Any) -> None:
    one = chat(("user", "Is it?"))
    tokenizer = llama.loaded.tokenizer
    assert render_prompt(tokenizer, one, thinking="on").tail.endswith("<think>\n")
    assert not render_prompt(tokenizer, one, thinking="off").tail.endswith("<think>\n")
    assert render_prompt(tokenizer, one, thinking="off") == render_prompt(tokenizer, one)
