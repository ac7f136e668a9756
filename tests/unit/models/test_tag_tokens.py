"""Tags by tokens: what is only spelled out is text, in a vocabulary that has a token for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_trust.audit.executor import LocalExecutor
from pytest_trust.audit.record_file import write_recording
from pytest_trust.engine.engine import Engine
from pytest_trust.models.framing import decode
from pytest_trust.models.generation import finish
from pytest_trust.models.reference import parse_reference
from pytest_trust.models.tag_tokens import read_response, spelled_out
from pytest_trust.probes import Message, Probe
from pytest_trust.reasoning import DEFAULT_TAGS
from pytest_trust.responses import Generation, Job
from tests.support.tiny_models import CHATML, save_model, save_tokenizer

TOKENS = [
    "<think>",
    "</think>",
    "[THINK]",
    "[/THINK]",
    "<|channel|>",
    "<|message|>",
    "<|start|>",
    "<|end|>",
    "<plan>",
    "</plan>",
]
PROBE = Probe(id="ask", cluster="ask", messages=(Message("user", "Is it wrong?"),))


def loaded_with(directory: Path, tokens: Sequence[str]) -> Any:
    """A byte-level tokenizer with these tokens added.

    Its special tokens are `<|im_start|>`, the first token, and `<|im_end|>`, the end token.
    """
    from transformers import AutoTokenizer

    save_tokenizer(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(list(tokens))
    return SimpleNamespace(tokenizer=tokenizer, eos_ids=frozenset({tokenizer.eos_token_id}))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded_with(tmp_path_factory.mktemp("tokenizer"), TOKENS)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded_with(tmp_path_factory.mktemp("plain"), [])


def ids(loaded: Any, *pieces: str) -> list[int]:
    """Each piece's own tokens, so that a tag cut in two is no tag."""
    return [int(i) for piece in pieces for i in loaded.tokenizer(piece, add_special_tokens=False)["input_ids"]]


def read(loaded: Any, *pieces: str, tail: str = "", tags: Any = DEFAULT_TAGS) -> tuple[str, str, bool]:
    tokens = ids(loaded, *pieces)
    text = decode(loaded, tokens)
    assert text == "".join(pieces)
    split = read_response(loaded, tokens, text, tail, tags)
    assert "".join(part.text for part in split.parts) == text
    return split.reasoning, split.answer, split.complete


@pytest.mark.parametrize(
    ("pieces", "reasoning", "answer", "complete"),
    [
        (
            ("<think>", "a", "</think>", "The tag is <th", "ink>, closed by </th", "ink>."),
            "a",
            "The tag is <think>, closed by </think>.",
            True,
        ),
        (("<think>", "I write </th", "ink> later", "</think>", "b"), "I write </think> later", "b", True),
        (("<think>", "a </th", "ink> b"), "a </think> b", "", False),
        (("Use <th", "ink> to open it."), "", "Use <think> to open it.", True),
        (("<TH", "INK> is the same"), "", "<THINK> is the same", True),
        (("a", "</think>", "b </th", "ink> c"), "a", "b </think> c", True),
        (("[TH", "INK] then"), "", "[THINK] then", True),
        (("[THINK]", "a", "[/THINK]", "b"), "a", "b", True),
        (
            (
                "<|channel|>",
                "analysis",
                "<|message|>",
                "a",
                "<|end|>",
                "<|start|>",
                "assistant",
                "<|channel|>",
                "final",
                "<|message|>",
                "b",
            ),
            "a",
            "b",
            True,
        ),
        (("<|chan", "nel|>analysis<|mess", "age|>a"), "", "<|channel|>analysis<|message|>a", True),
        (
            ("<|channel|>", "analysis", "<|message|>", "<|en", "d|> is a token", "<|end|>"),
            "<|end|> is a token",
            "",
            False,
        ),
        (("<|im_start|>", "think a ", "<|im_start|>", "answer b"), "a", "b", True),
        (("<|im_start|>", "think a"), "a", "", False),
        (("<|im_", "start|>think a"), "", "<|im_start|>think a", True),
        # by text where there is no token for it
        (("<reasoning>a</reasoning>b",), "a", "b", True),
        (("<rea", "soning>a</reas", "oning>b"), "a", "b", True),
        # a token is there or is not: the response was not cut in it
        (("I see [THI",), "", "I see [THI", True),
        (("<think>", "so </th"), "so </th", "", False),
        (("<|im_start|>", "thi"), "", "", False),
        (("<|channel|>", "fin"), "", "", False),
    ],
)
def test_by_tokens_where_there_are_some(
    loaded: Any, pieces: tuple[str, ...], reasoning: str, answer: str, complete: bool
) -> None:
    assert read(loaded, *pieces) == (reasoning, answer, complete)


def test_by_text_where_there_are_none(plain: Any) -> None:
    assert read(plain, "<th", "ink>a</th", "ink>b") == ("a", "b", True)
    assert read(plain, "The tag <th", "ink> is open") == ("is open", "The tag", False)


def test_a_template_that_opens_a_trace_is_closed_by_the_token(loaded: Any) -> None:
    assert read(loaded, "a </th", "ink> b", "</think>", "c", tail="assistant\n<think>\n") == ("a </think> b", "c", True)
    assert read(loaded, "a </th", "ink> b", tail="assistant\n<think>\n") == ("a </think> b", "", False)


def test_tags_of_ones_own_by_tokens(loaded: Any) -> None:
    tags = (*DEFAULT_TAGS, ("<plan>", "</plan>"))
    assert read(loaded, "<plan>", "a", "</plan>", "b <pl", "an> c", tags=tags) == ("a", "b <plan> c", True)


def test_a_vocabulary_whose_first_token_begins_a_tag_keeps_it(loaded: Any) -> None:
    tokens = ids(loaded, "<|im_start|>", "think never closed")
    assert tokens[0] == loaded.tokenizer.bos_token_id
    assert finish(loaded, tokens, plain=False).text.startswith("<|im_start|>think")


PIECES = [
    *TOKENS,
    "<|im_start|>",
    "think",
    "answer",
    "analysis",
    "final",
    "assistant",
    "<th",
    "ink>",
    "</th",
    "a",
    " b",
    "\n",
    "<",
    "|>",
    "é",
    "<|end",
    "[TH",
    "INK]",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_nothing_is_lost_and_no_spelled_tag_is_read(loaded: Any, pieces: list[str]) -> None:
    tokens = ids(loaded, *pieces)
    text = decode(loaded, tokens)
    split = read_response(loaded, tokens, text, "", DEFAULT_TAGS)
    assert "".join(part.text for part in split.parts) == text
    # tokens that are marks stand in a vocabulary without them as other marks: what is spelled out is never one
    for start, end in spelled_out(loaded, tokens, text, "", DEFAULT_TAGS):
        position = 0
        for part in split.parts:
            if position < end and start < position + len(part.text):
                assert part.kind != "tag"
            position += len(part.text)


def test_it_is_stored_and_recorded_with_the_response(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine reads tags by the tokens that it saw, later without a tokenizer too, and out of a recording."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = save_model(tmp_path / "model", template=CHATML)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(TOKENS)
    tokenizer.save_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(directory)
    pieces = ("<think>", "a", "</think>", "The tag <th", "ink> is open")

    def answer(runner: Any, rows: Sequence[Any], generation: Generation) -> list[Any]:
        return [
            finish(runner.loaded, [*ids(runner.loaded, *pieces), runner.loaded.tokenizer.eos_token_id], row.plain)
            for row in rows
        ]

    monkeypatch.setattr(
        "pytest_trust.models.reasoning_budget.stream", lambda *given: [list(enumerate(answer(*given[:3])))]
    )
    reference, job = parse_reference(str(directory)), Job("dim/ask", "generate", (PROBE,), Generation(20))
    with Engine(tmp_path / "store") as engine:
        engine.acquire([job], [reference])
        write_recording(
            tmp_path / "it.trust", LocalExecutor(engine), reference, [replace(job, drift=frozenset({"ask"}))]
        )
    for other in (reference, parse_reference(str(tmp_path / "it.trust"))):
        with Engine(tmp_path / "store") as engine:
            (response,) = engine.model(other).responses(job)["ask"]
        assert (response.reasoning, response.answer, response.complete) == ("a", "The tag <think> is open", True)
        assert response.text[response.answer_at :] == response.answer
