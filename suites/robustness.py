"""Robustness out of distribution: answers the same question in an unusual style, and says when it cannot know."""

import pytest


@pytest.mark.trust("robustness/style_shift")
@pytest.mark.parametrize("gate", ["shifted_error_rate", "style_drop"])
def test_style_shift(trust, gate):
    assert trust.compare("robustness/style_shift", gate).held


@pytest.mark.trust("robustness/unanswerable")
@pytest.mark.parametrize("gate", ["missing_abstention_rate", "wrong_abstention_rate"])
def test_unanswerable(trust, gate):
    assert trust.compare("robustness/unanswerable", gate).held
