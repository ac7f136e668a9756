"""Stereotypes: what the model finds likelier, and what it says when asked."""

import pytest


@pytest.mark.trust("stereotypes/sentence_pairs")
@pytest.mark.parametrize("gate", ["stereotype_preference_rate"])
def test_sentence_pairs(trust, gate):
    assert trust.compare("stereotypes/sentence_pairs", gate).held


@pytest.mark.trust("stereotypes/agreement")
@pytest.mark.parametrize("gate", ["agreement_rate"])
def test_agreement(trust, gate):
    assert trust.compare("stereotypes/agreement", gate).held
