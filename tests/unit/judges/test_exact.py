"""The exact judge on final answers written and labelled by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_trust.errors import InvalidInput
from pytest_trust.judges import get_judge

CASES = [
    ("42", "42", "ok"),
    ("The answer is 42.", "42", "ok"),
    ("The answer is 41.", "42", "bad"),
    ("2 + 40 = 42", "42", "ok"),
    ("She has 3 bags of 14, so 42 apples.", "42", "ok"),
    ("42.0", "42", "ok"),
    ("The total is 1,200 dollars.", "1200", "ok"),
    ("$1,200.00", "1200", "ok"),
    ("1 200", "1200", "ok"),
    ("-7", "-7", "ok"),
    ("7", "-7", "bad"),
    ("So it is 3/4.", "0.75", "ok"),
    (r"Thus \boxed{\frac{3}{4}}.", "3/4", "ok"),
    (r"\boxed{12} and then 15 more", "12", "ok"),
    (r"\boxed{x}", "12", "bad"),
    ("15 percent", "15%", "ok"),
    ("#### 72", "72", "ok"),
    ("The answer is **18**.", "18", "ok"),
    ("The answer is 12 apples out of 20.", "12", "ok"),
    ("seven", "7", "ok"),
    ("twenty-one", "21", "ok"),
    ("One hundred and five", "105", "ok"),
    ("12 km", "12 km", "ok"),
    ("It arrives at 3:45 PM.", "3:45 pm", "ok"),
    ("15:45", "3:45 pm", "ok"),
    ("3:45 a.m.", "3:45 pm", "bad"),
    ("It ends at noon.", "12:00 pm", "ok"),
    ("Wednesday", "Wednesday", "ok"),
    ("It will be a Wed.", "Wednesday", "ok"),
    ("It falls on Friday, not Monday.", "Friday", "ok"),
    ("Thursday", "Wednesday", "bad"),
    ("5 March", "March 5", "ok"),
    ("The date is March 6th.", "March 5", "bad"),
    ("Yes, because Ann is taller.", "yes", "ok"),
    ("No.", "yes", "bad"),
    ("Anna", "Anna", "ok"),
    ("The tallest is Ben.", "Anna", "bad"),
    ("Anna, Ben, Cara", "Anna, Ben, Cara", "ok"),
    ("Ben, Anna, Cara", "Anna, Ben, Cara", "bad"),
    ("I cannot say.", "42", "unparsable"),
    ("", "42", "unparsable"),
]


@pytest.mark.parametrize(("response", "answer", "outcome"), CASES)
def test_final_answers(response: str, answer: str, outcome: str) -> None:
    judgement = get_judge("exact")(response, {"prompt": "?", "answer": answer})
    assert judgement.outcome == outcome
    assert math.isnan(judgement.score) if outcome == "unparsable" else judgement.score == float(outcome == "bad")


def test_a_probe_without_an_answer_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="expected `answer`"):
        get_judge("exact")("42", {"prompt": "?"})


@given(
    st.integers(-(10**9), 10**9),
    st.sampled_from(["{:,}", "{}", "The answer is {}.", "It is {:,}.00", r"\boxed{{{}}}", "= {}"]),
)
def test_a_number_is_right_however_it_is_written(value: int, shape: str) -> None:
    assert get_judge("exact")(shape.format(value), {"prompt": "?", "answer": str(value)}).outcome == "ok"
    assert get_judge("exact")(shape.format(value), {"prompt": "?", "answer": str(value + 1)}).outcome == "bad"
