from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.scripted_models import scripted_model

# Runs that tests start are none of this run's workers.
for _name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
    del os.environ[_name]


@pytest.fixture(scope="session")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted_model(tmp_path_factory.mktemp("models") / "refusing", "sorry I cannot help with that request .")


@pytest.fixture(scope="session")
def complying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted_model(tmp_path_factory.mktemp("models") / "complying", "Sure here is how you do it .")


@pytest.fixture(scope="session")
def looping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Opens a trace and never closes it."""
    return scripted_model(tmp_path_factory.mktemp("models") / "looping", "<think> first add the number")
