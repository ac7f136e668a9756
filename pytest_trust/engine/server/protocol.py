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
from pytest_trust.models.reference import Reference, setting_of
from pytest_trust.responses import Generation

if TYPE_CHECKING:
    from pytest_trust.probes import Probe

CHAT, TEXT = "/chat/completions", "/completions"
TOP_LOGPROBS = 20  # OpenAI's maximum, and vLLM's by default
_SEEDS = 2**31  # llama.cpp takes 32 bits


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

    def body(self, model: str, *, logprobs: bool, extras: bool) -> dict[str, object]:
        asked: dict[str, object] = {"model": model, **self.core}
        if logprobs:
            asked |= (
                {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if self.path == CHAT else {"logprobs": TOP_LOGPROBS}
            )
        return {**asked, **self.wishes} if extras else asked


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as the server gave it."""

    text: str
    finish: Literal["stop", "length"]
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
        return {**value, "prompt_ids": self.prompt_ids} if self.prompt_ids else value


def asking_of(probe: Probe, generation: Generation, repeat: int, template: Mapping[str, object]) -> Asking:
    """The request for one sample of a probe: chat completions for messages, completions for a text.

    `template` is what `template_settings` gives.

    The request switches off the server's own sampling defaults, where the server allows it, so that both sides of a
    pair are asked in the same way. vLLM takes its defaults from the model's generation_config; llama.cpp has a min_p.
    """
    # A server has one limit for trace and answer together. A text of its own has no trace.
    limit = generation.longest if probe.messages else generation.max_new_tokens
    core: dict[str, object] = {
        "max_tokens": limit,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "frequency_penalty": 0.0,
    }
    wishes: dict[str, object] = {
        "repetition_penalty": 1.0,
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }
    if not generation.greedy:
        core["seed"] = row_seed(generation.seed, probe.id, repeat) % _SEEDS
        wishes |= {"top_k": generation.top_k or -1, "min_p": 0.0}
    if not probe.messages:
        return Asking(probe.id, TEXT, {"prompt": probe.text, **core}, wishes, limit, generation.top_k)
    core["messages"] = [{"role": message.role, "content": message.content} for message in probe.messages]
    core |= template
    return Asking(probe.id, CHAT, core, wishes, limit, generation.top_k)


def template_settings(reference: Reference) -> dict[str, object]:
    """What a reference's `?thinking=` and `?template.NAME=` set in the server's chat template.

    `?thinking=` is given under both names that templates know; a template ignores the other name.
    """
    thinking = reference.options.get("thinking", "")
    settings: dict[str, object] = dict.fromkeys(("enable_thinking", "thinking"), thinking == "on") if thinking else {}
    settings |= {name: setting_of(text) for name, text in reference.template_options.items()}
    return {"chat_template_kwargs": settings} if settings else {}


def answer_of(found: Mapping[str, Any], asking: Asking, *, where: str, trace: tuple[str, str]) -> Answer:
    """The response in a server's answer. Reasoning in a field of its own is put before the text, in the tags `trace`.

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
    reason = choice.get("finish_reason")
    # Some servers leave the reason out. Of the given reasons, only `length` means that the response was cut.
    cut = reason == "length" or (reason is None and tokens >= asking.limit)
    return Answer(
        text=_whole(reasoning, content, cut, trace),
        finish="length" if cut else "stop",
        tokens=tokens,
        prompt_tokens=prompt_tokens,
        model=str(found.get("model") or ""),
        tops=tops_of(choice.get("logprobs")),
        prompt_ids=_ids(found.get("prompt_token_ids") or choice.get("prompt_token_ids")),
    )


def _whole(reasoning: str, content: str, cut: bool, trace: tuple[str, str]) -> str:
    if not reasoning.strip():
        return content
    opening, closing = trace
    # A response without an answer was cut while its trace was still open.
    return (
        f"{opening}\n{reasoning}" if cut and not content.strip() else f"{opening}\n{reasoning}\n{closing}\n\n{content}"
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _ids(value: object) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list) and all(isinstance(index, int) for index in value) else ()
