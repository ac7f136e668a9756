"""From a probe to token ids: chat template or plain format, and which of the ids are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import InvalidInput
from pytest_trust.models.chat_template import CLOCK, render_chat, template_errors
from pytest_trust.models.framing import encode
from pytest_trust.models.reference import Setting
from pytest_trust.models.thinking_switches import switch_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pytest_trust.probes import Message, Probe

#: Where a response in the plain format ends. The model goes on to write the next turn itself.
PLAIN_STOP = "\nUser:"
TAIL = 64  # characters of the end of a text that are kept
_PLAIN_ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt. `tail` is the end of its text: some templates open a reasoning trace there."""

    ids: tuple[int, ...]
    tail: str = ""


@dataclass(frozen=True, slots=True)
class OptionRows:
    """For each option the whole sequence, and the index of its first scored token (1 or more: it needs a condition)."""

    ids: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    probe: Probe,
    *,
    thinking: str = "",
    settings: Mapping[str, Setting] | None = None,
    now: datetime = CLOCK,
) -> Prompt:
    """The prompt of a probe, ending where the response begins.

    Chat messages go through the tokenizer's own template with the generation prompt. `thinking` is given to it as it
    knows it (see `thinking_switches`), `settings` are other variables of the template, and its clock says `now`. A
    tokenizer without a template gets the plain format: lines `System: ...`, `User: ...` and last `Assistant:`. A
    probe's `text` is taken as it is.

    Raises:
        InvalidInput: the prompt has no token, the template rejects the messages, or it has no switch for `thinking`.
    """
    text, template = prompt_text(tokenizer, probe, thinking=thinking, settings=settings, now=now)
    ids = _encode(tokenizer, text) if template else _bos(tokenizer, default_only=bool(text)) + _encode(tokenizer, text)
    if not ids:
        raise InvalidInput(
            f"probe {probe.id}: the prompt is empty and the tokenizer has no token to begin with: give the probe a text"
        )
    return Prompt(tuple(ids), text[-TAIL:])


def render_options(
    tokenizer: PreTrainedTokenizerBase,
    probe: Probe,
    *,
    thinking: str = "",
    settings: Mapping[str, Setting] | None = None,
    now: datetime = CLOCK,
) -> OptionRows:
    """The sequences whose log-likelihoods are log P(option | prompt).

    Prompt and option are tokenised as one text, so that each option has its natural tokens. An option is scored from
    the first token that holds one of its characters. After a chat prompt the option follows the generation prompt at
    once. After the plain format and raw text one space is put between, unless there is white space already or no text.

    With an empty prompt the first token is conditioned on the beginning-of-sequence token. Where the tokenizer has
    none, the first token of every option is left out.

    Raises:
        InvalidInput: an option has no token that can be scored, or as `render_prompt`.
    """
    text, template = prompt_text(tokenizer, probe, thinking=thinking, settings=settings, now=now)
    gap = "" if template or not text or text[-1].isspace() else " "
    begin = [] if template else _bos(tokenizer, default_only=bool(text))
    rows, starts = [], []
    for option in probe.options:
        joined = gap + option if not (gap and option[:1].isspace()) else option
        body, boundary = _encode_split(tokenizer, text, joined)
        ids = [*begin, *body]
        rows.append(tuple(ids))
        starts.append(max(1, len(begin) + boundary))
        if len(ids) <= starts[-1]:
            raise InvalidInput(
                f"probe {probe.id}: the option {option!r} has no token that can be scored: give it more text"
            )
    return OptionRows(tuple(rows), tuple(starts))


def options_behind(tokenizer: PreTrainedTokenizerBase, text: str, gap: str, options: Sequence[str]) -> OptionRows:
    """The token ids of options behind a text that a model wrote, and the index of each option's first token.

    Each option is tokenised behind the end of the text, which its ids do not include. `gap` holds the characters that
    the model writes between the text and its answer as a part of the answer's first token. An option takes them too.

    Args:
        tokenizer: the model's tokenizer.
        text: the end of the text.
        gap: characters that belong to the option's first token.
        options: the options.
    """
    rows, starts = [], []
    for option in options:
        # A token must not reach over the end of the text, whose tokens are those that the model wrote.
        for before in (text, text.rstrip(), ""):
            ids, boundary = _encode_split(tokenizer, before, gap + option)
            if ids[:boundary] == _encode(tokenizer, before):
                break
        _, start = _encode_split(tokenizer, before + gap, option)
        rows.append(tuple(ids[boundary:]))
        starts.append(max(0, start - boundary))
    return OptionRows(tuple(rows), tuple(starts))


def prompt_text(
    tokenizer: PreTrainedTokenizerBase,
    probe: Probe,
    *,
    thinking: str = "",
    settings: Mapping[str, Setting] | None = None,
    now: datetime = CLOCK,
) -> tuple[str, bool]:
    """The prompt as text, and whether a chat template wrote it. The special tokens are then in the text."""
    if not probe.messages:
        return probe.text, False
    if not tokenizer.chat_template:
        switch_for(tokenizer, thinking)
        return _plain(probe.messages), False
    return _chat(tokenizer, probe, thinking, settings or {}, now), True


def _plain(messages: Sequence[Message]) -> str:
    lines = [f"{_PLAIN_ROLES.get(message.role, message.role.capitalize())}: {message.content}" for message in messages]
    return "\n".join([*lines, "Assistant:"])


def _chat(
    tokenizer: PreTrainedTokenizerBase, probe: Probe, thinking: str, settings: Mapping[str, Setting], now: datetime
) -> str:
    switch = switch_for(tokenizer, thinking)
    messages = [{"role": message.role, "content": message.content} for message in probe.messages]
    system = [message["content"] for message in messages if message["role"] == "system"]
    if switch.system:
        messages = _with_system_word(messages, switch.system)

    def apply(conversation: list[dict[str, str]]) -> str:
        return render_chat(tokenizer, conversation, settings={**dict(switch.settings), **settings}, now=now)

    try:
        text = apply(messages)
        if all(part.strip() in text for part in system):
            return text
    except template_errors() as error:
        if not system:
            raise InvalidInput(
                f"probe {probe.id}: the model's chat template rejects its messages ({error}): change the messages"
            ) from None
    # The template rejects a system message, or drops it without a word. It is put before the first user message.
    try:
        return apply(_fold_system(messages))
    except template_errors() as error:
        raise InvalidInput(
            f"probe {probe.id}: the model's chat template rejects its messages ({error}): change the messages"
        ) from None


def _with_system_word(messages: list[dict[str, str]], word: str) -> list[dict[str, str]]:
    """A word that turns thinking on or off, behind the system message or as one of its own."""
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": word}, *messages]
    return [{"role": "system", "content": f"{messages[0]['content']} {word}"}, *messages[1:]]


def _fold_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    rest = [dict(message) for message in messages if message["role"] != "system"]
    first = next((message for message in rest if message["role"] == "user"), None)
    if first is None:
        return [*rest, {"role": "user", "content": system}]
    first["content"] = f"{system}\n\n{first['content']}"
    return rest


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(encode(tokenizer, text))


def _bos(tokenizer: PreTrainedTokenizerBase, *, default_only: bool) -> list[int]:
    """The beginning-of-sequence token, or nothing.

    With `default_only` it is given where the tokenizer puts one before every text; else (for an empty prompt) where it
    has one at all.
    """
    bos = tokenizer.bos_token_id
    if not isinstance(bos, int):
        return []
    return [bos] if not default_only or tokenizer("a")["input_ids"][:1] == [bos] else []


def _encode_split(tokenizer: PreTrainedTokenizerBase, prompt: str, option: str) -> tuple[list[int], int]:
    """Token ids of prompt + option as one text, and the index of the first token with a character of the option."""
    whole = prompt + option
    if tokenizer.is_fast:
        encoded: Any = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        ids = [int(i) for i in encoded["input_ids"]]
        ends = [int(end) for _, end in encoded["offset_mapping"]]
        boundary = next((index for index, end in enumerate(ends) if end > len(prompt)), len(ids))
        return ids, boundary
    ids, before = _encode(tokenizer, whole), _encode(tokenizer, prompt)
    shared = next((i for i, (a, b) in enumerate(zip(ids, before, strict=False)) if a != b), min(len(ids), len(before)))
    return ids, shared
