"""The drift diff: what a failing gate says, and the one-line reasons of the gates that did not fail.

Its first line begins with the numbers, since pytest's short summary shows what is left of the line after the
node id: at 160 columns that is ``+31 pts (at least +12; margin 5): safety/harmful_requests/compliance_rate``,
at 80 columns next to nothing. That line is the only one that may be longer than `width`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_trust.report.drift_notes import drift_lines
from pytest_trust.report.numbers import (
    UNKNOWN,
    Numbers,
    count,
    known,
    percent,
    probability,
)
from pytest_trust.report.text import UNBROKEN, Column, columns, cut, redacted, table, visible, wrap

Record = Mapping[str, Any]

_LABEL = 11  # columns of a row's label, its gap included: "candidate" is the longest


def drift_diff(record: Record, *, width: int = 80, redact: bool = False, shown_flips: int = 5) -> str:
    """Return what changed in one gate, by how much, how sure that is, and on which prompts.

    `record` is a gate record of any verdict. Lines after the first are at most `width` columns wide; of the
    flipped probes the first `shown_flips` are shown, and the others counted. With `redact`, prompts and
    answers are replaced by their length and the start of a hash. Raises nothing for values that are missing,
    NaN or infinite.
    """
    numbers = Numbers.of(record)
    lines = [headline(record), *wrap(_sentence(record), width), ""]
    lines += _sides(record, numbers, width)
    lines.append("")
    for label, text in _rows(record, numbers):
        lines += wrap(text, width, first="  " + label.ljust(_LABEL))
    lines += drift_lines(record, width)
    lines += _flips(record, numbers, width, redact, shown_flips)
    return "\n".join(lines)


def headline(record: Record) -> str:
    """Return the first line: Δ, its lower limit, the margin and the gate; or what else failed the gate."""
    gate = visible(str(record["gate"]))
    verdict = record.get("verdict")
    if verdict == "not measured":
        return not_measured_reason(record)
    if verdict == "inconclusive":
        return inconclusive_reason(record)
    if verdict == "held":
        return held_note(record)
    numbers = Numbers.of(record)
    causes = []
    if _by_difference(record):
        lower = numbers.signed(record.get("lower"), 0.0)
        margin = numbers.setting(record.get("margin"))
        causes.append(f"{numbers.change(record.get('delta'))} (at least {lower}; margin {margin})")
    if _above_ceiling(record):
        value, ceiling = numbers.value(_side(record, "candidate").get("value")), _ceiling(record, numbers)
        causes.append(f"candidate at {value}, above its ceiling of {ceiling}")
    never = [visible(str(probe)) for probe in record.get("never") or ()]
    if never:
        more = f" and {len(never) - 1} more" if len(never) > 1 else ""
        causes.append(f"a probe that must never flip did: {never[0]}{more}")
    if not causes:
        change, margin = numbers.change(record.get("delta")), numbers.setting(record.get("margin"))
        causes.append(f"{change} (margin {margin})")
    return f"{', '.join(causes)}: {gate}"


def inconclusive_reason(record: Record) -> str:
    """Return one line: Δ, its upper limit, the margin that it reaches, and how many probes would tell."""
    numbers = Numbers.of(record)
    upper, margin = record.get("upper"), record.get("margin")
    line = (
        f"inconclusive, {numbers.change(record.get('delta'))} (at most {numbers.signed(upper, margin)}; "
        f"margin {numbers.setting(margin)}): {visible(str(record['gate']))}, {count(record.get('n'))} probes"
    )
    owed = record.get("judge_error")
    if owed and record.get("reason") and known(record.get("lower")) and record["lower"] > 0:
        return f"{line}; {visible(str(record['reason']))}"
    if known(record.get("needed")):
        return f"{line}, it would take about {_more(record)}"
    return f"{line} are too few to tell"


def _more(record: Record) -> str:
    """What an inconclusive gate lacks: clusters, called probes where each probe is one."""
    n, clusters = record.get("n"), record.get("n_clusters")
    if not n or not clusters or clusters == n:
        return f"{count(record['needed'] - (n or 0))} more" + ("" if n else " probes")
    return f"{count(math.ceil(record['needed'] * clusters / n) - clusters)} more clusters ({count(clusters)} now)"


def not_measured_reason(record: Record) -> str:
    """Return one line: the gate, and why nothing can be said about it."""
    reason = visible(str(record.get("reason") or "")).removeprefix("not measured").lstrip(":, ")
    if not reason:
        parts = []
        for name in ("baseline", "candidate"):
            side = _side(record, name)
            parts.append(f"{name} coverage {percent(side.get('coverage'), 0)}")
        reason = ", ".join(parts)
    return f"not measured ({reason}): {visible(str(record['gate']))}"


def held_note(record: Record) -> str:
    """Return one line: Δ, its upper limit below the margin, and the smallest change that would have shown."""
    numbers = Numbers.of(record)
    upper, margin = record.get("upper"), record.get("margin")
    line = (
        f"held, {numbers.change(record.get('delta'))} (at most {numbers.signed(upper, margin)}; "
        f"margin {numbers.setting(margin)}): {visible(str(record['gate']))}"
    )
    if not known(record.get("detectable")):
        return line
    found = numbers.size(record["detectable"], record.get("margin"))
    return f"{line}, could have found {found} (80 % power, {count(record.get('n'))} probes)"


def _power(record: Record, numbers: Numbers) -> str:
    if not known(record.get("detectable")):
        return ""
    found = numbers.size(record["detectable"], record.get("margin"))
    return f"a rise of {found} would have been found with 80 % probability"


def _side(record: Record, name: str) -> Mapping[str, Any]:
    side = record.get(name)
    return side if isinstance(side, Mapping) else {}


def _by_difference(record: Record) -> bool:
    """The rule of design.md: the lower limit is above zero and the upper one is not below the margin."""
    lower, upper, margin = record.get("lower"), record.get("upper"), record.get("margin")
    if lower is None or not known(lower) or lower <= 0:
        return False
    return upper is None or margin is None or not known(upper) or upper >= margin


def _above_ceiling(record: Record) -> bool:
    ceiling, value = record.get("ceiling"), _side(record, "candidate").get("value")
    return ceiling is not None and value is not None and known(ceiling) and known(value) and value > ceiling


def _ceiling(record: Record, numbers: Numbers) -> str:
    unit = " %" if numbers.unit == "share" else numbers.change_unit
    return numbers.setting(record.get("ceiling")) + unit


def _sentence(record: Record) -> str:
    title = visible(str(record.get("title") or "")) or f"scores worse on {visible(str(record['gate']))}"
    models = [visible(str(_side(record, name).get("model") or "")) for name in ("candidate", "baseline")]
    candidate, baseline = (f" ({model})" if model else "" for model in models)
    lineage = visible(str(((record.get("run") or {}).get("candidate") or {}).get("lineage") or ""))
    if candidate and lineage:
        candidate = f"{candidate[:-1]}, {lineage})"
    often = "more often " if record.get("unit") == "share" else ""
    claim = f"the candidate{candidate} {often}{title} than the baseline{baseline}"
    verdict = record.get("verdict")
    if verdict == "inconclusive":
        claim = f"Too few probes to tell whether {claim}."
    elif verdict == "not measured":
        claim = f"It could not be measured whether {claim}."
    elif verdict == "held":
        claim = f"It is ruled out, beyond the margin, that {claim}."
    elif _by_difference(record):
        claim = f"T{claim[1:]}."
    else:
        claim = f"A fixed requirement is broken, whether or not {claim}."
    return claim + (" This gate is a control, not a verdict on trust." if record.get("control") else "")


def _sides(record: Record, numbers: Numbers, width: int) -> list[str]:
    metric = visible(str(record.get("metric") or "")).replace("_", " ")
    head = [
        Column(""),
        # A long name, which the first line has already said, would push the columns on the right out.
        Column(metric if 0 < columns(metric) <= 20 else "value", ">", shrink=9),
        Column("limits"),
        Column("counted", ">", drop=1),
        Column("coverage", ">", drop=2),
        Column("truncated", ">", drop=3),
    ]
    rows = []
    for name in ("baseline", "candidate"):
        side = _side(record, name)
        lower, upper = numbers.bare(side.get("lower")), numbers.bare(side.get("upper"))
        limits = "" if lower == upper == UNKNOWN else f"[{lower}, {upper}]"
        rows.append(
            [
                name,
                numbers.value(side.get("value")),
                limits,
                _counted(side, numbers.unit),
                percent(side.get("coverage"), 0),
                count(side.get("truncated")),
            ]
        )
    limits = numbers.limits(record.get("lower"), record.get("upper"), record.get("margin"))
    rows.append(["Δ", numbers.change(record.get("delta")), limits, "", "", ""])
    return table(head, rows, width=width)


def _counted(side: Mapping[str, Any], unit: str) -> str:
    value, n = side.get("value"), side.get("n")
    if value is None or n is None or not known(value) or not known(n):
        return UNKNOWN
    hits = value * n
    if unit == "share" and abs(hits - round(hits)) < 1e-6 * max(1, n):
        return f"{round(hits)} of {n}"
    return f"{n}"


def _rows(record: Record, numbers: Numbers) -> list[tuple[str, str]]:
    """The rows that are a label and words, in reading order; one that has nothing to say is left out."""
    rows = []
    reason = visible(str(record.get("reason") or ""))
    if reason and reason not in headline(record):
        rows.append(("reason", reason))
    if record.get("verdict") != "not measured":
        rows.append(("margin", _margin(record, numbers)))
    if known(record.get("ceiling")):
        state = "exceeded" if _above_ceiling(record) else "kept"
        rows.append(("ceiling", f"{_ceiling(record, numbers)} for the candidate, {state}"))
    never = [visible(str(probe)) for probe in record.get("never") or ()]
    if never:
        rows.append(("never", f"these must never flip and did: {', '.join(never)}"))
    if known(record.get("worse")) and known(record.get("better")):
        rows.append(("flips", f"{record['worse']} worse, {record['better']} better of {count(record.get('n'))}"))
    trace = _trace(record, numbers)
    if trace:
        rows.append(("in thought", trace))
    closed = {name: _side(record, name).get("closed") or 0 for name in ("baseline", "candidate")}
    if any(closed.values()):
        rows.append(
            ("budget", "traces that it closed: " + ", ".join(f"{name} {number}" for name, number in closed.items()))
        )
    outcomes = [f"{name}: {found}" for name in ("baseline", "candidate") if (found := _outcomes(_side(record, name)))]
    rows += zip(("outcomes", ""), outcomes, strict=False)
    rows += _breakdown(record, numbers)
    if record.get("judge"):
        rows.append(("judge", visible(str(record["judge"])) + _judge_error(record, numbers)))
    if record.get("method"):
        rows.append(("method", visible(str(record["method"])) + _sample(record)))
    power = _power(record, numbers)
    if power:
        rows.append(("power", power))
    return rows


def _trace(record: Record, numbers: Numbers) -> str:
    """The same metric on the reasoning, where a model reasoned."""
    trace = record.get("trace")
    if not isinstance(trace, Mapping):
        return ""
    before, after = (numbers.value(_side(trace, name).get("value")) for name in ("baseline", "candidate"))
    limits = numbers.limits(trace.get("lower"), trace.get("upper"), trace.get("margin"))
    text = f"{before} -> {after} of the reasoning, Δ {numbers.change(trace.get('delta'))} {limits}: {visible(str(trace.get('verdict')))}"
    return text + ("" if trace.get("gated") else " (not gated)")


_SHOWN_VALUES = 4  # of a factor; the JSON report has them all
_PROBES_A_VALUE = 5  # on average, for a factor to be shown


def _breakdown(record: Record, numbers: Numbers) -> list[tuple[str, str]]:
    """A row per factor, the values that moved most towards worse first; factors in which nothing moved, or few probes stand behind a value,
    are left out."""
    found = record.get("breakdown")
    rows: list[tuple[str, str]] = []
    for factor, values in found.items() if isinstance(found, Mapping) else ():
        probes = sum(value["n"] for value in values)
        if probes < _PROBES_A_VALUE * len(values) or not any(value["delta"] for value in values):
            continue
        parts = [
            f"{visible(str(value['value']))} {_moved(value, numbers)} (n{UNBROKEN}{value['n']})"
            for value in values[:_SHOWN_VALUES]
        ]
        more = f", {len(values) - _SHOWN_VALUES} more" if len(values) > _SHOWN_VALUES else ""
        name = visible(factor).replace("_", " ")
        rows.append(("by kind" if not rows else "", f"{name}: {', '.join(parts)}{more}"))
    return rows


def _moved(value: Record, numbers: Numbers) -> str:
    if numbers.unit == "share":
        return f"{100 * value['baseline']:.0f}{UNBROKEN}->{UNBROKEN}{100 * value['candidate']:.0f}{UNBROKEN}%"
    return f"{numbers.value(value['baseline'])} -> {numbers.value(value['candidate'])}"


def _margin(record: Record, numbers: Numbers) -> str:
    text = f"{numbers.setting(record.get('margin'))}{numbers.change_unit}"
    if record.get("p_value") is not None:
        text += f"; p {probability(record['p_value'])}"
    alpha, family = record.get("alpha"), record.get("family")
    if alpha is None or not known(alpha):
        return text
    if family is None or not known(family) or family <= 1:
        return f"{text}; limits one-sided at {100 * (1 - alpha):.4g} %"
    return (
        f"{text}; lower limit at {100 * (1 - alpha / family):.4g} % "
        f"({100 * alpha:.4g} % shared by {family} gates), upper at {100 * (1 - alpha):.4g} %"
    )


def _sample(record: Record) -> str:
    n, clusters = record.get("n"), record.get("n_clusters")
    if not known(n) or not known(clusters) or n == clusters:
        return ""
    return f"; {count(n)} probes in {count(clusters)} clusters"


def _outcomes(side: Mapping[str, Any]) -> str:
    outcomes = side.get("outcomes")
    if not isinstance(outcomes, Mapping):
        return ""
    found = sorted(((str(name), number) for name, number in outcomes.items() if number), key=lambda o: (-o[1], o[0]))
    return ", ".join(f"{number} {visible(name)}" for name, number in found)


def _flips(record: Record, numbers: Numbers, width: int, redact: bool, shown: int) -> list[str]:
    flips: Sequence[Mapping[str, Any]] = record.get("flips") or ()
    total = max(len(flips), int(record.get("flips_total") or 0))
    if not total:
        return []
    lines = []
    for flip in flips[: max(0, shown)]:
        sides = [flip.get(name) or {} for name in ("baseline", "candidate")]
        subtype = f" ({visible(str(flip['subtype']))})" if flip.get("subtype") else ""
        change = " -> ".join(_state(side, numbers) for side in sides)
        better = "" if flip.get("worse", True) else ", better"
        # The outcome is what the line is for: a long id makes room for it.
        tail = cut(f": {change}{better}", max(0, width - 22))
        lines += ["", "  " + cut(f"{visible(str(flip['probe']))}{subtype}", width - 2 - columns(tail)) + tail]
        texts = [("prompt", _shown(str(flip.get("prompt") or ""), redact))]
        texts += [(name, _answer(side, redact)) for name, side in zip(("baseline", "candidate"), sides, strict=True)]
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


def _state(side: Mapping[str, Any], numbers: Numbers) -> str:
    outcome, score = visible(str(side.get("outcome") or "")), side.get("score")
    if numbers.unit == "share" or score is None or not known(score):
        return outcome or UNKNOWN
    return numbers.value(score)


def _shown(text: str, redact: bool) -> str:
    if not text.strip():
        return "(empty)"
    return redacted(text) if redact else visible(text.strip())


def _answer(side: Mapping[str, Any], redact: bool) -> str:
    answer, reasoning = str(side.get("answer") or ""), str(side.get("reasoning") or "")
    if not answer.strip() and reasoning.strip():
        return f"(no answer after {count(len(reasoning))} characters of reasoning)"
    return _shown(answer, redact)


def _judge_error(record: Record, numbers: Numbers) -> str:
    """What the judge's measured errors make of the rates, and how many flips they alone would give."""
    owed = record.get("judge_error")
    if not owed:
        return ""
    rates = " and ".join(numbers.value(owed[name]["corrected"]) for name in ("baseline", "candidate"))
    return (
        f"; corrected for its errors on {visible(str(owed['labels'] or 'labels'))}: {rates}; "
        f"its errors alone: {owed['flips_expected']:.1f} flips to worse, up to {count(owed['flips_limit'])}"
    )
