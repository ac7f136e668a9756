"""What `?thinking=` can mean for a model: read from what its chat template does, not from what it is called.

A value counts as known where the rendered prompt changes with it. A template is tried with every variable of its own whose name speaks of
thinking, and with the words in the system message that some templates look for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from pytest_trust.errors import InvalidInput
from pytest_trust.models.chat_template import render_chat, template_errors, template_text, template_variables

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Setting = bool | int | str

LEVELS: Final = ("low", "medium", "high")
_SPEAKS_OF_THINKING = re.compile(r"think|reason|effort", re.IGNORECASE)
_TAKES_NUMBERS = re.compile(r"budget|tokens|length|limit", re.IGNORECASE)
_NEGATED = re.compile(r"^(?:no|skip|disable|without|hide)_?", re.IGNORECASE)
# values under which templates know a variable that takes words
_OFF: Final = ("off", "none", "disabled", "disable", "no", "false", "no_think", "nothink", "non-thinking", "chat")
_ON: Final = ("on", "enabled", "enable", "yes", "true", "think", "thinking")
_NONSENSE: Final = "zxqv"
# words in the system message: (on, off)
_SYSTEM_WORDS: Final = (("/think", "/no_think"), ("/think", "/nothink"))
_QUESTION: Final = {"role": "user", "content": "Which number is larger?"}
_SYSTEM: Final = "Answer in one sentence."


@dataclass(frozen=True, slots=True)
class Switch:
    """How one value of `?thinking=` reaches a template.

    settings: (name, value) of the template's variables. system: a word that goes into the system message.
    Both are empty where the value is what the template does anyway.
    """

    settings: tuple[tuple[str, Setting], ...] = ()
    system: str = ""


@dataclass(frozen=True, slots=True)
class Switches:
    """The values of `?thinking=` that change a model's prompt.

    known: by value, out of on, off, low, medium and high. budget: the variable that takes a number of tokens; empty for none.
    """

    known: Mapping[str, Switch] = field(default_factory=dict)
    budget: str = ""

    @property
    def values(self) -> tuple[str, ...]:
        """What may be given, for a message."""
        return (*self.known, *(["a number of tokens"] if self.budget else []))


_read: WeakKeyDictionary[object, tuple[str, Switches]] = WeakKeyDictionary()


def thinking_switches(tokenizer: PreTrainedTokenizerBase) -> Switches:
    """The switches of a tokenizer's chat template; none without a template."""
    template = template_text(tokenizer)
    if tokenizer not in _read or _read[tokenizer][0] != template:
        _read[tokenizer] = (template, _Template(tokenizer).switches() if template else Switches())
    return _read[tokenizer][1]


def switch_for(tokenizer: PreTrainedTokenizerBase, thinking: str) -> Switch:
    """What a value of `?thinking=` sets: on, off, low, medium, high, or a number of tokens that a trace may take.

    A number that the template takes is given to it. In any other template it means on: the trace is closed after so many tokens.

    Raises:
        InvalidInput: the rendered prompt is the same with and without it.
    """
    if not thinking:
        return Switch()
    switches = thinking_switches(tokenizer)
    if thinking.isdecimal() and switches.budget:
        return Switch(((switches.budget, int(thinking)),))
    found = switches.known.get("on" if thinking.isdecimal() else thinking)
    if found is not None:
        return found
    if not switches.values:
        raise InvalidInput(
            f"?thinking={thinking}: the model's chat template has no switch for thinking, so that nothing in the prompt would change:"
            " leave it out"
        )
    raise InvalidInput(
        f"?thinking={thinking} changes nothing in the model's prompts, expected one of {', '.join(switches.values)}:"
        " give one of these or leave it out"
    )


def template_settings(tokenizer: PreTrainedTokenizerBase, given: Mapping[str, str]) -> dict[str, Setting]:
    """Variables given by name (`?template.NAME=VALUE`), for `render_chat`: true and false, whole numbers, or text.

    Raises:
        InvalidInput: a name that the template does not read.
    """
    known = template_variables(template_text(tokenizer))
    for name in given:
        if name not in known:
            raise InvalidInput(
                f"?template.{name}={given[name]}: the model's chat template reads no variable {name!r},"
                f" expected one of {', '.join(known) or 'none'}"
            )
    return {name: _value(text) for name, text in given.items()}


def _value(text: str) -> Setting:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else text


class _Template:
    """One template, tried with one question."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.names = [name for name in template_variables(template_text(tokenizer)) if _SPEAKS_OF_THINKING.search(name)]

    def prompt(self, settings: Mapping[str, Setting], system: str = "") -> str | None:
        """The rendered prompt; None where the template refuses the settings."""
        messages = [{"role": "system", "content": system}, _QUESTION] if system else [_QUESTION]
        try:
            return render_chat(self.tokenizer, messages, settings=settings)
        except template_errors():
            return None

    def switches(self) -> Switches:
        budget = next((name for name in self.names if self._takes_numbers(name)), "")
        both = self._booleans() or self._words() or self._zero_budget(budget) or self._system_words()
        known = dict(zip(("on", "off"), both, strict=True)) if both else {}
        return Switches({**known, **self._levels(known.get("on", Switch()))}, budget)

    def _booleans(self) -> tuple[Switch, Switch] | None:
        """Every variable of two values that changes the prompt: templates read one under several names."""
        found = [name for name in self.names if not _TAKES_NUMBERS.search(name) and self._differ(name, True, False)]
        if not found:
            return None
        on, off = (
            Switch(tuple((name, value != bool(_NEGATED.search(name))) for name in found)) for value in (True, False)
        )
        return (on, off) if self.prompt(dict(on.settings)) != self.prompt(dict(off.settings)) else None

    def _words(self) -> tuple[Switch, Switch] | None:
        """A variable that takes words, some of which the template tells from nonsense, or refuses nonsense for."""
        for name in self.names:
            off = next((word for word in _OFF if self._tells(name, word)), None)
            if off is None:
                continue
            silent, own = self.prompt({name: off}), self.prompt({})
            words = [word for word in (*_ON, *reversed(LEVELS)) if self._tells(name, word)]
            on = next((word for word in words if self.prompt({name: word}) != silent), None)
            if on is not None and (on in _ON or own == silent):
                return Switch(((name, on),)), Switch(((name, off),))
            if own not in (None, silent):
                return Switch(), Switch(((name, off),))
        return None

    def _zero_budget(self, name: str) -> tuple[Switch, Switch] | None:
        """A budget of nothing turns thinking off, where the template says something else about it than about other numbers."""
        if name and self._differ(name, 0, 512) and self._differ(name, 0, 4096):
            return Switch(), Switch(((name, 0),))
        return None

    def _system_words(self) -> tuple[Switch, Switch] | None:
        template = template_text(self.tokenizer)
        for on, off in _SYSTEM_WORDS:
            if off not in template:
                continue
            thinking, silent = (self.prompt({}, f"{_SYSTEM} {word}") for word in (on, off))
            if thinking is not None and silent is not None and thinking.replace(on, "") != silent.replace(off, ""):
                return Switch(system=on), Switch(system=off)
        return None

    def _levels(self, on: Switch) -> dict[str, Switch]:
        """Levels with prompts of their own. Some templates read them only when thinking is on."""
        for name in (name for name in self.names if not _TAKES_NUMBERS.search(name)):
            for base in ((), on.settings):
                prompts = {level: self.prompt({**dict(base), name: level}) for level in LEVELS}
                found = {
                    level: Switch((*((n, v) for n, v in base if n != name), (name, level)))
                    for level, prompt in prompts.items()
                    if prompt is not None and list(prompts.values()).count(prompt) == 1
                }
                told = {prompt for prompt in prompts.values() if prompt is not None}
                if len(told) > 1 or (len(told) == 1 and None in prompts.values()):
                    return found
        return {}

    def _tells(self, name: str, word: str) -> bool:
        """Whether a word is one that the template knows: it does more with it than to write it down."""
        if self.prompt({name: _NONSENSE}) is None:
            return self.prompt({name: word}) is not None
        return self._differ(name, word, _NONSENSE)

    def _takes_numbers(self, name: str) -> bool:
        return bool(_TAKES_NUMBERS.search(name)) and self.prompt({name: 512}) not in (None, self.prompt({name: 4096}))

    def _differ(self, name: str, one: Setting, other: Setting) -> bool:
        """Whether the prompts differ in more than the values' own words."""
        first, second = self.prompt({name: one}), self.prompt({name: other})
        if first is None or second is None or first == second:
            return False
        words = re.compile(rf"\b(?:{re.escape(str(one))}|{re.escape(str(other))})\b")
        return words.sub("", first) != words.sub("", second)
