"""The report of ``--trust-mutants``: a row per mutant and dose, the gates that noticed it, and the kill rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_trust.records import MutantGate, MutantRecord, MutantsRecord, dimension_rank, to_json
from pytest_trust.report.json_report import rounded, serialised, write_text
from pytest_trust.report.numbers import Numbers, magnitude
from pytest_trust.report.terminal import Line, model_lines
from pytest_trust.report.text import Column, table, visible, wrap

_LETTERS = {"regressed": "R", "held": "h", "inconclusive": "?", "not measured": "!"}
_LEGEND = (
    "One letter a gate, in the order below: R regressed, h held, ? inconclusive, ! not measured. "
    "A mutant is killed when its own dimensions have a gate that regressed. KL(mutant || baseline) in nats per token."
)
_MOST_LETTERS = 4
_NARROW = 4  # the least width of a dimension's column: its letters, and the beginning of its title


def mutant_lines(document: MutantsRecord, *, width: int) -> list[Line]:
    """Return the lines of the result, each with its markup, none wider than `width` columns."""
    runs = document.mutants
    dimensions = sorted(document.dimensions, key=lambda name: (document.dimensions[name].control, dimension_rank(name)))
    lines = [*model_lines(document.baseline, (), document.profile, document.policy, width), ("", {})]
    for warning in sorted({visible(warning) for warning in document.warnings}):
        lines += [(line, {"yellow": True}) for line in wrap(warning, width, first="warning: ")]
    # A mutant's name must not be cut, so the dimensions' titles are cut first.
    head = [
        Column("mutant"),
        Column("dose", ">"),
        Column("result", shrink=8),
        *(Column(visible(name), shrink=_NARROW) for name in dimensions),
        Column("KL", ">", drop=1),
    ]
    rows = [
        [
            run.mutant,
            f"{run.dose:g}",
            _result(run),
            *(_letters(run, name) for name in dimensions),
            magnitude(run.drift),
        ]
        for run in runs
    ]
    gap = 2 if 42 + sum(2 + max(_NARROW, len(name)) for name in dimensions) <= width else 1
    header, *body = table(head, rows, width=width, gap=gap)
    lines.append((header, {"bold": True}))
    lines += [(text, _markup(run)) for run, text in zip(runs, body, strict=True)]
    lines += [("", {}), *((line, {"light": True}) for line in wrap(_LEGEND, width))]
    for name in dimensions:
        gates = ", ".join(dict.fromkeys(_short(gate) for run in runs for gate in run.gates if gate.dimension == name))
        lines += [(line, {"light": True}) for line in wrap(gates, width, first=f"  {visible(name)}: ", rest="    ")]
    lines += [("", {}), *_noticed(runs, width), *_rates(document, dimensions, width)]
    return lines


def write_mutants(path: Path, document: MutantsRecord) -> None:
    """Write the result as JSON. An existing file is replaced at once or not at all.

    Raises:
        TrustError: the file cannot be written.
    """
    write_text(path, serialised(rounded(to_json(document))))


def _result(run: MutantRecord) -> str:
    if run.dose == 0:
        return "KILLED" if run.noticed else "alive"
    if not run.own:
        return "noticed" if run.noticed else "not noticed"
    if len(run.killed) == len(run.own):
        return "killed"
    return f"killed in {', '.join(run.killed)}" if run.killed else "survived"


def _markup(run: MutantRecord) -> dict[str, bool]:
    good = not run.noticed if run.dose == 0 else len(run.killed) == len(run.own)
    if good:
        return {"green": True} if run.own or run.dose == 0 else {}
    return {"red": True} if run.dose == 0 or run.highest else {"yellow": True}


def _letters(run: MutantRecord, dimension: str) -> str:
    letters = [_LETTERS[gate.verdict] for gate in run.gates if gate.dimension == dimension]
    if len(letters) <= _MOST_LETTERS:
        return "".join(letters)
    return " ".join(f"{letters.count(letter)}{letter}" for letter in _LETTERS.values() if letter in letters)


def _short(gate: MutantGate) -> str:
    return visible(gate.gate.partition("/")[2] or gate.gate)


def _noticed(runs: Sequence[MutantRecord], width: int) -> list[Line]:
    """The gates that noticed each mutant: first those of its own dimensions, then the others after "also"."""
    lines: list[Line] = []
    for run in runs:
        found = [gate for gate in run.gates if gate.verdict == "regressed"]
        own = [_change(gate) for gate in found if gate.dimension in run.own]
        other = [_change(gate) for gate in found if gate.dimension not in run.own]
        text = ", ".join(own) + ("; also " if own and other else "") + ", ".join(other)
        if text:
            lines += [(line, {}) for line in wrap(text, width, first=f"  {run.mutant} {run.dose:g}: ", rest="    ")]
    return (
        [("noticed by", {"bold": True}), *lines, ("", {})]
        if lines
        else [("no gate noticed anything", {"bold": True}), ("", {})]
    )


def _change(gate: MutantGate) -> str:
    return f"{visible(gate.gate)} {Numbers.of(gate).change(gate.delta)}"


def _survival(run: MutantRecord, dimension: str) -> str:
    """Why the gates of a dimension did not notice the mutant: nothing got worse, or only on too few probes."""
    moved = [gate for gate in run.gates if gate.dimension == dimension and (gate.delta or 0) > 0]
    found = [
        f"{_short(gate)} {Numbers.of(gate).change(gate.delta)} {gate.verdict}"
        + ("" if gate.worse is None else f" ({gate.worse} worse, {gate.better} better)")
        for gate in moved
    ]
    title = f"{run.mutant} {run.dose:g} survived in {visible(dimension)}: "
    return title + (", ".join(found) or "nothing got worse there")


def _rates(document: MutantsRecord, dimensions: Sequence[str], width: int) -> list[Line]:
    head = [
        Column("kill rate"),
        Column("highest dose", ">"),
        Column("all doses", ">", drop=1),
        Column("survived the highest", shrink=12),
    ]
    rows, markup = [], []
    for name in dimensions:
        found = document.dimensions[name]
        title = visible(name) + (" (control)" if found.control else "")
        if found.mutants:
            rates = [f"{found.highest_killed} of {found.highest}", f"{found.killed} of {found.mutants}"]
        else:
            rates = ["none run", ""]
        rows.append([title, *rates, ", ".join(found.survivors)])
        markup.append({"red": True} if found.survivors and not found.control else {})
    header, *body = table(head, rows, width=width)
    lines: list[Line] = [(header, {"bold": True}), *zip(body, markup, strict=True), ("", {})]
    for run in document.mutants:
        for name in run.own if run.highest else ():
            if name in run.killed:
                continue
            text = _survival(run, name)
            lines += [(line, {"yellow": True}) for line in wrap(text, width, rest="  ")]
    unmoved = [visible(gate) for name in dimensions for gate in document.dimensions[name].unmoved]
    if unmoved:
        lines += [
            (line, {"yellow": True}) for line in wrap(", ".join(unmoved), width, first="no mutant moved: ", rest="  ")
        ]
    for killed in document.null_killed:
        text = f"{visible(killed.gate)} regressed under {killed.mutant} at dose 0, where nothing was damaged"
        lines += [(line, {"red": True, "bold": True}) for line in wrap(text, width)]
    if document.passed:
        text = "every dimension kills its own mutants at the highest dose, and no null mutant was killed"
    else:
        text = (
            "a suite does not see the damage that it must see: repair it, take a larger --trust-profile, "
            "or say so where you report its verdicts"
        )
    return [
        *lines,
        *((line, {"green" if document.passed else "red": True, "bold": True}) for line in wrap(text, width)),
    ]
