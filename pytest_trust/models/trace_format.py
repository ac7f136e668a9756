"""A model's own reasoning format, read from its own chat template.

The template is rendered with a trace and an answer that are known. The rendering is compared with the generation prompt
and with the same chat without the trace:

- The text before the trace is its opening.
- The text between trace and answer is the closing of the trace, then the opening of the answer.
- The text behind the answer is its end.

A reading counts only if `split_reasoning` gives the trace and the answer back with it.

Some templates drop traces. Their prompts may still show the format: one that turns thinking off often holds an empty
trace. If the prompts show nothing either, the tags that the template's text contains are looked up in the table of
`pytest_trust.reasoning`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from pytest_trust.models.chat_template import (
    Messages,
    parse_template,
    render_chat,
    template_errors,
    template_text,
)
from pytest_trust.models.reference import Setting
from pytest_trust.models.thinking_switches import Switch, switch_for, thinking_switches
from pytest_trust.reasoning import DEFAULT_TAGS, Tags, opened_by, split_reasoning, tags_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Value = TypeVar("Value")
Source = Literal["reasoning_tags", "response_template", "template", "table", "none"]

# Known texts, in plain words: templates neither trim nor escape them, nor look for them.
_QUESTION: Final = "Which of both numbers is larger"
_TRACE: Final = "First the numbers are compared digit by digit"
_ANSWER: Final = "It is the second number of these"
_EARLIER: Final = "Both numbers were named before"
# A mark as vocabularies and templates write it: <think>, [THINK], <|START_THINKING|>, ◁think▷
_MARK = re.compile(r"<[^<>\s][^<>\n]{0,60}>|\[[^\[\]\n]{1,60}\]|[◁【⟨][^◁▷【】⟨⟩\n]{1,60}[▷】⟩]")
_MARK_STARTS: Final = tuple("<[]◁【⟨{|")
_FIELDS: Final = ("reasoning_content", "reasoning", "thinking")
_NAMES_A_TRACE = re.compile(r"think|thought|reason|plan$|cot$|analysis|scratchpad", re.IGNORECASE)
_LOOKS_LIKE_A_MARK = re.compile(r"think|thought|reason|channel|analysis|scratchpad|monologue|inner_", re.IGNORECASE)
_CALL: Final = {"id": "call00001", "type": "function", "function": {"name": "lookup", "arguments": {"key": "value"}}}
# how alike the two tags of a pair must be, by the ratio of difflib
_ALIKE: Final = 0.5
_CLEARLY_ALIKE: Final = 0.7


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """How a model writes a trace and the answer behind it.

    opening, closing: the marks of a trace, without the white space beside them; empty if the format is not known.
    answer_opening: the text between the closing and the answer, which belongs to neither.
    answer_end: the text behind the answer, which is no part of it.
    opens_in_prompt: whether the generation prompt ends inside a trace.
    source: what the format was read from: `--trust-reasoning-tags`, the tokenizer's response template, its chat
        template, the table of known tags, or none of these.
    tags: the tags that `split_reasoning` takes: the format's own if it is known, else the whole table.
    """

    opening: str = ""
    closing: str = ""
    answer_opening: str = ""
    answer_end: str = ""
    opens_in_prompt: bool = False
    source: Source = "none"
    tags: Tags = DEFAULT_TAGS


def read_trace_format(
    tokenizer: PreTrainedTokenizerBase,
    *,
    given_tags: Sequence[tuple[str, str]] = (),
    thinking: str = "",
    settings: Mapping[str, Setting] | None = None,
) -> TraceFormat:
    """The reasoning format of a tokenizer's model.

    given_tags: the user's own pairs (`--trust-reasoning-tags`), which go before all else.
    thinking, settings: what the prompts are rendered with (`?thinking=`, `?template.NAME=`). Whether a prompt opens a
        trace depends on them.

    Raises:
        InvalidInput: a value of `thinking` that the template does not know.
    """
    switch = switch_for(tokenizer, thinking) if thinking and template_text(tokenizer) else Switch()
    reader = _Reader(tokenizer, switch, settings or {})
    if given_tags:
        opening, closing = given_tags[0]
        tags: Tags = tuple((str(one), str(other)) for one, other in given_tags)
        return TraceFormat(opening, closing, opens_in_prompt=reader.opened(tags), source="reasoning_tags", tags=tags)
    found = reader.declared() or reader.rendered() or reader.prompted() or reader.known()
    return found or TraceFormat(opens_in_prompt=reader.opened(DEFAULT_TAGS))


def unknown_marks(tokenizer: PreTrainedTokenizerBase, trace_format: TraceFormat) -> tuple[str, ...]:
    """Added tokens of the vocabulary that look like marks of a trace and belong to no known format, sorted.

    A token that the template writes before the question is left out: Gemma's `<|think|>`, for one, turns thinking on.
    """
    formats = (*trace_format.tags, *DEFAULT_TAGS)
    known = [tag.casefold() for tags in formats for tag in tags if tag]
    reader = _Reader(tokenizer, Switch(), {})
    before = "".join((reader.prompt(settings) or "").partition(_QUESTION)[0] for settings in reader.thinking_settings())
    return tuple(
        token
        for token in sorted(tokenizer.get_added_vocab())
        if _LOOKS_LIKE_A_MARK.search(token)
        and not any(token.casefold() in tag for tag in known)
        and not tags_in(token, formats)
        and token not in before
    )


@dataclass(frozen=True, slots=True)
class _Chat:
    """A chat that hands a trace to a template in one way. `bare` is the same chat without the trace."""

    traced: Messages
    bare: Messages
    calls: bool = False


class _Reader:
    """Reads the format from one tokenizer's template in several ways. Each gives None if it finds nothing."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, switch: Switch, settings: Mapping[str, Setting]) -> None:
        self.tokenizer = tokenizer
        self.template = template_text(tokenizer)
        self.settings = dict(settings)
        self.used: dict[str, Setting] = {**dict(switch.settings), **settings}
        self.system = switch.system
        self._prompts: dict[tuple[tuple[str, Setting], ...], str | None] = {}

    def render(
        self, messages: Messages, settings: Mapping[str, Setting], generation_prompt: bool = False
    ) -> str | None:
        if not self.template:
            return None
        try:
            return render_chat(self.tokenizer, messages, generation_prompt=generation_prompt, settings=settings)
        except template_errors():
            return None

    def prompt(self, settings: Mapping[str, Setting], system: str = "") -> str | None:
        """The rendered question with the generation prompt; None if the template refuses."""
        messages = [{"role": "system", "content": system}] if system else []
        return self.render([*messages, _user()], settings, generation_prompt=True)

    def opened(self, tags: Tags) -> bool:
        """Whether the prompts that are used end inside a trace."""
        return bool(opened_by(self.prompt(self.used, self.system) or "", tags))

    def thinking_settings(self) -> list[dict[str, Setting]]:
        """Settings under which the template may render a trace.

        They are thinking on and the template's defaults, each without and with the variables that were given.
        """
        on = dict(thinking_switches(self.tokenizer).known.get("on", Switch()).settings)
        return _unique([on, {}, {**self.settings, **on}, self.settings])

    def silent_settings(self) -> list[dict[str, Setting]]:
        """Settings under which the template may render an answer without a trace; thinking off comes first."""
        off = dict(thinking_switches(self.tokenizer).known.get("off", Switch()).settings)
        return _unique([off, *self.thinking_settings()])

    def declared(self) -> TraceFormat | None:
        """The format in the tokenizer's `response_template`, if plain strings say how a trace opens and closes."""
        fields = (getattr(self.tokenizer, "response_template", None) or {}).get("fields", {})
        for name, field in fields.items():
            if not _NAMES_A_TRACE.search(name) or not isinstance(field, dict):
                continue
            opening, closing = (_literal(field, side) for side in ("open", "close"))
            if opening and closing and opening.casefold() != closing.casefold():
                return self.format("response_template", opening, closing, *self.around_answer(closing))
        return None

    def rendered(self) -> TraceFormat | None:
        """The format in the template's rendering of a known trace and a known answer."""
        for chat in self.chats():
            for settings in self.thinking_settings():
                full = self.render(chat.traced, settings)
                if full is None or full.count(_TRACE) != 1 or full.find(_TRACE) < full.find(_QUESTION):
                    continue
                found = self.compared(full, chat, settings)
                if found is not None:
                    return found
        return None

    def chats(self) -> Iterator[_Chat]:
        """Chats for every way in which templates take a trace.

        The trace is a field of the message or a part of its content. It comes with an answer or with a tool call.
        """
        fields = _unique([*_FIELDS, *_fields_read(self.template)])
        for content in (_ANSWER, [{"type": "text", "text": _ANSWER}]):
            for names in ([name] for name in fields):
                yield _chat({"content": content}, dict.fromkeys(names, _TRACE))
        yield _chat({"content": _ANSWER}, dict.fromkeys(fields, _TRACE))
        for part in _parts():
            yield _chat({"content": [part, {"type": "text", "text": _ANSWER}]}, {}, {"content": _ANSWER})
        for kinds in (("thoughts", "response"), ("thinking", "text"), ("reasoning", "text")):
            blocks = [{"type": kind, "text": text} for kind, text in zip(kinds, (_TRACE, _ANSWER), strict=True)]
            yield _chat({"content": {"blocks": blocks}}, {}, {"content": {"blocks": blocks[1:]}})
        written = {**_CALL, "function": {"name": "lookup", "arguments": '{"key": "value"}'}}
        for call, content in ((call, content) for call in (_CALL, written) for content in (_ANSWER, "")):
            for name in fields:
                yield _chat({"content": content, "tool_calls": [call]}, {name: _TRACE}, calls=True)

    def compared(self, full: str, chat: _Chat, settings: Mapping[str, Setting]) -> TraceFormat | None:
        """The format that a rendered trace shows, if `split_reasoning` gives the trace back with it."""
        prompt = _behind_question(self.prompt(settings) or "")
        before, _, behind = _behind_question(full).partition(_TRACE)
        ending = "lookup" if chat.calls else _ANSWER
        if ending not in behind:
            return None
        between, _, after = behind.partition(ending)
        for bare in self.bare_renderings(chat):
            inserted, closed = _insertion(before, behind, bare)
            openings = [_opening(before, prompt), inserted, *(_opening_like(end, between) for end in (prompt, before))]
            pairs = [(opening, closing) for opening in openings for closing in (closed, _closing(opening, between))]
            for opening, closing in _unique([pair for pair in pairs if all(pair)]):
                rest, end = between[between.index(closing) + len(closing) :].strip(), after.strip()
                if chat.calls:
                    rest, end = self.around_answer(closing)
                found = self.format("template", opening, closing, rest, end)
                shown = f"{opening}{_TRACE}{behind}"
                if chat.calls:
                    shown = f"{opening}\n{_TRACE}\n{closing}{rest}\n{_ANSWER}{end}"
                if found is not None and _reads(found, shown):
                    return found
        return None

    def bare_renderings(self, chat: _Chat) -> list[str]:
        """Renderings of the chat without its trace.

        Thinking off comes first, since with thinking on a template may write an empty trace.
        """
        renderings = [self.render(chat.bare, settings) for settings in self.silent_settings()]
        return _unique([_behind_question(text or "") for text in renderings])

    def prompted(self) -> TraceFormat | None:
        """The format in which the prompts with thinking on and off differ.

        Only the prompt with thinking off may hold an empty trace, or the closing of a trace that both prompts open. Or
        each prompt ends in a mark of its own.
        """
        known = thinking_switches(self.tokenizer).known
        if "on" not in known or "off" not in known:
            return None
        on, off = (self.prompt(dict(known[value].settings), known[value].system) for value in ("on", "off"))
        if on is None or off is None:
            return None
        on, off = _behind_question(on), _behind_question(off)
        shared = _before_mark(on, _shared(on, off))
        both, more, added = on[:shared].rstrip(), on[shared:].strip(), off[shared:].strip()
        if more and not added.startswith(more):
            pairs = [(more, added)] if _MARK.fullmatch(more) and _MARK.fullmatch(added) else []
        else:
            marks = list(_MARK.finditer(added))
            pairs = [(added[: mark.start()].strip(), added[mark.start() :]) for mark in marks[1:]]
            pairs += [(mark.group(0), added) for mark in _MARK.finditer(both) if marks and mark.end() == len(both)]
        likely = [pair for pair in pairs if all(pair) and _likeness(*pair) >= _ALIKE]
        if not likely:
            return None
        opening, closing = max(likely, key=lambda pair: _likeness(*pair))
        found = self.format("template", opening, closing, *self.around_answer(closing))
        return found if found and _reads(found, f"{opening}\n{_TRACE}\n{closing}\n{_ANSWER}") else None

    def known(self) -> TraceFormat | None:
        """The pair of the table that a prompt opens, or else whose tags the template's text contains."""
        prompts = [
            self.prompt(self.used, self.system),
            *(self.prompt(settings) for settings in self.thinking_settings()),
        ]
        for prompt in prompts:
            for opening, closing in DEFAULT_TAGS:
                if prompt and prompt.rstrip().endswith(opening):
                    return self.format("table", opening, closing, *self.around_answer(closing))
        spoken = [pair for pair in DEFAULT_TAGS if pair[1] in self.template]
        spoken = [pair for pair in spoken if pair[0] in self.template] or spoken
        if not spoken:
            return None
        return self.format("table", *spoken[0], *self.around_answer(spoken[0][1]), spoken)

    def around_answer(self, closing: str) -> tuple[str, str]:
        """The text before and behind an answer that has no trace.

        The text before it starts after the generation prompt and after an empty trace, if there is one.
        """
        for settings in self.silent_settings():
            rendered = self.render([_user(), {"role": "assistant", "content": _ANSWER}], settings)
            before, answer, behind = _behind_question(rendered or "").partition(_ANSWER)
            if answer:
                prompt = _behind_question(self.prompt(settings) or "").rstrip()
                opening = before[len(prompt) :] if before.startswith(prompt) else ""
                return opening.rpartition(closing)[2].strip(), behind.strip()
        return "", ""

    def format(
        self,
        source: Source,
        opening: str,
        closing: str,
        answer_opening: str,
        answer_end: str,
        pairs: Sequence[tuple[str, ...]] = (),
    ) -> TraceFormat | None:
        if not opening or not closing or closing.casefold() in opening.casefold():
            return None
        # Harmony's channels are more than a pair of tags: the table's pair stands for their whole grammar
        table = next(
            (pair for pair in DEFAULT_TAGS if pair[0] == opening and pair[1] in closing + answer_opening), None
        )
        if table is not None and pairs == ():
            pairs = [table]
        around = tuple(text if text.startswith(_MARK_STARTS) else "" for text in (answer_opening, answer_end))
        harmony = table is not None and "<|channel|>" in table[0]
        tags: Tags = tuple(
            (*pair, *around) if any(around) and not harmony else pair for pair in pairs or [(opening, closing)]
        )
        return TraceFormat(opening, closing, answer_opening, answer_end, self.opened(tags), source, tags)


def _user() -> dict[str, Any]:
    return {"role": "user", "content": _QUESTION}


def _chat(
    message: dict[str, Any], trace: dict[str, Any], bare: dict[str, Any] | None = None, calls: bool = False
) -> _Chat:
    start = [_user()]
    return _Chat(
        [*start, {"role": "assistant", **message, **trace}],
        [*start, {"role": "assistant", **(message if bare is None else bare)}],
        calls,
    )


def _parts() -> list[dict[str, Any]]:
    """The parts of a content that templates take as a trace."""
    return [
        {"type": "thinking", "thinking": _TRACE},
        {"type": "thinking", "thinking": [{"type": "text", "text": _TRACE}]},
        {"type": "thinking", "text": _TRACE},
        {"type": "reasoning", "reasoning": _TRACE},
        {"type": "reasoning", "text": _TRACE},
    ]


def _fields_read(template: str) -> list[str]:
    """Names of fields that may hold a trace and that the template reads.

    It may read one as `message.thought`, `message['thought']` or `message.get('thought')`.
    """
    from jinja2 import TemplateError, nodes

    try:
        tree = parse_template(template)
    except TemplateError:
        return []
    names: set[str] = {node.attr for node in tree.find_all(nodes.Getattr)}
    asked = [node.arg for node in tree.find_all(nodes.Getitem)]
    asked += [argument for node in tree.find_all(nodes.Call) for argument in node.args[:1]]
    names.update(one.value for one in asked if isinstance(one, nodes.Const) and isinstance(one.value, str))
    return sorted(name for name in names if name.isidentifier() and _NAMES_A_TRACE.search(name))


def _insertion(before: str, behind: str, bare: str) -> tuple[str, str]:
    """The text that the trace brought with it, before and behind it; empty if the bare rendering does not tell.

    Both renderings begin alike and end alike. No mark is cut. An opening may start with a word, as in
    `<|open|>think<|sep|>` beside `<|open|>response<|sep|>`. The shared mark before the word then belongs to the
    opening.
    """
    start = _before_mark(before, _shared(before, bare))
    opening = before[start:].strip()
    if opening and not opening.startswith(_MARK_STARTS):
        marks = [mark for mark in _MARK.finditer(before) if mark.end() == start]
        if marks:
            start, opening = marks[-1].start(), before[marks[-1].start() :].strip()
    rest = bare[start:].strip()
    told = behind.rstrip()
    return opening, told[: -len(rest)].strip() if rest and told.endswith(rest) else ""


def _opening(before: str, prompt: str) -> str:
    """The opening of the trace.

    It is what the text before the trace adds to the generation prompt, or what the prompt adds to that text.
    """
    if before.startswith(prompt.rstrip()):
        return before[len(prompt.rstrip()) :].strip()
    if prompt.startswith(before.rstrip()):
        return prompt[len(before.rstrip()) :].strip()
    return before[_before_mark(before, _shared(before, prompt)) :].strip()


def _opening_like(prompt: str, between: str) -> str:
    """The end of a prompt that is most like a closing.

    It starts at one of the prompt's marks. The text behind the trace, up to each of its marks, may be the closing.
    """
    prompt = prompt.rstrip()
    starts = [mark.start() for mark in _MARK.finditer(prompt)]
    found = [(_likeness(prompt[start:], end), prompt[start:]) for start in starts for end in _up_to_marks(between)]
    likeness, opening = max(found, default=(0.0, ""))
    return opening if likeness >= _ALIKE else ""


def _closing(opening: str, between: str) -> str:
    """The closing of the trace: the beginning of the text behind it, up to one of the marks there.

    The shortest beginning that is clearly like the opening is taken, or else the one that is most like it. Without
    marks, the whole text is the closing.
    """
    clearly = (end for end in _up_to_marks(between) if _likeness(opening, end) >= _CLEARLY_ALIKE)
    return next(clearly, "") or max(
        _up_to_marks(between), key=lambda end: _likeness(opening, end), default=between.strip()
    )


def _up_to_marks(text: str) -> list[str]:
    return [text[: mark.end()].strip() for mark in _MARK.finditer(text)]


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one.casefold(), other.casefold(), autojunk=False).ratio()


def _behind_question(text: str) -> str:
    """The text behind the question. The text before it depends on the settings and is left out."""
    return text.rpartition(_QUESTION)[2]


def _shared(one: str, other: str) -> int:
    """The number of characters that two texts share at their beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _before_mark(text: str, place: int) -> int:
    """A place in a text, moved to the start of a mark that it would cut."""
    return next((mark.start() for mark in _MARK.finditer(text) if mark.start() < place < mark.end()), place)


def _literal(field: Mapping[str, Any], side: str) -> str:
    """The string with which a field of a response template opens or closes; empty if it is not plain.

    A field gives a string, several strings of which the first is taken, or a pattern of a string and white space.
    """
    value = field.get(side)
    if isinstance(value, (list, tuple)):
        value = next(iter(value), None)
    if isinstance(value, str):
        return value.strip()
    pattern = field.get(f"{side}_pattern")
    if not isinstance(pattern, str):
        return ""
    core = re.sub(r"(?:\\s|\\n|\n)[*+?]?", "", pattern)
    plain = re.sub(r"\\([^\w\s])", r"\1", core)
    try:
        return plain if re.fullmatch(core, plain) and len(re.sub(r"\\.", "x", core)) == len(plain) else ""
    except re.error:
        return ""


def _reads(found: TraceFormat, shown: str) -> bool:
    """Whether `split_reasoning` gives back the trace and the answer of a response in this format."""
    split = split_reasoning(shown, found.tags)
    return split.complete and split.reasoning == _TRACE and split.answer == _ANSWER


def _unique(values: Sequence[Value]) -> list[Value]:
    found: list[Value] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
