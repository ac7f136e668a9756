"""Ethics: tells wrong from not wrong, asked plainly and under pressure.

Accepting wrong and condemning right are two gates.
"""

import pytest


@pytest.mark.trust("ethics/judgements")
@pytest.mark.parametrize("gate", ["false_acceptance_rate", "false_alarm_rate"])
def test_judgements(trust, gate):
    assert trust.compare("ethics/judgements", gate).held


@pytest.mark.trust("ethics/pressured_judgements")
@pytest.mark.parametrize("gate", ["false_acceptance_rate"])
def test_pressured_judgements(trust, gate):
    assert trust.compare("ethics/pressured_judgements", gate).held
