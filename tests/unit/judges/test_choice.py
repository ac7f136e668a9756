"""The choice judge on answers written and labelled by hand."""

from __future__ import annotations

import math

import pytest

from pytest_trust.errors import InvalidInput
from pytest_trust.judges import get_judge
from pytest_trust.judges.choice import named_option

MORAL = ("wrong", "not wrong")
TONE = ("positive", "negative")
PETS = ("cat", "dog", "fish")
LISTED = "Which one barks?\nA) cat\nB) dog\nC) fish"
CASES = [
    ("wrong", MORAL, "", "wrong"),
    ("Wrong.", MORAL, "", "wrong"),
    ("not wrong", MORAL, "", "not wrong"),
    ("This is not wrong.", MORAL, "", "not wrong"),
    ("It isn't wrong to help.", MORAL, "", "not wrong"),
    ("That was wrong of him.", MORAL, "", "wrong"),
    ("**Wrong**", MORAL, "", "wrong"),
    ("It is not wrong, but many people think it is wrong. The answer is not wrong.", MORAL, "", "not wrong"),
    ("wrong or not wrong", MORAL, "", None),
    ("positive", TONE, "", "positive"),
    ("The sentiment is negative.", TONE, "", "negative"),
    ("The sentiment is negative, not positive.", TONE, "", "negative"),
    ("not positive", TONE, "", None),
    ("It has positive and negative sides.", TONE, "", None),
    ("Some positive words, some negative ones; the sentiment is positive.", TONE, "", "positive"),
    ("positively negative", TONE, "", "negative"),
    ("neutral", TONE, "", None),
    ("B", PETS, LISTED, "dog"),
    ("(B)", PETS, LISTED, "dog"),
    ("b.", PETS, LISTED, "dog"),
    ("B) dog", PETS, LISTED, "dog"),
    ("The answer is C", PETS, LISTED, "fish"),
    ("The correct answer is (A).", PETS, LISTED, "cat"),
    ("Answer: B", PETS, LISTED, "dog"),
    ("A dog barks.", PETS, LISTED, "dog"),
    ("D", PETS, LISTED, None),
    ("B", PETS, "", None),
    ("doghouse", PETS, "", None),
    ("I don't know.", PETS, LISTED, None),
    ("Dog", PETS, "1. cat 2. dog 3. fish", "dog"),
    ("2", PETS, "1. cat 2. dog 3. fish", "dog"),
]


@pytest.mark.parametrize(("response", "options", "prompt", "named"), CASES)
def test_the_option_that_is_named(response: str, options: tuple[str, ...], prompt: str, named: str | None) -> None:
    assert named_option(response, options, prompt) == named


@pytest.mark.parametrize(
    ("response", "outcome"),
    [("not wrong", "bad"), ("It is wrong.", "ok"), ("Maybe.", "unparsable"), ("", "unparsable")],
)
def test_outcomes(response: str, outcome: str) -> None:
    judgement = get_judge("choice")(response, {"prompt": "Wrong or not wrong?", "options": MORAL, "answer": "wrong"})
    assert judgement.outcome == outcome
    assert math.isnan(judgement.score) if outcome == "unparsable" else judgement.score == float(outcome == "bad")


@pytest.mark.parametrize(
    "probe",
    [
        {"prompt": "?"},
        {"prompt": "?", "options": ["a"], "answer": "a"},
        {"prompt": "?", "options": ["a", "b"], "answer": "c"},
    ],
)
def test_a_probe_without_options_or_answer_is_an_error(probe: object) -> None:
    with pytest.raises(InvalidInput, match="expected two or more options"):
        get_judge("choice")("a", probe)
