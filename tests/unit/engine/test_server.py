"""A model behind a server: what is asked and what is stored.

Every fault ends in one line; nothing is lost, and nothing wrong is stored.
"""

from __future__ import annotations

import json
import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.audit.executor import LocalExecutor
from pytest_trust.audit.record_file import write_recording
from pytest_trust.engine.engine import Engine
from pytest_trust.engine.server.stored_answers import ITS_WORD, OWN_SAMPLING, UNDESCRIBED
from pytest_trust.errors import TrustError
from pytest_trust.judges import get_judge
from pytest_trust.judges.samples import SERVER_ENDED, judge_responses
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.responses import Generation, Job, Response
from tests.support.pairs import acquire
from tests.support.serving import MODEL, Fault, Server, listed, plain, said, serving

pytest.importorskip("openai", reason="the openai package is not installed")


def chat(name: str, text: str = "") -> Probe:
    return Probe(id=name, cluster=name, messages=(Message("user", text or f"one two {name}"),))


def job(*probes: Probe, **settings: Any) -> Job:
    samples = settings.pop("samples", 1)
    return Job(
        "s",
        "generate",
        probes or tuple(chat(f"p{number}") for number in range(6)),
        Generation(8, **settings),
        samples=samples,
    )


def reference(server: Server, options: str = "retries=0") -> Reference:
    return parse_reference(f"{server.url}?{options}#{MODEL}")


def ask(store: Path, given: Reference, work: Job, **settings: Any) -> dict[str, tuple[Response, ...]]:
    with Engine(store, **settings) as engine:
        engine.acquire([work], [given])
        return engine.model(given).responses(work)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """How long the client would have waited between attempts."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    yield found


def after(
    first: list[Fault | dict[str, Any]], then: Callable[[str, dict[str, Any]], dict[str, Any]] = plain
) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """A server that does these things in order to the first requests for answers."""
    left, lock = list(first), threading.Lock()

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/models":
            return then(path, body)
        with lock:
            one = left.pop(0) if left else None
        if isinstance(one, Fault):
            raise one
        return then(path, body) if one is None else one

    return answer


def test_messages_go_to_chat_and_texts_to_completions(tmp_path: Path) -> None:
    text = Probe(id="t", cluster="t", text="a b c")
    with serving(plain) as server:
        found = ask(tmp_path, reference(server), job(chat("p", "x y"), text))
    assert found["p"][0].text == "y x"
    assert found["t"][0].text == "c b a"
    assert (found["p"][0].tokens, found["p"][0].token_ids, found["p"][0].prompt_tokens) == (2, (), 7)
    asked = server.asked("/chat/completions")[0]
    assert asked["model"] == MODEL
    assert asked["messages"] == [{"role": "user", "content": "x y"}]
    assert (asked["max_tokens"], asked["temperature"], asked["top_p"]) == (8, 0.0, 1.0)
    assert "seed" not in asked
    assert "top_k" not in asked


def test_samples_have_their_own_seeds_and_the_sampling_that_was_asked_for(tmp_path: Path) -> None:
    with serving(plain) as server:
        ask(tmp_path, reference(server), job(chat("p"), chat("q"), samples=2, temperature=0.7, top_p=0.9, top_k=20))
        ask(tmp_path, reference(server), job(chat("r"), temperature=0.7))
    asked = server.asked("/chat/completions")
    assert len({body["seed"] for body in asked[:4]}) == 4
    assert all(
        (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (0.7, 0.9, 20, 0.0) for body in asked[:4]
    )
    assert asked[4]["top_k"] == -1  # the whole vocabulary, whatever the server's default is


def test_answers_are_asked_for_once_and_found_under_another_address(tmp_path: Path) -> None:
    for _ in range(2):
        with serving(plain) as server:
            found = ask(tmp_path, reference(server), job())
            asked = len(server.asked("/chat/completions"))
        assert len(found) == 6
    assert asked == 0


def test_runs_at_once_ask_for_each_answer_once(tmp_path: Path) -> None:
    overlapping = (job(), job(*(chat(f"p{number}") for number in range(3, 9))), job())
    with serving(plain) as server, ThreadPoolExecutor() as pool:
        given = reference(server)
        runs = [pool.submit(ask, tmp_path, given, work) for work in overlapping]
        found = [run.result() for run in runs]
        asked = [body["messages"][-1]["content"] for body in server.asked("/chat/completions")]
    assert [len(one) for one in found] == [6, 6, 6]
    assert len(asked) == len(set(asked)) == 9


def test_no_more_requests_at_once_than_allowed(tmp_path: Path) -> None:
    probes = [chat(f"p{number}") for number in range(12)]
    gate = threading.Barrier(3, timeout=20)

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path != "/v1/models" and "p0" not in str(body):
            gate.wait()  # passes only when three are under way
        return plain(path, body)

    with serving(answer) as server:
        ask(tmp_path, reference(server, "concurrency=3&retries=0"), job(*probes[:10]))
    # reading the description again comes in between, from the thread that stores
    assert server.most_at_once in (3, 4)


@pytest.mark.parametrize(
    ("finish", "words", "expected"),
    [
        ("stop", "a b", "stop"),
        ("length", "a b", "length"),
        ("eos_token", "a b", "stop"),
        ("end_turn", "a b", "stop"),
        ("STOP", "a b", "stop"),
        ("MAX_TOKENS", "a b", "length"),
        ("model_length", "a b", "length"),
        (None, "a b", "stop"),
        ("", "a b", "stop"),
        (None, "a b c d e f g h", "length"),
    ],
)
def test_finish_reasons(tmp_path: Path, finish: str | None, words: str, expected: str) -> None:
    with serving(after([said(words, finish=finish)])) as server:
        assert ask(tmp_path, reference(server), job(chat("p")))["p"][0].finish_reason == expected


@pytest.mark.parametrize("reason", ["content_filter", "abort", "tool_calls", "function_call", "something\nnew"])
def test_an_end_for_another_reason_is_an_error_that_names_it_and_no_answer(tmp_path: Path, reason: str) -> None:
    work = job(chat("p"))
    with serving(after([said("Sure, here is how", finish=reason)])) as server:
        found = ask(tmp_path, reference(server), work)
    named = reason.replace("\n", " ")
    assert (found["p"][0].finish_reason, found["p"][0].failure) == ("error", named)
    (sample,) = judge_responses(get_judge("refusal"), "refusal", work.probes, found)["p"]
    assert (sample.outcome, sample.message) == ("error", f"{SERVER_ENDED}{named!r}")
    assert math.isnan(sample.score)


def test_an_aborted_answer_is_asked_for_again(tmp_path: Path) -> None:
    aborted = said("Sure, here", finish="abort")
    with serving(after([aborted, aborted])) as server:
        found = ask(tmp_path, reference(server, "retries=2"), job(chat("p", "a b")))
    assert (found["p"][0].text, found["p"][0].finish_reason) == ("b a", "stop")


def test_a_filtered_answer_is_not_asked_for_again(tmp_path: Path) -> None:
    with serving(after([said(None, finish="content_filter")])) as server:
        found = ask(tmp_path, reference(server, "retries=2"), job(chat("p")))
        assert len(server.asked("/chat/completions")) == 1
    assert found["p"][0].failure == "content_filter"


def test_a_recording_keeps_the_reason_of_an_end(tmp_path: Path) -> None:
    work = job(chat("p"), chat("q"))
    with serving(after([said("x", finish="abort"), said("y")])) as server, Engine(tmp_path / "store") as engine:
        given = reference(server)
        write_recording(tmp_path / "of.trust", LocalExecutor(engine), given, [work])
        asked = engine.model(given).responses(work)
    found = ask(tmp_path / "other", parse_reference(str(tmp_path / "of.trust")), work)
    assert found == asked
    assert found["p"][0].failure == "abort"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_returned_apart_is_reasoning_again(tmp_path: Path, name: str) -> None:
    with serving(
        after([said("Four.", **{name: "two and two"}), said("", finish="length", **{name: "two and"})])
    ) as server:
        found = ask(tmp_path, reference(server), job(chat("p"), chat("q")))
    assert (found["p"][0].reasoning, found["p"][0].answer, found["p"][0].complete) == ("two and two", "Four.", True)
    assert (found["q"][0].reasoning, found["q"][0].answer, found["q"][0].complete) == ("two and", "", False)


def test_thinking_is_the_templates_switch_and_another_answer(tmp_path: Path) -> None:
    with serving(plain) as server:
        ask(tmp_path, reference(server, "thinking=off"), job(chat("p")))
        ask(tmp_path, reference(server, "thinking=on"), job(chat("p")))
    assert [body["chat_template_kwargs"]["enable_thinking"] for body in server.asked("/chat/completions")] == [
        False,
        True,
    ]


def test_variables_of_the_template_go_to_the_server_and_are_other_answers(tmp_path: Path) -> None:
    with serving(plain) as server:
        ask(tmp_path, reference(server), job(chat("p")))
        ask(tmp_path, reference(server, "template.persona=a%20judge&template.level=2"), job(chat("p")))
        ask(tmp_path, reference(server, "template.level=2&template.persona=a%20judge"), job(chat("p")))
        ask(tmp_path, reference(server, "template.level=null&thinking=off"), job(chat("p")))
    sent = [body.get("chat_template_kwargs") for body in server.asked("/chat/completions")]
    assert sent == [
        None,
        {"persona": "a judge", "level": 2},
        {"enable_thinking": False, "thinking": False, "level": None},
    ]


def test_what_the_server_says_of_its_model_is_its_fingerprint(tmp_path: Path) -> None:
    def fingerprint(**entry: Any) -> str:
        with serving(lambda path, body: listed(**entry)) as server, Engine(tmp_path) as engine:
            identity = engine.identify(reference(server))
        assert identity.warnings == (ITS_WORD,)
        assert server.url not in identity.fingerprint
        return identity.fingerprint

    first = fingerprint(meta={"n_params": 5, "size": 9})
    assert (
        fingerprint(meta={"n_params": 5, "size": 9}, permission=[{"id": random.random()}], created=time.time()) == first
    )
    assert fingerprint(meta={"n_params": 5, "size": 4}) != first


def test_a_server_without_a_list_is_named_and_warned_of(tmp_path: Path) -> None:
    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/models":
            raise Fault(500)
        return plain(path, body)

    with serving(answer) as server, Engine(tmp_path) as engine:
        engine.acquire([job(chat("p"))], [reference(server)])
        assert engine.identify(reference(server)).warnings == (ITS_WORD, UNDESCRIBED)


def test_a_model_that_is_not_served_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with (
        serving(lambda path, body: listed("org/other")) as server,
        pytest.raises(TrustError, match="serves no org/served, but org/other: write"),
    ):
        ask(tmp_path, reference(server), job())


def test_two_servers_in_one_description_are_refused_as_a_pair(tmp_path: Path) -> None:
    with serving(plain) as one, serving(plain) as two, Engine(tmp_path) as engine:
        with pytest.raises(TrustError, match="in the same words, so nothing tells their models apart"):
            acquire(engine, [job()], reference(one), reference(two))
        acquire(engine, [job()], reference(one, "thinking=on"), reference(one, "thinking=off"))
    assert not two.asked("/chat/completions")


# Faults. Each ends in one line, keeps what was finished, and the next run goes on from there.


def test_a_server_that_hangs_is_given_up(tmp_path: Path) -> None:
    with (
        serving(after([Fault(hang=True)])) as server,
        pytest.raises(TrustError, match=r"no answer within 0\.2 s") as error,
    ):
        ask(tmp_path, reference(server, "timeout=0.2&retries=0"), job(chat("p")))
    assert "\n" not in str(error.value)


def test_a_hanging_request_is_made_again(tmp_path: Path, waits: list[float]) -> None:
    with serving(after([Fault(hang=True)])) as server:
        assert ask(tmp_path, reference(server, "timeout=0.2&retries=1"), job(chat("p")))["p"]
    assert len(waits) == 1


@pytest.mark.parametrize(
    ("fault", "said_of_it"),
    [
        (Fault(body=b"<html>hello</html>", headers={"Content-Type": "text/html"}), "no JSON object"),
        (Fault(body=b'{"choices": ['), "not JSON"),
        (Fault(body=b"[]"), "no JSON object"),
        (Fault(body=b"{}"), "has no choices"),
        (Fault(body=b'{"choices": []}'), "has no choices"),
        (Fault(body=b'{"choices": [{"finish_reason": "stop"}]}'), "has no message"),
        (Fault(body=b'{"choices": [{"message": {"content": 7}}]}'), "is no text"),
        (
            Fault(body=b'{"error": {"message": "out of\\n memory", "code": 503}}'),
            r"HTTP 200 \(out of memory\); what was",
        ),
        (Fault(body=b'{"error": {"message": "no", "code": 401}}'), r"HTTP 200 \(no\): put the server's key in"),
    ],
)
def test_nonsense_is_an_error_and_not_an_answer(tmp_path: Path, fault: Fault, said_of_it: str) -> None:
    work = job(chat("p"), chat("q"))
    with serving(after([said("fine"), fault])) as server:
        with pytest.raises(TrustError, match=said_of_it) as error:
            ask(tmp_path, reference(server), work)
        assert "\n" not in str(error.value)
        with Engine(tmp_path) as engine:
            assert engine.model(reference(server)).stored(work) == {("p", 0)}


def test_a_connection_dropped_in_mid_answer_is_asked_again(tmp_path: Path, waits: list[float]) -> None:
    dropped = Fault(body=json.dumps(said("half of this is lost")).encode(), drop=True)
    with serving(after([dropped])) as server:
        found = ask(tmp_path, reference(server, "retries=1"), job(chat("p", "a b")))
    assert found["p"][0].text == "b a"
    assert len(waits) == 1
    with serving(after([dropped])) as server, pytest.raises(TrustError, match="POST /chat/completions"):
        ask(tmp_path / "other", reference(server), job(chat("p")))


def test_a_busy_server_is_asked_again_when_it_says(tmp_path: Path, waits: list[float]) -> None:
    with serving(after([Fault(429, headers={"Retry-After": "7"})])) as server:
        assert ask(tmp_path, reference(server, "retries=1"), job(chat("p")))["p"]
    assert waits == [7.0]


def test_a_failing_server_is_asked_again_with_longer_and_longer_waits(tmp_path: Path, waits: list[float]) -> None:
    with serving(after([Fault(500)] * 3)) as server:
        assert ask(tmp_path, reference(server, "retries=3"), job(chat("p")))["p"]
    assert len(server.asked("/chat/completions")) == 4
    assert waits[0] < waits[1] < waits[2]


def test_a_server_that_goes_on_failing_ends_the_run_and_keeps_what_was_answered(
    tmp_path: Path, waits: list[float]
) -> None:
    def fails_on_p3(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if "p3" in str(body.get("messages")):
            raise Fault(503, b'{"error": {"message": "out of\\n memory"}}')
        return plain(path, body)

    with serving(fails_on_p3) as server:
        with pytest.raises(
            TrustError, match=r"HTTP 503 \(out of memory\) \(3 attempts\); what was answered so far is kept"
        ) as error:
            ask(tmp_path, reference(server, "retries=2&concurrency=1"), job())
        assert "\n" not in str(error.value)
        assert sum("p3" in str(body["messages"]) for body in server.asked("/chat/completions")) == 3
        server.answer = plain
        before = len(server.asked("/chat/completions"))
        assert len(ask(tmp_path, reference(server), job())) == 6
    assert 1 <= len(server.asked("/chat/completions")) - before <= 3


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with serving(plain) as server:
        gone = reference(server)
    with pytest.raises(TrustError, match=r"GET /models: .*refused"):
        ask(tmp_path, gone, job())


@pytest.mark.parametrize("shown_by", ["description", "name"])
def test_nothing_of_another_model_is_stored_under_the_first_ones_name(tmp_path: Path, shown_by: str) -> None:
    count, lock = [0], threading.Lock()

    def swapped(path: str, body: dict[str, Any]) -> dict[str, Any]:
        with lock:
            if path == "/v1/chat/completions":
                count[0] += 1
            second = count[0] > 3
        if path == "/v1/models":
            return listed(root="second" if second and shown_by == "description" else "first")
        return said(
            "of the second" if second else "of the first",
            model="org/second" if second and shown_by == "name" else MODEL,
        )

    work = job()
    with serving(swapped) as server:
        with pytest.raises(TrustError, match="the model behind the server has changed") as error:
            ask(tmp_path, reference(server, "concurrency=1"), work)
        assert "\n" not in str(error.value)
        count[0] = 0
        with Engine(tmp_path) as engine:
            kept = engine.model(reference(server)).responses(work)
    assert kept
    assert {responses[0].text for responses in kept.values()} == {"of the first"}


def test_a_name_that_means_another_model_the_next_day(tmp_path: Path) -> None:
    with serving(lambda path, body: listed() if path == "/v1/models" else said("x", model="dated-1")) as server:
        ask(tmp_path, reference(server), job(chat("p")))
    with (
        serving(lambda path, body: listed() if path == "/v1/models" else said("x", model="dated-2")) as server,
        pytest.raises(TrustError, match="'dated-2', and before as 'dated-1'"),
    ):
        ask(tmp_path, reference(server), job(chat("p"), chat("q")))


# What a server does not take.


def refusing_fields(*names: str) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        wrong = sorted(set(names) & set(body))
        if wrong:
            raise Fault(422, json.dumps({"detail": f"Unexpected fields in the request: {wrong}"}).encode())
        return plain(path, body)

    return answer


def test_fields_that_a_server_does_not_know_are_left_out_and_said(tmp_path: Path) -> None:
    with (
        serving(
            refusing_fields(
                "top_k", "min_p", "repetition_penalty", "return_tokens_as_token_ids", "return_token_ids", "logprobs"
            )
        ) as server,
        Engine(tmp_path) as engine,
    ):
        engine.acquire([job(temperature=1.0)], [reference(server)])
        assert OWN_SAMPLING in engine.identify(reference(server)).warnings
        assert len(engine.model(reference(server)).responses(job(temperature=1.0))) == 6
    assert len(server.asked("/chat/completions")) <= 4 + 5  # learnt from the first, not from each


def test_a_top_k_that_is_asked_for_is_not_left_out(tmp_path: Path) -> None:
    with (
        serving(refusing_fields("top_k")) as server,
        pytest.raises(TrustError, match="takes no top_k, and 20 is asked for") as error,
    ):
        ask(tmp_path, reference(server), job(temperature=1.0, top_k=20))
    assert "Unexpected fields" in str(error.value)


def test_a_prompt_that_is_refused_is_named(tmp_path: Path) -> None:
    with (
        serving(after([Fault(400, b'{"error": {"message": "too long"}}')] * 4)) as server,
        pytest.raises(TrustError, match=r"probe p: .*HTTP 400 \(too long\)"),
    ):
        ask(tmp_path, reference(server), job(chat("p")))


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "too long"}},
        {"error": {"message": "too long", "code": 400}, "choices": None},
        {"error": "too long"},
        {"object": "error", "message": "too long", "code": 40303},
    ],
)
def test_an_error_under_status_200_is_a_refusal(tmp_path: Path, body: dict[str, Any]) -> None:
    with (
        serving(after([Fault(body=json.dumps(body).encode())] * 4)) as server,
        pytest.raises(TrustError, match=r"^probe p: .*POST .*/chat/completions: an error under HTTP 200 \(too long\)$"),
    ):
        ask(tmp_path, reference(server), job(chat("p")))


def test_an_error_that_is_null_is_none(tmp_path: Path) -> None:
    with serving(after([{**said("fine"), "error": None}])) as server:
        assert ask(tmp_path, reference(server), job(chat("p")))["p"][0].text == "fine"


def test_a_server_that_wants_max_completion_tokens_gets_them(tmp_path: Path) -> None:
    def newer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/chat/completions" and "max_tokens" in body:
            words = "Unsupported parameter: 'max_tokens' is not supported with this model. "
            words += "Use 'max_completion_tokens' instead."
            raise Fault(400, json.dumps({"error": {"message": words, "code": "unsupported_parameter"}}).encode())
        return plain(path, body)

    text = Probe(id="t", cluster="t", text="a b c")
    with serving(newer) as server:
        assert len(ask(tmp_path, reference(server), job(*job().probes, text))) == 7
    first, *others = server.asked("/chat/completions")
    assert first["max_tokens"] == 8
    assert [body.get("max_completion_tokens") for body in others] == [8] * 6  # learnt from the first, not from each
    assert all("logprobs" in body for body in others)
    assert [body["max_tokens"] for body in server.asked("/completions")] == [8]


def test_a_limit_that_is_too_large_is_not_taken_for_the_other_name(tmp_path: Path) -> None:
    words = b'{"error": {"message": "max_tokens or max_completion_tokens is too large: 8"}}'
    with serving(after([Fault(400, words)] * 9)) as server, pytest.raises(TrustError, match="too large: 8"):
        ask(tmp_path, reference(server), job(chat("p")))
    assert len(server.asked("/chat/completions")) == 5


def test_a_trace_cannot_be_closed_behind_a_server(tmp_path: Path) -> None:
    with serving(plain) as server, pytest.raises(TrustError, match="leave out --trust-reasoning-budget"):
        ask(tmp_path, reference(server), job(reasoning_budget=3))


# The key.


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", "s3cret-key")
    monkeypatch.setenv("OPENAI_API_KEY", "not-this-one")

    def tells(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if "q" in str(body.get("messages")):
            raise Fault(
                400,
                json.dumps({"error": {"message": f"bad header {server.requests[-1][2]['Authorization']}"}}).encode(),
            )
        return plain(path, body)

    with serving(tells) as server:
        given = reference(server, "key_env=OTHER_KEY&retries=0")
        with Engine(tmp_path) as engine:
            with pytest.raises(TrustError, match=r"bad header Bearer \[key\]") as error:
                engine.acquire([job(chat("p"), chat("q"))], [given])
            seen = [str(error.value), repr(given), repr(engine.model(given)), repr(engine.identify(given))]
    assert all(headers["Authorization"] == "Bearer s3cret-key" for _, _, headers in server.requests)
    monkeypatch.delenv("OPENAI_API_KEY")
    with serving(plain) as server:
        ask(tmp_path / "other", reference(server), job(chat("p")))
    assert not any("Authorization" in headers for _, _, headers in server.requests)
    assert not any("s3cret" in text for text in seen)
    assert not any(b"s3cret" in file.read_bytes() for file in tmp_path.iterdir() if file.is_file())


@pytest.mark.parametrize(
    ("key", "told", "shown"),
    [
        ("a", "a bad day: a", "[key] bad day: [key]"),
        ("EMPTY", "EMPTY, not EMPTYING", "[key], not EMPTYING"),
        ("sk-1.x", 'Bearer sk-1.x" sk-12x', 'Bearer [key]" sk-12x'),
        ("s3cret", "header:\\ns3cret", "header:\\n[key]"),
    ],
)
def test_a_key_is_masked_as_a_whole_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, told: str, shown: str
) -> None:
    monkeypatch.setenv("OTHER_KEY", key)
    with (
        serving(after([Fault(503, json.dumps({"error": {"message": told}}).encode())])) as server,
        pytest.raises(TrustError, match=re.escape(f"HTTP 503 ({shown});")),
    ):
        ask(tmp_path, reference(server, "key_env=OTHER_KEY&retries=0"), job(chat("p")))


def test_a_key_that_is_missing_or_wrong_names_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTHER_KEY", raising=False)
    with serving(plain) as server, pytest.raises(TrustError, match="OTHER_KEY is not set"):
        ask(tmp_path, reference(server, "key_env=OTHER_KEY"), job())
    monkeypatch.setenv("OTHER_KEY", "s3cret")
    with serving(after([Fault(401)])) as server, pytest.raises(TrustError, match=r"HTTP 401.*\$OTHER_KEY"):
        ask(tmp_path, reference(server, "key_env=OTHER_KEY"), job(chat("p")))


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    with (
        serving(plain) as other,
        serving(after([Fault(307, headers={"Location": f"{other.url}/chat/completions"})])) as server,
    ):
        with pytest.raises(TrustError, match="HTTP 307"):
            ask(tmp_path, reference(server), job(chat("p")))
        assert not other.requests


def test_a_model_behind_a_server_is_not_loaded(tmp_path: Path) -> None:
    from pytest_trust.models.loading import load_model

    with pytest.raises(TrustError, match="cannot be loaded here"):
        load_model(parse_reference("http://127.0.0.1:9/v1#m"), cache=tmp_path)


def test_without_the_client_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(TrustError, match=r"pip install 'pytest-trust\[server\]'"):
        ask(tmp_path, parse_reference("http://127.0.0.1:9/v1#m"), job())
