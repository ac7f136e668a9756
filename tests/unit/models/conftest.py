from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny_models import save_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "base")
