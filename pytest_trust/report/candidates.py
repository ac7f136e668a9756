"""The table of a run with several candidates: a row per gate, a column per candidate, the drift of each below its dimension's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_trust.report.numbers import UNKNOWN, Numbers, magnitude
from pytest_trust.report.text import Column, columns, cut, layout, visible

Record = Mapping[str, Any]

MARKS = {"regressed": "R", "held": "H", "inconclusive": "I", "not measured": "N"}
_LEGEND = "KL is KL(candidate || baseline) in nats on the candidate's responses."
_MARKED = "R regressed, H held, I inconclusive, N not measured. "
_NAMES = 20  # columns that the gates' names are given before verdicts are shortened
_INDENT = 2
_GAP = 2
_DRIFT = (("mean", "KL per token"), ("per_sequence", "KL per response"))


def by_gate(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """Records by gate (and test, where tests share a gate's name) and candidate's label, in the order given."""
    rows: dict[str, dict[str, Record]] = {}
    for record in records:
        label = candidate_of(record)
        key = str(record["gate"])
        while label in rows.get(key, {}):
            key += "'"
        rows.setdefault(key, {})[label] = record
    return rows


def candidate_of(record: Record) -> str:
    """The label of a record's candidate."""
    return str((record.get("candidate") or {}).get("model") or "")


def matrix(
    ordered: Sequence[Record], names: Sequence[str], candidates: Sequence[Mapping[str, Any]], *, width: int
) -> tuple[list[tuple[str, str, bool, str]], str]:
    """The lines of the table and the legend that they need.

    `ordered` are the records in the order of the table, `names` their gates' names as shown; `candidates` say for each its ``model`` (label)
    and ``drift`` by dimension. A line is its kind (``head``, ``dimension``, ``drift``, ``gate``), its dimension, whether that is a control, and its text;
    of a gate the kind is the worst verdict in the row.
    """
    labels = [str(candidate["model"]) for candidate in candidates]
    shown = dict(zip((str(record["gate"]) for record in ordered), names, strict=True))
    rows = by_gate(ordered)
    for marked in (False, True):
        cells = [
            [shown[key.rstrip("'")], *_cells(found, labels, marked=marked)] for key, found in rows.items()
        ]
        drifts = {
            (dimension, name): [name, "", *(_drift(candidate, dimension, key) for candidate in candidates)]
            for dimension in dict.fromkeys(str(record.get("dimension") or "") for record in ordered)
            for key, name in _DRIFT
        }
        head = [Column("gate", shrink=20), Column("baseline", ">"), *(Column(visible(label), ">") for label in labels)]
        form = layout(head, [*cells, *drifts.values()], width=width, indent=_INDENT, gap=_GAP)
        if form.widths[0] >= min(_NAMES, max(columns(name) for name, *_ in [*cells, *drifts.values()])):
            break  # with verdicts in full; else by their first letter
    lines = [("head", "", False, form.header())]
    group: tuple[bool, str] | None = None
    for (_, found), (name, *row) in zip(rows.items(), cells, strict=True):
        record = next(iter(found.values()))
        control, dimension = bool(record.get("control")), str(record.get("dimension") or "")
        if group != (control, dimension):
            group = (control, dimension)
            lines.append(("dimension", dimension, control, cut(visible(dimension), width)))
            for _, title in _DRIFT:
                drift = drifts[dimension, title]
                if any(cell != UNKNOWN for cell in drift[2:]):
                    lines.append(("drift", dimension, control, form.line(drift)))
        worst = next((verdict for verdict in MARKS if any(other.get("verdict") == verdict for other in found.values())), "")
        if columns(name) > form.widths[0]:
            lines.append((worst, dimension, control, cut(" " * _INDENT + name, width)))
            name = ""
        lines.append((worst, dimension, control, form.line([name, *row])))
    return lines, (_MARKED if marked else "") + _LEGEND


def _cells(found: Mapping[str, Record], labels: Sequence[str], *, marked: bool) -> list[str]:
    """The baseline's value, and per candidate its change and verdict."""
    record = next(iter(found.values()))
    cells = [Numbers.of(record).value((record.get("baseline") or {}).get("value"))]
    for label in labels:
        if label not in found:
            cells.append(UNKNOWN)
            continue
        record = found[label]
        verdict = visible(str(record.get("verdict")))
        cells.append(f"{Numbers.of(record).signed(record.get('delta'), 0.0)} {MARKS.get(verdict, verdict) if marked else verdict}")
    return cells


def _drift(candidate: Mapping[str, Any], dimension: str, key: str) -> str:
    drift = ((candidate.get("drift") or {}).get(dimension) or {}).get("candidate_baseline") or {}
    return magnitude(drift.get(key))
