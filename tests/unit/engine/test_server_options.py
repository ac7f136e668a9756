"""Options scored through a server: the numbers of the same model loaded here, or a reason in place of numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.engine.engine import Engine
from pytest_trust.engine.server.options import NO_PROMPT_LOGPROBS
from pytest_trust.errors import TrustError
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.responses import Generation, Job, OptionScores
from tests.support.served_model import ServedModel
from tests.support.serving import MODEL, Fault, Server, listed, plain, serving
from tests.support.tiny_models import CHATML, save_model

pytest.importorskip("openai", reason="the openai package is not installed")

OPTIONS = ("wrong", "not wrong", "it depends on the morning")
CHATS = (
    Probe(id="a", cluster="a", messages=(Message("user", "Is it wrong to keep what you found?"),), options=OPTIONS),
    Probe(
        id="b",
        cluster="b",
        messages=(Message("system", "Please answer."), Message("user", "Is it?")),
        options=("yes", "no"),
    ),
)
TEXTS = (
    Probe(
        id="c",
        cluster="c",
        text="The nurse said that",
        options=("she would come back", "he would not mind it at all", "she"),
    ),
    Probe(id="e", cluster="e", text="Answer: ", options=("first", "the numbers")),
)
BARE = Probe(id="d", cluster="d", text="", options=("The quick brown fox jumps.", "The quick brown dog jumps."))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


def job(*probes: Probe) -> Job:
    return Job("s", "choose", probes, Generation(1))


def score(store: Path, given: Reference, work: Job) -> tuple[dict[str, OptionScores], str]:
    with Engine(store) as engine:
        engine.acquire([work], [given])
        return engine.model(given).options(work), engine.model(given).unscored(work)


def served(server: Server) -> Reference:
    return parse_reference(f"{server.url}?retries=0#{MODEL}")


def assert_same(found: dict[str, OptionScores], expected: dict[str, OptionScores]) -> None:
    assert found.keys() == expected.keys()
    for name, scores in expected.items():
        # float32, and another order of sums: the server runs every option by itself
        assert found[name].log_likelihoods == pytest.approx(scores.log_likelihoods, abs=1e-4)
        assert (found[name].tokens, found[name].bytes) == (scores.tokens, scores.bytes)


@pytest.mark.parametrize(("probes", "gives"), [(CHATS, "prompt_logprobs"), (TEXTS, "echo")])
def test_options_through_a_server_are_those_of_the_model(
    tmp_path: Path, tiny: Path, probes: tuple[Probe, ...], gives: str
) -> None:
    expected, _ = score(tmp_path, parse_reference(str(tiny)), job(*probes))
    with serving(ServedModel(tiny, gives)) as server:
        found, reason = score(tmp_path, served(server), job(*probes))
        assert_same(found, expected)
        assert reason == ""
        asked = len(server.requests)
        assert score(tmp_path, served(server), job(*probes))[0] == found
    assert len(server.requests) <= asked + 1  # the description; the scores are in the store


def test_without_a_prompt_the_first_token_is_left_out_of_all_options(tmp_path: Path, tiny: Path) -> None:
    model = ServedModel(tiny, "echo")
    expected = [
        [float(logs[index]) for index, logs in model._rows(model.tokenizer(option)["input_ids"], 1)]
        for option in BARE.options
    ]
    with serving(model) as server:
        found, _ = score(tmp_path, served(server), job(BARE))
    assert found["d"].log_likelihoods == pytest.approx([sum(row) for row in expected], abs=1e-4)
    assert found["d"].tokens == tuple(map(len, expected))


@pytest.mark.parametrize("probes", [CHATS, TEXTS])
def test_a_server_that_takes_the_question_and_ignores_it_is_not_believed(
    tmp_path: Path, tiny: Path, probes: tuple[Probe, ...]
) -> None:
    with serving(ServedModel(tiny, "logprobs")) as server:
        assert score(tmp_path, served(server), job(*probes)) == ({}, NO_PROMPT_LOGPROBS)
    with serving(plain) as server:
        assert score(tmp_path, served(server), job(*probes)) == ({}, NO_PROMPT_LOGPROBS)


@pytest.mark.parametrize("status", [400, 422, 500, 501, 404])
def test_a_server_that_refuses_the_question_costs_its_gates_and_not_the_run(tmp_path: Path, status: int) -> None:
    def refuses(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if "echo" in body or "prompt_logprobs" in body:
            raise Fault(status, b'{"error": {"message": "Only no echo is supported"}}', {"x-should-retry": "false"})
        return plain(path, body)

    with serving(refuses) as server:
        assert score(tmp_path, served(server), job(*CHATS, *TEXTS)) == ({}, NO_PROMPT_LOGPROBS)


def test_a_template_that_ends_an_open_answer_otherwise_is_not_scored(
    tmp_path: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    thinking = CHATML.replace(
        "<|im_start|>assistant\n{% if enable", "<|im_start|>assistant\n<think>\n\n</think>\n\n{% if enable"
    )
    other = save_model(tmp_path_factory.mktemp("models") / "thinking", template=thinking)
    with serving(ServedModel(other, "prompt_logprobs")) as server:
        found, reason = score(tmp_path, served(server), job(*CHATS))
    assert found == {}
    assert "its chat template writes the two otherwise" in reason


def test_a_server_that_fails_while_it_scores_is_an_error(tmp_path: Path, tiny: Path) -> None:
    model, count = ServedModel(tiny, "echo"), [0]

    def fails(path: str, body: dict[str, Any]) -> dict[str, Any]:
        count[0] += path == "/v1/completions"
        if count[0] > 3:
            raise Fault(500, json.dumps({"error": "out of memory"}).encode())
        return model(path, body)

    with serving(fails) as server, pytest.raises(TrustError, match=r"HTTP 500 \(out of memory\)"):
        score(tmp_path, served(server), job(*TEXTS))


@pytest.mark.parametrize("shown_by", ["description", "name"])
def test_no_score_of_another_model_is_stored(tmp_path: Path, tiny: Path, shown_by: str) -> None:
    model, count = ServedModel(tiny, "echo"), [0]

    def swapped(path: str, body: dict[str, Any]) -> dict[str, Any]:
        count[0] += path == "/v1/completions"
        second = count[0] > 5  # the first probe took four
        if path == "/v1/models":
            return listed(root="second" if second and shown_by == "description" else "first")
        return {**model(path, body), "model": "org/second" if second and shown_by == "name" else MODEL}

    with serving(swapped) as server:
        given = parse_reference(f"{server.url}?retries=0&concurrency=1#{MODEL}")
        with pytest.raises(TrustError, match="the model behind the server has changed"):
            score(tmp_path, given, job(*TEXTS))
        count[0] = 0
        with Engine(tmp_path) as engine:
            assert engine.model(given).options(job(*TEXTS)).keys() == {TEXTS[0].id}


class Llama:
    """What llama.cpp's server has of its own: template, tokens, and probabilities that a bias does not touch."""

    def __init__(self, directory: Path) -> None:
        self.inner = ServedModel(directory)

    def __call__(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        tokenizer = self.inner.tokenizer
        if path == "/v1/models":
            return listed() | {"data": [{"id": MODEL, "owned_by": "llamacpp"}]}
        if path == "/props":
            return {"bos_token": tokenizer.bos_token}
        if path == "/apply-template":
            return {
                "prompt": tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
            }
        if path == "/tokenize":
            return {"tokens": tokenizer(body["content"], add_special_tokens=False)["input_ids"]}
        if body.get("echo"):
            raise Fault(500, b'{"error": {"message": "Only no echo is supported"}}')
        logs = self.inner._logs(body["prompt"])[-1]
        forced = int(next(iter(body["logit_bias"])))
        content = [{"id": forced, "token": "", "logprob": float(logs[forced]), "top_logprobs": []}]
        return {"model": MODEL, "choices": [{"text": "", "logprobs": {"content": content}}], "usage": {}}


def test_options_through_llama_cpps_server_are_those_of_the_model(tmp_path: Path, tiny: Path) -> None:
    work = job(*CHATS, *TEXTS, BARE)
    expected, _ = score(tmp_path, parse_reference(str(tiny)), work)
    with serving(Llama(tiny)) as server:
        found, reason = score(tmp_path, served(server), work)
    assert_same(found, expected)
    assert reason == ""


@pytest.mark.parametrize("wrong", [{"id": -5}, {"logprob": "high"}])
def test_a_forced_token_that_is_another_is_not_believed(tmp_path: Path, tiny: Path, wrong: dict[str, Any]) -> None:
    inner: Callable[[str, dict[str, Any]], dict[str, Any]] = Llama(tiny)

    def lies(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = inner(path, body)
        if "choices" in answer:
            answer["choices"][0]["logprobs"]["content"][0] |= wrong
        return answer

    with serving(lies) as server:
        assert score(tmp_path, served(server), job(*TEXTS)) == ({}, NO_PROMPT_LOGPROBS)
