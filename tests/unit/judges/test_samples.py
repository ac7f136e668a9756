"""What a response or scored options count as, beside the outcome."""

from __future__ import annotations

import math

import pytest

from pytest_trust.judges.samples import judge_options, option_mass
from pytest_trust.probes import Message, Probe
from pytest_trust.responses import OptionScores


def scores(*probabilities: float) -> OptionScores:
    return OptionScores(tuple(map(math.log, probabilities)), (1,) * len(probabilities), (1,) * len(probabilities))


def test_option_mass_is_what_the_options_have_together() -> None:
    assert option_mass(("wrong", "not wrong"), scores(0.3, 0.06)) == pytest.approx(0.36)


def test_an_option_that_begins_with_another_one_is_part_of_it() -> None:
    assert option_mass(("yes", "yes, always", "no"), scores(0.5, 0.2, 0.1)) == pytest.approx(0.6)


def test_only_a_chat_probe_has_an_option_mass() -> None:
    chat = Probe("c", "c", (Message("user", "Is it?"),), options=("yes", "no"), answer="yes")
    text = Probe("t", "t", text="It is", options=("yes", "no"), answer="yes")
    judged = judge_options([chat, text], {"c": scores(0.2, 0.1), "t": scores(0.2, 0.1)})
    assert judged["c"][0].option_mass == pytest.approx(0.3)
    assert judged["t"][0].option_mass is None
