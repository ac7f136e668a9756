"""A block repeated often enough is a loop, and nothing that people or models write on purpose is."""

from __future__ import annotations

import csv
import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

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


def words(text: str) -> list[int]:
    """A token for each word, digit, mark and run of blanks, about as a real tokenizer cuts them."""
    known: dict[str, int] = {}
    return [known.setdefault(piece, len(known)) for piece in re.findall(r"[^\W\d]+|\d|\s+|[^\w\s]|_", text)]


CREW = "cook smith priest nurse miller tailor child king thief judge clerk monk".split()
REFRAIN = "O row the boat, o row with me,\nand row it home again.\n\n"
ORDINARY = {
    "laughter": "He said: " + "ha " * 90 + "and left.",
    "one word a hundred times": "banana, " * 100,
    "a list": "".join(f"{number}. an apple\n" for number in range(1, 200)),
    "a count": ", ".join(map(str, range(500))),
    "a table": "| hour | task | done |\n|------|------|------|\n"
    + "".join(f"| {hour} | rest | no |\n" for hour in range(99)),
    "an empty grid": ("+---" * 6 + "+\n" + "|   " * 6 + "|\n") * 8,
    "a ruler": "-" * 120 + "\nTotal\n" + "=" * 120,
    "a song": "".join(f"The {one} went out to sea,\nand nobody knew when.\n{REFRAIN}" for one in CREW),
    "a refrain on its own": REFRAIN * 12,
    "code": "".join(f"    assert square({number}) == {number * number}\n" for number in range(120)),
    "a matrix": "[" + ",\n ".join(["[" + ", ".join("0" * 9) + "]"] * 9) + "]",
    "a paragraph said again": (" ".join(f"word{chr(97 + place % 26)}{place}" for place in range(60)) + ". ") * 2,
}


@pytest.mark.parametrize("text", ORDINARY.values(), ids=ORDINARY)
def test_what_repeats_on_purpose_is_no_loop(text: str) -> None:
    tokens = words(text)
    assert RULE.stop(tokens) == len(tokens)


def test_without_its_end_each_of_them_would_be_one() -> None:
    assert RULE.stop(words("ha " * 900)) < 900
    assert RULE.stop(words(REFRAIN * 100)) < len(words(REFRAIN * 30))
    row = "[" + ", ".join("0" * 9) + "],\n "
    assert RULE.stop(words(row * 100)) < len(words(row * 20))


DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.mark.labels
@pytest.mark.weights
@pytest.mark.skipif(not DATA.is_dir(), reason="the public data lie beside the project only where it is developed")
def test_no_completion_is_stopped(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every completion, solution and story of the public data, in the demo's tokens."""
    from tokenizers import Tokenizer

    from pytest_trust.engine.store import default_store
    from pytest_trust.models.files import locate
    from pytest_trust.models.reference import parse_reference

    directory = locate(parse_reference("demo:instruct"), cache=default_store()).directory
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    texts = list(completions())
    assert len(texts) > 12_000
    for text in texts:
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        assert RULE.stop(tokens) == len(tokens), text


def completions() -> Iterator[str]:
    for path, column in (
        *((path, "completion") for path in sorted((DATA / "xstest").glob("*completions*.csv"))),
        *((path, "response") for path in sorted((DATA / "do_not_answer").glob("*.csv.gz"))),
        (DATA / "dt_stereotype" / "outputs_sample.csv.gz", "output"),
    ):
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            yield from (row[column].split("</s>")[0] for row in csv.DictReader(file))  # what follows is padding
    for name in ("dt_privacy/secret_keeping_generations", "gsm8k/test", "moral_stories/test"):
        with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                yield from (value for value in row.values() if isinstance(value, str))
