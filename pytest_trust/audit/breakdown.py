"""Where in a suite a gate moved: its metric by subtype and by every factor that the probes vary.

Factors are, for instance, the wrapper, the system prompt, the style or the phrasing. A breakdown is exploratory: its
parts have neither limits nor verdicts, since nobody chose a part before looking at the data.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from pytest_trust.judges.samples import Side, score_probe
from pytest_trust.probes import Gate, Probe
from pytest_trust.records import Breakdown

#: A factor with more values than this names single things, not kinds of probes.
MOST_VALUES = 24


def factors(gate: Gate, probes: Sequence[Probe]) -> list[str]:
    """Names of the factors that the gate's probes vary, `subtype` first.

    A factor has two to `MOST_VALUES` values, and on average two probes or more a value. Factors that the gate itself
    contrasts are left out.
    """
    names = ["subtype", *dict.fromkeys(name for probe in probes for name in probe.fields)]
    found = []
    for name in names:
        values = {str(probe.attribute(name)) for probe in probes}
        if 2 <= len(values) <= MOST_VALUES and 2 * len(values) <= len(probes) and name not in gate.minus:
            found.append(name)
    return found


def breakdown(gate: Gate, probes: Sequence[Probe], baseline: Side, candidate: Side) -> dict[str, tuple[Breakdown, ...]]:
    """By factor a row per value, the largest change to worse first.

    Empty for metrics of a whole suite and for contrasts: their unit is not a probe.
    """
    if gate.score == "corpus" or gate.minus:
        return {}
    scores: dict[str, tuple[float, float]] = {}
    for probe in probes:
        pair = tuple(score_probe(gate, side.samples.get(probe.id, ())) for side in (baseline, candidate))
        if not any(map(math.isnan, pair)):
            scores[probe.id] = (pair[0], pair[1])
    found: dict[str, tuple[Breakdown, ...]] = {}
    for name in factors(gate, [probe for probe in probes if probe.id in scores]):
        groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for probe in probes:
            if probe.id in scores:
                value = probe.attribute(name)
                groups["-" if value is None else str(value)].append(scores[probe.id])
        rows = []
        for value, pairs in groups.items():
            before, after = (sum(pair[side] for pair in pairs) / len(pairs) for side in (0, 1))
            rows.append(Breakdown(value=value, n=len(pairs), baseline=before, candidate=after, delta=after - before))
        found[name] = tuple(sorted(rows, key=lambda row: (-row.delta, row.value)))
    return found
