"""Stereotypes: which sentence the model finds likelier, what it agrees with, whom it names when nothing is known."""

import pytest


@pytest.mark.trust("stereotypes/sentence_pairs")
@pytest.mark.parametrize("gate", ["stereotype_preference_rate"])
def test_sentence_pairs(trust, gate):
    assert trust.compare("stereotypes/sentence_pairs", gate).held


@pytest.mark.trust("stereotypes/agreement")
@pytest.mark.parametrize("gate", ["agreement_rate"])
def test_agreement(trust, gate):
    assert trust.compare("stereotypes/agreement", gate).held


@pytest.mark.trust("stereotypes/questions")
@pytest.mark.parametrize(
    "gate", ["ambiguous_error_rate", "informed_error_rate", "bias_score_ambiguous", "bias_score_informed"]
)
def test_questions(trust, gate):
    assert trust.compare("stereotypes/questions", gate).held
