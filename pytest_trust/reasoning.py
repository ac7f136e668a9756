"""Cuts a response into its reasoning and its answer.

Formats known by default:

- ``<think>`` and its relatives; if the chat template opens the trace, only the closing tag appears in the response
- Mistral's ``[THINK]``, Cohere's ``<|START_THINKING|>``, Kimi's ``◁think▷``, Seed's ``<seed:think>``
- OpenThoughts' ``<|begin_of_thought|>`` and ``<|begin_of_solution|>``
- s1's ``<|im_start|>think`` and ``<|im_start|>answer``
- Gemma's ``<|channel>thought`` and ``<channel|>``
- Granite's "Here is my thought process:" and "Here is my response:"
- Harmony's channels: ``analysis`` and ``commentary`` are reasoning, ``final`` is the answer

Tags match case-insensitively. A tag right after a backtick is a quotation, not a tag. Where the model's tokenizer has a
token for a tag, only that token is the tag: the same characters in ordinary tokens are text
(`pytest_trust.models.tag_tokens` finds them).

How the harder cases are read:

- A trace that is never closed: everything after its tag is reasoning, and the split is not complete. An answer before
  the tag is kept.
- Several traces: their texts are joined with a blank line between, and so are the pieces of the answer.
- A closing tag before any opening one: all text before it is reasoning.
- A tag opened again inside a trace: the first closing tag ends the trace, since models that repeat the template's tag
  close it once. If a second closing tag follows, the trace was nested: the text between the two is reasoning as well.
- A tag in words ("Here is my thought process:") counts once: behind a closed trace, or inside one, the same words are
  text.
- A response cut inside a tag: the piece of the tag belongs to neither side. If the response is that piece alone, the
  split is incomplete. A response that the model ended itself was not cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from pytest_trust.errors import InvalidInput

Tags = tuple[tuple[str, ...], ...]
"""Each entry is (opening, closing) of a trace, or (opening, closing, opening of the answer, end of the answer).

The last two of the four may be empty.
"""
DEFAULT_TAGS: Final[tuple[tuple[str, str], ...]] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|im_start|>think", "<|im_start|>answer"),
    ("<|channel>thought", "<channel|>"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("Here is my thought process:", "Here is my response:"),
    ("Here's my thought process:", "Here's my response:"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)  # fmt: skip
"""(opening, closing) of a trace; the last pair stands for Harmony's channels."""

_HARMONY = "<|channel|>analysis<|message|>"
_REST = r"[^<\n]{0,120}"  # the rest of a header: recipient and content type
_HARMONY_PATTERNS: Final = {
    "open": rf"<\|channel\|>\s*(?:analysis|commentary){_REST}(?:<\|constrain\|>{_REST})?<\|message\|>",
    "final": rf"<\|channel\|>\s*final{_REST}(?:<\|constrain\|>{_REST})?<\|message\|>",
    "end": r"<\|end\|>|<\|call\|>",
}
# the header and the end of a message; they stand around the channels
_HARMONY_FRAME = rf"<\|start\|>\s*assistant(?:\s+to={_REST}|\s+(?:to?)?\Z)?|<\|end\|>|<\|return\|>|<\|call\|>"
# the beginning of a header, if the response was cut inside the header
_HARMONY_CUT = re.compile(
    rf"(?<!`)<\|channel\|>\s*(?:(?:analysis|commentary|final){_REST}(?:<\|constrain\|>{_REST})?(?P<half><[|a-z>]*)?"
    r"|(?P<role>[a-z]*))\Z",
    re.IGNORECASE,
)
# tags around an answer; they count as tags only once a trace has been seen
_WRAPPERS: Final = (
    "<|begin_of_solution|>", "<|end_of_solution|>", "<response>", "</response>", "<answer>", "</answer>",
    "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|im_end|>", "<|endoftext|>", "<|return|>",
)  # fmt: skip

Kind = Literal["reasoning", "answer", "tag"]


@dataclass(frozen=True)
class Part:
    """A stretch of the response, with every character as it was."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Split:
    """A response cut into reasoning and answer.

    reasoning, answer: the texts without tags. Each part is stripped, and a blank line joins the parts.
    complete: False when a trace was opened and never closed, so the answer never came.
    parts: the whole response in order; ``"".join(part.text for part in parts)`` is the text that was split.
    closing: the tag that would close the trace left open. It is empty when no trace is open, or when the chat template
        opened it (see `opened_by`).
    """

    reasoning: str
    answer: str
    complete: bool
    parts: tuple[Part, ...] = ()
    closing: str = ""

    @property
    def begun(self) -> bool:
        """Whether the answer has begun."""
        return self.complete and bool(self.answer)

    @property
    def lead_in(self) -> int:
        """The number of characters before the answer, where a trace or a tag stands before it; else 0.

        The blanks behind the last tag belong to them. It is the length of the response if no answer follows the trace.
        """
        position, marked = 0, False
        for part in self.parts:
            if part.kind == "answer" and part.text.strip():
                return position + len(part.text) - len(part.text.lstrip()) if marked else 0
            marked = marked or part.kind != "answer"
            position += len(part.text)
        return position if marked else 0

    @property
    def trace_at(self) -> tuple[int, int]:
        """The stretch [start, end) of characters from the first word of the first trace to the last word of the last.

        Several traces count as one, with what stands between them. (0, 0) where no trace has a word.
        """
        position, start, end = 0, -1, 0
        for part in self.parts:
            if part.kind == "reasoning" and part.text.strip():
                start = position + len(part.text) - len(part.text.lstrip()) if start < 0 else start
                end = position + len(part.text.rstrip())
            position += len(part.text)
        return max(0, start), end

    @property
    def answer_at(self) -> int:
        """The number of characters before the answer that follows the last trace.

        It is 0 without a trace, and the length of the response if no answer follows the trace.
        """
        kinds = [part.kind for part in self.parts]
        if "reasoning" not in kinds:
            return 0
        position = length = sum(len(part.text) for part in self.parts)
        for part in reversed(self.parts):
            length -= len(part.text)
            if part.kind == "reasoning":
                break
            if part.kind == "answer" and part.text.strip():
                position = length + len(part.text) - len(part.text.lstrip())
        return position


@dataclass(frozen=True)
class _Grammar:
    """One table of tags, compiled.

    The groups of `pattern` have these names: o<i> and c<i> open and close pair i; a<number> is a mark around an answer;
    hf, he and hx are Harmony's final, end and frame; w is a wrapper.
    """

    pattern: re.Pattern[str]
    tags: Tags
    harmony: int | None


@lru_cache(maxsize=16)
def _grammar(tags: Tags) -> _Grammar:
    harmony = next((i for i, pair in enumerate(tags) if pair[0] == _HARMONY), None)
    pieces = []
    if harmony is not None:
        pieces += [
            rf"(?P<o{harmony}>{_HARMONY_PATTERNS['open']})", rf"(?P<hf>{_HARMONY_PATTERNS['final']})",
            rf"(?P<he>{_HARMONY_PATTERNS['end']})", rf"(?P<hx>{_HARMONY_FRAME})",
        ]  # fmt: skip
    # longer tags come first: otherwise a tag would hide a longer one that starts with it
    literal = [
        (tag, f"{'oc'[side]}{i}") for i, pair in enumerate(tags) if i != harmony for side, tag in enumerate(pair[:2])
    ]
    pieces += [f"(?P<{name}>{re.escape(tag)})" for tag, name in sorted(literal, key=lambda item: -len(item[0]))]
    around = [(_blanks(mark), mark) for pair in tags for mark in pair[2:3] if mark]
    around += [(_ending(mark), mark) for pair in tags for mark in pair[3:] if mark]
    around.sort(key=lambda item: -len(item[1]))
    pieces += [f"(?P<a{number}>{pattern})" for number, (pattern, _) in enumerate(around)]
    pieces.append("(?P<w>" + "|".join(map(re.escape, _WRAPPERS)) + ")")
    return _Grammar(re.compile(r"(?<!`)(?:" + "|".join(pieces) + ")", re.IGNORECASE), tags, harmony)


def _blanks(mark: str) -> str:
    """A pattern for a mark, which takes any white space where the mark has some."""
    return r"\s*".join(map(re.escape, mark.split()))


def _ending(mark: str) -> str:
    """A pattern for the end of an answer.

    The end is often several marks. The response may stop after any of them, since the mark that ended it is not in its
    text.
    """
    pieces = re.findall(r"[^>\]▷】]*[>\]▷】]+|.+", mark, re.DOTALL)
    pattern = _blanks(pieces.pop())
    for piece in reversed(pieces):
        pattern = rf"{_blanks(piece)}\s*(?:\Z|{pattern})"
    return pattern


def _checked(tags: Sequence[tuple[str, ...]]) -> Tags:
    pairs = tuple(
        tuple(map(str, pair)) if len(pair) in (2, 4) and not isinstance(pair, str) else ("", "") for pair in tags
    )
    for given, (opening, closing, *_) in zip(tags, pairs, strict=True):
        if not opening.strip() or not closing.strip() or opening.casefold() == closing.casefold():
            raise InvalidInput(
                f"reasoning tags {given!r}: expected a pair of different tags, such as ('<think>', '</think>')"
            )
    return pairs


class _Reader:
    """A state machine that reads the tags of one response in order."""

    def __init__(self, grammar: _Grammar, opened: bool) -> None:
        self.grammar = grammar
        self.parts: list[Part] = []
        self.state: Literal["reasoning", "answer", "between"] = "reasoning" if opened else "answer"
        self.pair: int | None = None  # the open trace's pair; None without one, and when the template opened it
        self.repeated = 0  # opening tags inside a trace that no closing tag has answered yet
        self.closed_at: int | None = None  # index in `parts` after the last closing tag
        self.seen = opened
        self.final = False

    def text(self, text: str) -> None:
        if text:
            self.parts.append(Part("reasoning" if self.state == "reasoning" else "answer", text))

    def tag(self, text: str) -> None:
        self.parts.append(Part("tag", text))

    def read(self, name: str, text: str) -> None:
        """Read one tag. A tag without a meaning in this place is text."""
        pair = int(name[1:]) if name[0] in "oc" else self.grammar.harmony
        if self.state == "reasoning":
            self._inside(name, pair, text)
        else:
            self._outside(name, pair, text)

    def _inside(self, name: str, pair: int | None, text: str) -> None:
        same = self.pair is None or pair == self.pair
        begun = self._begun()
        if name[0] == "o" and same and not (_in_words(text) and begun):
            if self.pair is None and not begun:
                self.pair = pair  # the template opened the trace, and the model repeats the tag
            else:
                self.repeated += 1
            self.tag(text)
        elif same and (name[0] == "c" or (name in ("he", "hf") and self.pair in (None, self.grammar.harmony))):
            self.tag(text)
            self.state = "between" if name == "he" else "answer"
            self.final = self.final or name == "hf"
            self.pair, self.closed_at = None, len(self.parts)
        else:
            self.text(text)

    def _begun(self) -> bool:
        """Whether any text is reasoning."""
        return any(part.kind == "reasoning" and part.text.strip() for part in self.parts)

    def _outside(self, name: str, pair: int | None, text: str) -> None:
        if name[0] in "oc" and _in_words(text) and self.seen and not self.repeated:
            self.text(text)
        elif name[0] == "o":
            self.tag(text)
            self.state, self.pair, self.seen, self.repeated = "reasoning", pair, True, 0
        elif name[0] == "c":
            self._stray(text)
        elif name == "hf":
            self.tag(text)
            self.state, self.final, self.seen = "answer", True, True
        elif name[0] == "a" or (name in ("he", "hx", "w") and (self.seen or name == "hx")):
            self.tag(text)
        else:
            self.text(text)

    def _stray(self, text: str) -> None:
        """Read a closing tag when no trace is open.

        It ends a trace that the template opened, or the outer of two nested ones.
        """
        since = 0 if not self.seen else self.closed_at if self.repeated else None
        if since is not None:
            self.parts[since:] = [
                Part("reasoning", part.text) if part.kind == "answer" else part for part in self.parts[since:]
            ]
            self.repeated = max(0, self.repeated - 1)
        self.tag(text)
        self.seen, self.closed_at = True, len(self.parts)

    def cut(self, tail: str) -> tuple[str, tuple[str, ...]]:
        """The piece of a tag at which the response was cut, and the tags that it may become; "" and () without one.

        `tail` is the text after the last whole tag. Only tags that have a meaning in this place are looked for.
        """
        expected: list[str] = []
        for index, (opening, closing, *around) in enumerate(self.grammar.tags):
            if self.state == "reasoning":
                if self.pair is None or index == self.pair:
                    fresh = not self._begun() and opening.casefold().startswith(tail.strip().casefold())
                    again = [opening] if fresh or not _in_words(opening) else []
                    expected += [closing, *again, *(["<|end|>"] if index == self.grammar.harmony else [])]
            else:
                opens = [] if self.seen and _in_words(opening) else [opening]
                expected += [*opens, *([] if self.seen else [closing]), *filter(None, around)]
                if index == self.grammar.harmony:
                    expected += [closing, "<|start|>assistant", "<|channel|>commentary<|message|>"]
        if self.grammar.harmony is not None and self.pair in (None, self.grammar.harmony):
            header = _HARMONY_CUT.search(tail)
            if (
                header
                and _begins(header["half"], ("<|message|>", "<|constrain|>"))
                and _begins(header["role"], ("analysis", "commentary", "final"))
            ):
                return header.group(0), (header.group(0),)
        lowered = tail.casefold()
        shortest = 1 if self.state == "reasoning" or not tail.strip()[1:] else 2
        folded = [(tag, tag.casefold()) for tag in expected]
        first = {tag[0] for _, tag in folded}
        for length in range(min(len(tail), max(map(len, expected), default=0)), shortest - 1, -1):
            if lowered[-length] not in first:
                continue
            end = lowered[-length:]
            if tail[-length - 1 : -length] == "`" or end.isspace():
                continue
            becoming = tuple(tag for tag, low in folded if low.startswith(end) and self._may_begin(tag, tail, end))
            if becoming:
                return tail[-length:], becoming
        return "", ()

    def _may_begin(self, tag: str, tail: str, end: str) -> bool:
        """Whether `end` may be the beginning of `tag`.

        A tag in words ("Here is my thought process:") begins like any sentence, so outside a trace it counts only if
        no answer precedes it.
        """
        if not _in_words(tag) or self.state == "reasoning":
            return True
        return tail.strip().casefold() == end.strip() and not any(
            part.kind == "answer" and part.text.strip() for part in self.parts
        )


def _in_words(tag: str) -> bool:
    """Whether a tag is a sentence's words ("Here is my thought process:"), which an answer may well contain."""
    return tag[0].isalnum()


def _begins(text: str | None, words: Sequence[str]) -> bool:
    """Whether one of the words begins with `text`; true if `text` is None."""
    return text is None or any(word.startswith(text.casefold()) for word in words)


def split_reasoning(
    text: str,
    tags: Sequence[tuple[str, ...]] = DEFAULT_TAGS,
    opened_by_template: bool = False,
    *,
    spelled: Sequence[tuple[int, int]] = (),
    ended: bool = False,
) -> Split:
    """Cut a response into reasoning and answer.

    text: what the model generated, including special tokens that mark a trace.
    tags: (opening, closing) pairs; ``(*DEFAULT_TAGS, ("<plan>", "</plan>"))`` adds one. An entry of four strings also
        names the marks before and behind the answer: ``("<plan>", "</plan>", "<answer>", "</answer>")``. These marks
        are then no part of the answer.
    opened_by_template: the chat template ended inside a trace, so the response starts in it.
    spelled: stretches [start, end) of the text that spell a tag out although the vocabulary has a token for it. They
        are read as text.
    ended: the model ended the response itself, so its last characters are not the beginning of a tag.

    Raises InvalidInput for tags that are not pairs of different strings.

    Cutting the text earlier never turns reasoning into answer or answer into reasoning, with two exceptions: a closing
    tag before any opening one, and a second closing tag of a nested trace. Each shows late that the text before it was
    reasoning.
    """
    reader, tail = _read(text, tags, opened_by_template, spelled)
    partial, _ = reader.cut(tail)
    if ended or _overlaps(len(text) - len(partial), len(text), spelled):
        partial = ""
    reader.text(tail[: len(tail) - len(partial)])
    parts = _merged(reader.parts + ([Part("tag", partial)] if partial else []))
    answer = _joined(parts, "answer")
    unfinished = (
        reader.state == "reasoning"
        or (reader.state == "between" and not reader.final)
        or bool(partial and not answer and not reader.seen)
    )
    pair = reader.pair if reader.state == "reasoning" else None
    return Split(
        _joined(parts, "reasoning"),
        answer,
        not unfinished,
        parts,
        "" if pair is None else _closing(reader.grammar.tags[pair]),
    )


def _read(
    text: str, tags: Sequence[tuple[str, ...]], opened: bool, spelled: Sequence[tuple[int, int]]
) -> tuple[_Reader, str]:
    """The reader after the last whole tag, and the text behind that tag."""
    reader = _Reader(_grammar(_checked(tags)), opened)
    position = 0
    for match in reader.grammar.pattern.finditer(text):
        if _overlaps(*match.span(), spelled):
            continue
        if str(match.lastgroup)[0] == "a" and reader.state == "reasoning":
            continue  # the mark that ends an answer may be the beginning of a closing tag
        reader.text(text[position : match.start()])
        reader.read(str(match.lastgroup), match.group(0))
        position = match.end()
    return reader, text[position:]


def _overlaps(start: int, end: int, stretches: Sequence[tuple[int, int]]) -> bool:
    return any(start < stop and begin < end for begin, stop in stretches)


def tags_in(text: str, tags: Sequence[tuple[str, ...]] = DEFAULT_TAGS) -> list[tuple[int, int]]:
    """The stretches [start, end) of a text that are written like a tag, whatever they mean in their place."""
    return [match.span() for match in _grammar(_checked(tags)).pattern.finditer(text)]


def cut_tag(
    text: str, tags: Sequence[tuple[str, ...]], opened_by_template: bool, spelled: Sequence[tuple[int, int]]
) -> tuple[str, tuple[str, ...]]:
    """The piece of a tag at which a response was cut, and the tags that it may become; "" and () without one."""
    reader, tail = _read(text, tags, opened_by_template, spelled)
    return reader.cut(tail)


def opened_by(prompt: str, tags: Sequence[tuple[str, ...]] = DEFAULT_TAGS) -> str:
    """The tag that closes the trace opened at the end of a prompt; empty when no trace is opened there."""
    end = prompt.rstrip()
    return next((_closing(pair) for pair in tags if end.endswith(pair[0])), "")


def unopened(text: str, tags: Sequence[tuple[str, ...]] = DEFAULT_TAGS) -> str:
    """The opening tag of the trace that a response closes without having opened it; empty where there is none.

    Such a response shows that the chat template has opened the trace. A tag in quotation marks is no sign, and neither
    is a tag in words ("Here is my response:"), since an answer may begin with these words. The first tag decides.
    """
    grammar = _grammar(_checked(tags))
    for match in grammar.pattern.finditer(text):
        name = str(match.lastgroup)
        if name[0] == "o" or name == "hf":
            return ""
        pair = grammar.tags[int(name[1:])] if name[0] == "c" else ("",)
        around = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        if pair[0] and not pair[1][0].isalnum() and around not in (('"', '"'), ("'", "'"), ("“", "”")):
            return pair[0]
    return ""


def _closing(pair: tuple[str, ...]) -> str:
    """The text that closes a trace and opens the answer behind it."""
    return f"<|end|><|start|>assistant{pair[1]}" if pair[0] == _HARMONY else "".join(pair[1:3])


def _merged(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts, with neighbours of one kind joined into one. Every tag stays a part of its own."""
    merged: list[Part] = []
    for part in parts:
        if merged and merged[-1].kind == part.kind != "tag":
            merged[-1] = Part(part.kind, merged[-1].text + part.text)
        elif part.text:
            merged.append(part)
    return tuple(merged)


def _joined(parts: Sequence[Part], kind: Kind) -> str:
    return "\n\n".join(part.text.strip() for part in parts if part.kind == kind and part.text.strip())
