"""`--trust-mutants`: every gate compares the baseline with damaged copies of itself, and that tests the suites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from pytest_trust.errors import InvalidInput
from pytest_trust.models.mutants import Dosed, choose
from pytest_trust.models.reference import Pair, Reference, parse_reference
from pytest_trust.records import (
    GateRecord,
    MutantDimension,
    MutantGate,
    MutantRecord,
    MutantsRecord,
    NullKilled,
    PairRecord,
)

if TYPE_CHECKING:
    from pytest_trust.audit.audit import Audit
    from pytest_trust.probes import Suite


def with_mutant(reference: Reference, dosed: Dosed) -> Reference:
    """The reference of a model with a mutant applied to it.

    Raises:
        InvalidInput: the reference already has a mutant, or names a recording.
    """
    if reference.mutant is not None:
        raise InvalidInput(f"{reference.text}: is a mutant already: give the model as it is")
    joint = "&" if reference.text.endswith("&") or "?" in reference.text else "?"
    mutated = parse_reference(f"{reference.text}{joint}mutant={dosed}")
    return replace(mutated, label=f"{reference.label}{'&' if '?' in reference.label else '?'}mutant={dosed}")


def run_mutants(audit: Audit, baseline: Reference, suites: Sequence[Suite], names: Sequence[str]) -> MutantsRecord:
    """Measure the named mutants, else those of the selected suites, and judge the suites by them.

    Only one mutant at a time is in memory beside the baseline. Gates without a margin are left out.

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
    runs = []
    for dosed in chosen:
        pair = Pair(baseline, with_mutant(baseline, dosed))
        audit.acquire(pair, kept)
        compared = [audit.compare(pair, suite, gate) for suite in kept for gate in measured[suite.name]]
        drift = audit.drifts.record(pair, kept)
        summary = drift.candidate_baseline if drift else None
        runs.append(mutant_record(dosed, [one.gate for one in compared], summary.mean if summary else None))
        audit.engine.model(pair.candidate).release()
    return mutants_record(runs, compared[-1].pair, profile=audit.trust.profile, policy=audit.policy.name)


def mutant_record(dosed: Dosed, records: Sequence[GateRecord], drift: float | None) -> MutantRecord:
    """The gates' verdicts on one mutant at one dose; `drift` is KL(mutant || baseline) in nats per token.

    In the record, `own` are the measured dimensions that must notice the mutant (none at dose 0), `noticed` the gates
    that regressed, and `killed` the own dimensions with such a gate.
    """
    measured = list(dict.fromkeys(record.dimension for record in records))
    own = tuple(name for name in measured if name in dosed.mutant.dimensions and dosed.dose > 0)
    noticed = [record for record in records if record.verdict == "regressed"]
    names = [one.name for one in fields(MutantGate)]
    return MutantRecord(
        mutant=dosed.name,
        dose=dosed.dose,
        highest=dosed.dose == max(dosed.mutant.doses),
        meaning=dosed.mutant.meaning,
        source=dosed.mutant.source,
        own=own,
        killed=tuple(name for name in own if any(record.dimension == name for record in noticed)),
        noticed=tuple(record.gate for record in noticed),
        drift=drift,
        gates=tuple(MutantGate(**{name: getattr(record, name) for name in names}) for record in records),
    )


def mutants_record(runs: Sequence[MutantRecord], pair: PairRecord, *, profile: str, policy: str) -> MutantsRecord:
    """The result of the whole run, for the table and the JSON report. `pair`: the baseline and the last mutant."""
    controls = {gate.dimension: gate.control for run in runs for gate in run.gates}
    dimensions = {}
    for name, control in controls.items():
        own = [run for run in runs if name in run.own]
        top = [run for run in own if run.highest]
        gates = dict.fromkeys(gate.gate for run in runs for gate in run.gates if gate.dimension == name)
        unmoved = [gate for gate in gates if not any(gate in run.noticed for run in runs)]
        dimensions[name] = MutantDimension(
            control=control,
            mutants=len(own),
            killed=sum(name in run.killed for run in own),
            highest=len(top),
            highest_killed=sum(name in run.killed for run in top),
            survivors=tuple(run.mutant for run in top if name not in run.killed),
            unmoved=tuple(unmoved if own else ()),
        )
    null_killed = [NullKilled(mutant=run.mutant, gate=gate) for run in runs if run.dose == 0 for gate in run.noticed]
    survived = any(found.survivors and not found.control for found in dimensions.values())
    return MutantsRecord(
        profile=profile,
        policy=policy,
        baseline=pair.baseline,
        warnings=pair.warnings,
        mutants=tuple(runs),
        dimensions=dimensions,
        null_killed=tuple(null_killed),
        passed=not null_killed and not survived,
    )
