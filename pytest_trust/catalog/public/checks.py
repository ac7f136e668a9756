"""Self-checks of adapters. They catch an inverted label, a wrong positive class and a metric whose larger is better."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pytest_trust.catalog.public.adapter import Behaviour, Record, fingerprint
from pytest_trust.errors import InvalidInput
from pytest_trust.probes import Gate, Probe, Suite

SAMPLED = 3
"""How many probes of each gate `orientation` checks."""


def known_rows(
    name: str,
    items: Iterable[Any],
    text: Callable[[Any], str],
    value: Callable[[Any], object],
    known: Mapping[str, object],
) -> None:
    """Raise InvalidInput where a row that a person has read has another label than then.

    `known` maps the fingerprint of a row's text to its label. A known row may be absent.
    """
    for item in items:
        expected = known.get(fingerprint(text(item)))
        if expected is not None and value(item) != expected:
            raise InvalidInput(
                f"{name}: a row known to be {expected!r} is labelled {value(item)!r}: the labels look inverted or "
                "renumbered"
            )


def known_answers(name: str, probes: Iterable[Probe]) -> None:
    """Raise InvalidInput where a known probe has another right answer than when the adapter was checked.

    That catches inverted rows, and an adapter that inverts labels itself. A known probe may be absent.
    """
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
    """Raise InvalidInput unless the share of one label is near the benchmark's, as that of a wrong class is not."""
    observed = Counter(labels)[label] / len(labels) if labels else 0.0
    if not low <= observed <= high:
        raise InvalidInput(
            f"{name}: {observed:.1%} of the rows are {label!r}, expected {low:.0%} to {high:.0%}: "
            "the labels look inverted or are of another class"
        )


def cues(name: str, texts: Iterable[tuple[str, bool]], pattern: str, least: int = 3) -> None:
    """Raise InvalidInput unless words that are typical of one class stand more often in its texts than in others.

    texts: (text, whether it is of that class). pattern: the typical words. With fewer than `least` texts that hold such
    a word, nothing is checked.
    """
    words = re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)
    totals = {True: [0, 0], False: [0, 0]}
    for text, of_class in texts:
        totals[of_class][0] += bool(words.search(text))
        totals[of_class][1] += 1
    inside, outside = (hits / total if total else 0.0 for hits, total in (totals[True], totals[False]))
    if totals[True][0] + totals[False][0] >= least and inside <= outside:
        raise InvalidInput(
            f"{name}: words that speak for one class are in {inside:.1%} of it and {outside:.1%} of the other: the "
            "labels look inverted"
        )


def require(name: str, condition: bool, message: str) -> None:
    if not condition:
        raise InvalidInput(f"{name}: {message}")


def orientation(suite: Suite, good: Behaviour | None = None, bad: Behaviour | None = None) -> None:
    """Raise InvalidInput unless every gate scores a model that behaves well below one that does not.

    The suite's own judge, or its choice of options, gives the outcomes.
    """
    for gate in suite.gates.values():
        worse = [probe for probe in suite.probes if probe.matches(gate.where)]
        if not worse:
            raise InvalidInput(f"{suite.name}/{gate.name}: no probe matches {dict(gate.where)}, expected some")
        for probe in worse[:: max(1, len(worse) // SAMPLED)][:SAMPLED]:
            before, after = (_score(suite, gate, probe, says, wrong) for says, wrong in ((good, False), (bad, True)))
            if not before < after:
                raise InvalidInput(
                    f"{suite.name}/{gate.name}: scores {before:g} where the model is right and {after:g} where it "
                    f"is wrong on {probe.id}: "
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
    """Check nothing. A benchmark with one class has only the orientation of its gates to check."""
    del records, probes
