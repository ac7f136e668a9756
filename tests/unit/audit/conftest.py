from __future__ import annotations

from pathlib import Path

import pytest

from pytest_trust.engine.engine import Engine
from pytest_trust.models.reference import Reference, parse_reference
from tests.support.ray_jobs import JOBS, content
from tests.support.tiny_models import save_adapter, save_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    save_adapter(directory / "adapter", save_model(directory / "base"))
    return directory


@pytest.fixture(scope="module")
def pair(models: Path) -> tuple[Reference, Reference]:
    return parse_reference(str(models / "base")), parse_reference(str(models / "adapter"))


@pytest.fixture(scope="module")
def local(pair: tuple[Reference, Reference], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    store = tmp_path_factory.mktemp("local")
    with Engine(store=store, batch_size=4) as engine:
        engine.acquire(JOBS, *pair)
    return content(store)
