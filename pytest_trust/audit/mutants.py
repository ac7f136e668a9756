"""`--trust-mutants`: the baseline against damaged copies of itself, gate by gate, and what that says about the suites."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import InvalidInput
from pytest_trust.models.mutants import Dosed, choose
from pytest_trust.models.reference import Pair, Reference, parse_reference

if TYPE_CHECKING:
    from pytest_trust.audit.audit import Audit
    from pytest_trust.probes import Suite

_GATE_KEYS = ("gate", "dimension", "control", "unit", "verdict", "reason", "n", "worse", "better")
_GATE_NUMBERS = ("delta", "lower", "upper", "margin")


def with_mutant(reference: Reference, dosed: Dosed) -> Reference:
    """The reference of a model with a mutant applied to it.

    Raises:
        InvalidInput: the reference has a mutant already, or names a recording.
    """
    if reference.mutant is not None:
        raise InvalidInput(f"{reference.text}: is a mutant already: give the model as it is")
    joint = "&" if reference.text.endswith("&") or "?" in reference.text else "?"
    mutated = parse_reference(f"{reference.text}{joint}mutant={dosed}")
    return replace(mutated, label=f"{reference.label}{'&' if '?' in reference.label else '?'}mutant={dosed}")


def run_mutants(audit: Audit, baseline: Reference, suites: Sequence[Suite], names: Sequence[str]) -> dict[str, Any]:
    """Measure the mutants of the selected suites (or those named) and judge the suites by them; see `mutant_document` for what it gives.

    One mutant is in memory beside the baseline at a time. Gates without a margin in the policy are left out.

    Raises:
        InvalidInput: no mutant belongs to the selected suites and none was named, or no gate has a margin.
        TrustError: a model cannot be had or run.
    """
    measured = {
        suite.name: [gate for gate in suite.gates.values() if audit.policy.threshold_of(suite, gate)]
        for suite in suites
    }
    kept = [suite for suite in suites if measured[suite.name]]
    if not kept:
        raise InvalidInput(
            "--trust-mutants: no selected gate has a margin: select a bundled suite or give a --trust-policy"
        )
    dimensions = list(dict.fromkeys(suite.dimension for suite in kept))
    chosen = choose(names, dimensions)
    if not chosen:
        raise InvalidInput(
            f"--trust-mutants: no mutant belongs to {', '.join(dimensions)}: name some, --trust-mutants=noise,int4"
        )
    runs, run = [], {}
    for dosed in chosen:
        pair = Pair(baseline, with_mutant(baseline, dosed))
        audit.acquire(pair, kept)
        records = [audit.gate_record(pair, suite, gate) for suite in kept for gate in measured[suite.name]]
        drift = (audit.drifts.record(pair, kept) or {}).get("candidate_baseline") or {}
        runs.append(mutant_record(dosed, records, drift.get("mean")))
        run = audit.run_record(pair)
        audit.engine.model(pair.candidate).release()
    meta = {
        "profile": audit.trust.profile,
        "policy": audit.policy.name,
        "baseline": run["baseline"],
        "warnings": run["warnings"],
    }
    return mutant_document(runs, meta)


def mutant_record(dosed: Dosed, records: Sequence[Mapping[str, Any]], drift: float | None) -> dict[str, Any]:
    """What the gates said to one mutant at one dose; `drift` is KL(candidate || baseline) in nats per token.

    `own` are the dimensions that must notice it, among those measured (none for a null mutant); `noticed` the gates that were
    `regressed`; `killed` the own dimensions with one of these.
    """
    measured = list(dict.fromkeys(str(record["dimension"]) for record in records))
    own = [name for name in measured if name in dosed.mutant.dimensions and dosed.dose > 0]
    noticed = [record for record in records if record["verdict"] == "regressed"]
    return {
        "mutant": dosed.name,
        "dose": dosed.dose,
        "highest": dosed.dose == max(dosed.mutant.doses),
        "meaning": dosed.mutant.meaning,
        "source": dosed.mutant.source,
        "own": own,
        "killed": [name for name in own if any(record["dimension"] == name for record in noticed)],
        "noticed": [str(record["gate"]) for record in noticed],
        "drift": _number(drift),
        "gates": [{key: _number(record[key]) for key in (*_GATE_KEYS, *_GATE_NUMBERS)} for record in records],
    }


def mutant_document(runs: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a run as plain data, which table and JSON report show.

    `dimensions`: per dimension its own mutants, `killed` of `mutants` at every positive dose and at the `highest`, the `survivors` at the
    highest, whether it is a `control`, and the gates of it that no mutant at all moved (`unmoved`). `null_killed`: gates that regressed though nothing was damaged. `passed` is false when there
    is one of these, or a survivor in a dimension that is no control.
    """
    controls = {gate["dimension"]: bool(gate["control"]) for run in runs for gate in run["gates"]}
    dimensions = {}
    for name, control in controls.items():
        own = [run for run in runs if name in run["own"]]
        top = [run for run in own if run["highest"]]
        gates = dict.fromkeys(gate["gate"] for run in runs for gate in run["gates"] if gate["dimension"] == name)
        dimensions[name] = {
            "control": control,
            "mutants": len(own),
            "killed": sum(name in run["killed"] for run in own),
            "highest": len(top),
            "highest_killed": sum(name in run["killed"] for run in top),
            "survivors": [run["mutant"] for run in top if name not in run["killed"]],
            "unmoved": [gate for gate in gates if not any(gate in run["noticed"] for run in runs)] if own else [],
        }
    null_killed = [
        {"mutant": run["mutant"], "gate": gate} for run in runs if run["dose"] == 0 for gate in run["noticed"]
    ]
    survived = any(found["survivors"] and not found["control"] for found in dimensions.values())
    return {
        "schema": 1,
        "kind": "mutants",
        **meta,
        "mutants": list(runs),
        "dimensions": dimensions,
        "null_killed": null_killed,
        "passed": not null_killed and not survived,
    }


def _number(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value
