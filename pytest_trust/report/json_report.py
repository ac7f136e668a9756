"""The JSON report: one file with everything a run found. Equal results give equal bytes.

The document is a `pytest_trust.records.RunRecord`. ``schema.json`` beside this file is its JSON Schema and describes
every key. Keys are sorted, and floats are rounded to 9 significant digits. Only two parts depend on the machine or the
run: ``environment``, and the ``device`` of each model. `comparable` leaves these out; the rest depends neither on the
order of the tests nor on the number of processes.

JSON has neither NaN nor infinity. Such a number is null, and its object says what it was under ``not_finite``:
``{"p_value": null, "not_finite": {"p_value": "not a number"}}``. Control characters, bidi overrides and the like are
``\\u`` escapes, so that printing the file to a terminal is harmless.
"""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_trust.errors import InvalidInput, TrustError
from pytest_trust.records import SCHEMA, CandidateRecord, Flip, FlipSide, GateRecord, RunRecord, from_json, to_json
from pytest_trust.report.text import redacted, visible
from pytest_trust.report.trust_tax import tax_sentence

NOT_FINITE = "not_finite"
WORDS = {"not a number": math.nan, "infinity": math.inf, "minus infinity": -math.inf}
"""The words under `NOT_FINITE` for numbers that JSON does not have."""

_DIGITS = 9


def write_report(path: str | os.PathLike[str], run: RunRecord, *, redact: bool = False) -> dict[str, Any]:
    """Write the JSON report and return the document. An existing file is replaced at once or not at all.

    Raises TrustError when the file cannot be written (no such directory, a directory of that name, no permission, a
    full disk), and InvalidInput when a record holds a value that is not of a built-in type (a NumPy scalar, a tensor).
    """
    document = report_document(run, redact=redact)
    write_text(Path(path), serialised(document))
    return document


def report_document(run: RunRecord, *, redact: bool = False) -> dict[str, Any]:
    """The document that `write_report` writes: the record as JSON, with the sentence of each tax; redacted if asked."""
    if redact:
        run = replace(run, redacted=True, gates=tuple(map(_redact, run.gates)))
    return rounded(to_json(replace(run, candidates=tuple(map(_with_sentence, run.candidates)))))


def _with_sentence(candidate: CandidateRecord) -> CandidateRecord:
    return replace(candidate, tax=replace(candidate.tax, sentence=tax_sentence(candidate.tax)))


def comparable(run: RunRecord) -> str:
    """The part of the report that the results determine, as text: equal results give equal texts."""
    run = replace(
        run,
        baseline=replace(run.baseline, device=""),
        candidate=replace(run.candidate, device=""),
        candidates=tuple(replace(candidate, device="") for candidate in run.candidates),
    )
    return serialised({key: value for key, value in report_document(run).items() if key != "environment"})


def serialised(document: Mapping[str, Any]) -> str:
    """Return the text of a document: keys are sorted, and no character controls a terminal."""
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    # JSON is ASCII outside of its strings. So every replaced character is inside of one, where \u is an escape.
    return re.sub(r"[^\x00-\x7e]", _escaped, text) + "\n"


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return json.dumps(character)[1:-1] if ord(character) > 0x7F else "\\u007f"


def read_report(path: str | os.PathLike[str]) -> RunRecord:
    """The run in a report file.

    Raises InvalidInput when the file is missing, is not JSON, is not a report, or comes from another version.
    """
    shown = visible(os.fspath(path))
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_not_json)
    except OSError as error:
        raise InvalidInput(
            f"report {shown} cannot be read: {error.strerror or error}; expected a file of --trust-report"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"report {shown} is not JSON ({_one_line(error)}); expected a file of --trust-report"
        ) from None
    problem = _problem(document)
    if problem:
        raise InvalidInput(f"report {shown} {problem}")
    try:
        return from_json(RunRecord, _restored(document))
    except InvalidInput as error:
        raise InvalidInput(f"report {shown}: {error}; write it again with --trust-report") from None


def _not_json(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _problem(document: object) -> str:
    """What is wrong with a document that is not a report of this version; empty where nothing is."""
    if not isinstance(document, dict) or "schema" not in document:
        return 'has no "schema"; expected a file of --trust-report'
    schema = document["schema"]
    if type(schema) is not int or schema < 1:
        return f'has "schema": {visible(json.dumps(schema))[:40]}; expected {SCHEMA}'
    if schema > SCHEMA:
        return f"has schema {schema}, and this version reads {SCHEMA}; upgrade pytest-trust"
    if schema < SCHEMA:
        return f"has schema {schema}, and this version reads {SCHEMA}; write it again with --trust-report"
    if document.get("kind") == "mutants":
        return "is one of --trust-mutants; expected one of a comparison"
    return ""


def _one_line(error: BaseException) -> str:
    return visible(str(error))[:100] or type(error).__name__


def _redact(gate: GateRecord) -> GateRecord:
    """A gate without any text of a probe or a model."""

    def hidden(text: str) -> str:
        return redacted(text) if text else text

    def side(one: FlipSide) -> FlipSide:
        return replace(one, answer=hidden(one.answer), reasoning=hidden(one.reasoning))

    def flip(one: Flip) -> Flip:
        return replace(one, prompt=hidden(one.prompt), baseline=side(one.baseline), candidate=side(one.candidate))

    return replace(gate, flips=tuple(map(flip, gate.flips)))


def rounded(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its floats rounded, and with NaN and infinity moved to `NOT_FINITE`."""
    clean: dict[str, Any] = _cleaned(document)[0]
    return clean


def _cleaned(value: Any) -> tuple[Any, dict[str, str]]:
    """The cleaned value, and by path the word for each number in it that JSON does not have."""
    if isinstance(value, float):
        if not math.isfinite(value):
            word = "not a number" if math.isnan(value) else "infinity" if value > 0 else "minus infinity"
            return None, {"": word}
        # + 0.0 turns -0.0 into 0.0: the two are equal but print differently.
        return float(f"{value:.{_DIGITS}g}") + 0.0, {}
    if isinstance(value, Mapping):
        clean: dict[str, Any] = {}
        not_finite: dict[str, str] = {}
        for key, item in value.items():
            clean[key], words = _cleaned(item)
            not_finite.update({f"{key}{path}": word for path, word in words.items()})
        if not_finite:
            clean[NOT_FINITE] = not_finite
        return clean, {}
    if isinstance(value, list):
        items, found = [], {}
        for index, item in enumerate(value):
            inner, words = _cleaned(item)
            items.append(inner)
            found.update({f"[{index}]{path}": word for path, word in words.items()})
        return items, found
    return value, {}


def _restored(value: Any) -> Any:
    """The value with the numbers that `_cleaned` moved put back. No record has such numbers in a list."""
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if not isinstance(value, dict):
        return value
    words = value.get(NOT_FINITE)
    plain = {key: _restored(item) for key, item in value.items() if key != NOT_FINITE}
    if isinstance(words, dict):
        plain |= {key: WORDS[word] for key, word in words.items() if key in plain and word in WORDS}
    return plain


def write_text(path: Path, text: str) -> None:
    """Write a temporary file beside the path and rename it, so that readers see the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shown = visible(str(path))
    if not path.parent.is_dir():
        parent = visible(str(path.parent))
        raise TrustError(
            f"report {shown} cannot be written: there is no directory {parent}; make it or name another file"
        )
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise TrustError(f"report {shown} cannot be written: {error.strerror or error}; name another file") from None
    finally:
        # After an error, half a file must not stay. After the rename there is nothing to remove.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
