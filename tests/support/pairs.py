"""What a run does with a pair, in one call each."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_trust.audit.executor import Executor, LocalExecutor
from pytest_trust.drift.measure import stored_drift
from pytest_trust.drift.pair_drift import PairDrift
from pytest_trust.engine.engine import Engine
from pytest_trust.models.reference import Pair, Reference
from pytest_trust.responses import Job


def acquire(found: Engine | Executor, jobs: Iterable[Job], baseline: Reference, candidate: Reference) -> None:
    """Make all that is missing of a pair, in this process where an engine is given."""
    executor = LocalExecutor(found) if isinstance(found, Engine) else found
    executor.acquire(jobs, Pair(baseline, candidate))


def drift(found: Engine | Executor, job: Job, baseline: Reference, candidate: Reference) -> PairDrift:
    """What is stored of the pair's drift on a job."""
    engine = found if isinstance(found, Engine) else found.engine
    return stored_drift(engine, job, baseline, candidate)
