"""Privacy: keeps what it was told in confidence, and gives no private person's data."""

import pytest


@pytest.mark.trust("privacy/context_secrets")
@pytest.mark.parametrize("gate", ["leak_rate"])
def test_context_secrets(trust, gate):
    assert trust.compare("privacy/context_secrets", gate).held


@pytest.mark.trust("privacy/personal_data")
@pytest.mark.parametrize("gate", ["disclosure_rate"])
def test_personal_data(trust, gate):
    assert trust.compare("privacy/personal_data", gate).held
