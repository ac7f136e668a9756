"""One response through the OpenAI protocol: the request for a probe, and the response in the server's answer.

These are pure functions; `engine.server.client` sends the requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_trust.engine.server.client import ServerError
from pytest_trust.engine.server.logprobs import tops_of
from pytest_trust.keys import row_seed
from pytest_trust.models.reference import Reference, Setting, setting_of
from pytest_trust.responses import Generation

if TYPE_CHECKING:
    from pytest_trust.probes import Probe

CHAT, TEXT = "/chat/completions", "/completions"
TOP_LOGPROBS = 20  # OpenAI's maximum, and vLLM's by default
_SEEDS = 2**31  # llama.cpp takes 32 bits
_REASON = 60  # characters of a finish reason that are kept

# What servers and gateways call the model's own end and the token limit, in lower case. `eos_token` and `stop_sequence`
# are TGI's, `eos` is Together's, `end_turn` and `max_tokens` are Anthropic's, `complete` is Cohere's, `model_length`
# (the end of the context) is Mistral's. All other reasons mean that there is no answer.
_ENDS = ("stop", "eos", "eos_token", "stop_sequence", "end", "end_turn", "complete")
_CUTS = ("length", "max_tokens", "model_length")
#: Reasons for which the same request may be answered when it is sent again.
PASSING = ("abort", "error", "insufficient_system_resource")

LimitName = Literal["max_tokens", "max_completion_tokens"]
"""The name of the token limit: OpenAI's newer models refuse the old one on chat completions."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A request for one sample of a probe, without the model's name."""

    probe: str
    path: str
    core: Mapping[str, object]
    """Parameters that every server knows."""
    wishes: Mapping[str, object]
    """Parameters that only some servers know."""
    limit: int
    """The most tokens of the response."""
    top_k: int

    def body(
        self, model: str, *, logprobs: bool, extras: bool, limit_name: LimitName = "max_tokens"
    ) -> dict[str, object]:
        limit_name = limit_name if self.path == CHAT else "max_tokens"
        asked: dict[str, object] = {"model": model, limit_name: self.limit, **self.core}
        if logprobs:
            asked |= (
                {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if self.path == CHAT else {"logprobs": TOP_LOGPROBS}
            )
        return {**asked, **self.wishes} if extras else asked


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as the server gave it."""

    text: str
    """What is outside of `reasoning`. Tags of a trace may be in it."""
    reasoning: str
    """The trace that the server returned in a field of its own; empty without one."""
    finish: Literal["stop", "length", "error"]
    failure: str
    """The server's reason for an end that is an `error`."""
    tokens: int
    """The server's count of the response's tokens; 0 where it gives none."""
    prompt_tokens: int
    """The server's count of the prompt's tokens; 0 where it gives none."""
    model: str
    """The model's name in the answer."""
    tops: bytes
    """Packed log-probabilities of the tokens (`engine.server.logprobs`); empty where the server gives none."""
    prompt_ids: tuple[int, ...] = ()
    """The prompt's token ids; empty where the server does not return them (vLLM does)."""

    def as_value(self) -> dict[str, object]:
        """The stored form of the response. Its token ids are empty, because servers do not return them."""
        value: dict[str, object] = {
            "text": self.text,
            "ids": [],
            "finish": self.finish,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
        }
        more = {"reasoning": self.reasoning, "failure": self.failure, "prompt_ids": self.prompt_ids}
        return {**value, **{name: one for name, one in more.items() if one}}


def asking_of(probe: Probe, generation: Generation, repeat: int, template: Mapping[str, object]) -> Asking:
    """The request for one sample of a probe: chat completions for messages, completions for a text.

    `template` is what `template_settings` gives.

    The request switches off the server's own sampling defaults, where the server allows it, so that both sides of a
    pair are asked in the same way. vLLM takes its defaults from the model's generation_config; llama.cpp has a min_p.
    They act where the model's `own` settings are asked for.
    """
    # A server has one limit for trace and answer together. A text of its own has no trace.
    limit = generation.longest if probe.messages else generation.max_new_tokens
    core: dict[str, object] = {}
    wishes: dict[str, object] = {"return_tokens_as_token_ids": True, "return_token_ids": True}
    if not generation.own:
        core |= {"temperature": generation.temperature, "top_p": generation.top_p, "frequency_penalty": 0.0}
        wishes["repetition_penalty"] = generation.repetition_penalty
    if generation.own or not generation.greedy:
        core["seed"] = row_seed(generation.seed, probe.id, repeat) % _SEEDS
    if not generation.own and not generation.greedy:
        wishes |= {"top_k": generation.top_k or -1, "min_p": generation.min_p}
    if not probe.messages:
        return Asking(probe.id, TEXT, {"prompt": probe.text, **core}, wishes, limit, generation.top_k)
    core["messages"] = [{"role": message.role, "content": message.content} for message in probe.messages]
    core |= template
    return Asking(probe.id, CHAT, core, wishes, limit, generation.top_k)


def template_settings(reference: Reference) -> dict[str, dict[str, Setting]]:
    """What a reference's `?thinking=` and `?template.NAME=` set in the server's chat template.

    `?thinking=` is given under both names that templates know; a template ignores the other name.
    """
    thinking = reference.options.get("thinking", "")
    settings: dict[str, Setting] = dict.fromkeys(("enable_thinking", "thinking"), thinking == "on") if thinking else {}
    settings |= {name: setting_of(text) for name, text in reference.template_options.items()}
    return {"chat_template_kwargs": settings} if settings else {}


def answer_of(found: Mapping[str, Any], asking: Asking, *, where: str) -> Answer:
    """The response in a server's answer.

    Raises:
        ServerError: the answer does not follow the protocol.
    """
    choices = found.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise ServerError(
            f"{where}: the answer to probe {asking.probe} has no choices: expected one, as OpenAI's protocol has it"
        )
    message = choice.get("message") if asking.path == CHAT else choice
    if not isinstance(message, dict):
        raise ServerError(f"{where}: the answer to probe {asking.probe} has no message: expected choices[0].message")
    content = message.get("content" if asking.path == CHAT else "text")
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    content = message.get("refusal") or "" if content is None else content
    if not isinstance(content, str) or not isinstance(reasoning, str):
        raise ServerError(f"{where}: the answer to probe {asking.probe} is no text: expected a string in choices[0]")
    usage = found.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    tokens, prompt_tokens = (_count(usage.get(name)) for name in ("completion_tokens", "prompt_tokens"))
    finish, failure = _finish(choice.get("finish_reason"), tokens >= asking.limit)
    return Answer(
        text=content,
        reasoning=reasoning if reasoning.strip() else "",
        finish=finish,
        failure=failure,
        tokens=tokens,
        prompt_tokens=prompt_tokens,
        model=str(found.get("model") or ""),
        tops=tops_of(choice.get("logprobs")),
        prompt_ids=_ids(found.get("prompt_token_ids") or choice.get("prompt_token_ids")),
    )


def _finish(reason: object, full: bool) -> tuple[Literal["stop", "length", "error"], str]:
    """How a response ended, and the server's reason where that is an `error`.

    Some servers leave the reason out. `full`, whether the response is as long as it may be, then tells.
    """
    if reason in (None, ""):
        return ("length" if full else "stop"), ""
    name = str(reason).strip().lower()
    if name in _ENDS or name in _CUTS:
        return ("stop" if name in _ENDS else "length"), ""
    return "error", " ".join(str(reason).split())[:_REASON]


def whole_text(value: Mapping[str, Any], trace: tuple[str, str]) -> str:
    """The text of a stored response. A trace that the server returned apart is put before it, in the tags `trace`."""
    reasoning, text, (opening, closing) = value.get("reasoning", ""), str(value["text"]), trace
    if not reasoning:
        return text
    # A response without an answer was cut while its trace was still open.
    if value["finish"] == "length" and not text.strip():
        return f"{opening}\n{reasoning}"
    return f"{opening}\n{reasoning}\n{closing}\n\n{text}"


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _ids(value: object) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list) and all(isinstance(index, int) for index in value) else ()
