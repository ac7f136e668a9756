"""Which of the probe's options does a free answer name? ``ok`` when it is the right one, ``bad`` when it is another.

An option is named by its words, or by its label when the prompt lists the options with letters or numbers. Longer
options are looked for first, so "wrong" is not found inside "not wrong". An answer that names several options is
decided only by the way it states its verdict ("the answer is ..."). Standard library only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pytest_trust.errors import InvalidInput
from pytest_trust.judges.judgement import STATED_END, UNPARSABLE, Judgement, probe_field

_LABELS: Final = "abcdefghijklmnopqrstuvwxyz"
_VERDICT = (
    r"(?:the (?:correct |right |best |final )?(?:answer|option|choice|label|verdict|sentiment|judg(?:e)?ment|"
    r"reaction)(?: (?:is|would be|should be))?|answer|verdict|final answer|i (?:would )?(?:choose|pick|select))"
)
_LEAD = rf"(?:{_VERDICT}|i (?:would )?(?:say|think)(?: (?:that )?(?:it is|it's|this is))?|(?:it|this|that)(?: is|'s))"
_ONLY_LABEL = r"^\W*(?:option |choice |answer )?[(\[]?({labels})[)\].:]?\W*$"
_LABELLED = r"(?:^|{lead}\s*:?\s*(?:option |choice )?)\W*[(\[]?({labels})(?:[)\].:]|\s*$|\s+(?=[-–—]))"
_SAID = (
    r"\b{lead}\s*:?\s*(?:that of |definitely |clearly |probably |morally |option |choice )?[\"'(*]*\s*({options})(?!\w)"
)
_FIRST_LABEL = r"\W*[(\[]?({labels})[)\].:]"
_CONTRACTIONS = (
    (re.compile(r"\b(is|was|are|were|would|does|do|did|has|have|had)n't\b"), r"\1 not"),
    (re.compile(r"\bcannot\b|\bcan't\b"), "can not"),
)


def plain(text: str) -> str:
    """The text with its case folded, contractions of "not" opened and blanks single; punctuation is kept."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    for pattern, opened in _CONTRACTIONS:
        text = pattern.sub(opened, text)
    return " ".join(re.sub(r"[*_`]+", "", text).split())


def _named(text: str, options: Sequence[str]) -> list[tuple[int, str]]:
    """(position, option) of each option in the text; longer options are taken out before shorter ones are sought."""
    places: list[tuple[int, str]] = []
    for option in sorted(options, key=lambda o: (-len(o), o)):
        pattern = re.compile(rf"(?<!\w){re.escape(option)}(?!\w)")
        places += [(match.start(), option) for match in pattern.finditer(text)]
        text = pattern.sub(lambda match: "\0" * len(match.group(0)), text)
    return sorted(places)


def _longest_first(options: Sequence[str]) -> str:
    """A pattern of any of the options, the longest first, so "wrong" is not found inside "not wrong"."""
    return "|".join(re.escape(option) for option in sorted(options, key=lambda o: (-len(o), o)))


def _negations_of(text: str, options: Sequence[str]) -> str:
    """Blank out "not X" where X is an option and "not X" is none: such words name no option."""
    for option in options:
        if f"not {option}" not in options:
            text = re.sub(
                rf"(?<!\w)(?:not|never|neither|nor)(?: an?| the| really| at all)? {re.escape(option)}(?!\w)",
                lambda match: "\0" * len(match.group(0)),
                text,
            )
    return text


def _listed_labels(prompt: str, options: Sequence[str]) -> dict[str, str]:
    """label -> option, where the prompt lists the options with letters or numbers; empty unless it lists them all."""
    labels: dict[str, str] = {}
    for option in options:
        match = re.search(rf"(?<!\w)[(\[]?(\w)[)\].:]\s*{re.escape(option)}(?!\w)", prompt)
        if not match:
            return {}
        labels[match.group(1)] = option
    return labels if len(labels) == len(options) else {}


def named_option(response: str, options: Sequence[str], prompt: str = "") -> str | None:
    """The one option that the response names, spelled as given; None when it names none or several."""
    given = {plain(option): option for option in options}
    keys, text = list(given), plain(response)
    stripped = text.strip(" .!?\"'()[]:;,")
    if stripped in given:
        return given[stripped]
    labels = _listed_labels(plain(prompt), keys)
    if labels:
        alternatives = "|".join(map(re.escape, labels))
        match = re.search(_ONLY_LABEL.format(labels=alternatives), text) or re.search(
            _LABELLED.format(lead=_LEAD, labels=alternatives), text
        )
        if match:
            return given[labels[match.group(1)]]
    text = _negations_of(text, keys)
    named = {option for _, option in _named(text, keys)}
    if len(named) == 1:
        return given[named.pop()]
    if named:
        ordered = _longest_first(keys)
        verdicts = re.findall(_SAID.format(lead=_VERDICT, options=ordered), text)
        if verdicts:
            return given[verdicts[-1]]
        said = set(re.findall(_SAID.format(lead=_LEAD, options=ordered), text))
        if len(said) == 1:
            return given[said.pop()]
    return None


@dataclass(frozen=True)
class ChoiceJudge:
    """``ok`` (0.0) for the right option, ``bad`` (1.0) for another one, ``unparsable`` (NaN) for none or several."""

    name: str = "choice"
    version: str = "1"

    @property
    def identity(self) -> str:
        return f"{self.name} {self.version}"

    def __call__(self, response: str, probe: object = None) -> Judgement:
        """Raises InvalidInput when the probe has no options, or an answer that is none of them."""
        options = tuple(probe_field(probe, "options", ()))
        answer = str(probe_field(probe, "answer", ""))
        if len(options) < 2 or answer not in options:
            raise InvalidInput(
                f"judge choice, probe {probe_field(probe, 'id', '?')!r}: answer {answer!r} and options "
                f"{list(options)!r}; expected two or more options and one of them as the answer"
            )
        named = named_option(response, options, str(probe_field(probe, "prompt", "")))
        if named is None:
            return UNPARSABLE
        return Judgement("ok" if named == answer else "bad", float(named != answer), chosen=named)

    def stated(self, response: str, probe: object = None) -> bool:
        """Whether the response begins with a label of the prompt's list, or has a verdict in a sentence that has ended.

        A verdict is a phrase such as "the answer is ...".
        """
        options = [plain(option) for option in probe_field(probe, "options", ())]
        labels = _listed_labels(plain(str(probe_field(probe, "prompt", ""))), options)
        if labels and re.match(_FIRST_LABEL.format(labels="|".join(map(re.escape, labels))), response.casefold()):
            return True
        ends = [match.end() for match in STATED_END.finditer(response)]
        said = _SAID.format(lead=_VERDICT, options=_longest_first(options))
        return bool(ends) and re.search(said, plain(response[: ends[-1]])) is not None


JUDGE: Final = ChoiceJudge()
