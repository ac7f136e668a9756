"""The table at the end of a run: a row per gate, grouped by dimension, with the drift beside the dimension's name.

Every line comes with its markup (``{"red": True}``). pytest's TerminalWriter applies it or leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_trust.records import (
    CandidateRecord,
    DriftRecord,
    GateRecord,
    ModelRecord,
    RunRecord,
    dimension_rank,
)
from pytest_trust.report.candidates import matrix
from pytest_trust.report.gate_notes import COUNTS, THOUGHT, bracketed, counted, in_thought, legend, share_of
from pytest_trust.report.numbers import (
    UNKNOWN,
    Numbers,
    count,
    known,
    magnitude,
    measured,
    parameters,
    percent,
)
from pytest_trust.report.text import UNBROKEN, Column, columns, cut, layout, pad, visible, wrap
from pytest_trust.report.trust_tax import tax_lines

Line = tuple[str, dict[str, bool]]

_MARKUP: dict[str, dict[str, bool]] = {
    "regressed": {"red": True, "bold": True},
    "held": {"green": True},
    "inconclusive": {"yellow": True},
    "not measured": {"purple": True},
}
_CONTROL = "control, not a verdict on trust"
_LEGEND = (
    "Δ is candidate minus baseline, in points where the values are percent; larger is worse. "
    "[lower, upper] are its confidence limits. "
    "held: upper is below the margin. regressed: lower is above 0, and not held. inconclusive: neither."
)
_SEVERAL = (
    "Under a candidate: Δ, candidate minus baseline, in points where the values are percent, its confidence limits "
    "and the verdict; larger is worse. held: the upper limit is below the margin. "
    "regressed: the lower one is above 0, and not held. inconclusive: neither."
)
_HEAD = (
    Column("gate", shrink=20),
    Column("baseline", ">"),
    Column("candidate", ">"),
    Column("Δ", ">"),
    Column("[lower, upper]"),
    Column("margin", ">", drop=1),
    Column("verdict"),
    Column("n", ">", drop=2),
    Column("note", drop=3, shrink=24),
)
_INDENT = 2
_GAP = 2


def summary_lines(run: RunRecord, *, width: int) -> list[Line]:
    """Return the lines of the summary, each with its markup, none wider than `width` columns.

    A table that is too wide loses the notes first, then the number of probes, then the names of metrics that are the
    only one of their suite, then the margin. A name that is still too long gets a line of its own above its numbers.
    """
    lines = model_lines(run.baseline, run.candidates, run.profile, run.policy, width)
    traces = _trace_formats(run)
    if traces:
        lines += [(line, {}) for line in wrap(traces, width, first="traces".ljust(len("candidate") + _GAP))]
    if run.identical:
        text = (
            "baseline and candidate are identical: they give the same probabilities for every token; "
            "an adapter that did not load looks like this"
        )
        lines += [(line, {"yellow": True, "bold": True}) for line in wrap(text, width, first="warning: ")]
    for warning in sorted({visible(warning) for warning in run.warnings}):
        lines += [(line, {"yellow": True}) for line in wrap(warning, width, first="warning: ")]
    if lines:
        lines.append(("", {}))
    if run.gates:
        table, words = _table(run.gates, run.candidates[0].drift, width) if len(run.candidates) == 1 else [], _LEGEND
        if not table:
            table, more = _matrix(run.gates, run.candidates, width)
            words = f"{more} {_SEVERAL}"
        lines += [*table, ("", {})]
        lines += [(line, {"light": True}) for line in wrap(f"{words} {legend(run.gates)}", width)]
    lines += tax_lines(run.candidates, width)
    lines += _closing(run, width)
    return lines


def model_lines(
    baseline: ModelRecord | None,
    candidates: Sequence[ModelRecord],
    profile: str,
    policy: str,
    width: int,
    *,
    holds: Mapping[str, str] | None = None,
) -> list[Line]:
    """Return the lines on the compared models, the profile, the policy and the decoding.

    `holds`: what each recording holds, by its label.
    """
    lines: list[Line] = []
    label = len("candidate") + _GAP
    sides = [("baseline", baseline)] if baseline else []
    sides += [("candidate", candidate) for candidate in candidates]
    room = max((columns(visible(side.model)) for _, side in sides), default=0)
    for name, side in sides:
        first = name.ljust(label) + pad(visible(side.model), room)
        # Lines break between facts, not inside of a fact.
        told = _facts(side, (holds or {}).get(side.model, ""))
        told += [f"decoding {visible(side.decoding)}"] if len({one.decoding for _, one in sides}) > 1 else []
        facts = ", ".join(fact.replace(" ", UNBROKEN) for fact in told)
        if label + room <= width // 2:
            texts = wrap(facts, width, first=first + " " * _GAP)
        else:
            texts = wrap(first[label:], width, first=first[:label])
            texts += wrap(facts, width, first=" " * label) if facts else []
        lines += [(text, {}) for text in texts]
    decodings = {side.decoding for _, side in sides}
    common = decodings.pop() if len(decodings) == 1 else ""
    named = (("profile", profile), ("policy", policy), ("decoding", common))
    settings = [f"{key} {visible(value)}" for key, value in named if value]
    if settings:
        lines += [(line, {}) for line in wrap(", ".join(settings), width, first="run".ljust(label))]
    return lines


def _facts(side: ModelRecord, holds: str) -> list[str]:
    facts = []
    if side.reference and side.reference != side.model:
        facts.append(visible(side.reference))
    if side.parameters:  # 0: not known
        facts.append(f"{parameters(side.parameters)} parameters")
    if side.dtype:
        facts.append(visible(side.dtype) + (f" on {visible(side.device)}" if side.device else ""))
    if side.fingerprint:
        facts.append(f"fingerprint {visible(side.fingerprint)[:12]}")
    if side.lineage:
        facts.append(visible(side.lineage))
    if holds:
        facts += [visible(part) for part in holds.replace("; ", ", ").split(", ")]
    return facts


def _trace_formats(run: RunRecord) -> str:
    """The formats that the models' traces were read in; empty where all are alike and no trace was seen."""
    sides = [run.baseline, *run.candidates]
    seen = any(side.reasoned > 0 for gate in run.gates for side in (gate.baseline, gate.candidate))
    if not all(side.trace_source for side in sides) or not (seen or len({side.trace_format for side in sides}) > 1):
        return ""
    words = [
        f"as {visible(side.trace_format)} ({visible(side.trace_source)})"
        if side.trace_format
        else "as any known format"
        for side in sides
    ]
    if len(set(words)) == 1:
        return f"{'both' if len(sides) == 2 else 'all'} {words[0]}"
    names = ["baseline", *(["candidate"] if len(sides) == 2 else [visible(side.model) for side in sides[1:]])]
    return "; ".join(f"{name} {text}" for name, text in zip(names, words, strict=True))


def _order(record: GateRecord) -> tuple[bool, tuple[int, str], str, str]:
    return record.control, dimension_rank(record.dimension), record.gate, record.nodeid


def _table(records: Sequence[GateRecord], drift: Mapping[str, DriftRecord], width: int) -> list[Line]:
    """The table of one candidate; empty where it is wider than `width`."""
    ordered = sorted(records, key=_order)
    rows = [_cells(record) for record in ordered]
    full, short = _names(ordered, shorten=False), _names(ordered, shorten=True)
    # Names are shortened after the columns behind the verdict are dropped, and before other columns are.
    essential = layout(_HEAD[:-2], [[name, *row[:-2]] for name, row in zip(full, rows, strict=True)], width=10_000)
    if _INDENT + sum(essential.widths) + _GAP * (len(essential.widths) - 1) <= width:
        names, head = full, [Column("gate"), *_HEAD[1:]]
    else:
        names, head = short, [*_HEAD[:-2]]
    cells = [[name, *row][: len(head)] for name, row in zip(names, rows, strict=True)]
    below = [[row[: len(head)] for row in _beside(record)] for record in ordered]
    form = layout(head, [*cells, *(row for block in below for row in block)], width=width, indent=_INDENT, gap=_GAP)
    if _INDENT + sum(form.widths[i] for i in form.kept) + _GAP * (len(form.kept) - 1) > width:
        return []  # the verdict would be cut; the table of several candidates has room for it
    lines: list[Line] = [(form.header(), {"bold": True})]
    group: tuple[bool, str] | None = None
    room = max(columns(visible(record.dimension)) for record in ordered)
    for record, (name, *row), block in zip(ordered, cells, below, strict=True):
        control, dimension = record.control, record.dimension
        if control and (group is None or not group[0]):
            lines += [("", {}), (_rule(_CONTROL, width), {"light": True})]
        if group != (control, dimension):
            group = (control, dimension)
            lines.append((_heading(dimension, room, drift.get(dimension), width), {"bold": True}))
        markup = {} if control else _MARKUP[record.verdict]
        if columns(name) > form.widths[0]:
            lines.append((cut(" " * _INDENT + name, width), markup))
        lines.append((form.line(["" if columns(name) > form.widths[0] else name, *row]), markup))
        lines += [(form.line(row), {}) for row in block]
    return lines


def _beside(record: GateRecord) -> list[list[str]]:
    """The rows under a gate: the gate on the reasoning, and the counts of cut responses and closed traces."""
    rows = []
    trace = in_thought(record)
    if trace:
        *first, verdict, probes, note = _cells(trace)
        rows.append([f"  {THOUGHT}", *first, bracketed(trace, verdict), probes, note])
    for key, title in COUNTS:
        if counted([record], key):
            rows.append([f"  {title}", share_of(record.baseline, key), share_of(record.candidate, key), *[""] * 6])
    return rows


def _matrix(records: Sequence[GateRecord], candidates: Sequence[CandidateRecord], width: int) -> tuple[list[Line], str]:
    """The table with a column per candidate, and its legend."""
    order = {candidate.model: place for place, candidate in enumerate(candidates)}
    ordered = sorted(
        records, key=lambda record: (_order(record)[:3], order.get(record.candidate.model, 0), record.nodeid)
    )
    one = {record.gate: record for record in ordered}
    short = dict(zip(one, _names(list(one.values()), shorten=True), strict=True))
    rows, legend = matrix(ordered, [short[record.gate] for record in ordered], candidates, width=width)
    lines: list[Line] = []
    for kind, _, control, text in rows:
        if control and kind == "dimension":
            lines += [("", {}), (_rule(_CONTROL, width), {"light": True})]
        if kind in ("head", "dimension"):
            lines.append((text, {"bold": True}))
        else:
            lines.append((text, {} if control else _MARKUP.get(kind, {})))
    return lines, legend


def _rule(title: str, width: int) -> str:
    """Return a line of dashes of the given width that carries a title."""
    return cut(f"-- {title} ".ljust(width, "-"), width)


def _names(records: Sequence[GateRecord], *, shorten: bool) -> list[str]:
    """Return each gate's name without its dimension; shortened, also without the only metric of its suite."""
    suites = [visible(record.suite) for record in records]
    names = []
    for record, suite in zip(records, suites, strict=True):
        name = visible(record.gate)
        if shorten and suite and suites.count(suite) == 1:
            name = suite
        names.append(name.removeprefix(visible(record.dimension) + "/"))
    return names


def _cells(record: GateRecord) -> list[str]:
    numbers = Numbers.of(record)
    return [
        numbers.value(record.baseline.value),
        numbers.value(record.candidate.value),
        numbers.signed(record.delta, 0.0),
        numbers.limits(record.lower, record.upper, record.margin),
        numbers.setting(record.margin),
        record.verdict,
        count(record.n),
        _note(record, numbers),
    ]


def _note(record: GateRecord, numbers: Numbers) -> str:
    verdict = record.verdict
    if verdict == "regressed" and record.never:
        return f"never-flip probe: {visible(record.never[0])}"
    if verdict == "regressed" and record.worse is not None and record.better is not None:
        return f"{record.worse} worse, {record.better} better"
    if verdict == "inconclusive" and record.needed is not None:
        return f"would take {count(record.needed)} probes"
    if verdict == "held" and known(record.detectable):
        return f"could find {numbers.size(record.detectable, record.margin)}"
    return visible(record.reason)


def _heading(dimension: str, room: int, drift: DriftRecord | None, width: int) -> str:
    """Return a dimension's name, and behind it as much of its drift as fits, or why there is no drift."""
    name = cut(visible(dimension), width)
    found = drift.candidate_baseline if drift else None
    if found is None or not known(found.mean):
        reason = drift.candidate_baseline_reason if drift else ""
        if drift is None or not reason:
            return name
        bound = _in_place_of_kl(drift)
        if bound:
            return cut(f"{pad(name, room)}  {bound}", width)
        return cut(f"{pad(name, room)}  no KL(candidate || baseline): {visible(reason)}", width)
    mean = measured(found.mean, found.error)
    if known(found.tail_mass):
        mean = f"at least {mean}"
    text = pad(name, room) + f"  {visible(found.direction)} {mean} nats/token"
    if columns(text) > width:
        return cut(f"{name}  KL {mean} nats/token", width)
    for shown, words in (
        (percent(found.same_top), "same top token "),
        (magnitude(found.p99), "p99 "),
        (magnitude(found.per_sequence), "nats per response "),
    ):
        if shown != UNKNOWN and columns(text) + len(words) + len(shown) + 2 <= width:
            text += f", {words}{shown}"
    return text


def _in_place_of_kl(drift: DriftRecord) -> str:
    """What replaces KL where the tokenizers differ: bits per byte, and the chunk bound."""
    found = list(drift.texts.values())
    if not found:
        return ""
    bound, bits = found[0].chunk_bound, found[0].bits_per_byte
    text = f"other tokenizers: bits per byte {magnitude(bits.baseline)} -> {magnitude(bits.candidate)}"
    return text + (f", chunk bound {magnitude(bound.per_chunk)} nats/chunk" if bound else "")


def _closing(run: RunRecord, width: int) -> list[Line]:
    number = run.counts
    found = ", ".join(f"{number[verdict]} {verdict}" for verdict in _MARKUP)
    text = f"{found} of {number['gates']} gate{'' if number['gates'] == 1 else 's'}"
    if number["controls"]:
        text += f", and {number['controls']} control{'' if number['controls'] == 1 else 's'}"
    worst = next((verdict for verdict in ("regressed", "not measured", "inconclusive", "held") if number[verdict]), "")
    lines: list[Line] = [(line, {**_MARKUP.get(worst, {}), "bold": True}) for line in wrap(text, width)]
    early = _early(run)
    if early:
        lines += [(line, {}) for line in wrap(early, width)]
    for key, path in (("report", run.environment.report), ("store", run.environment.store)):
        if path:
            lines += [(line, {}) for line in wrap(visible(path), width, first=key.ljust(8))]
    return lines


def _early(run: RunRecord) -> str:
    """The line on what stopping early saved; empty where nothing was counted."""
    if run.stopped_early is None:
        return ""
    made, saved = run.stopped_early.tokens, run.stopped_early.saved
    total = made + saved
    times = f"{total / made:.1f} times fewer"
    return f"stopped early: {count(made)} response tokens in place of about {count(total)}, {times}"
