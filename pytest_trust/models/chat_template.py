"""A tokenizer's chat template: how it is rendered at a fixed date, and which variables it reads.

Only the public interface of transformers is used: `get_chat_template` and `apply_chat_template`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jinja2 import nodes
    from transformers import PreTrainedTokenizerBase

#: The date that a template's clock shows on both sides. Without it, a template that writes today's date would change
#: every prompt overnight.
CLOCK: Final = datetime(2025, 1, 1)

Messages = Sequence[Mapping[str, Any]]

_DIRECTIVES: Final = "aAbBcdfHIjmMpSUwWxXyYzZ"
_GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")


def template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template that a chat without tools is rendered with; empty if the tokenizer has none."""
    if not tokenizer.chat_template:
        return ""
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:  # there are several named templates, and none is for plain chats
        return ""


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    *,
    generation_prompt: bool = True,
    settings: Mapping[str, object] | None = None,
    now: datetime = CLOCK,
) -> str:
    """A chat as text.

    settings: values of the template's own variables.
    now: the date that the template's `strftime_now` shows.

    Raises what the template raises: see `template_errors`.
    """
    given: dict[str, Any] = dict(settings or {})
    return str(
        tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=_with_clock(template_text(tokenizer), now),
            tokenize=False,
            add_generation_prompt=generation_prompt,
            **given,
        )
    )


def template_errors() -> tuple[type[Exception], ...]:
    """What rendering may raise: a template's own refusals, and Python's errors over values it did not expect."""
    from jinja2 import TemplateError

    return (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def parse_template(template: str) -> nodes.Template:
    """The syntax tree of a template, without the `generation` tags of transformers, which jinja2 does not know."""
    from jinja2 import Environment

    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    return environment.parse(_GENERATION.sub("", template))


@lru_cache(maxsize=64)
def template_variables(template: str) -> tuple[str, ...]:
    """The names of the variables that a template takes from its caller, sorted."""
    from jinja2 import TemplateError, meta

    given = {"messages", "tools", "documents", "add_generation_prompt", "strftime_now", "raise_exception", "namespace"}
    given |= {"range", "dict", "lipsum", "cycler", "joiner"}
    try:
        return tuple(sorted(meta.find_undeclared_variables(parse_template(template)) - given))
    except TemplateError:
        return ()


@lru_cache(maxsize=64)
def _with_clock(template: str, now: datetime) -> str:
    """The template with a macro `strftime_now` in front.

    A function cannot be passed instead, since transformers turns all that a template is given into plain data. The
    macro replaces each directive by its text at `now`. The line break after the macro keeps the template's own text at
    the beginning of a line.
    """
    if "strftime_now" not in template:
        return template
    texts = {f"%{flag}{letter}": _written(now, flag, letter) for letter in _DIRECTIVES for flag in ("-", "")}
    replaced = "".join(f" | replace({directive!r}, {text!r})" for directive, text in texts.items())
    written = f"{{{{- format | replace('%%', '\\x00'){replaced} | replace('\\x00', '%') -}}}}"
    return f"{{% macro strftime_now(format) %}}{written}{{% endmacro %}}\n{template}"


def _written(now: datetime, flag: str, letter: str) -> str:
    """The text of one directive. Not every platform knows `%-d`, so it is `%d` without its leading zeros."""
    text = now.strftime(f"%{letter}")
    return text.lstrip("0") or "0" if flag and text.isdecimal() else text
