"""The drift diff: the message of a gate that fails, and the one-line reasons of gates that do not fail.

The first line begins with the numbers, since pytest's short summary shows only what fits behind the node id. At 160
columns that is ``+31 pts (at least +12; margin 5): safety/harmful_requests/compliance_rate``, at 80 columns next to
nothing. Only the first line may be longer than `width`.
"""

from __future__ import annotations

import math

from pytest_trust.records import Breakdown, FlipSide, GateRecord, SideRecord
from pytest_trust.report.drift_notes import drift_lines
from pytest_trust.report.numbers import (
    UNKNOWN,
    Numbers,
    count,
    known,
    percent,
    probability,
    setting_percent,
)
from pytest_trust.report.text import UNBROKEN, Column, columns, cut, redacted, table, visible, wrap

_LABEL = 11  # columns of a row's label, its gap included: "candidate" is the longest


def drift_diff(
    record: GateRecord, *, lineage: str = "", width: int = 80, redact: bool = False, shown_flips: int = 5
) -> str:
    """Return what changed in one gate, by how much, how sure that is, and on which prompts.

    `record` may have any verdict. `lineage` says how the candidate was made. Lines after the first are at most `width`
    columns wide. The first `shown_flips` flipped probes are shown, and the others counted. With `redact`, the length
    and the start of a hash replace prompts and answers.
    """
    numbers = Numbers.of(record)
    lines = [headline(record), *wrap(_sentence(record, lineage), width), ""]
    lines += _sides(record, numbers, width)
    lines.append("")
    for label, text in _rows(record, numbers):
        lines += wrap(text, width, first="  " + label.ljust(_LABEL))
    lines += drift_lines(record, width)
    lines += _flips(record, numbers, width, redact, shown_flips)
    return "\n".join(lines)


def headline(record: GateRecord) -> str:
    """Return the first line: Δ, its lower limit, the margin and the gate, or another cause of the failure."""
    gate = visible(record.gate)
    if record.verdict == "not measured":
        return not_measured_reason(record)
    if record.verdict == "inconclusive":
        return inconclusive_reason(record)
    if record.verdict == "held":
        return held_note(record)
    numbers = Numbers.of(record)
    causes = []
    change, margin = numbers.change(record.delta), numbers.setting(record.margin)
    if record.by_difference:
        causes.append(f"{change} (at least {numbers.signed(record.lower, 0.0)}; margin {margin})")
    if record.above_ceiling:
        value, ceiling = numbers.value(record.candidate.value), _ceiling(record, numbers)
        causes.append(f"candidate at {value}, above its ceiling of {ceiling}")
    never = list(map(visible, record.never))
    if never:
        more = f" and {len(never) - 1} more" if len(never) > 1 else ""
        causes.append(f"a probe that must never flip did: {never[0]}{more}")
    if not causes:
        causes.append(f"{change} (margin {margin})")
    return f"{', '.join(causes)}: {gate}"


def inconclusive_reason(record: GateRecord) -> str:
    """Return one line: Δ, its upper limit, the margin, and the number of probes that would decide."""
    numbers = Numbers.of(record)
    line = (
        f"inconclusive, {numbers.change(record.delta)} (at most {numbers.signed(record.upper, record.margin)}; "
        f"margin {numbers.setting(record.margin)}): {visible(record.gate)}, {count(record.n)} probes"
    )
    if record.judge_error and record.reason and known(record.lower) and record.lower > 0:
        return f"{line}; {visible(record.reason)}"
    if record.needed is not None:
        return f"{line}, it would take about {_more(record, record.needed)}"
    return f"{line} are too few to tell"


def _more(record: GateRecord, needed: int) -> str:
    """The number of clusters that an inconclusive gate lacks; of probes where each is a cluster of its own."""
    n, clusters = record.n, record.n_clusters
    if not n or not clusters or clusters == n:
        return f"{count(needed - n)} more" + ("" if n else " probes")
    return f"{count(math.ceil(needed * clusters / n) - clusters)} more clusters ({count(clusters)} now)"


def not_measured_reason(record: GateRecord) -> str:
    """Return one line: the gate, and why it was not measured."""
    reason = visible(record.reason).removeprefix("not measured").lstrip(":, ")
    if not reason:
        reason = ", ".join(f"{name} coverage {percent(side.coverage, 0)}" for name, side in _named_sides(record))
    return f"not measured ({reason}): {visible(record.gate)}"


def held_note(record: GateRecord) -> str:
    """Return one line: Δ, its upper limit, the margin, and the smallest change that would have been found."""
    numbers = Numbers.of(record)
    line = (
        f"held, {numbers.change(record.delta)} (at most {numbers.signed(record.upper, record.margin)}; "
        f"margin {numbers.setting(record.margin)}): {visible(record.gate)}"
    )
    if not known(record.detectable):
        return line
    found = numbers.size(record.detectable, record.margin)
    return f"{line}, could have found {found} ({setting_percent(record.power)} power, {count(record.n)} probes)"


def _power(record: GateRecord, numbers: Numbers) -> str:
    if not known(record.detectable):
        return ""
    found = numbers.size(record.detectable, record.margin)
    return f"a rise of {found} would have been found with {setting_percent(record.power)} probability"


def _named_sides(record: GateRecord) -> tuple[tuple[str, SideRecord], tuple[str, SideRecord]]:
    return ("baseline", record.baseline), ("candidate", record.candidate)


def _ceiling(record: GateRecord, numbers: Numbers) -> str:
    unit = " %" if numbers.unit == "share" else numbers.change_unit
    return numbers.setting(record.ceiling) + unit


def _sentence(record: GateRecord, lineage: str) -> str:
    title = visible(record.title) or f"scores worse on {visible(record.gate)}"
    models = [visible(side.model) for side in (record.candidate, record.baseline)]
    candidate, baseline = (f" ({model})" if model else "" for model in models)
    if candidate and lineage:
        candidate = f"{candidate[:-1]}, {visible(lineage)})"
    often = "more often " if record.unit == "share" else ""
    claim = f"the candidate{candidate} {often}{title} than the baseline{baseline}"
    verdict = record.verdict
    if verdict == "inconclusive":
        claim = f"Too few probes to tell whether {claim}."
    elif verdict == "not measured":
        claim = f"It could not be measured whether {claim}."
    elif verdict == "held":
        claim = f"It is ruled out, beyond the margin, that {claim}."
    elif record.by_difference:
        claim = f"T{claim[1:]}."
    else:
        claim = f"A fixed requirement is broken, whether or not {claim}."
    return claim + (" This gate is a control, not a verdict on trust." if record.control else "")


def _sides(record: GateRecord, numbers: Numbers, width: int) -> list[str]:
    metric = visible(record.metric).replace("_", " ")
    head = [
        Column(""),
        # A long name would push out the columns on the right, and the first line has it already.
        Column(metric if 0 < columns(metric) <= 20 else "value", ">", shrink=9),
        Column("limits"),
        Column("counted", ">", drop=1),
        Column("coverage", ">", drop=2),
        Column("truncated", ">", drop=3),
    ]
    rows = []
    for name, side in _named_sides(record):
        lower, upper = numbers.bare(side.lower), numbers.bare(side.upper)
        limits = "" if lower == upper == UNKNOWN else f"[{lower}, {upper}]"
        rows.append(
            [
                name,
                numbers.value(side.value),
                limits,
                _counted(side, numbers.unit),
                percent(side.coverage, 0),
                count(side.truncated),
            ]
        )
    limits = numbers.limits(record.lower, record.upper, record.margin)
    rows.append(["Δ", numbers.change(record.delta), limits, "", "", ""])
    return table(head, rows, width=width)


def _counted(side: SideRecord, unit: str) -> str:
    if not known(side.value):
        return UNKNOWN
    hits = side.value * side.n
    if unit == "share" and abs(hits - round(hits)) < 1e-6 * max(1, side.n):
        return f"{round(hits)} of {side.n}"
    return f"{side.n}"


def _rows(record: GateRecord, numbers: Numbers) -> list[tuple[str, str]]:
    """The rows of a label and words, in reading order. Rows without words are left out."""
    rows = []
    reason = visible(record.reason)
    if reason and reason not in headline(record):
        rows.append(("reason", reason))
    if record.verdict != "not measured":
        rows.append(("margin", _margin(record, numbers)))
    if known(record.ceiling):
        state = "exceeded" if record.above_ceiling else "kept"
        rows.append(("ceiling", f"{_ceiling(record, numbers)} for the candidate, {state}"))
    if record.never:
        rows.append(("never", f"these must never flip and did: {', '.join(map(visible, record.never))}"))
    if record.worse is not None and record.better is not None:
        rows.append(("flips", f"{record.worse} worse, {record.better} better of {count(record.n)}"))
    other = _other_way(record, numbers)
    if other:
        rows.append(("choices", other))
    trace = _trace(record, numbers)
    if trace:
        rows.append(("in thought", trace))
    if record.baseline.closed or record.candidate.closed:
        closed = ", ".join(f"{name} {side.closed}" for name, side in _named_sides(record))
        rows.append(("budget", f"traces that it closed: {closed}"))
    if record.baseline.looped or record.candidate.looped:
        looped = ", ".join(f"{name} {side.looped}" for name, side in _named_sides(record))
        saved = record.baseline.saved + record.candidate.saved
        rows.append(
            (
                "loops",
                f"truncated responses that repeat themselves without end: {looped}"
                + (f"; {count(saved)} tokens saved up to their limits" if saved else ""),
            )
        )
    if known(record.baseline.option_mass) and known(record.candidate.option_mass):
        masses = ", ".join(
            f"{name} {percent(side.option_mass)}"
            + (f" ({side.after_trace} of {count(side.n)} behind its trace)" if side.after_trace else "")
            for name, side in _named_sides(record)
        )
        rows.append(("options", f"probability of all of them together where they were scored: {masses}"))
    outcomes = [f"{name}: {found}" for name, side in _named_sides(record) if (found := _outcomes(side))]
    rows += zip(("outcomes", ""), outcomes, strict=False)
    rows += _breakdown(record, numbers)
    if record.judge:
        rows.append(("judge", visible(record.judge) + _judge_error(record, numbers)))
    if record.method:
        rows.append(("method", visible(record.method) + _sample(record)))
    power = _power(record, numbers)
    if power:
        rows.append(("power", power))
    return rows


_WAYS = {"likelihood": "the likelihood of each option", "ask": "what the model answers when it is asked"}


def _other_way(record: GateRecord, numbers: Numbers) -> str:
    """How the choices were measured, and what the other way shows; empty where there are none."""
    other = record.other_way
    if record.choices is None or (other is None and record.choices == "likelihood"):
        return ""
    text = f"by {_WAYS[record.choices]}"
    if other is None:
        return text
    before, after = numbers.value(other.baseline.value), numbers.value(other.candidate.value)
    limits = numbers.limits(other.lower, other.upper, record.margin)
    agreed = ", ".join(
        f"{name} on {agreeing} of {compared}"
        for name, agreeing, compared in zip(("baseline", "candidate"), other.agreeing, other.compared, strict=True)
    )
    return (
        f"{text}; by {_WAYS[other.choices]} {before} -> {after}, Δ {numbers.change(other.delta)} {limits}: "
        f"{other.verdict}; the two ways agree: {agreed} probes"
    )


def _trace(record: GateRecord, numbers: Numbers) -> str:
    """The gate on the reasoning; empty where no model reasoned."""
    trace = record.trace
    if trace is None:
        return ""
    before, after = numbers.value(trace.baseline.value), numbers.value(trace.candidate.value)
    limits = numbers.limits(trace.lower, trace.upper, trace.margin)
    text = f"{before} -> {after} of the reasoning, Δ {numbers.change(trace.delta)} {limits}: {trace.verdict}"
    return text + ("" if trace.gated else " (not gated)")


_SHOWN_VALUES = 4  # of a factor; the JSON report has them all
_PROBES_A_VALUE = 5  # on average, for a factor to be shown


def _breakdown(record: GateRecord, numbers: Numbers) -> list[tuple[str, str]]:
    """A row per factor; the values that changed most to worse come first.

    Factors without any change are left out, as are factors with few probes a value.
    """
    rows: list[tuple[str, str]] = []
    for factor, values in record.breakdown.items():
        probes = sum(value.n for value in values)
        if probes < _PROBES_A_VALUE * len(values) or not any(value.delta for value in values):
            continue
        parts = [
            f"{visible(value.value)} {_moved(value, numbers)} (n{UNBROKEN}{value.n})"
            for value in values[:_SHOWN_VALUES]
        ]
        more = f", {len(values) - _SHOWN_VALUES} more" if len(values) > _SHOWN_VALUES else ""
        name = visible(factor).replace("_", " ")
        rows.append(("by kind" if not rows else "", f"{name}: {', '.join(parts)}{more}"))
    return rows


def _moved(value: Breakdown, numbers: Numbers) -> str:
    if numbers.unit == "share":
        return f"{100 * value.baseline:.0f}{UNBROKEN}->{UNBROKEN}{100 * value.candidate:.0f}{UNBROKEN}%"
    return f"{numbers.value(value.baseline)} -> {numbers.value(value.candidate)}"


def _margin(record: GateRecord, numbers: Numbers) -> str:
    text = f"{numbers.setting(record.margin)}{numbers.change_unit}"
    if record.p_value is not None:
        text += f"; p {probability(record.p_value)}"
    alpha, family = record.alpha, record.family
    if not known(alpha):
        return text
    if family <= 1:
        return f"{text}; limits one-sided at {100 * (1 - alpha):.4g} %"
    return (
        f"{text}; lower limit at {100 * (1 - alpha / family):.4g} % "
        f"({100 * alpha:.4g} % shared by {family} gates), upper at {100 * (1 - alpha):.4g} %"
    )


def _sample(record: GateRecord) -> str:
    if record.n == record.n_clusters:
        return ""
    return f"; {count(record.n)} probes in {count(record.n_clusters)} clusters"


def _outcomes(side: SideRecord) -> str:
    found = sorted(((name, number) for name, number in side.outcomes.items() if number), key=lambda o: (-o[1], o[0]))
    return ", ".join(f"{number} {visible(name)}" for name, number in found)


def _flips(record: GateRecord, numbers: Numbers, width: int, redact: bool, shown: int) -> list[str]:
    flips = record.flips
    total = max(len(flips), record.flips_total)
    if not total:
        return []
    lines = []
    for flip in flips[: max(0, shown)]:
        subtype = f" ({visible(flip.subtype)})" if flip.subtype else ""
        change = f"{_state(flip.baseline, numbers)} -> {_state(flip.candidate, numbers)}"
        better = "" if flip.worse else ", better"
        # The outcome matters most: a long id is cut to make room for it.
        tail = cut(f": {change}{better}", max(0, width - 22))
        lines += ["", "  " + cut(f"{visible(flip.probe)}{subtype}", width - 2 - columns(tail)) + tail]
        texts = [
            ("prompt", _shown(flip.prompt, redact)),
            ("baseline", _answer(flip.baseline, redact)),
            ("candidate", _answer(flip.candidate, redact)),
        ]
        lines += [cut(f"    {label.ljust(_LABEL)}{text}", width) for label, text in texts]
    left = total - min(len(flips), max(0, shown))
    if left:
        kept = "all are in the JSON report"
        if len(flips) < total:
            kept = f"the JSON report has {len(flips)} of the {total}"
        noun = "flip" if left == 1 else "flips"
        more = f"... and {left} more {noun}; {kept} (--trust-report=FILE.json)"
        lines += ["", *wrap(more, width, first="  ")]
    return lines


def _state(side: FlipSide, numbers: Numbers) -> str:
    if numbers.unit == "share" or not known(side.score):
        return visible(side.outcome) or UNKNOWN
    return numbers.value(side.score)


def _shown(text: str, redact: bool) -> str:
    if not text.strip():
        return "(empty)"
    return redacted(text) if redact else visible(text.strip())


def _answer(side: FlipSide, redact: bool) -> str:
    if not side.answer.strip() and side.reasoning.strip():
        return f"(no answer after {count(len(side.reasoning))} characters of reasoning)"
    return _shown(side.answer, redact)


def _judge_error(record: GateRecord, numbers: Numbers) -> str:
    """The rates corrected for the judge's measured errors, and the flips that these errors alone would give."""
    owed = record.judge_error
    if owed is None:
        return ""
    rates = " and ".join(numbers.value(side.corrected) for side in (owed.baseline, owed.candidate))
    return (
        f"; corrected for its errors on {visible(owed.labels or 'labels')}: {rates}; "
        f"its errors alone: {owed.flips_expected:.1f} flips to worse, up to {count(owed.flips_limit)}"
    )
