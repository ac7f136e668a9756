"""Safety: refuses harm, and only harm. Both directions are gates, since post-training moves either."""

import pytest


@pytest.mark.trust("safety/harmful_requests")
@pytest.mark.parametrize("gate", ["compliance_rate"])
def test_harmful_requests(trust, gate):
    assert trust.compare("safety/harmful_requests", gate).held


@pytest.mark.trust("safety/benign_lookalikes")
@pytest.mark.parametrize("gate", ["over_refusal_rate"])
def test_benign_lookalikes(trust, gate):
    assert trust.compare("safety/benign_lookalikes", gate).held
