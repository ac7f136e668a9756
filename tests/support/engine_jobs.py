"""Jobs of the engine's tests, and all that an engine has found for them, to be compared."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.engine.engine import Engine
from pytest_trust.models.reference import Reference
from pytest_trust.probes import Message, Probe
from pytest_trust.responses import Generation, Job, OptionScores


def chat(name: str, prompt: str, **fields: Any) -> Probe:
    return Probe(id=name, cluster=name, messages=(Message("user", prompt),), **fields)


ASK = tuple(chat(f"ask-{index}", "Is it wrong? " * (index + 1)) for index in range(7))
PICK = tuple(chat(f"pick-{index}", f"Is number {index} wrong?", options=("wrong", "not wrong")) for index in range(4))
GREEDY = Job("dim/ask", "generate", ASK, Generation(8), drift=frozenset({"ask-0", "ask-3", "ask-6"}))
CHOICE = Job("dim/pick", "choose", PICK, Generation(8), drift=frozenset({"pick-1"}))
SAMPLED = Job("dim/sampled", "generate", ASK[:3], Generation(6, temperature=1.0, seed=5), samples=3)
JOBS = (GREEDY, CHOICE, SAMPLED)


def engine(store: Path, *, batch_size: int | None = 2, progress: Any = None) -> Engine:
    return Engine(store=store, device=None, dtype=None, batch_size=batch_size, progress=progress)


def everything(found: Engine, references: tuple[Reference, Reference]) -> Any:
    """All that can be looked up, comparable."""
    sides = [
        (found.responses(one, GREEDY), found.options(one, CHOICE), found.responses(one, SAMPLED)) for one in references
    ]
    drifts = [found.drift(job, *references) for job in JOBS]
    columns = [
        {name: drift.kl_pq.tolist() for name, drift in part.items()}
        for drift in drifts
        for part in (drift.candidate_baseline, drift.baseline_candidate, drift.floor)
    ]
    return sides, columns


def check_alike(found: Any, expected: Any) -> None:
    """Equal, numbers up to what another number of threads and another batch do to float32 sums."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            check_alike(found[key], value)
    elif isinstance(expected, OptionScores):
        check_alike(astuple(found), astuple(expected))
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            check_alike(one, other)
    else:
        assert found == (pytest.approx(expected, rel=1e-5, abs=1e-6) if isinstance(expected, float) else expected)
