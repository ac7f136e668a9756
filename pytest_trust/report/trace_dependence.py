"""Trace dependence as text: a table under a gate's drift, and one under the trust tax with a row per dimension."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_trust.records import DependenceChange, DriftRecord, TraceDependence, TraceDependenceRecord, dimension_rank
from pytest_trust.report.numbers import UNKNOWN, count, known, magnitude, percent
from pytest_trust.report.text import Column, table, visible

# What stands in the place of a trace, by its name in the record.
_IN_WORDS = {"half": "half of it", "none": "nothing", "other": "the other's"}
LEGEND = (
    "trace dependence: KL of the answer given its trace against the answer given half of it, nothing or the other "
    "model's trace in its place, in nats per answer [95 % limits], and the share of greedy answers that would change; "
    "it decides nothing."
)
_INDENT = 2


def dependence_lines(record: TraceDependenceRecord | None, width: int) -> list[str]:
    """Return a table: a row per model and trace, then the change; no line wider than `width`. Empty for no record."""
    if record is None:
        return []
    head = [
        Column("trace dependence"),
        Column("in its place"),
        Column("nats per answer"),
        Column("answers changed", drop=1),
        Column("begin otherwise", ">", drop=3),
        Column("responses", ">", drop=2),
    ]
    rows = [
        [
            name,
            _IN_WORDS[kind],
            _nats(side[kind]),
            _changed(side[kind]),
            percent(side[kind].begins_otherwise, 0),
            count(side[kind].responses),
        ]
        for name, side in (("baseline", record.baseline), ("candidate", record.candidate))
        for kind in _IN_WORDS
        if kind in side
    ]
    for kind, change in record.change.items():
        rows.append(["Δ", _IN_WORDS[kind], _with_limits(change), "", "", count(change.probes)])
    return ["", *table(head, rows, width=width)]


def tax_dependence(drift: Mapping[str, DriftRecord], width: int) -> list[str]:
    """Return a table with a row per dimension and model, which `LEGEND` explains; empty where nothing was measured."""
    kinds = [
        kind
        for kind in _IN_WORDS
        if any(
            kind in side
            for one in drift.values()
            if one.trace_dependence
            for side in (one.trace_dependence.baseline, one.trace_dependence.candidate)
        )
    ]
    if not kinds:
        return []
    rows = []
    for dimension in sorted(drift, key=dimension_rank):
        found = drift[dimension].trace_dependence
        for name, side in (("baseline", found.baseline), ("candidate", found.candidate)) if found else ():
            if side:
                responses = count(max(one.responses for one in side.values()))
                cells = [_cell(side[kind]) if kind in side else UNKNOWN for kind in kinds]
                rows.append([visible(dimension), name, *cells, responses])
    # The trace that is closed at once says most; the others are left out first.
    drops = {"half": 2, "none": 0, "other": 3}
    head = [
        Column("trace dependence"),
        Column(""),
        *(Column(_IN_WORDS[kind], drop=drops[kind]) for kind in kinds),
        Column("responses", ">", drop=1),
    ]
    return table(head, rows, width=width, indent=_INDENT)


def _nats(found: TraceDependence) -> str:
    if found.infinite:
        return "infinite"
    return _with_limits(found)


def _with_limits(found: TraceDependence | DependenceChange) -> str:
    limits = f" [{magnitude(found.lower, 2)}, {magnitude(found.upper, 2)}]" if known(found.lower) else ""
    return f"{magnitude(found.mean, 2)}{limits}"


def _changed(found: TraceDependence) -> str:
    if not known(found.changed):
        return UNKNOWN
    lower, upper = (percent(limit, 0).removesuffix(" %") for limit in (found.changed_lower, found.changed_upper))
    limits = f" [{lower}, {upper}]"
    return percent(found.changed, 0) + (limits if known(found.changed_lower) else "")


def _cell(found: TraceDependence) -> str:
    return _nats(found) + (f", {percent(found.changed, 0)}" if known(found.changed) else "")
