"""Which probes a profile takes: balanced, nested, and as many clusters as the limit allows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pytest_trust.catalog.files import bundled_suites, load_suite
from pytest_trust.errors import InvalidInput
from pytest_trust.probes import Gate, Probe, Suite, select

SUITES = {name: load_suite(name) for name in bundled_suites()}


def probes_of(clusters: int, size: int) -> tuple[Probe, ...]:
    return tuple(
        Probe(id=f"{c}-{i}", cluster=str(c), subtype="ab"[c % 2], fields={"shifted": i > 0})
        for c in range(clusters)
        for i in range(size)
    )


def test_clusters_come_before_variants() -> None:
    probes = probes_of(20, 4)
    assert len({probe.cluster for probe in select(probes, 20)}) == 20
    assert Counter(Counter(probe.cluster for probe in select(probes, 30)).values()) == {1: 10, 2: 10}


def test_a_gate_that_compares_within_a_cluster_gets_both_of_its_sides() -> None:
    gate = Gate("drop", "drops", where={"shifted": True}, minus={"shifted": False})
    taken = select(probes_of(20, 4), 20, [gate])
    sides: dict[str, set[object]] = {}
    for probe in taken:
        sides.setdefault(probe.cluster, set()).add(probe.attribute("shifted"))
    assert len(taken) == 20
    assert list(sides.values()) == [{True, False}] * 10


def test_free_answers_are_no_strata() -> None:
    # with each sentence a stratum of its own, the order would be by chance alone
    probes = tuple(
        Probe(id=str(i), cluster=str(i), subtype="abcd"[i % 4], options=(f"x{i}", f"y{i}"), answer=f"x{i}")
        for i in range(40)
    )
    assert set(Counter(probe.subtype for probe in select(probes, 8)).values()) == {2}


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_a_larger_limit_holds_what_a_smaller_one_held(suite: Suite) -> None:
    gates = suite.gates.values()
    held: set[str] = set()
    for limit in (1, 6, 24, 48, 96, 160, 10_000):
        taken = [probe.id for probe in select(suite.probes, limit, gates)]
        assert held <= set(taken)
        assert len(taken) <= max(limit, 2)
        assert taken == [probe.id for probe in suite.probes if probe.id in set(taken)]
        held = set(taken)
    assert len(held) == len(suite.probes)


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_the_smallest_profile_sees_every_kind(suite: Suite) -> None:
    taken = select(suite.probes, 24, suite.gates.values())
    kinds = Counter(probe.subtype for probe in suite.probes)
    seen = Counter(probe.subtype for probe in taken)
    assert len(seen) >= min(len(kinds), 12) * 0.75, set(kinds) - set(seen)
    for gate in suite.gates.values():
        own = {probe.cluster for probe in taken if probe.matches(gate.where)}
        assert len(own) >= 6, gate.name


def suite(task: str = "choose", judge: str = "choice", name: str = "dim/suite", **given: Any) -> Suite:
    options, answer = given.pop("options"), given.pop("answer", "")
    probe = Probe("p1", "c", text="It is", options=options, answer=answer)
    return Suite(name, "dim", "", "", task, judge, {"bad": Gate("bad", "")}, (probe,), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"options": ()}, "has no options to choose from"),
        ({"options": ("yes",), "answer": "yes"}, "has the single option 'yes'"),
        ({"options": ("yes", "yes "), "answer": "yes"}, "two options are the same, 'yes'"),
        ({"options": ("yes", "  "), "answer": "yes"}, "an option is empty"),
        ({"options": ("yes", "no")}, "answer '' is none of the options 'yes', 'no'"),
        ({"options": ("yes", "yes, always", "no"), "answer": "no"}, "'yes, always' begins with the option 'yes'"),
        ({"options": ("Yes", "yes"), "answer": "yes", "task": "generate"}, "two options are the same, 'yes'"),
        ({"options": ("yes",), "answer": "yes", "task": "generate", "judge": "leak"}, "has the single option 'yes'"),
    ],
)
def test_options_that_nothing_can_be_chosen_from_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        suite(**given)
    assert str(error.value).startswith("dim/suite: probe 'p1': ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "given",
    [
        {"options": ("wrong", "not wrong"), "answer": "wrong"},
        {"options": ("no", "not wrong"), "answer": "no"},  # another word, not a longer answer
        {"options": ("Yes", "yes"), "answer": "yes"},  # by log-likelihood these are two options
        {"options": ("not", "not wrong"), "answer": "not", "normalise": "bytes"},
        {"options": ("not", "not wrong"), "answer": "not", "task": "generate"},  # the judge looks for the longer first
        {"options": ("not", "not wrong"), "answer": "not", "name": "public/quiz"},
        {"options": (), "task": "generate", "judge": "leak"},
    ],
)
def test_options_that_can_be_told_apart_are_taken(given: dict[str, Any]) -> None:
    assert suite(**given).probes
