"""The table at the end of a run: one row per gate, grouped by dimension, the drift of each beside its name.

Every line comes with the name of its markup (``{"red": True}``), for pytest's TerminalWriter to apply or to
leave out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_trust.report.candidates import candidate_of, matrix
from pytest_trust.report.gate_notes import COUNTS, THOUGHT, bracketed, counted, in_thought, legend, share_of
from pytest_trust.report.json_report import counts
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
from pytest_trust.report.trust_tax import dimension_rank, tax_lines

Record = Mapping[str, Any]
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
    "Under a candidate: Δ, candidate minus baseline, in points where the values are percent, its confidence limits and the verdict; larger is "
    "worse. held: the upper limit is below the margin. regressed: the lower one is above 0, and not held. inconclusive: neither."
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


def summary_lines(records: Sequence[Record], meta: Mapping[str, Any], *, width: int) -> list[Line]:
    """Return the lines of the summary, each with its markup, none wider than `width` columns.

    `records` are gate records in any order, `meta` describes the pair and the run. Where the width is short,
    first the notes go, then the number of probes; then gates lose the name of a metric that is the only
    one of its suite, and the margin goes; a name that is still too long stands on a line of its own above its
    numbers.
    """
    lines = model_lines(meta, width)
    if meta.get("identical"):
        text = (
            "baseline and candidate are identical: they give the same probabilities for every token; "
            "an adapter that did not load looks like this"
        )
        lines += [(line, {"yellow": True, "bold": True}) for line in wrap(text, width, first="warning: ")]
    for warning in sorted({visible(str(warning)) for warning in meta.get("warnings") or ()}):
        lines += [(line, {"yellow": True}) for line in wrap(warning, width, first="warning: ")]
    if lines:
        lines.append(("", {}))
    if records:
        candidates = meta.get("candidates") or ()
        table, words = _table(records, meta, width) if len(candidates) < 2 else [], _LEGEND
        if not table:
            alone = [{"model": candidate_of(records[0]), "drift": meta.get("drift")}]
            table, more = _matrix(records, candidates if len(candidates) > 1 else alone, width)
            words = f"{more} {_SEVERAL}"
        lines += [*table, ("", {})]
        lines += [(line, {"light": True}) for line in wrap(f"{words} {legend(records)}", width)]
    lines += tax_lines(meta.get("candidates") or (), width)
    lines += _closing(records, meta, width)
    return lines


def model_lines(meta: Mapping[str, Any], width: int) -> list[Line]:
    """Return what was compared: both models with what is known of them, the profile and the policy."""
    lines: list[Line] = []
    label = len("candidate") + _GAP
    candidates = meta.get("candidates") or [meta.get("candidate")]
    sides = [
        (name, side)
        for name, side in (("baseline", meta.get("baseline")), *(("candidate", side) for side in candidates))
        if side
    ]
    room = max((columns(visible(str(side.get("model") or UNKNOWN))) for _, side in sides), default=0)
    for name, side in sides:
        first = name.ljust(label) + pad(visible(str(side.get("model") or UNKNOWN)), room)
        # A line breaks between facts, not inside of one.
        facts = ", ".join(fact.replace(" ", UNBROKEN) for fact in _facts(side))
        if label + room <= width // 2:
            texts = wrap(facts, width, first=first + " " * _GAP)
        else:
            texts = wrap(first[label:], width, first=first[:label])
            texts += wrap(facts, width, first=" " * label) if facts else []
        lines += [(text, {}) for text in texts]
    settings = [f"{key} {visible(str(meta[key]))}" for key in ("profile", "policy") if meta.get(key)]
    if settings:
        lines += [(line, {}) for line in wrap(", ".join(settings), width, first="run".ljust(label))]
    return lines


def _facts(side: Mapping[str, Any]) -> list[str]:
    facts = []
    if side.get("reference") and side["reference"] != side.get("model"):
        facts.append(visible(str(side["reference"])))
    if known(side.get("parameters")) and side["parameters"]:  # 0: its files, or its server, do not tell
        facts.append(f"{parameters(side['parameters'])} parameters")
    if side.get("dtype"):
        facts.append(
            visible(str(side["dtype"])) + (f" on {visible(str(side['device']))}" if side.get("device") else "")
        )
    if side.get("fingerprint"):
        facts.append(f"fingerprint {visible(str(side['fingerprint']))[:12]}")
    if side.get("lineage"):
        facts.append(visible(str(side["lineage"])))
    if side.get("holds"):
        facts += [visible(part) for part in str(side["holds"]).replace("; ", ", ").split(", ")]
    return facts


def _order(record: Record) -> tuple[bool, tuple[int, str], str, str]:
    rank = dimension_rank(str(record.get("dimension") or ""))
    return bool(record.get("control")), rank, str(record["gate"]), str(record.get("nodeid"))


def _table(records: Sequence[Record], meta: Mapping[str, Any], width: int) -> list[Line]:
    """The table of one candidate; empty where it does not fit."""
    ordered = sorted(records, key=_order)
    rows = [_cells(record) for record in ordered]
    full, short = _names(ordered, shorten=False), _names(ordered, shorten=True)
    # Names give way after what stands behind the verdict, and before the rest.
    essential = layout(_HEAD[:-2], [[name, *row[:-2]] for name, row in zip(full, rows, strict=True)], width=10_000)
    if _INDENT + sum(essential.widths) + _GAP * (len(essential.widths) - 1) <= width:
        names, head = full, [Column("gate"), *_HEAD[1:]]
    else:
        names, head = short, [*_HEAD[:-2]]
    cells = [[name, *row][: len(head)] for name, row in zip(names, rows, strict=True)]
    below = [[row[: len(head)] for row in _beside(record)] for record in ordered]
    form = layout(head, [*cells, *(row for block in below for row in block)], width=width, indent=_INDENT, gap=_GAP)
    if _INDENT + sum(form.widths[i] for i in form.kept) + _GAP * (len(form.kept) - 1) > width:
        return []  # the verdict would be cut: the other table has room for it
    lines: list[Line] = [(form.header(), {"bold": True})]
    group: tuple[bool, str] | None = None
    drift = meta.get("drift") or {}
    room = max(columns(visible(str(record.get("dimension") or ""))) for record in ordered)
    for record, (name, *row), block in zip(ordered, cells, below, strict=True):
        control, dimension = bool(record.get("control")), str(record.get("dimension") or "")
        if control and (group is None or not group[0]):
            lines += [("", {}), (_rule(_CONTROL, width), {"light": True})]
        if group != (control, dimension):
            group = (control, dimension)
            lines.append((_heading(dimension, room, drift.get(dimension) or {}, width), {"bold": True}))
        markup = {} if control else _MARKUP.get(str(record.get("verdict")), {})
        if columns(name) > form.widths[0]:
            lines.append((cut(" " * _INDENT + name, width), markup))
        lines.append((form.line(["" if columns(name) > form.widths[0] else name, *row]), markup))
        lines += [(form.line(row), {}) for row in block]
    return lines


def _beside(record: Record) -> list[list[str]]:
    """The rows under a gate: what was thought, and how many responses came to no answer."""
    rows = []
    trace = in_thought(record)
    if trace:
        *first, verdict, probes, note = _cells(trace)
        rows.append([f"  {THOUGHT}", *first, bracketed(trace, verdict), probes, note])
    for key, title in COUNTS:
        if counted([record], key):
            rows.append(
                [f"  {title}", *(share_of(record.get(name), key) for name in ("baseline", "candidate")), *[""] * 6]
            )
    return rows


def _matrix(records: Sequence[Record], candidates: Sequence[Mapping[str, Any]], width: int) -> tuple[list[Line], str]:
    """The table with a column per candidate, and what its legend adds."""
    order = {str(candidate["model"]): place for place, candidate in enumerate(candidates)}
    ordered = sorted(
        records, key=lambda record: (_order(record)[:3], order.get(candidate_of(record), 0), str(record.get("nodeid")))
    )
    one = {str(record["gate"]): record for record in ordered}
    short = dict(zip(one, _names(list(one.values()), shorten=True), strict=True))
    rows, legend = matrix(ordered, [short[str(record["gate"])] for record in ordered], candidates, width=width)
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


def _names(records: Sequence[Record], *, shorten: bool) -> list[str]:
    """Return each gate's name without its dimension; shortened, also without the only metric of its suite."""
    suites = [visible(str(record.get("suite") or "")) for record in records]
    names = []
    for record, suite in zip(records, suites, strict=True):
        name = visible(str(record["gate"]))
        if shorten and suite and suites.count(suite) == 1:
            name = suite
        names.append(name.removeprefix(visible(str(record.get("dimension") or "")) + "/"))
    return names


def _cells(record: Record) -> list[str]:
    numbers = Numbers.of(record)
    limits = numbers.limits(record.get("lower"), record.get("upper"), record.get("margin"))
    return [
        *(numbers.value((record.get(name) or {}).get("value")) for name in ("baseline", "candidate")),
        numbers.signed(record.get("delta"), 0.0),
        limits,
        numbers.setting(record.get("margin")),
        visible(str(record.get("verdict"))),
        count(record.get("n")),
        _note(record, numbers),
    ]


def _note(record: Record, numbers: Numbers) -> str:
    verdict = record.get("verdict")
    if verdict == "regressed" and record.get("never"):
        return f"never-flip probe: {visible(str(record['never'][0]))}"
    if verdict == "regressed" and known(record.get("worse")) and known(record.get("better")):
        return f"{record['worse']} worse, {record['better']} better"
    if verdict == "inconclusive" and known(record.get("needed")):
        return f"would take {count(record['needed'])} probes"
    if verdict == "held" and known(record.get("detectable")):
        return f"could find {numbers.size(record['detectable'], record.get('margin'))}"
    return visible(str(record.get("reason") or ""))


def _heading(dimension: str, room: int, drifts: Mapping[str, Any], width: int) -> str:
    """Return a dimension's name and as much of its drift as fits behind it, or why there is none."""
    name = cut(visible(dimension), width)
    drift = drifts.get("candidate_baseline")
    if not isinstance(drift, Mapping) or not known(drift.get("mean")):
        reason = drifts.get("candidate_baseline_reason")
        if not reason:
            return name
        bound = _in_place_of_kl(drifts)
        if bound:
            return cut(f"{pad(name, room)}  {bound}", width)
        return cut(f"{pad(name, room)}  no KL(candidate || baseline): {visible(str(reason))}", width)
    mean = measured(drift.get("mean"), drift.get("error"))
    if known(drift.get("tail_mass")):
        mean = f"at least {mean}"
    direction = visible(str(drift.get("direction") or "KL(candidate || baseline)"))
    text = pad(name, room) + f"  {direction} {mean} nats/token"
    if columns(text) > width:
        return cut(f"{name}  KL {mean} nats/token", width)
    for key, words in (
        ("same_top", "same top token "),
        ("p99", "p99 "),
        ("per_sequence", "nats per response "),
    ):
        shown = percent(drift.get(key)) if key == "same_top" else magnitude(drift.get(key))
        if shown != UNKNOWN and columns(text) + len(words) + len(shown) + 2 <= width:
            text += f", {words}{shown}"
    return text


def _in_place_of_kl(drifts: Mapping[str, Any]) -> str:
    """Where the tokenizers differ: what both models give the same text, under its own name."""
    found = list((drifts.get("texts") or {}).values())
    if not found:
        return ""
    bound, bits = found[0].get("chunk_bound"), found[0]["bits_per_byte"]
    text = f"other tokenizers: bits per byte {magnitude(bits['baseline'])} -> {magnitude(bits['candidate'])}"
    return text + (f", chunk bound {magnitude(bound['per_chunk'])} nats/chunk" if bound else "")


def _closing(records: Sequence[Record], meta: Mapping[str, Any], width: int) -> list[Line]:
    number = counts(records)
    found = ", ".join(f"{number[verdict]} {verdict}" for verdict in _MARKUP)
    text = f"{found} of {number['gates']} gate{'' if number['gates'] == 1 else 's'}"
    if number["controls"]:
        text += f", and {number['controls']} control{'' if number['controls'] == 1 else 's'}"
    worst = next((verdict for verdict in ("regressed", "not measured", "inconclusive", "held") if number[verdict]), "")
    lines: list[Line] = [(line, {**_MARKUP.get(worst, {}), "bold": True}) for line in wrap(text, width)]
    early = _early(records)
    if early:
        lines += [(line, {}) for line in wrap(early, width)]
    for key in ("report", "store"):
        if meta.get(key):
            lines += [(line, {}) for line in wrap(visible(str(meta[key])), width, first=key.ljust(8))]
    return lines


def _early(records: Sequence[Record]) -> str:
    """What stopping early has saved: response tokens of both models, each suite counted once."""
    suites = {record.get("suite"): record["sequential"] for record in records if record.get("sequential")}
    made, saved = (sum(int(state.get(key) or 0) for state in suites.values()) for key in ("tokens", "saved"))
    if not suites or not made:
        return ""
    return f"stopped early: {count(made)} response tokens in place of about {count(made + saved)}, {(made + saved) / made:.1f} times fewer"
