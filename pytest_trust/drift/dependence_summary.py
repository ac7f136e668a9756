"""Trace dependence over many responses: nats per answer and the share of answers that change, with clustered limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_trust.drift.trace_cuts import KINDS
from pytest_trust.records import DependenceChange, TraceDependence, TraceDependenceRecord
from pytest_trust.stats.estimates import Sample, Statistic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_trust.drift.trace_dependence import Answer, Dependence

# Error rate of each limit: the two together are a two-sided 95 % interval.
_ALPHA = 0.025
_UNIT = "nats per answer"


def dependence_record(baseline: Sequence[Dependence], candidate: Sequence[Dependence]) -> TraceDependenceRecord | None:
    """The record of both models' dependence on several jobs, one entry a job; None where nothing was measured."""
    sides = [_by_kind(one) for one in (baseline, candidate)]
    if not any(sides):
        return None
    before, after = sides
    change = {kind: _change(before[kind], after[kind]) for kind in KINDS if kind in before and kind in after}
    return TraceDependenceRecord(
        baseline={kind: summarise_answers(list(found.values())) for kind, found in before.items()},
        baseline_reason="" if before else _reason(baseline),
        candidate={kind: summarise_answers(list(found.values())) for kind, found in after.items()},
        candidate_reason="" if after else _reason(candidate),
        change={kind: one for kind, one in change.items() if one},
    )


def _reason(jobs: Sequence[Dependence]) -> str:
    return next((one.reason for one in jobs if one.reason), "")


def _by_kind(jobs: Sequence[Dependence]) -> dict[str, dict[tuple[str, str], Answer]]:
    """The answers by kind, then by suite and probe. Answers without counted tokens are left out."""
    found: dict[str, dict[tuple[str, str], Answer]] = {}
    for kind in KINDS:
        answers = {
            (one.suite, name): one
            for job in jobs
            for name, one in sorted(job.answers.get(kind, {}).items())
            if one.tokens
        }
        if answers:
            found[kind] = answers
    return found


def summarise_answers(answers: Sequence[Answer]) -> TraceDependence:
    """Summary of at least one answer.

    The mean is over responses, its error is linearised over clusters, and its limits are Student's t
    (`estimates.Sample`). The share's limits are Wilson's (`intervals.rate_interval`). Infinite divergences make the
    mean infinite, which reports show as unknown.
    """
    from pytest_trust.stats.intervals import rate_interval

    clusters = [one.cluster for one in answers]
    mean = _mean([one.nats for one in answers], clusters, least=0.0)
    known = [one for one in answers if one.changed is not None]
    share = (
        rate_interval([float(bool(one.changed)) for one in known], [one.cluster for one in known]) if known else None
    )
    first = [one.begins_otherwise for one in answers if one.begins_otherwise is not None]
    return TraceDependence(
        **_limits(mean),
        responses=len(answers),
        clusters=len(set(clusters)),
        tokens=sum(one.tokens for one in answers),
        infinite=sum(math.isinf(one.nats) for one in answers),
        changed=share.mean if share else None,
        changed_lower=share.lower if share else None,
        changed_upper=share.upper if share else None,
        begins_otherwise=sum(first) / len(first) if first else None,
    )


def _change(before: Mapping[Any, Answer], after: Mapping[Any, Answer]) -> DependenceChange | None:
    """The difference of the two sides, paired by probe; None where they have no probe in common."""
    both = sorted(before.keys() & after.keys())
    if not both:
        return None
    clusters = [after[name].cluster for name in both]
    found = _mean([after[name].nats - before[name].nats for name in both], clusters)
    return DependenceChange(**_limits(found), probes=len(both), clusters=len(set(clusters)))


def _mean(values: Sequence[float], clusters: Sequence[str], *, least: float = -math.inf) -> Statistic:
    import numpy

    sums: NDArray[Any] = numpy.array(values, dtype=numpy.float64)
    return Sample(clusters, _ALPHA).ratio(sums, numpy.ones_like(sums), _UNIT, least=least)


def _limits(value: Statistic) -> dict[str, float | None]:
    """The fields of a mean, to 9 significant digits; a number that is not finite is None."""
    numbers = {"mean": float(value), "error": value.error, "lower": value.lower_limit, "upper": value.upper_limit}
    return {name: float(f"{one:.9g}") if math.isfinite(one) else None for name, one in numbers.items()}
