"""The lines of ``--trust-plan``: the work a run would do, and what it could find."""

from __future__ import annotations

import math

from pytest_trust.records import PlanRecord, PlanRow, PlanTotals, dimension_rank
from pytest_trust.report.numbers import UNKNOWN, Numbers, count, duration, known, memory, setting_percent
from pytest_trust.report.terminal import Line, model_lines
from pytest_trust.report.text import Column, cut, table, visible, wrap

_HEAD = (
    Column("gate", shrink=44),
    Column("probes", ">"),
    Column("margin", ">"),
    Column("detectable", ">"),
    Column("responses", ">", drop=2),
    Column("tokens", ">", drop=1),
)


def plan_lines(plan: PlanRecord, *, width: int) -> list[Line]:
    """Return the lines of the plan, each with its markup, none wider than `width` columns.

    A gate that would miss a change as small as its margin is marked, and listed at the end.
    """
    rows = sorted(plan.rows, key=lambda row: (dimension_rank(_dimension(row)), row.gate))
    lines = model_lines(plan.baseline, plan.candidates, plan.profile, plan.policy, width, holds=plan.holds)
    if lines:
        lines.append(("", {}))
    header, *body = table(_HEAD, [_cells(row) for row in rows], width=width)
    lines.append((header, {"bold": True}))
    heading = None
    for row, text in zip(rows, body, strict=True):
        if _dimension(row) != heading:
            heading = _dimension(row)
            lines.append((cut(visible(heading), width), {"bold": True}))
        lines.append((text, {"yellow": True} if row.blind else {}))
    lines.append(("", {}))
    if any(" in " in _sample(row) for row in rows):
        lines += [(text, {"light": True}) for text in wrap("60 in 20: 60 probes in 20 clusters of variants", width)]
    lines += [(text, {}) for text in wrap(_totals(plan.totals, len(rows)), width)]
    blind = [row for row in rows if row.blind]
    if blind:
        gates = "gate" if len(rows) == 1 else "gates"
        text = (
            f"{len(blind)} of {len(rows)} {gates} cannot resolve the margin: from so few probes a change of that size "
            f"is found with less than {setting_percent(plan.power)} probability, and held may be out of reach. "
            "Take a larger --trust-profile, or a wider margin:"
        )
        lines += [("", {}), *((line, {"yellow": True}) for line in wrap(text, width))]
        for row in blind:
            numbers = _numbers(row)
            found = _found(row, numbers)
            margin = numbers.setting(row.margin) + numbers.change_unit
            text = f"{visible(row.gate)}: finds {found}, margin {margin}"
            lines += [(line, {"yellow": True}) for line in wrap(text, width, first="  ")]
    return lines


def _dimension(row: PlanRow) -> str:
    return row.gate.partition("/")[0]


def _numbers(row: PlanRow) -> Numbers:
    return Numbers.sized(row.unit, row.probes)


def _found(row: PlanRow, numbers: Numbers) -> str:
    return "none" if row.detectable == math.inf else numbers.size(row.detectable, row.margin)


def _sample(row: PlanRow) -> str:
    """``60 in 20`` for 60 probes in 20 clusters; only the number where each probe is a cluster of its own."""
    return count(row.probes) if row.clusters == row.probes else f"{count(row.probes)} in {count(row.clusters)}"


def _cells(row: PlanRow) -> list[str]:
    numbers = _numbers(row)
    margin = numbers.setting(row.margin)
    return [
        visible(row.gate.partition("/")[2] or row.gate),
        _sample(row),
        margin if margin == UNKNOWN else margin + numbers.change_unit,
        _found(row, numbers) + (" !" if row.blind else "  "),
        count(row.responses),
        count(row.tokens),
    ]


def _totals(totals: PlanTotals, gates: int) -> str:
    left = max(0, totals.responses - totals.stored)
    text = (
        f"{gates} gate{'' if gates == 1 else 's'}, {count(totals.responses)} responses, "
        f"{count(totals.stored)} of them in the store"
    )
    if not left:
        return f"{text}: nothing to generate"
    rough = " (a rough guess, these models have not run here)" if totals.rough and known(totals.seconds) else ""
    return (
        f"{text}, {count(left)} to generate: at most about {count(totals.tokens)} tokens, "
        f"{duration(totals.seconds)}{rough}, weights of {memory(totals.memory_bytes)}"
    )
