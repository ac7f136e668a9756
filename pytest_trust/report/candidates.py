"""The table of a run with several candidates: a row per gate, a column per candidate, the drift below the dimension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_trust.records import CandidateRecord, GateRecord
from pytest_trust.report.gate_notes import COUNTS, THOUGHT, bracketed, counted, in_thought, share_of
from pytest_trust.report.numbers import UNKNOWN, Numbers, magnitude
from pytest_trust.report.text import Column, Layout, columns, cut, layout, visible

MARKS = {"regressed": "R", "held": "H", "inconclusive": "I", "not measured": "N"}
_LEGEND = "KL is KL(candidate || baseline) in nats on the candidate's responses."
_MARKED = "R regressed, H held, I inconclusive, N not measured. "
_NAMES = 20  # the least width of the gates' names; cells become narrower before names do
_INDENT = 2
_GAP = 2
_DRIFT = (("mean", "KL per token"), ("per_sequence", "KL per response"))


@dataclass(frozen=True)
class _Form:
    """How cells are shortened.

    stacked: limits stand below the change. marked: verdicts are one letter. numbered: candidates are numbers.
    """

    stacked: bool
    marked: bool
    numbered: bool


_FORMS = (_Form(False, False, False), _Form(True, False, False), _Form(True, True, False), _Form(True, True, True))


def by_gate(records: Sequence[GateRecord]) -> dict[str, dict[str, GateRecord]]:
    """Records by gate and candidate's label, in the order given. Tests that share a gate get a row each."""
    rows: dict[str, dict[str, GateRecord]] = {}
    for record in records:
        label = record.candidate.model
        key = record.gate
        while label in rows.get(key, {}):
            key += "'"
        rows.setdefault(key, {})[label] = record
    return rows


def matrix(
    ordered: Sequence[GateRecord], names: Sequence[str], candidates: Sequence[CandidateRecord], *, width: int
) -> tuple[list[tuple[str, str, bool, str]], str]:
    """The lines of the table, and its legend.

    `ordered`: the records in the order of the table. `names`: the names of their gates, as shown.

    A line is a kind, a dimension, whether this is a control, and a text. The kind is ``head``, ``dimension``, ``drift``
    or ``beside``; for a gate it is the worst verdict in the row.

    A cell holds Δ, its limits and the verdict. Where the table is too wide, first the limits go below, then verdicts
    become letters, then candidates become numbers. Where even that is too wide (four candidates in 80 columns), each
    candidate is a row under its gate.
    """
    labels = [candidate.model for candidate in candidates]
    shown = dict(zip((record.gate for record in ordered), names, strict=True))
    rows = by_gate(ordered)
    drifts = {
        (dimension, name): [name, "", *(_drift(candidate, dimension, key) for candidate in candidates)]
        for dimension in dict.fromkeys(record.dimension for record in ordered)
        for key, name in _DRIFT
    }
    longest = max(columns(name) for name in (*shown.values(), *(title for _, title in _DRIFT)))
    for how in _FORMS:
        gates = {key: _gate(shown[key.rstrip("'")], found, labels, how) for key, found in rows.items()}
        titles = [f"[{place}]" if how.numbered else visible(label) for place, label in enumerate(labels, 1)]
        head = [Column("gate", shrink=_NAMES), Column("baseline", ">"), *(Column(title, ">") for title in titles)]
        form = layout(
            head,
            [*(row for block in gates.values() for row in block), *drifts.values()],
            width=width,
            indent=_INDENT,
            gap=_GAP,
        )
        if form.widths[0] >= min(_NAMES, longest) and _INDENT + sum(form.widths) + _GAP * (len(head) - 1) <= width:
            break
    else:
        return _by_rows(rows, shown, candidates, width), _LEGEND
    lines = [("head", "", False, form.header())]
    for key, found, dimension, control, opens in _grouped(rows):
        if opens:
            lines.append(("dimension", dimension, control, cut(visible(dimension), width)))
            for _, title in _DRIFT:
                drift = drifts[dimension, title]
                if any(cell != UNKNOWN for cell in drift[2:]):
                    lines.append(("drift", dimension, control, form.line(drift)))
        worst = next((verdict for verdict in MARKS if any(other.verdict == verdict for other in found.values())), "")
        for kind, text in _lines(gates[key], form, width, limits=how.stacked):
            lines.append((kind or worst, dimension, control, text))
    keys = ", ".join(f"[{place}] {visible(label)}" for place, label in enumerate(labels, 1))
    return lines, (f"{keys}. " if how.numbered else "") + (_MARKED if how.marked else "") + _LEGEND


def _grouped(
    rows: Mapping[str, Mapping[str, GateRecord]],
) -> Iterator[tuple[str, Mapping[str, GateRecord], str, bool, bool]]:
    """Each gate's key and records, its dimension, whether this is a control, and whether a new dimension begins."""
    before: tuple[bool, str] | None = None
    for key, found in rows.items():
        record = next(iter(found.values()))
        group = record.control, record.dimension
        yield key, found, group[1], group[0], group != before
        before = group


def _by_rows(
    rows: Mapping[str, Mapping[str, GateRecord]],
    shown: Mapping[str, str],
    candidates: Sequence[CandidateRecord],
    width: int,
) -> list[tuple[str, str, bool, str]]:
    """The table with a row per gate and candidate: value, Δ, limits and verdict."""
    head = [
        Column("gate", shrink=12),
        Column("value", ">"),
        Column("Δ", ">"),
        Column("[lower, upper]"),
        Column("verdict"),
    ]
    blocks: dict[str, list[tuple[str, list[str]]]] = {}
    for key, found in rows.items():
        first = next(iter(found.values()))
        name, value = shown[key.rstrip("'")], Numbers.of(first).value(first.baseline.value)
        blocks[key] = [("beside", [name, value, "", "", ""])]
        for candidate in candidates:
            label = candidate.model
            if label in found:
                blocks[key] += _of_candidate(label, found[label])
    form = layout(
        head, [cells for block in blocks.values() for _, cells in block], width=width, indent=_INDENT, gap=_GAP
    )
    lines = [("head", "", False, form.header())]
    for key, _, dimension, control, opens in _grouped(rows):
        if opens:
            lines.append(("dimension", dimension, control, cut(visible(dimension), width)))
            for candidate in candidates:
                token, response = (_drift(candidate, dimension, measure) for measure, _ in _DRIFT)
                if token != UNKNOWN:
                    text = f"{'':{_INDENT}}KL {visible(candidate.model)}: {token} per token, {response} per response"
                    lines.append(("drift", dimension, control, cut(text, width)))
        for kind, (name, *cells) in blocks[key]:
            if columns(name) > form.widths[0]:
                lines.append((kind, dimension, control, cut(" " * _INDENT + name, width)))
                name = ""
            if name or any(cells):
                lines.append((kind, dimension, control, form.line([name, *cells])))
    return lines


def _of_candidate(label: str, record: GateRecord) -> list[tuple[str, list[str]]]:
    """The rows of one candidate under a gate, each with its kind."""
    rows: list[tuple[str, list[str]]] = [(record.verdict, _row(f"  {visible(label)}", record))]
    trace = in_thought(record)
    if trace:
        *cells, verdict = _row(f"    {THOUGHT}", trace)
        rows.append(("beside", [*cells, bracketed(trace, verdict)]))
    for key, title in COUNTS:
        if counted([record], key):
            rows.append(("beside", [f"    {title}", share_of(record.candidate, key), "", "", ""]))
    return rows


def _row(name: str, record: GateRecord) -> list[str]:
    numbers = Numbers.of(record)
    limits = numbers.limits(record.lower, record.upper, record.margin)
    return [name, numbers.value(record.candidate.value), numbers.signed(record.delta, 0.0), limits, record.verdict]


def _lines(block: Sequence[Sequence[str]], form: Layout, width: int, *, limits: bool) -> list[tuple[str, str]]:
    """The lines of one gate, each with its kind: empty for the gate itself, ``beside`` for the rows under it."""
    (name, *row), *more = block
    lines = []
    if columns(name) > form.widths[0]:
        lines.append(("", cut(" " * _INDENT + name, width)))
        name = ""
    lines.append(("", form.line([name, *row])))
    for place, cells in enumerate(more):
        lines.append(("" if limits and not place and not cells[0] else "beside", form.line(cells)))
    return lines


def _gate(name: str, found: Mapping[str, GateRecord], labels: Sequence[str], how: _Form) -> list[list[str]]:
    """The rows of a gate: its changes and verdicts, those of the reasoning, and the counts of cut responses."""
    rows = _change(name, found, labels, how)
    thoughts = {label: trace for label, record in found.items() if (trace := in_thought(record))}
    if thoughts:
        rows += _change(f"  {THOUGHT}", thoughts, labels, how)
    first = next(iter(found.values()))
    for key, title in COUNTS:
        if counted(list(found.values()), key):
            cells = (share_of(found[label].candidate, key) if label in found else UNKNOWN for label in labels)
            rows.append([f"  {title}", share_of(first.baseline, key), *cells])
    return rows


def _change(name: str, found: Mapping[str, GateRecord], labels: Sequence[str], how: _Form) -> list[list[str]]:
    """The baseline's value, and per candidate Δ, the limits and the verdict. Stacked limits are a second row."""
    record = next(iter(found.values()))
    cells, below = [Numbers.of(record).value(record.baseline.value)], [""]
    for label in labels:
        if label not in found:
            cells.append(UNKNOWN)
            below.append("")
            continue
        record = found[label]
        numbers = Numbers.of(record)
        verdict = MARKS[record.verdict] if how.marked else str(record.verdict)
        verdict = bracketed(record, verdict) if name.strip() == THOUGHT else verdict
        limits = numbers.limits(record.lower, record.upper, record.margin)
        parts = [
            numbers.signed(record.delta, 0.0),
            *([] if how.stacked or limits == UNKNOWN else [limits]),
            verdict,
        ]
        cells.append(" ".join(parts))
        below.append("" if limits == UNKNOWN else limits)
    return [[name, *cells], *([["", *below]] if how.stacked and any(below) else [])]


def _drift(candidate: CandidateRecord, dimension: str, key: str) -> str:
    drift = candidate.drift.get(dimension)
    return magnitude(getattr(drift.candidate_baseline, key)) if drift and drift.candidate_baseline else UNKNOWN
