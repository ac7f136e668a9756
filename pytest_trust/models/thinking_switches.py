"""What `?thinking=` can mean for a model. Its chat template decides, never its name.

A value is known if it changes the rendered prompt. The template is tried with each of its own variables whose name
speaks of thinking. It is also tried with the words that some templates look for in the system message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from pytest_trust.errors import InvalidInput
from pytest_trust.models.chat_template import render_chat, template_errors, template_text, template_variables
from pytest_trust.models.reference import Setting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEVELS: Final = ("low", "medium", "high")
_SPEAKS_OF_THINKING = re.compile(r"think|reason|effort", re.IGNORECASE)
_TAKES_NUMBERS = re.compile(r"budget|tokens|length|limit", re.IGNORECASE)
_NEGATED = re.compile(r"^(?:no|skip|disable|without|hide)_?", re.IGNORECASE)
# words that templates compare such a variable with, to turn thinking off or on
_OFF: Final = ("off", "none", "disabled", "disable", "no", "false", "no_think", "nothink", "non-thinking", "chat")
_ON: Final = ("on", "enabled", "enable", "yes", "true", "think", "thinking")
_NONSENSE: Final = "zxqv"
# words for the system message: (on, off)
_SYSTEM_WORDS: Final = (("/think", "/no_think"), ("/think", "/nothink"))
_QUESTION: Final = {"role": "user", "content": "Which number is larger?"}
_SYSTEM: Final = "Answer in one sentence."


@dataclass(frozen=True, slots=True)
class Switch:
    """How one value of `?thinking=` reaches a template.

    settings: (name, value) of the template's variables.
    system: a word that goes into the system message.

    Both are empty if the template does by default what the value asks for.
    """

    settings: tuple[tuple[str, Setting], ...] = ()
    system: str = ""


@dataclass(frozen=True, slots=True)
class Switches:
    """The values of `?thinking=` that change a model's prompt.

    known: the switch of each value; a value is one of on, off, low, medium and high.
    budget: the variable that takes a number of tokens; empty for none.
    """

    known: Mapping[str, Switch] = field(default_factory=dict)
    budget: str = ""

    @property
    def values(self) -> tuple[str, ...]:
        """The values that may be given, as an error message lists them."""
        return (*self.known, *(["a number of tokens"] if self.budget else []))


_read: WeakKeyDictionary[object, tuple[str, Switches]] = WeakKeyDictionary()


def thinking_switches(tokenizer: PreTrainedTokenizerBase) -> Switches:
    """The switches of a tokenizer's chat template. A tokenizer without a template has none."""
    template = template_text(tokenizer)
    if tokenizer not in _read or _read[tokenizer][0] != template:
        _read[tokenizer] = (template, _Template(tokenizer).switches() if template else Switches())
    return _read[tokenizer][1]


def switch_for(tokenizer: PreTrainedTokenizerBase, thinking: str) -> Switch:
    """What a value of `?thinking=` sets in the prompt.

    thinking: on, off, low, medium, high, or the number of tokens that a trace may take. A template with a variable for
        the number gets it. For any other template a number means on, and the trace is closed after so many tokens.

    Raises:
        InvalidInput: the value does not change the rendered prompt.
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
            f"?thinking={thinking}: the model's chat template has no switch for thinking,"
            " so nothing in the prompt would change: leave it out"
        )
    raise InvalidInput(
        f"?thinking={thinking} changes nothing in the model's prompts, expected one of {', '.join(switches.values)}:"
        " give one of these or leave it out"
    )


class _Template:
    """One template, which is tried by rendering one question."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.names = [name for name in template_variables(template_text(tokenizer)) if _SPEAKS_OF_THINKING.search(name)]

    def prompt(self, settings: Mapping[str, Setting], system: str = "") -> str | None:
        """The rendered prompt; None if the template refuses the settings."""
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
        """Switches that set every true-or-false variable that changes the prompt.

        A template may read the same variable under several names, so all of them are set.
        """
        found = [name for name in self.names if not _TAKES_NUMBERS.search(name) and self._differ(name, True, False)]
        if not found:
            return None
        on, off = (
            Switch(tuple((name, value != bool(_NEGATED.search(name))) for name in found)) for value in (True, False)
        )
        return (on, off) if self.prompt(dict(on.settings)) != self.prompt(dict(off.settings)) else None

    def _words(self) -> tuple[Switch, Switch] | None:
        """Switches of a variable that takes words. Only words that the template knows count (`_tells`)."""
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
        """Switches of a budget. A budget of 0 turns thinking off if the prompt treats 0 unlike other numbers."""
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
        """The levels that have a prompt of their own. Some templates read them only when thinking is on."""
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
        """Whether the template knows a word.

        A template that refuses nonsense knows the words that it takes. Any other template knows a word if it does more
        than copy it.
        """
        if self.prompt({name: _NONSENSE}) is None:
            return self.prompt({name: word}) is not None
        return self._differ(name, word, _NONSENSE)

    def _takes_numbers(self, name: str) -> bool:
        return bool(_TAKES_NUMBERS.search(name)) and self.prompt({name: 512}) not in (None, self.prompt({name: 4096}))

    def _differ(self, name: str, one: Setting, other: Setting) -> bool:
        """Whether the prompts of two values differ in more than the values themselves."""
        first, second = self.prompt({name: one}), self.prompt({name: other})
        if first is None or second is None or first == second:
            return False
        words = re.compile(rf"\b(?:{re.escape(str(one))}|{re.escape(str(other))})\b")
        return words.sub("", first) != words.sub("", second)
