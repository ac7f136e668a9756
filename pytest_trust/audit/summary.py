"""A run's summary from its records: counts, Holm's p-values, each candidate's drift and trust tax."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from pytest_trust.audit.drift_flips import flip_auc
from pytest_trust.records import (
    VERDICTS,
    CandidateRecord,
    Capability,
    ComparisonRecord,
    DimensionTax,
    EnvironmentRecord,
    GateRecord,
    ModelRecord,
    RunRecord,
    StoppedEarly,
    TrustTax,
    Verdict,
    dimension_rank,
    to_json,
)
from pytest_trust.stats.corrections import holm

_PACKAGES = ("numpy", "peft", "pytest", "pytest-trust", "scipy", "tokenizers", "torch", "transformers")

#: A dimension has the verdict of its worst gate. `not measured` is worse than `inconclusive`: it can hide more.
WORST_FIRST: tuple[Verdict, ...] = ("regressed", "not measured", "inconclusive", "held")


def run_record(
    comparisons: Sequence[ComparisonRecord],
    *,
    labels: Sequence[str],
    profile: str,
    policy: str,
    store: str,
    report: str | None,
) -> RunRecord:
    """The document of a run, from one comparison or more. `labels`: the candidates', in the order of the options."""
    gates = with_holm([one.gate for one in comparisons])
    by_label: dict[str, list[ComparisonRecord]] = {}
    for one in comparisons:
        by_label.setdefault(one.gate.candidate.model, []).append(one)
    order = sorted(by_label, key=lambda label: labels.index(label) if label in labels else len(labels))
    candidates = tuple(candidate_record(by_label[label]) for label in order)
    baseline, first = comparisons[0].pair.baseline, candidates[0]
    return RunRecord(
        baseline=baseline,
        candidate=ModelRecord(**_fields_of(ModelRecord, first)),
        candidates=candidates,
        profile=profile,
        policy=policy,
        identical=all(candidate.identical for candidate in candidates),
        warnings=tuple(sorted({text for one in comparisons for text in (*one.pair.warnings, *one.gate.notes)})),
        counts=counts(gates),
        drift=first.drift,
        gates=tuple(in_order(gates)),
        stopped_early=stopped_early(gates),
        environment=EnvironmentRecord(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            python=platform.python_version(),
            platform=f"{sys.platform} {platform.machine()}",
            versions=_versions(),
            devices={"baseline": baseline.device, "candidate": first.device},
            store=store,
            report=report,
        ),
    )


def in_order(gates: Iterable[GateRecord]) -> list[GateRecord]:
    """The gates in the order of the report, which does not depend on the order of the tests."""
    # Two tests may use one gate, and one test may be repeated: the record's text breaks the tie.
    return sorted(gates, key=lambda gate: (gate.gate, gate.nodeid, json.dumps(to_json(gate), sort_keys=True)))


def counts(gates: Iterable[GateRecord]) -> dict[str, int]:
    """The number of gates by verdict and in all, controls left out; and the number of controls."""
    verdicts = [gate.verdict for gate in gates if not gate.control]
    controls = sum(gate.control for gate in gates)
    return {**{verdict: verdicts.count(verdict) for verdict in VERDICTS}, "gates": len(verdicts), "controls": controls}


def with_holm(gates: Sequence[GateRecord]) -> list[GateRecord]:
    """The gates with their p-values adjusted by Holm's method over each family.

    A family is a candidate's gates of the policy, or its gates of public benchmarks. Controls are not adjusted.
    """
    groups: dict[tuple[str, int], dict[int, float]] = {}
    for place, gate in enumerate(gates):
        if not gate.control and gate.p_value is not None:
            groups.setdefault((gate.candidate.model, gate.family), {})[place] = gate.p_value
    adjusted: dict[int, float] = {}
    for (_, family), values in groups.items():
        adjusted |= zip(values, holm(list(values.values()), family).tolist(), strict=True)
    return [replace(gate, p_holm=adjusted.get(place)) for place, gate in enumerate(gates)]


def candidate_record(comparisons: Sequence[ComparisonRecord]) -> CandidateRecord:
    """The record of one candidate, from its comparisons."""
    drift = {one.gate.dimension: one.dimension_drift for one in comparisons if one.dimension_drift}
    tax = trust_tax(sorted((one.gate for one in comparisons), key=lambda gate: (gate.gate, gate.nodeid)))
    dimensions = {
        name: replace(
            found,
            drift_auc=flip_auc(
                [one.drift_by_flip for one in comparisons if one.gate.dimension == name and not one.gate.control]
            ),
        )
        for name, found in tax.dimensions.items()
    }
    return CandidateRecord(
        **_fields_of(ModelRecord, comparisons[0].pair.candidate),
        drift=drift,
        identical=bool(drift) and all(one.identical for one in drift.values()),
        tax=replace(tax, dimensions=dimensions),
        counts=counts([one.gate for one in comparisons]),
    )


def trust_tax(gates: Sequence[GateRecord]) -> TrustTax:
    """The trust tax of one candidate: what it gained in capability, and a row per dimension, controls left out."""
    by_dimension: dict[str, list[GateRecord]] = {}
    for gate in gates:
        if not gate.control:
            by_dimension.setdefault(gate.dimension, []).append(gate)
    return TrustTax(
        capability=tuple(_capability(gate) for gate in gates if gate.control),
        dimensions={name: _dimension(by_dimension[name]) for name in sorted(by_dimension, key=dimension_rank)},
    )


def _dimension(gates: Sequence[GateRecord]) -> DimensionTax:
    verdicts = {gate.gate: gate.verdict for gate in gates}
    return DimensionTax(
        verdict=next(verdict for verdict in WORST_FIRST if verdict in verdicts.values()),
        gates=verdicts,
        worse=tuple(sorted({probe for gate in gates for probe in _flipped(gate, worse=True)})),
        better=tuple(sorted({probe for gate in gates for probe in _flipped(gate, worse=False)})),
    )


def _capability(gate: GateRecord) -> Capability:
    return Capability(
        gate=gate.gate,
        dimension=gate.dimension,
        suite=gate.suite,
        unit=gate.unit,
        n=gate.n,
        measured=gate.verdict != "not measured",
        change=_minus(gate.delta),
        lower=_minus(gate.upper),
        upper=_minus(gate.lower),
        gained=_flipped(gate, worse=False),
        lost=_flipped(gate, worse=True),
    )


def _minus(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else 0.0 - value


def _flipped(gate: GateRecord, *, worse: bool) -> tuple[str, ...]:
    return tuple(sorted(flip.probe for flip in gate.flips if flip.worse is worse))


def stopped_early(gates: Sequence[GateRecord]) -> StoppedEarly | None:
    """The response tokens of both models that stopping early has saved, each suite counted once."""
    suites = {gate.suite: gate.sequential for gate in gates if gate.sequential}
    tokens = sum(state.tokens for state in suites.values())
    if not tokens:
        return None
    return StoppedEarly(tokens=tokens, saved=sum(state.saved for state in suites.values()))


def _versions() -> Mapping[str, str]:
    versions: dict[str, str] = {}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _fields_of(kind: type[Any], record: Any) -> dict[str, Any]:
    """The record's values for the fields of `kind`."""
    return {one.name: getattr(record, one.name) for one in fields(kind)}
