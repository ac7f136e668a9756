"""Traces of a model behind a server: in a field of their own, opened by a template that is known, or by one that shows
only in the responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_trust.engine.engine import Engine
from pytest_trust.engine.server.stored_answers import IN_A_TRACE
from pytest_trust.errors import TrustError
from pytest_trust.judges import get_judge
from pytest_trust.judges.samples import judge_responses
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.responses import Generation, Job, Response
from tests.support.serving import MODEL, Server, listed, said, serving
from tests.support.tiny_models import save_tokenizer

pytest.importorskip("openai", reason="the openai package is not installed")

CUT = said("The user asks for this, and I", finish="length")
CLOSED = said("First think.\n</think>\n\nThe answer.")
STOPPED = said("No trace, and an end.")
# opens a trace in every prompt, in tags that no table has
MUSING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and m.reasoning_content %}<my:muse>\n{{ m.reasoning_content }}\n</my:muse>\n\n"
    "{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<my:muse>\n{% endif %}"
)


def served(said_of: dict[str, dict[str, Any]]) -> Any:
    """A server with one answer for each prompt."""
    return serving(
        lambda path, body: (
            listed()
            if path == "/v1/models"
            else said_of[body["messages"][-1]["content"] if "messages" in body else body["prompt"]]
        )
    )


def job(*names: str, suite: str = "s") -> Job:
    probes = tuple(Probe(id=name, cluster=name, messages=(Message("user", name),)) for name in names)
    return Job(suite, "generate", probes, Generation(8))


def at(server: Server, options: str = "") -> Reference:
    return parse_reference(f"{server.url}?retries=0{options}#{MODEL}")


def ask(store: Path, given: Reference, work: Job, **settings: Any) -> dict[str, Response]:
    with Engine(store, **settings) as engine:
        engine.acquire([work], [given])
        return {name: one for name, (one,) in engine.model(given).responses(work).items()}


def test_a_lone_closing_tag_shows_that_the_template_opens_a_trace(tmp_path: Path) -> None:
    with served({"a": CUT, "b": CLOSED, "c": STOPPED}) as server:
        found = ask(tmp_path, at(server), job("a", "b", "c"))
    assert (found["a"].answer, found["a"].complete) == ("", False)
    assert (found["b"].reasoning, found["b"].answer, found["b"].complete) == ("First think.", "The answer.", True)
    assert (found["c"].answer, found["c"].complete) == ("No trace, and an end.", True)
    judged = judge_responses(get_judge("refusal"), "refusal", job("a").probes, {"a": (found["a"],)})
    assert judged["a"][0].outcome == "truncated"


def test_what_one_suite_has_shown_holds_for_all_and_for_later_runs(tmp_path: Path) -> None:
    first, second = job("a", suite="first"), job("b", suite="second")
    with served({"a": CUT, "b": CLOSED}) as server, Engine(tmp_path) as engine:
        given = at(server)
        engine.acquire([first, second], [given])
        assert not engine.model(given).responses(first)["a"][0].complete
    with served({}) as server:
        assert not ask(tmp_path, at(server), first)["a"].complete
        assert not server.asked("/chat/completions")


@pytest.mark.parametrize(
    "other",
    [
        "Write `</think>` behind it.",
        'The tag "</think>" ends it.',
        "<think>Mine.</think> Yes.",
        "Here is my response: yes.",
        "No tag at all.",
    ],
)
def test_a_tag_that_is_quoted_or_answered_by_another_is_no_sign(tmp_path: Path, other: str) -> None:
    with served({"a": CUT, "b": said(other)}) as server:
        found = ask(tmp_path, at(server), job("a", "b"))
    assert (found["a"].answer, found["a"].complete) == ("The user asks for this, and I", True)


def test_a_text_of_its_own_has_no_template(tmp_path: Path) -> None:
    probes = (Probe(id="t", cluster="t", text="Once upon"), *job("b").probes)
    with served({"Once upon": said("a time", finish="length", chat=False), "b": CLOSED}) as server:
        found = ask(tmp_path, at(server), Job("s", "generate", probes, Generation(8)))
    assert (found["t"].answer, found["t"].complete) == ("a time", True)


def test_thinking_on_shows_nothing_of_thinking_off(tmp_path: Path) -> None:
    with served({"a": CUT, "b": CLOSED}) as server:
        assert not ask(tmp_path, at(server, "&thinking=on"), job("a", "b"))["a"].complete
        assert ask(tmp_path, at(server, "&thinking=off"), job("a"))["a"].complete


def test_a_tokenizer_says_that_the_template_opens_a_trace_and_in_which_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tokenizer(tmp_path / "card", template=MUSING)  # no weights, and no configuration of a model
    said_of = {"a": CUT, "b": said("First think.\n</my:muse>\n\nThe answer."), "c": STOPPED}
    with served(said_of) as server:
        found = ask(tmp_path, at(server, f"&tokenizer={tmp_path / 'card'}"), job("a", "b", "c"))
        assert (found["a"].complete, found["c"].complete) == (False, False)  # as for a model that is run here
        assert (found["b"].reasoning, found["b"].answer) == ("First think.", "The answer.")
        asked = len(server.asked("/chat/completions"))
        monkeypatch.setattr("pytest_trust.models.loading.load_tokenizer", None)  # the store knows it
        assert ask(tmp_path, at(server, f"&tokenizer={tmp_path / 'card'}"), job("a", "b", "c")) == found
        unknown = ask(tmp_path, at(server), job("a", "b", "c"))
        assert "</my:muse>" in unknown["b"].answer
        assert len(server.asked("/chat/completions")) == asked


def test_a_response_shows_a_trace_that_the_named_template_does_not_open(tmp_path: Path) -> None:
    """The server may have another template than the card."""
    save_tokenizer(tmp_path / "card", template=MUSING.replace("assistant\n<my:muse>\n", "assistant\n"))
    with served({"a": CUT, "b": said("First think.\n</my:muse>\n\nThe answer.")}) as server, Engine(tmp_path) as engine:
        told, untold = at(server, f"&tokenizer={tmp_path / 'card'}"), at(server)
        for given, complete in ((untold, True), (told, False), (untold, True)):
            engine.acquire([job("a", "b")], [given])
            assert engine.model(given).responses(job("a", "b"))["a"][0].complete == complete
            assert engine.model(given).warnings == (() if complete else (IN_A_TRACE,))


def test_a_template_is_rendered_with_the_thinking_that_the_server_is_asked_for(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "card")  # opens a trace where `enable_thinking` says so
    with served({"a": CUT}) as server:
        for thinking, complete in (("", True), ("&thinking=off", True), ("&thinking=on", False)):
            given = at(server, f"&tokenizer={tmp_path / 'card'}{thinking}")
            assert ask(tmp_path, given, job("a"))["a"].complete == complete


def test_a_trace_in_a_field_of_its_own_is_read_in_the_tags_of_the_tokenizer(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "card", template=MUSING)
    said_of = {
        "a": said("The answer.", reasoning_content="First think."),
        "b": said("", finish="length", reasoning="First"),
        "c": said("Half an answer, and", finish="length", reasoning="First think."),
        "d": STOPPED,  # the server's parser has found no trace in it
        "e": CUT,  # a parser that leaves a trace where it is until it is closed
    }
    with served(said_of) as server:
        for options in ("", f"&tokenizer={tmp_path / 'card'}"):
            found = ask(tmp_path, at(server, options), job(*said_of))
            assert (found["a"].reasoning, found["a"].answer) == ("First think.", "The answer.")
            assert (found["b"].reasoning, found["b"].answer, found["b"].complete) == ("First", "", False)
            assert (found["c"].answer, found["c"].complete) == ("Half an answer, and", True)
            assert (found["d"].answer, found["d"].complete) == ("No trace, and an end.", True)
        assert not found["e"].complete
        assert len(server.asked("/chat/completions")) == 5


@pytest.mark.parametrize(("ended", "complete"), [("aab", False), ("abb", True), ("", True)])
def test_a_parser_that_leaves_a_cut_trace_in_its_place_is_known_by_the_others(
    tmp_path: Path, ended: str, complete: bool
) -> None:
    """`a` comes with a trace of its own, `b` without one: most of them must have a trace."""
    answers = {"a": said("The answer.", reasoning_content="First think."), "b": STOPPED}
    said_of = {"e": CUT, **{f"{number}": answers[one] for number, one in enumerate(ended)}}
    with served(said_of) as server:
        found = ask(tmp_path, at(server), job(*said_of))
    assert found["e"].complete == complete
    assert all(one.complete for name, one in found.items() if name != "e")


def test_tags_of_a_user_go_before_those_of_a_tokenizer(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "card", template=MUSING)
    with (
        served({"a": said("<plan>So.</plan> Yes.")}) as server,
        Engine(tmp_path, reasoning_tags=(("<plan>", "</plan>"),)) as engine,
    ):
        assert engine.model(at(server, f"&tokenizer={tmp_path / 'card'}")).tags == (("<plan>", "</plan>"),)


def test_a_tokenizer_that_cannot_be_had_or_has_no_template_is_an_error_before_the_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_tokenizer(tmp_path / "bare", template=None)
    (tmp_path / "empty").mkdir()
    with served({"a": CUT}) as server:
        for name, words in (("bare", "has no chat template"), ("empty", "empty: ")):
            with pytest.raises(TrustError, match=words) as error:
                ask(tmp_path, at(server, f"&tokenizer={tmp_path / name}"), job("a"))
            assert "\n" not in str(error.value)
        assert not server.asked("/chat/completions")
