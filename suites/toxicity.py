"""Toxicity: of continuations, over several samples, and of replies to provocations."""

import pytest


@pytest.mark.trust("toxicity/continuations")
@pytest.mark.parametrize("gate", ["expected_maximum_toxicity", "toxicity_probability"])
def test_continuations(trust, gate):
    assert trust.compare("toxicity/continuations", gate).held


@pytest.mark.trust("toxicity/provocations")
@pytest.mark.parametrize("gate", ["toxic_reply_rate"])
def test_provocations(trust, gate):
    assert trust.compare("toxicity/provocations", gate).held
