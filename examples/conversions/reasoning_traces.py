"""Generated problems with short reasoning traces, on which demo:sft is trained. Standard library only.

The problems are multi-step arithmetic stories, orderings and dates. A seeded generator makes each problem and works out
its trace, so that a trace is never wrong. Nothing here is about trust.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

TRAINING_SEED = 20260612
HELD_OUT_SEED = 77
TRAINING_SIZE = 1000

_NAMES = [
    "Ada",
    "Boris",
    "Chen",
    "Dalia",
    "Edgar",
    "Fatou",
    "Gus",
    "Hanna",
    "Igor",
    "Jun",
    "Keiko",
    "Lars",
    "Mina",
    "Noor",
    "Otto",
    "Pia",
    "Quinn",
    "Rafa",
    "Sven",
    "Tara",
]
_THINGS = [
    "shells",
    "marbles",
    "buttons",
    "stickers",
    "beads",
    "postcards",
    "acorns",
    "pebbles",
    "ribbons",
    "badges",
]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


@dataclass(frozen=True)
class Problem:
    """A question, the trace that solves it, the reply's sentence, and the answer that must be in it."""

    kind: str  # arithmetic | ordering | dates
    question: str
    trace: str
    reply: str
    answer: str


def problems(count: int, *, seed: int) -> list[Problem]:
    """`count` different problems: half arithmetic, a quarter orderings, a quarter dates."""
    source = random.Random(seed)
    makers: list[Callable[[random.Random], Problem]] = [
        _gains_and_losses,
        _ordering,
        _boxes,
        _weekday,
        _shopping,
        _ranking,
        _sharing,
        _calendar,
    ]
    found: dict[str, Problem] = {}
    while len(found) < count:
        problem = makers[len(found) % len(makers)](source)
        found.setdefault(problem.question, problem)
    return list(found.values())


def training_problems() -> list[Problem]:
    """The problems of demo:sft."""
    return problems(TRAINING_SIZE, seed=TRAINING_SEED)


def held_out(count: int) -> list[Problem]:
    """Problems of the same kinds that are not among the training problems."""
    seen = {problem.question for problem in training_problems()}
    return [problem for problem in problems(count + 200, seed=HELD_OUT_SEED) if problem.question not in seen][:count]


def chat(problem: Problem) -> list[dict[str, str]]:
    """The problem as a chat whose reply is a trace and an answer."""
    reply = f"<think>{problem.trace}</think>\n{problem.reply}"
    return [{"role": "user", "content": problem.question}, {"role": "assistant", "content": reply}]


def is_right(problem: Problem, reply: str) -> bool:
    """Whether the text after the trace gives the answer.

    That is its last number, its date, or the only name or weekday of its last sentence. A trace that was never closed
    has no answer.
    """
    answer = reply.rsplit("</think>", 1)[-1]
    if "<think>" in answer:
        return False
    if problem.answer.isdigit():
        numbers = re.findall(r"\d+", answer.replace(",", ""))
        return bool(numbers) and numbers[-1] == problem.answer
    if problem.kind == "dates" and " " in problem.answer:
        day, month = problem.answer.split()
        dates = rf"\b{day}(st|nd|rd|th)?( of)? {month}\b|\b{month} {day}(st|nd|rd|th)?\b"
        return re.search(dates, answer) is not None
    last = re.split(r"(?<=[.!?])\s+", answer.strip())[-1]
    named = {word for word in re.findall(r"[A-Z][a-z]+", last) if word in _NAMES + _DAYS}
    return named == {problem.answer}


def _gains_and_losses(source: random.Random) -> Problem:
    name, thing = source.choice(_NAMES), source.choice(_THINGS)
    have, gets, loses = source.randint(12, 60), source.randint(5, 40), source.randint(3, 12)
    total = have + gets
    left = total - loses
    question = source.choice(
        [
            f"{name} owns {have} {thing}, is given {gets} and loses {loses}. "
            f"How many {thing} does {name} own in the end?",
            f"In a jar lie {have} {thing}. {name} puts in {gets}, then takes out {loses}. "
            f"How many {thing} are in the jar?",
            f"At first {name} had {have} {thing}. After finding {gets} and giving away {loses}, how many remain?",
        ]
    )
    return Problem(
        "arithmetic",
        question,
        f"{have} + {gets} = {total}. {total} - {loses} = {left}.",
        f"There are {left} {thing}.",
        str(left),
    )


def _boxes(source: random.Random) -> Problem:
    name, thing = source.choice(_NAMES), source.choice(_THINGS)
    boxes, each, extra = source.randint(3, 9), source.randint(4, 12), source.randint(2, 15)
    product = boxes * each
    total = product + extra
    question = source.choice(
        [
            f"{name} fills {boxes} boxes with {each} {thing} each and keeps {extra} loose ones. "
            f"How many {thing} is that?",
            f"There are {boxes} bags of {each} {thing}, and {extra} more on the table. Count all the {thing}.",
            f"Each of {boxes} shelves holds {each} {thing}; {name} brings {extra} more. What is the total?",
        ]
    )
    return Problem(
        "arithmetic",
        question,
        f"{boxes} × {each} = {product}. {product} + {extra} = {total}.",
        f"The total is {total}.",
        str(total),
    )


def _shopping(source: random.Random) -> Problem:
    name = source.choice(_NAMES)
    first, second = source.sample(["pens", "candles", "mugs", "maps", "scarves", "brushes"], 2)
    a, price_a, b, price_b = (
        source.randint(2, 6),
        source.randint(2, 9),
        source.randint(2, 5),
        source.randint(2, 9),
    )
    x, y = a * price_a, b * price_b
    question = source.choice(
        [
            f"{name} buys {a} {first} at {price_a} euros and {b} {second} at {price_b} euros. What does {name} pay?",
            f"One of the {first} costs {price_a} coins and one of the {second} costs {price_b}. "
            f"What do {a} {first} and {b} {second} cost?",
        ]
    )
    return Problem(
        "arithmetic",
        question,
        f"{a} × {price_a} = {x}. {b} × {price_b} = {y}. {x} + {y} = {x + y}.",
        f"The price is {x + y}.",
        str(x + y),
    )


def _sharing(source: random.Random) -> Problem:
    name, thing = source.choice(_NAMES), source.choice(_THINGS)
    people, each, kept = source.randint(2, 8), source.randint(3, 9), source.randint(2, 9)
    shared = people * each
    total = shared + kept
    question = source.choice(
        [
            f"{name} has {total} {thing}, keeps {kept} and shares the others equally among {people} friends. "
            f"How many does a friend get?",
            f"Of {total} {thing}, {kept} are broken. {name} splits the rest evenly between {people} "
            f"children. How many for each child?",
        ]
    )
    return Problem(
        "arithmetic",
        question,
        f"{total} - {kept} = {shared}. {shared} / {people} = {each}.",
        f"Each one gets {each}.",
        str(each),
    )


def _ordering(source: random.Random) -> Problem:
    first, second, third = source.sample(_NAMES, 3)
    word, most, least = source.choice(
        [
            ("taller", "tallest", "shortest"),
            ("older", "oldest", "youngest"),
            ("faster", "fastest", "slowest"),
            ("richer", "richest", "poorest"),
        ]
    )
    clues = [f"{first} is {word} than {second}", f"{second} is {word} than {third}"]
    source.shuffle(clues)
    highest = source.random() < 0.5
    asked, answer = (most, first) if highest else (least, third)
    question = source.choice(
        [
            f"{clues[0]}, and {clues[1]}. Which of the three is the {asked}?",
            f"We know: {clues[0]}; {clues[1]}. Name the {asked}.",
        ]
    )
    return Problem(
        "ordering",
        question,
        f"The order is {first} > {second} > {third}. The {asked} is {answer}.",
        f"{answer} is the {asked}.",
        answer,
    )


def _ranking(source: random.Random) -> Problem:
    names = source.sample(_NAMES, 3)
    scores = source.sample(range(11, 99), 3)
    ranked = sorted(zip(scores, names, strict=True), reverse=True)
    place = source.randrange(3)
    answer = ranked[place][1]
    listed = ", ".join(f"{name} {score}" for name, score in zip(names, scores, strict=True))
    asked = ["first", "second", "third"][place]
    question = source.choice(
        [
            f"Points in the game: {listed}. Who came {asked}, if most points win?",
            f"The scores are {listed}. The highest score is ranked first. Who is ranked {asked}?",
        ]
    )
    order = " > ".join(f"{score} {name}" for score, name in ranked)
    return Problem("ordering", question, f"{order}. Place {place + 1} is {answer}.", f"{answer} came {asked}.", answer)


def _weekday(source: random.Random) -> Problem:
    start, days = source.randrange(7), source.randint(2, 20)
    answer = _DAYS[(start + days) % 7]
    rest = days % 7
    question = source.choice(
        [
            f"Today is {_DAYS[start]}. What day of the week will it be {days} days from now?",
            f"A ship sails on a {_DAYS[start]} and lands {days} days later. On which weekday does it land?",
        ]
    )
    steps = [_DAYS[(start + i) % 7] for i in range(rest + 1)]
    trace = f"{days} = {days // 7} × 7 + {rest}. {', '.join(steps)}."
    return Problem("dates", question, trace, f"It is a {answer}.", answer)


def _calendar(source: random.Random) -> Problem:
    name = source.choice(_NAMES)
    start = date(2025, 1, 1) + timedelta(days=source.randrange(365))
    days = source.randint(3, 25)
    end = start + timedelta(days=days)
    first, answer = f"{start.day} {_MONTHS[start.month - 1]}", f"{end.day} {_MONTHS[end.month - 1]}"
    question = source.choice(
        [
            f"{name}'s trip begins on {first} 2025 and ends {days} days later. What is the date of its end?",
            f"A parcel is posted on {first} 2025 and takes {days} days. On what date does it arrive?",
        ]
    )
    raw = start.day + days
    trace = f"{start.day} + {days} = {raw}."
    if end.month != start.month:
        length = raw - end.day
        trace += f" {_MONTHS[start.month - 1]} has {length} days. {raw} - {length} = {end.day}."
    return Problem("dates", question, trace, f"It is {answer}.", answer)
