"""The engine's side of drift: heads that are not the model's, and bad logits by their names."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pytest_trust.drift.kernels import reduction
from pytest_trust.drift.reduce_pair import Read, divergences
from pytest_trust.engine.engine import Engine
from pytest_trust.errors import InvalidInput
from pytest_trust.models import heads
from pytest_trust.models.heads import Head
from pytest_trust.models.reference import parse_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.responses import Generation, Job
from tests.support.tiny_models import save_model

PROBES = tuple(
    Probe(id=f"ask-{i}", cluster=f"ask-{i}", messages=(Message("user", "Is it wrong? " * i),)) for i in (1, 2)
)
JOB = Job("dim/ask", "generate", PROBES, Generation(4), drift=frozenset({"ask-1", "ask-2"}))


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    return tuple(parse_reference(str(save_model(directory / name, seed=seed))) for seed, name in enumerate("ab"))


def engine(store):
    return Engine(store=store, device=None, dtype=None, batch_size=2, progress=None)


def test_heads_are_checked_once_a_model_and_the_path_is_recorded(references, tmp_path, monkeypatch):
    checked = []
    check = pair_check()
    monkeypatch.setattr(
        "pytest_trust.models.hidden_states.check_head", lambda model, head: (checked.append(model), check(model, head))
    )
    with engine(tmp_path) as found:
        found.acquire([JOB], *references)
        found.acquire([Job("dim/other", "generate", PROBES, Generation(3), drift=JOB.drift)], *references)
        assert len(checked) == 2
        assert found.drift(JOB, *references).candidate_baseline.keys() == JOB.drift
        with found.store._open() as connection:
            contexts = [row[0] for row in connection.execute("SELECT context FROM drifts")]
    assert contexts
    assert all(reduction.path() in context for context in contexts)


def pair_check():
    from pytest_trust.models.hidden_states import check_head

    return check_head


def test_a_model_that_does_more_to_its_logits_claims_no_drift(references, tmp_path, monkeypatch):
    # As if this version did not know the configuration key that scales the logits.
    real = heads.head_of
    monkeypatch.setattr(heads, "head_of", lambda model: Head(real(model).weight, scale=0.5))
    with engine(tmp_path) as found:
        found.acquire([JOB], *references)
        drift = found.drift(JOB, *references)
    assert not drift.candidate_baseline
    assert "does more to its logits than its output layer" in drift.candidate_baseline_reason
    assert drift.candidate_baseline_reason.startswith("a: ")


def test_bad_logits_name_model_probe_and_token():
    options = SimpleNamespace(recorded=False, prompts={}, answers={})
    unit = SimpleNamespace(
        side=lambda side: options,
        probe=SimpleNamespace(id="ask-9", cluster="c"),
        baseline=SimpleNamespace(reference=SimpleNamespace(label="base")),
        candidate=SimpleNamespace(reference=SimpleNamespace(label="tuned")),
    )
    random = torch.Generator().manual_seed(0)
    head = Head(torch.randn(50, 8, generator=random))
    first, second = ((1, 2, 3),), ((4, 60, 5, 6),)  # 60 is beyond the head: left out before the logits
    states = [torch.randn(len(text[0]), 8, generator=random) for text in (first, second)]
    bad = states[1].clone()
    bad[2] = math.nan
    work: list[Any] = [
        Read("k1", unit, states[0], states[0], first, 0, ()),
        Read("k2", unit, bad, states[1], second, 0, ()),
    ]
    with pytest.raises(
        InvalidInput,
        match=r"^tuned \(candidate\): NaN or .inf in its logits for token 2 of the candidate's text on probe ask-9;",
    ):
        divergences(work, head, head, -1, "candidate", "baseline")
    work = [Read("k1", unit, states[0], states[0], first, 0, ()), Read("k2", unit, states[1], bad, second, 0, ())]
    with pytest.raises(InvalidInput, match=r"^base \(baseline\): "):
        divergences(work, head, head, -1, "candidate", "baseline")
