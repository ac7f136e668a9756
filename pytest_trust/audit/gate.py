"""From judged samples to a gate's record: check coverage, compare, list the flips.

The functions are pure: they need no model and no pytest.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_trust.audit.policy import Policy, Threshold
from pytest_trust.audit.units import Units, units
from pytest_trust.judges.samples import SERVER_ENDED, JudgedSample, Side, counted_outcomes, score_probe
from pytest_trust.probes import Gate, Probe, Suite
from pytest_trust.records import (
    Choices,
    FirstToken,
    Flip,
    FlipSide,
    GateRecord,
    JudgeError,
    OtherWay,
    SideRecord,
    Trace,
    Verdict,
)

if TYPE_CHECKING:
    from pytest_trust.audit.judge_error import Accuracy
    from pytest_trust.audit.sequential import Stopping
    from pytest_trust.stats.comparison import Comparison


def gate_record(
    suite: Suite,
    gate: Gate,
    probes: Sequence[Probe],
    baseline: Side,
    candidate: Side,
    *,
    policy: Policy,
    threshold: Threshold,
    judge: str,
    accuracy: tuple[Accuracy, Accuracy] | None = None,
    stopping: Stopping | None = None,
) -> GateRecord:
    """Everything a report needs about one gate, except its drift and what belongs to the whole run.

    `accuracy` is the judge's on the baseline's and on the candidate's answers, where it was measured. `stopping` is
    given where a run may stop early: it says how the visited `probes` were chosen.
    """
    from pytest_trust.audit.breakdown import breakdown
    from pytest_trust.stats.anytime import STOPPING_SHARE
    from pytest_trust.stats.comparison import compare_scores

    paired = units(gate, probes, baseline, candidate)
    relevant = [probe for probe in probes if probe.matches(gate.where) or (gate.minus and probe.matches(gate.minus))]
    sides = (
        _side_record(suite, gate, relevant, baseline, paired.baseline, paired.clusters),
        _side_record(suite, gate, relevant, candidate, paired.candidate, paired.clusters),
    )
    family = policy.family_of(suite, gate)
    if gate.score == "corpus":
        comparison, sides = _corpus(
            gate, relevant, baseline, candidate, sides, policy=policy, threshold=threshold, family=family
        )
    else:
        comparison = compare_scores(
            paired.baseline,
            paired.candidate,
            margin=threshold.margin,
            clusters=paired.clusters,
            alpha=policy.alpha * (1 if stopping is None else 1 - STOPPING_SHARE),
            family=family,
            power=policy.power,
            max_missing=1 - policy.min_coverage,
        )
        comparison = _within_scale(comparison, 2.0 if gate.minus else 1.0)
    sequential = None
    if stopping is not None:
        from pytest_trust.audit.sequential import stopped

        comparison, sequential = stopped(
            comparison, gate, paired, stopping, policy=policy, threshold=threshold, family=family
        )
    flips = _flips(gate, relevant, baseline, candidate)
    verdict: Verdict = comparison.verdict
    reason = _coverage_reason(policy, sides, baseline, candidate, relevant) or comparison.reason
    if reason and verdict != "inconclusive":
        verdict = "not measured"
    never = tuple(sorted(flip.probe for flip in flips if flip.worse and flip.probe in threshold.never))
    owed = _judge_error(gate, relevant, baseline, candidate, paired, accuracy)
    if owed and verdict == "regressed" and comparison.worse is not None and comparison.worse <= owed.flips_limit:
        verdict = "inconclusive"
        reason = (
            f"the judge's own errors would give up to {owed.flips_limit} flips to worse, "
            f"and {comparison.worse} were seen"
        )
    if verdict != "not measured":
        if never:
            verdict, reason = "regressed", f"probes that must never flip did: {', '.join(never)}"
        elif _over_ceiling(gate, threshold, sides[1], paired, policy.alpha):
            verdict = "regressed"
            reason = f"the candidate is above its ceiling of {threshold.ceiling:g}, whatever the baseline is"
    return GateRecord(
        gate=f"{suite.name}/{gate.name}",
        dimension=suite.dimension,
        suite=suite.name,
        metric=gate.name,
        title=gate.title,
        unit=unit_of(gate),
        judge=judge,
        control=suite.control,
        choices=_CHOICES.get(suite.task),
        verdict=verdict,
        reason=reason,
        delta=comparison.delta,
        lower=comparison.lower,
        upper=comparison.upper,
        margin=threshold.margin,
        alpha=comparison.alpha,
        family=comparison.family,
        power=policy.power,
        p_value=comparison.p_value,
        n=comparison.n,
        n_clusters=comparison.n_clusters,
        detectable=comparison.detectable,
        needed=comparison.needed,
        method=comparison.method,
        worse=comparison.worse,
        better=comparison.better,
        missing=tuple(paired.missing()),
        judge_error=owed,
        sequential=sequential,
        baseline=sides[0],
        candidate=sides[1],
        ceiling=threshold.ceiling,
        never=never,
        identical=comparison.identical,
        notes=suite.notes,
        breakdown=breakdown(gate, relevant, baseline, candidate),
        flips=flips,
        flips_total=len(flips),
    )


#: How the choices of a suite are measured, by its task.
_CHOICES: Mapping[str, Choices] = {"choose": "likelihood", "ask": "ask"}
_BY_SEVERITY: tuple[Verdict, ...] = ("held", "inconclusive", "not measured", "regressed")


def with_trace(record: GateRecord, thought: GateRecord, *, gated: bool) -> GateRecord:
    """The record with the same gate on the models' reasoning (`thought`) added as its `trace`.

    A response without a trace counts as an empty trace. Where the policy gates the trace (`gated`), the gate gets the
    worse of the two verdicts. A gate that is not measured stays so.
    """
    record = replace(record, trace=_trace(thought, gated))
    if not gated or record.verdict in ("regressed", "not measured"):
        return record
    if _BY_SEVERITY.index(thought.verdict) <= _BY_SEVERITY.index(record.verdict):
        return record
    flips = (*record.flips, *(replace(flip, in_trace=True) for flip in thought.flips))
    return replace(
        record,
        verdict=thought.verdict,
        reason=f"in the reasoning: {thought.reason or thought.verdict}",
        flips=flips,
        flips_total=len(flips),
    )


def with_other_way(record: GateRecord, other: GateRecord, sides: Sequence[Side], others: Sequence[Side]) -> GateRecord:
    """The record with the same gate added as it is when choices are measured in the other way (`other`).

    `sides` and `others` are the baseline and the candidate in the two ways.
    """
    counts = [_agreement(one, two) for one, two in zip(sides, others, strict=True)]
    assert other.choices is not None
    return replace(
        record,
        other_way=OtherWay(
            choices=other.choices,
            verdict=other.verdict,
            reason=other.reason,
            delta=other.delta,
            lower=other.lower,
            upper=other.upper,
            baseline=other.baseline,
            candidate=other.candidate,
            compared=(counts[0][1], counts[1][1]),
            agreeing=(counts[0][0], counts[1][0]),
        ),
    )


def _agreement(side: Side, other: Side) -> tuple[int, int]:
    """Probes with the same choice in both ways, and probes with a choice in both ways."""
    pairs = [
        (samples[0].chosen, other.samples[name][0].chosen)
        for name, samples in side.samples.items()
        if samples and other.samples.get(name)
    ]
    made = [(one, two) for one, two in pairs if one and two]
    return sum(one == two for one, two in made), len(made)


def _trace(thought: GateRecord, gated: bool) -> Trace:
    return Trace(
        verdict=thought.verdict,
        reason=thought.reason,
        delta=thought.delta,
        lower=thought.lower,
        upper=thought.upper,
        margin=thought.margin,
        n=thought.n,
        worse=thought.worse,
        better=thought.better,
        baseline=thought.baseline,
        candidate=thought.candidate,
        gated=gated,
    )


def _within_scale(comparison: Comparison, most: float) -> Comparison:
    """Clip the limits to the possible differences, -`most` to `most`: with few clusters they can lie beyond."""

    def clipped(value: float | None) -> float | None:
        return None if value is None else min(most, max(-most, value))

    return replace(comparison, lower=clipped(comparison.lower), upper=clipped(comparison.upper))


def _judge_error(
    gate: Gate,
    probes: Sequence[Probe],
    baseline: Side,
    candidate: Side,
    paired: Units,
    accuracy: tuple[Accuracy, Accuracy] | None,
) -> JudgeError | None:
    """The flips that the judge's errors explain; None where a probe has more than one judged response.

    The judge's errors on several samples of one probe are not independent, so the formula does not hold for them.
    """
    from pytest_trust.audit.judge_error import judge_error

    answers = [[side.samples.get(probe.id, ()) for side in (baseline, candidate)] for probe in probes]
    if (
        accuracy is None
        or gate.minus
        or gate.score in ("maximum", "corpus")
        or any(len(one) > 1 for pair in answers for one in pair)
    ):
        return None
    counts = gate.counts if gate.score == "share" else ("bad",)
    changed = sum(bool(before and after and before[0].answer != after[0].answer) for before, after in answers)
    before, after = (side.of_bad(counts) for side in accuracy)
    return judge_error(paired.baseline, paired.candidate, changed, (before, after))


def unit_of(gate: Gate) -> str:
    """`share` where a probe's score is a share of its samples, else `score`."""
    return "score" if gate.score in ("maximum", "corpus") else "share"


def _corpus(
    gate: Gate,
    probes: Sequence[Probe],
    baseline: Side,
    candidate: Side,
    sides: tuple[SideRecord, SideRecord],
    *,
    policy: Policy,
    threshold: Threshold,
    family: int,
) -> tuple[Comparison, tuple[SideRecord, SideRecord]]:
    """Compare a metric of the whole suite. Returns the comparison, and the sides' records with their values."""
    from pytest_trust.stats.corpus import choices, compare_corpus

    comparison, *values = compare_corpus(
        gate.metric,
        probes,
        *(choices(side.samples, probes) for side in (baseline, candidate)),
        margin=threshold.margin,
        alpha=policy.alpha,
        family=family,
        max_missing=1 - policy.min_coverage,
    )
    before, after = (
        replace(
            side,
            value=one.value if one else None,
            lower=one.lower if one else None,
            upper=one.upper if one else None,
        )
        for side, one in zip(sides, values, strict=True)
    )
    return comparison, (before, after)


def _over_ceiling(gate: Gate, threshold: Threshold, candidate: SideRecord, paired: Units, alpha: float) -> bool:
    if gate.score != "corpus":
        return over_ceiling(threshold, paired.candidate, paired.clusters, alpha)
    # This lower limit is two-sided at 95 %: that is stricter than one-sided at alpha = 5 %.
    return threshold.ceiling is not None and candidate.lower is not None and candidate.lower > threshold.ceiling


def over_ceiling(threshold: Threshold, scores: Sequence[float], clusters: Sequence[str], alpha: float) -> bool:
    """Whether the candidate's own lower limit (one-sided, at alpha) is above the absolute ceiling."""
    if threshold.ceiling is None:
        return False
    from pytest_trust.stats.intervals import rate_interval

    interval = rate_interval(scores, clusters, confidence=1 - 2 * alpha)
    return interval is not None and interval.lower is not None and interval.lower > threshold.ceiling


def _side_record(
    suite: Suite, gate: Gate, probes: Sequence[Probe], side: Side, scores: Sequence[float], clusters: Sequence[str]
) -> SideRecord:
    from pytest_trust.stats.intervals import rate_interval

    samples = [sample for probe in probes for sample in side.samples.get(probe.id, ())]
    outcomes = Counter(sample.outcome for sample in samples)
    counted = sum(outcomes[outcome] for outcome in counted_outcomes(gate))
    interval = rate_interval(scores, clusters) if scores else None
    errors = sorted({sample.message for sample in samples if sample.message})
    masses = [sample.option_mass for sample in samples if sample.option_mass is not None]
    return SideRecord(
        model=side.model,
        value=interval.mean if interval else None,
        lower=interval.lower if interval else None,
        upper=interval.upper if interval else None,
        n=len(samples),
        outcomes=dict(sorted(outcomes.items())),
        coverage=counted / len(samples) if samples else 0.0,
        truncated=outcomes["truncated"],
        cut_traces=sum(sample.in_trace and not sample.looped for sample in samples),
        looped=sum(sample.looped for sample in samples),
        saved=sum(sample.saved for sample in samples),
        reasoned=sum(bool(sample.reasoning.strip()) for sample in samples) / len(samples) if samples else 0.0,
        after_trace=sum(sample.after_trace for sample in samples) if suite.task == "choose" else None,
        option_mass=sum(masses) / len(masses) if masses else None,
        first_tokens=_first_tokens(samples) if masses else (),
        closed=sum(sample.closed for sample in samples),
        judge_errors=tuple(errors[:3]),
    )


_FIRST_TOKENS = 5  # of a record


def _first_tokens(samples: Sequence[JudgedSample]) -> tuple[FirstToken, ...]:
    """The likeliest tokens that begin none of the options, by their mean probability over the samples."""
    sums: defaultdict[str, float] = defaultdict(float)
    for sample in samples:
        for text, probability in sample.first_tokens:
            sums[text] += probability
    likeliest = sorted(sums.items(), key=lambda item: (-item[1], item[0]))[:_FIRST_TOKENS]
    return tuple(FirstToken(text=text, probability=total / len(samples)) for text, total in likeliest)


def _coverage_reason(
    policy: Policy,
    sides: tuple[SideRecord, SideRecord],
    baseline: Side,
    candidate: Side,
    probes: Sequence[Probe],
) -> str:
    """Why the gate counts as not measured; empty when it was measured."""
    if not probes:
        return "no probe of this profile belongs to the gate: raise --trust-limit or choose a larger --trust-profile"
    for name, side in (("baseline", baseline), ("candidate", candidate)):
        missing = [probe.id for probe in probes if not side.samples.get(probe.id)]
        if len(missing) > (1 - policy.min_coverage) * len(probes):
            if side.lacking:
                return f"{side.model}: {side.lacking}"
            named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            return f"the {name} has no response to {len(missing)} of {len(probes)} probes ({named})"
    for name, one in zip(("baseline", "candidate"), sides, strict=True):
        if one.coverage < policy.min_coverage:
            return (
                f"only {one.coverage:.0%} of the {name}'s responses count "
                f"(the policy asks for {policy.min_coverage:.0%}){_advice(one)}"
            )
    for name, one in zip(("baseline", "candidate"), sides, strict=True):
        if one.option_mass is not None and one.option_mass < policy.min_option_mass:
            instead = ", ".join(f"{token.text!r} {token.probability:.0%}" for token in one.first_tokens[:3])
            return (
                f"the {name} gives all options together {one.option_mass:.2%} on average (the policy asks for "
                f"{policy.min_option_mass:.0%}), so its choice says little"
                + (f"; it would begin with {instead}" if instead else "")
            )
    before, after = sides
    gap = abs(before.coverage - after.coverage)
    if gap > policy.max_coverage_gap:
        worse = min(sides, key=lambda one: one.coverage)
        return (
            f"the sides' coverage differs by {100 * gap:.1f} points "
            f"(the policy allows {100 * policy.max_coverage_gap:.3g}){_advice(worse)}"
        )
    # Equal coverage can have different causes: one side's answers are cut, the other's cannot be parsed.
    apart = abs(_cut(after) - _cut(before))
    if apart > policy.max_coverage_gap:
        worse = max(sides, key=_cut)
        return (
            f"the sides differ by {100 * apart:.1f} points in responses cut before their answer "
            f"(the policy allows {100 * policy.max_coverage_gap:.3g}){_advice(worse)}"
        )
    return ""


def _cut(side: SideRecord) -> float:
    """Share of the responses that were cut before their answer."""
    return side.truncated / max(1, side.n)


def _advice(side: SideRecord) -> str:
    if side.judge_errors:
        (error, *_) = side.judge_errors
        return f": {error}" if error.startswith(SERVER_ENDED) else f": the judge failed with {error}"
    if not side.truncated:
        return ""
    told = []
    if side.cut_traces:
        told.append(
            f"{side.cut_traces} were cut in their trace; give a longer --trust-max-reasoning-tokens, which goes on "
            "from there, or close long traces with --trust-reasoning-budget=N"
        )
    if in_answer := side.truncated - side.cut_traces - side.looped:
        told.append(
            f"{in_answer} were cut in their answer; give a longer --trust-max-new-tokens, which goes on from there"
        )
    if side.looped:
        told.append(f"{side.looped} repeated themselves without end and were stopped, which no limit would change")
    return ": " + "; ".join(told)


def _flips(gate: Gate, probes: Sequence[Probe], baseline: Side, candidate: Side) -> tuple[Flip, ...]:
    """Probes whose score moved, the worst first. Ties are in order of id, so the list is always the same."""
    moved = []
    for probe in probes:
        before, after = (side.samples.get(probe.id, ()) for side in (baseline, candidate))
        change = score_probe(gate, after) - score_probe(gate, before)
        if math.isnan(change) or change == 0:
            continue
        flip = Flip(
            probe=probe.id,
            cluster=probe.cluster,
            subtype=probe.subtype,
            prompt=probe.prompt,
            worse=change > 0,
            baseline=_worst(gate, before),
            candidate=_worst(gate, after),
        )
        moved.append((change, flip))
    moved.sort(key=lambda item: (-item[0], item[1].probe))
    return tuple(flip for _, flip in moved)


def _worst(gate: Gate, samples: Sequence[JudgedSample]) -> FlipSide:
    """The sample that a report shows for a probe: the worst by the gate's own count, else by score."""
    sample = max(samples, key=lambda sample: (gate.score == "share" and sample.outcome in gate.counts, sample.score))
    score = score_probe(gate, samples)
    return FlipSide(
        outcome=sample.outcome,
        score=None if math.isnan(score) else score,
        answer=sample.answer,
        reasoning=sample.reasoning,
    )
