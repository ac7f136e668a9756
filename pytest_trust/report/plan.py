"""What ``--trust-plan`` prints: the work a run would do, and what it could find, with nothing loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pytest_trust.report.numbers import UNKNOWN, Numbers, count, duration, known, memory
from pytest_trust.report.terminal import Line, model_lines
from pytest_trust.report.text import Column, cut, table, visible, wrap
from pytest_trust.report.trust_tax import dimension_rank

_HEAD = (
    Column("gate", shrink=44),
    Column("probes", ">"),
    Column("margin", ">"),
    Column("detectable", ">"),
    Column("responses", ">", drop=2),
    Column("tokens", ">", drop=1),
)


def plan_lines(plan: Mapping[str, Any], *, width: int) -> list[Line]:
    """Return the lines of the plan, each with its markup, none wider than `width` columns.

    `plan` has ``rows`` (``gate``, ``probes``, ``clusters``, ``margin``, ``detectable``, ``responses``,
    ``tokens``, and ``unit`` if it is not share), ``totals`` (``responses``, ``stored`` of them, ``tokens`` to
    make, ``seconds``, ``rough`` if they are a guess, ``memory_bytes`` of weights) and ``meta``. What is None is not known; an infinite ``detectable`` is one that no change would reach. A gate that could not find a
    change as small as its margin is marked, and named once more at the end.
    """
    rows = sorted(plan.get("rows") or (), key=lambda row: (dimension_rank(_dimension(row)), str(row["gate"])))
    totals: Mapping[str, Any] = plan.get("totals") or {}
    lines = model_lines(plan.get("meta") or {}, width)
    if lines:
        lines.append(("", {}))
    header, *body = table(_HEAD, [_cells(row) for row in rows], width=width)
    lines.append((header, {"bold": True}))
    heading = None
    for row, text in zip(rows, body, strict=True):
        if _dimension(row) != heading:
            heading = _dimension(row)
            lines.append((cut(visible(heading), width), {"bold": True}))
        lines.append((text, {"yellow": True} if _blind(row) else {}))
    lines.append(("", {}))
    if any(" in " in _sample(row) for row in rows):
        lines += [(text, {"light": True}) for text in wrap("60 in 20: 60 probes in 20 clusters of variants", width)]
    lines += [(text, {}) for text in wrap(_totals(totals, len(rows)), width)]
    blind = [row for row in rows if _blind(row)]
    if blind:
        gates = "gate" if len(rows) == 1 else "gates"
        text = (
            f"{len(blind)} of {len(rows)} {gates} cannot resolve the margin: from so few probes a change of "
            "that size is found with less than 80 % probability, and held may be out of reach. Take a larger "
            "--trust-profile, or a wider margin:"
        )
        lines += [("", {}), *((line, {"yellow": True}) for line in wrap(text, width))]
        for row in blind:
            numbers = _numbers(row)
            found = _found(row, numbers)
            margin = numbers.setting(row["margin"]) + numbers.change_unit
            text = f"{visible(str(row['gate']))}: finds {found}, margin {margin}"
            lines += [(line, {"yellow": True}) for line in wrap(text, width, first="  ")]
    return lines


def _dimension(row: Mapping[str, Any]) -> str:
    return str(row["gate"]).partition("/")[0]


def _numbers(row: Mapping[str, Any]) -> Numbers:
    return Numbers.of({"unit": row.get("unit", "share"), "n": row.get("probes")})


def _blind(row: Mapping[str, Any]) -> bool:
    detectable, margin = row.get("detectable"), row.get("margin")
    return detectable is not None and margin is not None and bool(detectable > margin)


def _found(row: Mapping[str, Any], numbers: Numbers) -> str:
    return "none" if row.get("detectable") == math.inf else numbers.size(row.get("detectable"), row.get("margin"))


def _sample(row: Mapping[str, Any]) -> str:
    """``60 in 20``: 60 probes in 20 clusters; the number alone where each probe is a cluster of its own."""
    probes, clusters = row.get("probes"), row.get("clusters")
    return count(probes) if clusters in (None, probes) else f"{count(probes)} in {count(clusters)}"


def _cells(row: Mapping[str, Any]) -> list[str]:
    numbers = _numbers(row)
    margin = numbers.setting(row.get("margin"))
    return [
        visible(str(row["gate"]).partition("/")[2] or str(row["gate"])),
        _sample(row),
        margin if margin == UNKNOWN else margin + numbers.change_unit,
        _found(row, numbers) + (" !" if _blind(row) else "  "),
        count(row.get("responses")),
        count(row.get("tokens")),
    ]


def _totals(totals: Mapping[str, Any], gates: int) -> str:
    responses, stored = totals.get("responses"), totals.get("stored")
    text = f"{gates} gate{'' if gates == 1 else 's'}, {count(responses)} responses"
    if responses is not None and stored is not None and known(responses) and known(stored):
        left = max(0, responses - stored)
        text += f", {count(stored)} of them in the store"
        if not left:
            return f"{text}: nothing to generate"
        text += f", {count(left)} to generate"
    tokens, seconds, needed = totals.get("tokens"), totals.get("seconds"), totals.get("memory_bytes")
    time = duration(seconds) + (
        " (a rough guess, these models have not run here)" if totals.get("rough") and known(seconds) else ""
    )
    return f"{text}: at most about {count(tokens)} tokens, {time}, weights of {memory(needed)}"
