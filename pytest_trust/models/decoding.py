"""How the next token is chosen: greedily, with settings that are given, or with those of a model's own file.

A model's generation_config.json may hold sampling settings. They act where they are asked for (`own`), and nowhere
else: a setting of one side alone would make two equal models differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from pytest_trust.errors import InvalidInput
from pytest_trust.responses import Generation

SETTINGS: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""The settings of a generation_config.json that act under `own`, and that a user can give."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """What a run asks for.

    own: each model's own settings. settings: those that were given. Without either, responses are greedy, except those
    of a suite that samples.
    """

    own: bool = False
    settings: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, generation: Generation) -> Generation:
        """The generation with this decoding. Settings that are not given are neutral."""
        if self.own:
            return replace(generation, own=True)
        return with_settings(generation, self.settings) if self.settings else generation


GREEDY: Final = Decoding()


def named_decoding(text: str, where: str) -> Decoding | None:
    """`greedy`, `own`, or settings such as `temperature=0.6,top_p=0.95`; None for another text.

    Raises InvalidInput, which begins with `where`, for settings that generation does not know.
    """
    if text in ("greedy", "own"):
        return Decoding(own=text == "own")
    if "=" not in text:
        return None
    pairs = (part.partition("=") for part in text.split(","))
    return checked({name.strip(): _number(value) for name, _, value in pairs}, where)


def checked(settings: Mapping[str, Any], where: str) -> Decoding:
    """The decoding with these settings. Raises InvalidInput for a setting or a value that generation does not know."""
    if not settings:
        raise InvalidInput(f"{where}: holds no setting; expected some of {', '.join(SETTINGS)}")
    for name, value in settings.items():
        if name not in SETTINGS:
            raise InvalidInput(f"{where}: {name!r} is no setting of generation; known are {', '.join(SETTINGS)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidInput(f"{where}: {name} is {value!r}, expected a number")
    found = Decoding(settings=MappingProxyType(dict(settings)))
    try:
        found.of(Generation(1))
    except ValueError as error:
        raise InvalidInput(f"{where}: {error}") from None
    return found


def with_settings(generation: Generation, settings: Mapping[str, Any]) -> Generation:
    """The generation with these settings in place of its own; those that are not named are neutral.

    A temperature that is not named is 1 where another setting of sampling is, else 0 (greedy).
    """
    sampled = any(settings.get(name) is not None for name in ("top_p", "top_k", "min_p"))
    temperature = float(settings.get("temperature") or 0.0) if "temperature" in settings else float(sampled)
    greedy = temperature == 0
    return replace(
        generation,
        own=False,
        temperature=temperature,
        top_p=1.0 if greedy else float(settings.get("top_p") or 1.0),
        top_k=0 if greedy else int(settings.get("top_k") or 0),
        min_p=0.0 if greedy else float(settings.get("min_p") or 0.0),
        repetition_penalty=float(settings.get("repetition_penalty") or 1.0),
    )


def own_settings(document: Mapping[str, Any], label: str) -> dict[str, float]:
    """What a model's generation_config.json says of sampling.

    A file that does not say `do_sample: true` is greedy in transformers, whatever temperature it names. One that does
    and names no temperature samples at 1. Settings beyond `SETTINGS` are left out.

    Raises InvalidInput for a file that has no such settings.
    """
    found = {name: document[name] for name in SETTINGS if document.get(name) is not None}
    if document.get("do_sample") is True:
        found.setdefault("temperature", 1.0)
    else:
        found = {name: value for name, value in found.items() if name == "repetition_penalty"}
    if not found:
        raise InvalidInput(
            f"{label}: its generation_config.json asks for no sampling: leave out decoding=own, or give the settings "
            "(--trust-decoding=temperature=0.6,top_p=0.95)"
        )
    return dict(checked(found, f"{label}: generation_config.json").settings)


def in_words(generation: Generation) -> str:
    """The decoding of a generation, as a report prints it: `greedy`, `temperature 0.6, top_p 0.95`."""
    if generation.own:
        return "its own settings"
    parts = ["greedy"] if generation.greedy else [f"temperature {generation.temperature:g}"]
    if not generation.greedy:
        parts += [f"top_p {generation.top_p:g}"] if generation.top_p < 1 else []
        parts += [f"top_k {generation.top_k}"] if generation.top_k else []
        parts += [f"min_p {generation.min_p:g}"] if generation.min_p else []
    if generation.repetition_penalty != 1:
        parts.append(f"repetition penalty {generation.repetition_penalty:g}")
    return ", ".join(parts)


def _number(text: str) -> Any:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value == int(value) else value
