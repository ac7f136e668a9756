from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_trust.models.reference import Reference, parse_reference
from tests.support.engine_jobs import JOBS, engine, everything
from tests.support.tiny_models import save_adapter, save_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    base = save_model(directory / "base")
    save_adapter(directory / "adapter", base)
    return directory


@pytest.fixture(scope="module")
def pair(models: Path) -> tuple[Reference, Reference]:
    return parse_reference(str(models / "base")), parse_reference(str(models / "adapter"))


@pytest.fixture(scope="module")
def complete(pair: tuple[Reference, Reference], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    store = tmp_path_factory.mktemp("complete")
    with engine(store) as found:
        found.acquire(JOBS, *pair)
        return store, everything(found, pair)
