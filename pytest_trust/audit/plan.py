"""`--trust-plan`: what a run would do and could find, before a weight is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_trust.engine.rates import operations, planned_tokens, rate_of, tokens_left
from pytest_trust.records import ModelRecord, PlanRecord, PlanRow, PlanTotals
from pytest_trust.responses import Job

if TYPE_CHECKING:
    from pytest_trust.audit.audit import Audit
    from pytest_trust.audit.policy import Policy, Threshold
    from pytest_trust.engine.engine import Engine
    from pytest_trust.models.reference import Reference
    from pytest_trust.probes import Gate, Probe, Suite

# The share of clusters that is assumed to change to better; nothing has been measured yet.
_BACKGROUND = 0.05


def plan_of(audit: Audit, suites: Sequence[Suite]) -> PlanRecord:
    """What a run would do and could find. Loads no weights, downloads and converts nothing.

    `tokens` is an estimate: four characters a token for prompts, the limit for answers, 64 for a trace.
    `detectable` supposes that a twentieth of the clusters changes to better, since no response has been looked at. It
    is exact for binary gates and simulated for graded ones (`pytest_trust.stats.simulated_power`).
    `stored` counts the responses in this store of models whose files are on this machine.
    `seconds` comes from this pair's own rate in this store. Before the pair's first run it is, on a CPU, a guess from
    the number of parameters and the time of a matrix product.
    `memory_bytes` are the weights as loaded.
    """
    from pytest_trust.audit.gate import unit_of

    jobs = [audit.job(way) for suite in suites for way in audit.ways(suite)]
    rows = []
    for suite in suites:
        for gate in suite.gates.values():
            job = audit.job(audit.way(suite, gate))
            relevant: list[Probe] = [
                probe for probe in job.probes if probe.matches(gate.where) or (gate.minus and probe.matches(gate.minus))
            ]
            threshold = audit.policy.threshold_of(suite, gate)
            clusters = len({probe.cluster for probe in relevant})
            rows.append(
                PlanRow(
                    gate=f"{suite.name}/{gate.name}",
                    unit=unit_of(gate),
                    probes=len(relevant),
                    clusters=clusters,
                    margin=threshold.margin if threshold else None,
                    detectable=None
                    if threshold is None or gate.score == "corpus"
                    else _detectable(
                        audit.policy, threshold, audit.policy.family_of(suite, gate), gate, clusters, job.repeats()
                    ),
                    responses=len(relevant) * job.repeats(),
                    tokens=sum(planned_tokens(job, probe) for probe in relevant),
                )
            )
    models = [model for model in (audit.trust.baseline, *audit.trust.candidates) if model]
    holds: dict[str, str] = {}
    return PlanRecord(
        candidates=tuple(_side(audit.engine, model, jobs, holds) for model in audit.trust.candidates),
        baseline=_side(audit.engine, audit.trust.baseline, jobs, holds) if audit.trust.baseline else None,
        holds=holds,
        profile=audit.trust.profile,
        policy=audit.policy.name,
        power=audit.policy.power,
        rows=tuple(rows),
        totals=_totals(audit.engine, jobs, models),
    )


def _side(engine: Engine, reference: Reference, jobs: Sequence[Job], holds: dict[str, str]) -> ModelRecord:
    """The record of a model: its label and reference; for a recording also the identity of the recorded model.

    What a recording holds is added to `holds`. Raises InvalidInput when the recording is damaged or lacks a probe.
    """
    side = ModelRecord(model=reference.label, reference=reference.unlabelled)
    model = engine.model(reference)
    if model.answers:
        return side
    identity = model.identity
    holds[reference.label] = model.contents()
    model.require(jobs)
    return replace(side, fingerprint=identity.fingerprint, dtype=identity.dtype, parameters=identity.parameters)


def _totals(engine: Engine, jobs: Sequence[Job], references: Sequence[Reference]) -> PlanTotals:
    responses = stored = tokens = size = 0
    fingerprints, guess = [], 0.0
    models = [engine.model(reference) for reference in references]
    for model in models:
        responses += sum(len(job.probes) * job.repeats() for job in jobs)
        if not model.at_hand:
            tokens += sum(planned_tokens(job, probe) for job in jobs for probe in job.probes)
            continue
        stored += sum(len(model.stored(job)) for job in jobs)
        if not model.answers:
            continue
        identity, left = model.identity, tokens_left(jobs, model)
        tokens += left
        size += identity.parameter_bytes
        fingerprints.append(identity.fingerprint)
        guess += left * 2 * identity.parameters / operations() if identity.device == "cpu" and left else 0.0
    known = len(fingerprints) == sum(model.answers for model in models)
    rate = rate_of(engine.store, fingerprints) if known else None
    seconds = tokens / rate if rate else guess or None
    return PlanTotals(
        responses=responses,
        stored=stored,
        tokens=tokens,
        seconds=seconds if tokens else 0.0,
        rough=not rate,
        memory_bytes=size if known else None,
    )


def _detectable(policy: Policy, threshold: Threshold, family: int, gate: Gate, clusters: int, repeats: int) -> float:
    """The smallest change that the gate would find with the policy's power; infinite when there is none."""
    from pytest_trust.stats.power import detectable_flips
    from pytest_trust.stats.simulated_power import detectable_graded

    if clusters < 2:
        return math.inf
    graded = bool(gate.minus) or gate.score == "maximum" or (gate.score == "share" and repeats > 1)
    if graded:
        found = detectable_graded(
            clusters,
            _BACKGROUND,
            minus=bool(gate.minus),
            margin=threshold.margin,
            alpha=policy.alpha,
            family=family,
            power=policy.power,
        )
    else:
        found = detectable_flips(
            clusters, _BACKGROUND, margin=threshold.margin, alpha=policy.alpha, family=family, power=policy.power
        )
    return math.inf if found is None else found
