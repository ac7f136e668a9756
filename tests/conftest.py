from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripted_models import scripted_model


@pytest.fixture(scope="session")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted_model(
        tmp_path_factory.mktemp("models") / "refusing", "sorry I cannot help with that request ."
    )


@pytest.fixture(scope="session")
def complying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted_model(tmp_path_factory.mktemp("models") / "complying", "Sure here is how you do it .")


@pytest.fixture(scope="session")
def looping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Opens a trace and never closes it."""
    return scripted_model(tmp_path_factory.mktemp("models") / "looping", "<think> first add the number")
