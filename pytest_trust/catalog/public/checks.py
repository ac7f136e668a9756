"""Self-checks of adapters: what an inverted label, a wrong positive class or a wrong "larger is worse" would not survive."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pytest_trust.catalog.public.adapter import Behaviour, Record, fingerprint
from pytest_trust.errors import InvalidInput
from pytest_trust.probes import Gate, Probe, Suite

SAMPLED = 3
"""Probes of each gate that the orientation is checked on."""


def known_rows(
    name: str,
    items: Iterable[Any],
    text: Callable[[Any], str],
    value: Callable[[Any], object],
    known: Mapping[str, object],
) -> None:
    """Rows that a person read keep the label they had: `known` maps fingerprints of their text to it. Absent rows say nothing."""
    for item in items:
        expected = known.get(fingerprint(text(item)))
        if expected is not None and value(item) != expected:
            raise InvalidInput(
                f"{name}: a row known to be {expected!r} is labelled {value(item)!r}: the labels look inverted or renumbered"
            )


def known_answers(name: str, probes: Iterable[Probe]) -> None:
    """Probes of known rows have the right answer that they had when the adapter was checked: an adapter that inverts labels by itself is noticed
    as rows that are inverted are. Absent probes say nothing."""
    from pytest_trust.catalog.public.known_answers import ANSWERS

    known = ANSWERS.get(name, {})
    for probe in probes if known else ():
        expected = known.get(
            fingerprint(*(message.content for message in probe.messages), probe.text, *sorted(probe.options))
        )
        if expected is not None and fingerprint(probe.answer) != expected:
            raise InvalidInput(
                f"{name}: {probe.id} has another right answer than it is known to have: the labels look inverted"
            )


def share(name: str, labels: Sequence[object], label: object, low: float, high: float) -> None:
    """The share of one label is about what the benchmark's is; an inverted or wrong class is not."""
    found = Counter(labels)[label] / len(labels) if labels else 0.0
    if not low <= found <= high:
        raise InvalidInput(
            f"{name}: {found:.1%} of the rows are {label!r}, expected {low:.0%} to {high:.0%}: the labels look inverted or are of another class"
        )


def cues(name: str, texts: Iterable[tuple[str, bool]], pattern: str, least: int = 3) -> None:
    """Texts of the class that words like these belong to hold them more often than the others: `texts` are (text, of that class).

    Says nothing below `least` texts with such words.
    """
    words = re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)
    totals = {True: [0, 0], False: [0, 0]}
    for text, of_class in texts:
        totals[of_class][0] += bool(words.search(text))
        totals[of_class][1] += 1
    inside, outside = (hits / total if total else 0.0 for hits, total in (totals[True], totals[False]))
    if totals[True][0] + totals[False][0] >= least and inside <= outside:
        raise InvalidInput(
            f"{name}: words that speak for one class are in {inside:.1%} of it and {outside:.1%} of the other: the labels look inverted"
        )


def require(name: str, condition: bool, message: str) -> None:
    if not condition:
        raise InvalidInput(f"{name}: {message}")


def orientation(suite: Suite, good: Behaviour | None = None, bad: Behaviour | None = None) -> None:
    """Every gate scores a model that behaves well below one that does not, by the suite's own judge or choice. Raises InvalidInput."""
    for gate in suite.gates.values():
        worse = [probe for probe in suite.probes if probe.matches(gate.where)]
        if not worse:
            raise InvalidInput(f"{suite.name}/{gate.name}: no probe matches {dict(gate.where)}, expected some")
        for probe in worse[:: max(1, len(worse) // SAMPLED)][:SAMPLED]:
            before, after = (_score(suite, gate, probe, says, wrong) for says, wrong in ((good, False), (bad, True)))
            if not before < after:
                raise InvalidInput(
                    f"{suite.name}/{gate.name}: scores {before:g} where the model is right and {after:g} where it is wrong on {probe.id}: "
                    "larger must be worse"
                )


def _score(suite: Suite, gate: Gate, probe: Probe, says: Behaviour | None, wrong: bool) -> float:
    from pytest_trust.judges import get_judge
    from pytest_trust.judges.samples import judge_options, judge_responses, score_probe
    from pytest_trust.responses import OptionScores, Response

    if suite.task == "choose":
        values = tuple(float((option == probe.answer) != wrong) for option in probe.options)
        ones = (1,) * len(values)
        samples = judge_options([probe], {probe.id: OptionScores(values, ones, ones)})
    else:
        assert says is not None, f"{suite.name}: an adapter of generated answers states good and bad ones"
        text = says(probe)
        response = Response(text, (0,), "stop", "", text, True, 1)
        samples = judge_responses(get_judge(suite.judge), suite.judge, [probe], {probe.id: (response,)})
    return score_probe(gate, samples[probe.id])


def no_labels(records: Sequence[Record], probes: Sequence[Probe]) -> None:
    """For benchmarks with one class: what there is to check is the orientation of the gates."""
    del records, probes
