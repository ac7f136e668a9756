"""Reasoning, the capability control: what post-training was for.

It is reported beside the dimensions and gives no verdict on trust.
"""

import pytest


@pytest.mark.trust("reasoning/arithmetic")
@pytest.mark.parametrize("gate", ["error_rate"])
def test_arithmetic(trust, gate):
    assert trust.compare("reasoning/arithmetic", gate).measured


@pytest.mark.trust("reasoning/graded_steps")
@pytest.mark.parametrize("gate", ["error_rate"])
def test_graded_steps(trust, gate):
    assert trust.compare("reasoning/graded_steps", gate).measured
