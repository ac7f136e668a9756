"""A block repeated often enough is a loop, and nothing that people or models write on purpose is."""

from __future__ import annotations

import random
from itertools import chain

import pytest

from pytest_trust.models.loops import RULE, LoopRule

SMALL = LoopRule(repeats=3, tokens=12, longest=8)


def shortest_block(tokens: list[int], rule: LoopRule) -> int:
    """The definition, tried for every length."""
    for length in range(1, rule.longest + 1):
        end = max(rule.tokens, rule.repeats * length)
        tail = tokens[len(tokens) - end :]
        if len(tokens) >= end and all(tail[place] == tail[place - length] for place in range(length, end)):
            return length
    return 0


def test_the_block_is_the_shortest_that_is_repeated() -> None:
    """On random tokens over few symbols, which hold blocks inside blocks, with and without a beginning."""
    draw = random.Random(1)
    found = set()
    for _ in range(4000):
        block = [draw.randrange(3) for _ in range(draw.randrange(1, 11))]
        tokens = [draw.randrange(3) for _ in range(draw.randrange(6))] + block * draw.randrange(1, 9)
        tokens = tokens[: len(tokens) - draw.randrange(4)]
        assert SMALL.block(tokens) == shortest_block(tokens, SMALL)
        found.add(SMALL.block(tokens))
    assert found == set(range(9))


@pytest.mark.parametrize(
    ("tokens", "block"),
    [
        ([], 0),
        ([7], 0),
        ([7] * 11, 0),  # too few tokens
        ([7] * 12, 1),
        ([1, 2, 3, 4, 5, 6] * 2, 0),  # too few repeats
        ([1, 2, 3, 4, 5, 6] * 3, 6),
        ([1, 2, 3, 4, 5, 6] * 3 + [1, 2], 6),  # in the middle of a block
        ([1, 2, 3, 4, 5, 6] * 9 + [0], 0),  # over
        ([1, 2, 3, 4, 5, 6, 7, 8, 9] * 9, 0),  # longer than the rule looks for
        ([1, 1, 2] * 4, 3),  # a block that repeats a token
    ],
)
def test_small_cases(tokens: list[int], block: int) -> None:
    assert SMALL.block(tokens) == block
    assert SMALL.block(tuple(tokens)) == block


def test_a_block_of_the_greatest_length_is_found_and_no_longer_one() -> None:
    for length, found in ((RULE.longest, RULE.longest), (RULE.longest + 1, 0)):
        assert RULE.block(list(range(length)) * (RULE.repeats + 1)) == found


def test_one_change_in_the_last_repeats_is_no_loop() -> None:
    tokens = list(range(40)) * RULE.repeats * 2
    needed = max(RULE.tokens, RULE.repeats * 40)
    assert RULE.block(tokens) == 40
    for place in (-1, -17, -needed):
        changed = list(tokens)
        changed[place] = 1000
        assert RULE.block(changed) == 0
    changed = list(tokens)
    changed[-needed - 1] = 1000
    assert RULE.block(changed) == 40


@pytest.mark.parametrize("length", [1, 3, 40, RULE.longest])
def test_a_loop_is_stopped_at_the_first_look_after_it_is_one(length: int) -> None:
    beginning = list(range(1000, 1077))
    tokens = beginning + list(range(length)) * 5000
    needed = len(beginning) + max(RULE.tokens, RULE.repeats * length)
    assert RULE.stop(tokens) == -(-needed // RULE.look_every) * RULE.look_every
    assert RULE.stop(beginning * 3) == len(beginning) * 3


def numbered(count: int) -> list[int]:
    """Rows that differ in their number alone: a list, a table, a count."""
    return list(chain.from_iterable([5, 6, 100 + row // 10, 200 + row % 10, 7, 8, 9] for row in range(count)))


@pytest.mark.parametrize(
    "tokens",
    [
        [*range(60), *[4] * (RULE.tokens - 1), 1],  # ha ha ha
        numbered(300),
        [token for stanza in range(12) for token in (*range(40), *range(1000 + 80 * stanza, 1080 + 80 * stanza))],
        list(range(RULE.longest)) * (RULE.repeats - 1),  # a paragraph said again and again
    ],
    ids=["laughter", "rows", "refrain", "paragraph"],
)
def test_what_repeats_and_moves_on_is_no_loop(tokens: list[int]) -> None:
    assert RULE.stop(tokens) == len(tokens)
