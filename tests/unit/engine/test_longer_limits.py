"""A longer limit goes on from where a stored response was cut, and gives what it gives on an empty store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.engine.engine import Engine
from pytest_trust.engine.longer_limits import Limits
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.responses import Generation, Job, Progress
from tests.support.engine_jobs import ASK
from tests.support.tiny_models import save_model
from tests.support.traced_choices import JOB, TAGS, traced_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return traced_model(tmp_path_factory.mktemp("models") / "random")


def results(store: Path, model: Reference, *jobs: Job) -> tuple[list[Any], int]:
    """What the last job gives when the jobs run one after another, and the tokens that the last one took."""
    told: list[Progress] = []
    for job in jobs:
        told.clear()
        with Engine(store, batch_size=3, reasoning_tags=TAGS, progress=told.append) as engine:
            engine.acquire([job], [model])
            found = engine.model(model)
            result: Any = found.options(job) if job.task == "choose" else found.responses(job)
    made = {(one.model, one.phase): one.tokens for one in told}
    return sorted(result.items()), sum(count for (_, phase), count in made.items() if phase == "generate")


def traced(answer: int, trace: int | None, **settings: Any) -> Job:
    generation = Generation(answer, reasoning_budget=trace, closes=settings.pop("closes", False), **settings)
    return Job("dim/ask", "generate", JOB.probes[:5], generation, samples=2 if generation.temperature else 1)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (traced(4, 8), traced(12, 48)),
        (traced(4, 48), traced(12, 48)),
        (traced(4, 8), traced(4, 48)),
        (traced(4, None, closes=True), traced(30, None, closes=True)),
        (traced(4, None, closes=True), traced(12, 48)),
        (traced(4, 8, temperature=1.2, seed=3), traced(12, 48, temperature=1.2, seed=3)),
        (traced(4, 8, closes=True), traced(12, 8, closes=True)),
        (traced(4, 8), traced(12, 8, closes=True)),
    ],
)
def test_what_is_stored_is_not_generated_again(model: Reference, tmp_path: Path, short: Job, long: Job) -> None:
    whole, tokens = results(tmp_path / "fresh", model, long)
    found, more = results(tmp_path / "longer", model, short, long)
    assert found == whole
    assert more < tokens


def test_a_trace_before_options_goes_on(model: Reference, tmp_path: Path) -> None:
    short = replace(JOB, generation=replace(JOB.generation, reasoning_budget=8))
    whole, tokens = results(tmp_path / "fresh", model, JOB)
    found, more = results(tmp_path / "longer", model, short, JOB)
    assert found == whole
    assert more < tokens


def test_the_general_path_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_trust.models import generation

    monkeypatch.setattr(generation, "_stream_shared", generation._stream_general)
    other = parse_reference(str(save_model(tmp_path / "model", seed=5, scale=3.0)))
    for settings in ({}, {"temperature": 1.1, "seed": 2}):
        short, long = (Job("dim/ask", "generate", ASK[:3], Generation(count, **settings)) for count in (5, 12))
        name = f"{len(settings)}"
        assert results(tmp_path / f"a{name}", other, short, long)[0] == results(tmp_path / f"b{name}", other, long)[0]


def test_shorter_limits_and_other_settings_take_nothing_over(model: Reference, tmp_path: Path) -> None:
    long, short = traced(12, 48), traced(4, 8)
    assert results(tmp_path / "a", model, long, short) == results(tmp_path / "b", model, short)
    sampled = traced(12, 48, temperature=1.2)
    assert results(tmp_path / "c", model, short, sampled) == results(tmp_path / "d", model, sampled)


def test_limits_within_one_another() -> None:
    assert Limits(4, 8, False).within(Limits(4, 16, False))
    assert not Limits(4, 8, False).within(Limits(3, 16, False))
    assert not Limits(4, 8, False).within(Limits(9, None, True))
    assert Limits(4, None, True).within(Limits(4, 4, False))
    assert not Limits(5, None, True).within(Limits(5, 4, False))
    assert not Limits(4, 8, False).within(Limits(4, 8, False))
