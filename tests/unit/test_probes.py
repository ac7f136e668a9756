"""Which probes a profile takes: balanced, nested, and as many clusters as the limit allows."""

from __future__ import annotations

from collections import Counter

import pytest

from pytest_trust.catalog.files import bundled_suites, load_suite
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
