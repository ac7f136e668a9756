"""The units that a gate compares: a score on each side, and a cluster."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_trust.judges.judgement import NOT_MEASURED
from pytest_trust.judges.samples import Side, score_probe
from pytest_trust.probes import Gate, Probe


@dataclass(frozen=True, slots=True)
class Units:
    """A score per unit and side, and the units' clusters and names. A unit is a probe, or for a contrast a cluster."""

    baseline: list[float]
    candidate: list[float]
    clusters: list[str]
    names: list[str]

    def missing(self) -> list[str]:
        """Units without a score on one side or both."""
        pairs = zip(self.names, self.baseline, self.candidate, strict=True)
        return [name for name, before, after in pairs if math.isnan(before) or math.isnan(after)]


def units(gate: Gate, probes: Sequence[Probe], baseline: Side, candidate: Side) -> Units:
    if gate.minus:
        return _contrast_units(gate, probes, baseline, candidate)
    chosen = [probe for probe in probes if probe.matches(gate.where)]
    sides = [[score_probe(gate, side.samples.get(probe.id, ())) for probe in chosen] for side in (baseline, candidate)]
    return Units(sides[0], sides[1], [probe.cluster for probe in chosen], [probe.id for probe in chosen])


def _contrast_units(gate: Gate, probes: Sequence[Probe], baseline: Side, candidate: Side) -> Units:
    clusters: dict[str, list[Probe]] = defaultdict(list)
    for probe in probes:
        clusters[probe.cluster].append(probe)

    def contrast(members: list[Probe], side: Side) -> float:
        means = []
        for where in (gate.where, gate.minus):
            scores = [score_probe(gate, side.samples.get(probe.id, ())) for probe in members if probe.matches(where)]
            means.append(sum(scores) / len(scores) if scores else NOT_MEASURED)
        return means[0] - means[1]

    both = [
        name
        for name, members in clusters.items()
        if all(any(probe.matches(where) for probe in members) for where in (gate.where, gate.minus))
    ]
    scores = [[contrast(clusters[name], side) for name in both] for side in (baseline, candidate)]
    return Units(scores[0], scores[1], both, both)
