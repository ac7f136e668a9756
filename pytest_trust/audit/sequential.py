"""`--trust-sequential`: probes are visited in a fixed order, and a suite stops when all its gates are known.

A gate is known when the limits that hold at any time (`anytime`) say held or regressed. It is given up when even the
whole budget would hardly decide it. These limits spend `STOPPING_SHARE` of the error rate. A gate that reaches the end
of its budget is decided by the fixed-sample test at the rest of the error rate, so both together keep it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_trust.audit.policy import Policy, Threshold
from pytest_trust.probes import Gate, in_clusters, visiting_order
from pytest_trust.records import Sequential
from pytest_trust.responses import Job
from pytest_trust.stats.anytime import FUTILE, STOPPING_SHARE, Anytime, anytime_limits, chance_to_decide, decided

if TYPE_CHECKING:
    from pytest_trust.audit.units import Units
    from pytest_trust.stats.comparison import Comparison
    from pytest_trust.stats.intervals import Floats

_FIRST_LOOK = 16  # probes
_GROWTH = 1.5  # of the number of probes from one look to the next


@dataclass(frozen=True, slots=True)
class Stopping:
    """How far a suite has been visited, as one gate sees it.

    order: the visited clusters in their order. looks: the number of clusters visited at each look.
    complete: whether all probes were visited. largest: the gate's probes in its largest cluster.
    budget: the gate's units in the whole suite.
    """

    order: tuple[str, ...]
    looks: tuple[int, ...]
    complete: bool
    largest: int
    budget: int


@dataclass(frozen=True, slots=True)
class Visit:
    """The visited part `job` of the whole job `full`; `order` and `looks` are as in `Stopping`."""

    full: Job
    job: Job
    order: tuple[str, ...]
    looks: tuple[int, ...]

    @property
    def complete(self) -> bool:
        return len(self.job.probes) == len(self.full.probes)

    def of(self, gate: Gate) -> Stopping:
        """The visit as one gate sees it."""
        mine = [
            probe
            for probe in self.full.probes
            if probe.matches(gate.where) or (gate.minus and probe.matches(gate.minus))
        ]
        sizes = Counter(probe.cluster for probe in mine)
        units = len(sizes) if gate.minus else len(mine)
        largest = 1 if gate.minus else max(sizes.values(), default=1)
        return Stopping(self.order, self.looks, self.complete, largest, units)


def look_sizes(total: int) -> list[int]:
    """The numbers of probes after which a job of `total` probes is looked at; the last one is `total`."""
    sizes, size = [], float(_FIRST_LOOK)
    while size < total:
        sizes.append(int(size))
        size *= _GROWTH
    return [*sizes, total]


def visit_prefixes(job: Job) -> list[Visit]:
    """The visit at each look: whole clusters, in the order in which smaller profiles select them."""
    order, members = visiting_order(job.probes), in_clusters(job.probes)
    visits: list[Visit] = []
    looks: list[int] = []
    count, taken = 0, 0
    for size in look_sizes(len(job.probes)):
        while taken < len(order) and (count == 0 or count + len(members[order[taken]]) <= size):
            count += len(members[order[taken]])
            taken += 1
        if looks and looks[-1] == taken:
            continue
        looks.append(taken)
        chosen = set(order[:taken])
        part = replace(job, probes=tuple(probe for probe in job.probes if probe.cluster in chosen), drift=frozenset())
        visits.append(Visit(job, part, tuple(order[:taken]), tuple(looks)))
    return visits


def limits_of(
    gate: Gate, units: Units, stopping: Stopping, policy: Policy, family: int
) -> tuple[Anytime, Floats, Floats]:
    """A gate's limits at any time; beside them, by visited cluster, the sum of its differences and its size."""
    import numpy as np

    sums: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for cluster, before, after in zip(units.clusters, units.baseline, units.candidate, strict=True):
        if not math.isnan(before) and not math.isnan(after):
            sums[cluster] = sums.get(cluster, 0.0) + after - before
            sizes[cluster] = sizes.get(cluster, 0) + 1
    mine = [cluster for cluster in stopping.order if cluster in sums]
    place = {cluster: index for index, cluster in enumerate(stopping.order)}
    looks = [sum(place[cluster] < look for cluster in mine) for look in stopping.looks]
    total = np.array([sums[cluster] for cluster in mine], dtype=np.float64)
    count = np.array([sizes[cluster] for cluster in mine], dtype=np.float64)
    spent = STOPPING_SHARE * policy.alpha
    limits = anytime_limits(
        total,
        count,
        [look for look in looks if look],
        lower_level=spent / family,
        upper_level=spent,
        largest=stopping.largest,
        scale=2.0 if gate.minus else 1.0,
    )
    return limits, total, count


def stopped(
    comparison: Comparison,
    gate: Gate,
    units: Units,
    stopping: Stopping,
    *,
    policy: Policy,
    threshold: Threshold,
    family: int,
) -> tuple[Comparison, Sequential]:
    """The comparison after the visit, and the record of the visit.

    The record is `stopped` where the gate was held or regressed early, and `given_up` where it would hardly be decided.
    """
    limits, sums, sizes = limits_of(gate, units, stopping, policy, family)
    verdict = decided(limits, threshold.margin) if comparison.n else ""
    record = Sequential(
        units=comparison.n,
        of=stopping.budget,
        e_value=limits.e_value,
        stopped=bool(verdict),
        given_up=False,
    )
    if not verdict and stopping.complete:
        return comparison, record
    changes: dict[str, Any] = {
        "lower": limits.lower,
        "upper": limits.upper,
        "p_value": min(1.0, 1 / (limits.e_value * STOPPING_SHARE)) if limits.e_value else 1.0,
        "method": f"betting confidence sequence, stopped after {comparison.n} of {stopping.budget}",
        "detectable": None,
        "alpha": STOPPING_SHARE * policy.alpha,
    }
    if comparison.verdict == "not measured":
        return comparison, record
    if verdict:
        return replace(comparison, **changes, verdict=verdict, reason="", needed=None), record
    chance = chance_to_decide(
        sums,
        sizes,
        stopping.budget,
        margin=threshold.margin,
        lower_level=policy.alpha / family,
        upper_level=policy.alpha,
    )
    record = replace(record, given_up=chance < FUTILE)
    reason = (
        f"given up after {comparison.n} of {stopping.budget}: "
        f"the rest would decide it with a probability below {FUTILE:.0%}"
    )
    return replace(comparison, **changes, verdict="inconclusive", reason=reason), record
