r"""Is the final answer the probe's answer? ``ok`` when it is, ``bad`` for another answer, ``unparsable`` for none.

The final answer is the first of these that the text has: the last ``\boxed{...}``; what follows GSM8K's ``####`` or
"the answer is", whichever comes last; the last value of the right answer's kind (number, time, date, weekday, yes or
no). For an answer in words the last resort is the whole text, which is right when the answer's words stand in it.
Values are compared by meaning: 1,200 and $1200.00, 3/4 and 0.75, 15 % and 15 percent, 3:45 pm and 15:45, Wed and
Wednesday, seven and 7. Standard library only.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from pytest_trust.errors import InvalidInput
from pytest_trust.judges.judgement import STATED_END, UNPARSABLE, Judgement, probe_field

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
_WORD_NUMBERS: Final[dict[str, int]] = {
    word: value
    for value, word in enumerate(
        (
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty"
        ).split()
    )
} | {
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
    "hundred": 100,
    "dozen": 12,
}
_SMALL = "|".join(word for word, value in _WORD_NUMBERS.items() if 0 < value < 10)
_TENS = "|".join(word for word, value in _WORD_NUMBERS.items() if 20 <= value < 100)
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:\s*/\s*\d+(?:\.\d+)?)?(?:e[-+]?\d+)?(?![\d])"
)
_TIME = re.compile(
    r"(?<!\d)(\d{1,2})(?:[:.h](\d{2}))?\s*(a\.?m\.?|p\.?m\.?)(?!\w)|(?<![\d:])(\d{1,2}):(\d{2})(?!:?\d)|\b(noon|"
    r"midday|midnight)\b"
)
_DAY = re.compile(r"\b(mon|tue|tues|wed|weds|thu|thur|thurs|fri|sat|sun|" + "|".join(_DAYS) + r")\b")
_DATE = re.compile(
    r"\b(\d{4})-(\d{2})-(\d{2})\b|\b("
    + "|".join(_MONTHS)
    + r")\s+(\d{1,2})(?:st|nd|rd|th)?\b|\b(\d{1,2})(?:st|nd|rd|th)?\s+(?:of\s+)?("
    + "|".join(_MONTHS)
    + r")\b"
)
_YES_NO = re.compile(r"\b(yes|no|true|false)\b")
_MARKED = re.compile(
    r"(?:\b(?:final |correct |right )?answer(?:\s+is|\s*:|\s*=|\s+would be|\s+must be)|####)\s*:?\s*", re.IGNORECASE
)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}|\\[dt]?frac\s*(\d)\s*(\d)")
_DENIED = re.compile(r"\b(?:not|instead of|rather than) (?:on |at |an? |the )?[\w:$/-]+")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n|;")
_ARTICLES = re.compile(r"^(?:the|a|an|it is|it's|is|was|he is|she is|they are|on|at|in|about|exactly|approximately)\s+")

Value = tuple[str, object]


def _clean(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).replace("−", "-").replace("–", "-").replace("⁄", "/").replace("’", "'")
    text = _LATEX_FRACTION.sub(lambda m: f"{m.group(1) or m.group(3)}/{m.group(2) or m.group(4)}", text)
    text = re.sub(r"\\(?:text|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(
        r"\\[!,;: ()\[\]]|\\left|\\right|\\%|\$|[*`]{1,3}|€|£|¥", lambda m: "%" if m.group(0) == "\\%" else "", text
    )
    text = re.sub(r"(?<=\d)[\u2009\u202f\u00a0 ](?=\d{3}(?!\d))", "", text)
    return " ".join(text.casefold().split())


def _boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{...}`` whose braces are balanced."""
    content = None
    for match in re.finditer(r"\\f?box(?:ed)?\s*\{", text):
        depth, position = 1, match.end()
        while position < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            position += 1
        if not depth:
            content = text[match.end() : position - 1]
    return content


def _word_numbers(text: str) -> str:
    """Write number words as digits: "twenty-one" -> 21, "seven" -> 7, "three quarters" -> 3/4, "half" -> 1/2.

    "one" stays a word unless the text begins with it.
    """
    text = re.sub(r"\b(?:a|one) half\b", "1/2", text)
    text = re.sub(r"\bthree[- ]quarters?\b", "3/4", text)
    text = re.sub(r"\b(?:a|one)[- ]quarter\b(?! (?:to|past))", "1/4", text)
    text = re.sub(r"\b(?:a|one)[- ]third\b", "1/3", text)
    text = re.sub(r"\btwo[- ]thirds\b", "2/3", text)
    text = re.sub(
        rf"\b({_TENS})[- ]({_SMALL})\b", lambda m: str(_WORD_NUMBERS[m.group(1)] + _WORD_NUMBERS[m.group(2)]), text
    )
    text = re.sub(rf"\b({_SMALL}|a) hundred(?: and (\d+|{_SMALL}|{_TENS}))?\b", _hundreds, text)
    words = "|".join(w for w in _WORD_NUMBERS if w not in ("one", "hundred"))
    return re.sub(rf"\b(?:{words})\b|^one(?=\W|$)", lambda m: str(_WORD_NUMBERS[m.group(0)]), text)


def _hundreds(match: re.Match[str]) -> str:
    rest = match.group(2)
    small = 0 if not rest else int(rest) if rest.isdigit() else _WORD_NUMBERS[rest]
    return str(_WORD_NUMBERS.get(match.group(1), 1) * 100 + small)


def _number(text: str) -> Fraction | None:
    text = text.replace(",", "").replace(" ", "")
    try:
        if "/" in text:
            above, below = text.split("/")
            return Fraction(above) / Fraction(below)
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def _numbers(text: str) -> list[Fraction]:
    numbers = (
        _number(match.group(0))
        for match in _NUMBER.finditer(_word_numbers(text))
        if any(c.isdigit() for c in match.group(0))
    )
    return [value for value in numbers if value is not None]


def _times(text: str) -> list[tuple[int, int, bool]]:
    """(hour, minute, whether the half of the day is known) of each time in the text."""
    times = []
    for match in _TIME.finditer(text):
        if match.group(6):
            times.append((0 if match.group(6) == "midnight" else 12, 0, True))
            continue
        hour, minute = int(match.group(1) or match.group(4)), int(match.group(2) or match.group(5) or 0)
        half = (match.group(3) or "").replace(".", "")
        if half:
            hour = hour % 12 + (12 if half == "pm" else 0)
        if hour < 24 and minute < 60:
            times.append((hour, minute, bool(half) or hour > 12 or hour == 0))
    return times


def _dates(text: str) -> list[tuple[int, int]]:
    """(month, day) of each date in the text. The year is left out, since answers rarely repeat it."""
    dates = []
    for match in _DATE.finditer(text):
        if match.group(1):
            dates.append((int(match.group(2)), int(match.group(3))))
        elif match.group(4):
            dates.append((_MONTHS.index(match.group(4)) + 1, int(match.group(5))))
        else:
            dates.append((_MONTHS.index(match.group(7)) + 1, int(match.group(6))))
    return dates


def _days(text: str) -> list[str]:
    return [next(day for day in _DAYS if day.startswith(match.group(1)[:3])) for match in _DAY.finditer(text)]


def _kind(answer: str) -> str:
    """The kind of value that the right answer is."""
    if _DATE.search(answer):
        return "date"
    if _TIME.search(answer):
        return "time"
    if _DAY.fullmatch(answer):
        return "day"
    if re.fullmatch(r"(?:yes|no|true|false)", answer):
        return "yes or no"
    bare = re.sub(r"[\s%.]|[a-z]+", "", _word_numbers(answer).replace(",", ""))
    if len(_numbers(answer)) == 1 and re.fullmatch(r"[-+]?\d*(?:/\d+)?\d*", bare) and len(answer.split()) <= 4:
        return "number"
    return "words"


def _values(kind: str, text: str) -> list[object]:
    """All values of that kind in the text, in order."""
    if kind == "number":
        return list(_numbers(text))
    if kind == "time":
        return list(_times(text))
    if kind == "date":
        return list(_dates(text))
    if kind == "day":
        return list(_days(text))
    if kind == "yes or no":
        return [{"true": "yes", "false": "no"}.get(match.group(1), match.group(1)) for match in _YES_NO.finditer(text)]
    return []


def _same(kind: str, right: object, given: object) -> bool:
    if kind == "time":
        assert isinstance(right, tuple) and isinstance(given, tuple)
        if right[2] and given[2]:
            return bool(right[:2] == given[:2])
        return bool(right[0] % 12 == given[0] % 12 and right[1] == given[1])
    return right == given


def _words(text: str) -> str:
    text = re.sub(r"[^\w\s/%+-]", " ", text)
    previous = None
    while previous != text:
        previous, text = text, _ARTICLES.sub("", text.strip())
    return " ".join(text.split())


def _marked(text: str) -> str | None:
    """The clause after the last "the answer is"."""
    marks = list(_MARKED.finditer(text))
    if not marks:
        return None
    rest = text[marks[-1].end() :]
    end = _SENTENCE_END.search(rest)
    return rest[: end.start()] if end and rest[: end.start()].strip() else rest


def is_right(response: str, answer: str) -> bool | None:
    """Whether the response's final answer equals `answer`; None when the response has no final answer of its kind."""
    right_text = _clean(answer)
    boxed = _boxed(response)
    kind = _kind(right_text)
    text = _clean(response)
    stated = _clean(boxed) if boxed is not None else _marked(text)
    if kind == "words":
        return _words_right(right_text, text, stated)
    text, stated = _DENIED.sub(" ", text), _DENIED.sub(" ", stated) if stated else stated
    right = _values(kind, right_text)[-1]
    if stated is not None:
        given = _values(kind, stated)
        if given:
            # "the answer is 12 apples" states its value first; "= 3 + 4 = 7" last
            return _same(kind, right, given[-1] if "=" in stated else given[0])
        if boxed is not None:
            return False
    given = _values(kind, text)
    if kind == "yes or no" and given and re.match(r"\W*(?:yes|no|true|false)\b", text):
        return given[0] == right
    return _same(kind, right, given[-1]) if given else None


def _words_right(right: str, text: str, stated: str | None) -> bool | None:
    wanted = _words(right)
    if stated is not None and _words(stated):
        said = _words(stated)
        return said == wanted or re.match(rf"{re.escape(wanted)}(?!\w)", said) is not None
    whole = _words(text)
    if whole == wanted:
        return True
    if re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", whole):
        return True
    return False if whole and len(whole.split()) <= 12 else None


@dataclass(frozen=True)
class ExactJudge:
    """``ok`` (0.0) for the right final answer, ``bad`` (1.0) for another one, ``unparsable`` (NaN) for none."""

    name: str = "exact"
    version: str = "1"

    @property
    def identity(self) -> str:
        return f"{self.name} {self.version}"

    def __call__(self, response: str, probe: object = None) -> Judgement:
        """Raises InvalidInput when the probe has no answer to compare with."""
        answer = str(probe_field(probe, "answer", ""))
        if not answer.strip():
            raise InvalidInput(
                f"judge exact, probe {probe_field(probe, 'id', '?')!r}: expected `answer`, the right answer as a string"
            )
        right = is_right(response, answer) if response.strip() else None
        if right is None:
            return UNPARSABLE
        return Judgement("ok", 0.0) if right else Judgement("bad", 1.0)

    def stated(self, response: str, probe: object = None) -> bool:
        """Whether the response has a closed ``\\boxed{...}``, or states an answer in a sentence that has ended.

        The sentence must hold "the answer is" (or ``####``) and then a value of the right answer's kind.
        """
        if _boxed(response) is not None:
            return True
        marks = list(_MARKED.finditer(response))
        if not marks:
            return False
        rest = response[marks[-1].end() :]
        end = STATED_END.search(rest)
        kind = _kind(_clean(str(probe_field(probe, "answer", ""))))
        said = _clean(rest[: end.start()]) if end else ""
        return bool(said) and (kind == "words" or bool(_values(kind, said)))


JUDGE: Final = ExactJudge()
