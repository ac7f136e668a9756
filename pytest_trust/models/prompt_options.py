"""What a reference's options set in its model's prompts: `?thinking=`, `?template.NAME=VALUE` and `?date=`.

Each option must change the rendered prompt. An option without effect would compare a model with itself unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from pytest_trust.errors import InvalidInput
from pytest_trust.models.chat_template import CLOCK, template_text, template_variables
from pytest_trust.models.reference import TEMPLATE_OPTION, Reference, Setting, setting_of
from pytest_trust.models.rendering import prompt_text
from pytest_trust.models.thinking_switches import switch_for
from pytest_trust.probes import Message, Probe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASKED: Final = Message("user", "Which number is larger?")
_QUESTIONS: Final = (
    Probe("asked", "asked", messages=(_ASKED,)),
    Probe("told", "told", messages=(Message("system", "Answer in one sentence."), _ASKED)),
)


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """The arguments with which `render_prompt` and `render_options` render for one reference.

    thinking: the value of `?thinking=`; empty for none.
    settings: the values of `?template.NAME=` by name.
    now: the date that the template's clock shows.
    """

    thinking: str = ""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    now: datetime = CLOCK

    def as_arguments(self) -> dict[str, Any]:
        """The options as keyword arguments."""
        return {"thinking": self.thinking, "settings": self.settings, "now": self.now}


def prompt_options(tokenizer: PreTrainedTokenizerBase, reference: Reference) -> PromptOptions:
    """The options of a reference, each of which has been seen to change the rendered prompt.

    Raises:
        InvalidInput: an option that changes nothing, that the template refuses or does not read, or that names a
            variable which `?thinking=` sets as well.
    """
    thinking, date = reference.options.get("thinking", ""), reference.options.get("date", "")
    given = reference.template_options
    if (given or date) and not template_text(tokenizer):
        option = next((f"{TEMPLATE_OPTION}{name}={text}" for name, text in given.items()), f"date={date}")
        raise InvalidInput(
            f"?{option}: the model has no chat template, so nothing in its prompts would change: leave it out"
        )
    settings = template_settings(tokenizer, given)
    for name in dict(switch_for(tokenizer, thinking).settings):
        if name in settings:
            raise InvalidInput(
                f"?{TEMPLATE_OPTION}{name}={given[name]}: ?thinking={thinking} sets the template's {name} too: "
                "keep one of the two"
            )
    options = PromptOptions(thinking, settings, datetime.fromisoformat(date) if date else CLOCK)
    for name in settings:
        rest = {other: value for other, value in settings.items() if other != name}
        _check(tokenizer, options, replace(options, settings=rest), f"{TEMPLATE_OPTION}{name}={given[name]}")
    if date:
        _check(tokenizer, options, replace(options, now=CLOCK), f"date={date}")
    return options


def template_settings(tokenizer: PreTrainedTokenizerBase, given: Mapping[str, str]) -> dict[str, Setting]:
    """The variables given as `?template.NAME=VALUE`, in the form that `render_chat` takes.

    Raises:
        InvalidInput: a name that the template does not read.
    """
    known = template_variables(template_text(tokenizer))
    for name in given:
        if name not in known:
            raise InvalidInput(
                f"?{TEMPLATE_OPTION}{name}={given[name]}: the model's chat template reads no variable {name!r},"
                f" expected one of {', '.join(known) or 'none'}"
            )
    return {name: setting_of(text) for name, text in given.items()}


def _check(tokenizer: PreTrainedTokenizerBase, options: PromptOptions, without: PromptOptions, option: str) -> None:
    """Refuse an option that changes nothing beside the others, or that the template refuses."""
    before, after = _prompts(tokenizer, without), _prompts(tokenizer, options)
    for was, error in zip(before, after, strict=True):
        if isinstance(error, InvalidInput) and not isinstance(was, InvalidInput):
            reason = str(error).partition("(")[2].rpartition(")")[0]
            raise InvalidInput(f"?{option}: the model's chat template refuses it ({reason}): give another value")
    if list(map(str, before)) == list(map(str, after)):
        raise InvalidInput(f"?{option} changes nothing in the model's prompts: give another value or leave it out")


def _prompts(tokenizer: PreTrainedTokenizerBase, options: PromptOptions) -> Sequence[str | InvalidInput]:
    """A question's prompts without and with a system message; where the template refuses one, its error."""
    found: list[str | InvalidInput] = []
    for probe in _QUESTIONS:
        try:
            text, _ = prompt_text(tokenizer, probe, **options.as_arguments())
        except InvalidInput as error:
            found.append(error)
        else:
            found.append(text)
    return found
