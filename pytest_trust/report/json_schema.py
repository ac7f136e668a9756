"""The JSON Schema of the reports, made from the records' types and the strings under their fields.

``python -m pytest_trust.report.json_schema`` writes it to ``schema.json`` beside this file.
"""

from __future__ import annotations

import ast
import inspect
import json
import types
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pytest_trust import records
from pytest_trust.report.json_report import NOT_FINITE, WORDS

PATH = Path(__file__).with_name("schema.json")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NOT_FINITE = {
    "description": "What a number that is null in this object was, by its key.",
    "type": "object",
    "additionalProperties": {"enum": list(WORDS)},
}


def json_schema() -> dict[str, Any]:
    """The schema of what ``--trust-report`` writes: a run that compared, or one of ``--trust-mutants``."""
    definitions: dict[str, Any] = {}
    documents = [_schema(kind, definitions) for kind in (records.RunRecord, records.MutantsRecord)]
    definitions[NOT_FINITE] = _NOT_FINITE
    return {"$schema": _DIALECT, "title": "pytest-trust report", "oneOf": documents, "$defs": definitions}


def schema_text() -> str:
    """The text of the file ``schema.json``."""
    return json.dumps(json_schema(), indent=1, sort_keys=True) + "\n"


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (only,) = (one for one in inner if one is not type(None))
        return {"anyOf": [_schema(only, definitions), {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is tuple:
        return {"type": "array", "items": _schema(inner[0], definitions)}
    if origin is not None:  # a mapping
        return {"type": "object", "additionalProperties": _schema(inner[1], definitions)}
    if isinstance(kind, type) and is_dataclass(kind):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}  # ends the recursion of a record that holds itself
            definitions[kind.__name__] = _record(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    # A number that is not finite is null, and `not_finite` has its word.
    return {"type": {bool: "boolean", int: "integer", str: "string", float: ["number", "null"]}[kind]}


def _record(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    named = {name: _schema(one, definitions) for name, one in records.field_types(kind).items()}
    described = {name: {"description": description(kind, name), **one} for name, one in named.items()}
    if "schema" in described:
        described["schema"]["const"] = records.SCHEMA
    return {
        "description": " ".join((kind.__doc__ or "").split()),
        "type": "object",
        "properties": {**described, NOT_FINITE: {"$ref": f"#/$defs/{NOT_FINITE}"}},
        "required": list(described),
        "additionalProperties": False,
    }


def description(kind: type, name: str) -> str:
    """The string under a field, in the record's class or a base class."""
    strings = _strings()
    return next(strings[one.__name__][name] for one in kind.__mro__ if name in strings.get(one.__name__, {}))


@cache
def _strings() -> dict[str, dict[str, str]]:
    """The string under each field, by record and field."""
    found: dict[str, dict[str, str]] = {}
    for kind in ast.parse(inspect.getsource(records)).body:
        if not isinstance(kind, ast.ClassDef):
            continue
        found[kind.name] = {}
        for line, below in zip(kind.body, kind.body[1:], strict=False):
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[kind.name][line.target.id] = " ".join(str(below.value.value).split())
    return found


if __name__ == "__main__":
    PATH.write_text(schema_text(), encoding="utf-8")
