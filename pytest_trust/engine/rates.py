"""How many tokens a run plans to compute, and how many a second its models have reached."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pytest_trust.engine.store import Store
from pytest_trust.keys import digest
from pytest_trust.responses import Job

if TYPE_CHECKING:
    from pytest_trust.engine.model import Model
    from pytest_trust.probes import Probe


# Tokens. With less work, a measured rate is mostly the time of loading.
_LEAST_TOKENS = 10_000

# Tokens of a trace that are planned, where its limit allows. Before a model's first run nobody knows whether it
# reasons and how long: the demo's models write 20 on average, others thousands. The rate of the first run corrects it.
_TRACE = 64

# Planned tokens a second, as a share of the tokens that matrix products of this machine would allow at 2 operations a
# parameter. The demo pair reached this share: memory-bound steps cost time, and responses that end before their limit
# save it.
_EFFICIENCY = 0.8


def planned_tokens(job: Job, probe: Probe) -> int:
    """Tokens of a probe's input, at four characters a token, of its traces, at 64, and of its answers, at the longest.

    A chat whose options are scored is read twice: before its lead-in and before its options.
    """
    characters = (
        sum(len(message.content) for message in probe.messages) + len(probe.text) + sum(map(len, probe.options))
    )
    prompt = characters // 4 + 8
    trace = min(_TRACE, job.generation.reasoning_budget or 0) if probe.messages else 0
    if job.task == "choose":
        return prompt + (prompt + trace if probe.messages else 0)
    return prompt + (trace + job.generation.max_new_tokens) * job.repeats()


def remember_rate(store: Store, fingerprints: Iterable[str], tokens: int, seconds: float) -> None:
    """Store how long a run took for its planned tokens. The first run of these models in a store is kept."""
    if tokens >= _LEAST_TOKENS:
        store.put_json("notes", {_rate_key(fingerprints): {"tokens": tokens, "seconds": round(seconds, 1)}})


def rate_of(store: Store, fingerprints: Iterable[str]) -> float | None:
    """Planned tokens a second of these models' first run in this store; None before that."""
    key = _rate_key(fingerprints)
    found = store.get_json("notes", [key]).get(key)
    return found["tokens"] / max(found["seconds"], 0.1) if found else None


def tokens_left(jobs: Iterable[Job], model: Model) -> int:
    """Planned tokens of a model's missing results."""
    left = 0
    for job in jobs:
        stored = model.stored(job)
        for probe in job.probes:
            missing = sum((probe.id, repeat) not in stored for repeat in range(job.repeats()))
            left += planned_tokens(job, probe) * missing // job.repeats()
    return left


def _rate_key(fingerprints: Iterable[str]) -> str:
    return digest("rate", 1, sorted(set(fingerprints)))


def operations() -> float:
    """Floating-point operations a second that a run can expect here: a share of what a matrix product reaches."""
    import time

    import numpy as np

    a = np.ones((512, 1024), np.float32)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ a.T
        best = min(best, time.perf_counter() - start)
    return 2 * 512 * 512 * 1024 / best * _EFFICIENCY
