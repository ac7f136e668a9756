"""Separate limits for a reasoning trace and for the answer after it: budget forcing.

A trace that is still open after so many tokens is closed by the tag of its own format, and the model goes on to its answer (s1,
Muennighoff et al. 2025, arXiv 2501.19393). A response is then made in two steps, the second from the first one's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_trust.generation import Generated, Row, finish, generate
from pytest_trust.markers import read_response
from pytest_trust.reasoning import Tags, opened_by

if TYPE_CHECKING:
    from pytest_trust.inference import Runner
    from pytest_trust.jobs import Generation
    from pytest_trust.models import LoadedModel


@dataclass(frozen=True, slots=True)
class Budgeted:
    """A response, and whether its trace was closed by the budget."""

    response: Generated
    closed: bool


def generate_within(
    runner: Runner, rows: Sequence[Row], tails: Sequence[str], generation: Generation, tags: Tags
) -> list[Budgeted]:
    """Responses whose traces have at most `generation.reasoning_budget` tokens and whose answers at most `max_new_tokens`, in order.

    A longer trace is closed and followed by an answer, if the generation `closes` traces; else the response ends there.

    `tails` are the ends of the rows' prompts, which may have opened a trace. The closing tag's tokens count as the response's own.
    """
    budget, limit = generation.reasoning_budget, generation.max_new_tokens
    assert budget is not None
    loaded, plain = runner.loaded, replace(generation, reasoning_budget=None)
    going = [_Going(row, tail) for row, tail in zip(rows, tails, strict=True)]

    def go_on(some: Sequence[_Going], most: Sequence[int]) -> None:
        """Up to so many further tokens for each; a row's own numbers go on from pass to pass."""
        if not some:
            return
        asked = [one.next_row() for one in some]
        made = generate(runner, asked, replace(plain, max_new_tokens=max(most)))
        for one, number, found in zip(some, most, made, strict=True):
            one.tokens += found.token_ids[:number]
            one.finish(loaded)

    # Most responses have no trace, and end within the answer's limit: the others go on, first in their traces, then to their answers.
    go_on(going, [min(budget, limit)] * len(going))
    thinking = [one for one in going if one.is_cut and len(one.tokens) < budget and not read_response(loaded, one.tokens, one.made.text, one.tail, tags).complete]
    go_on(thinking, [budget - len(one.tokens) for one in thinking])
    answering, left = [], []
    for one in going:
        if not one.is_cut:
            continue
        closing = _left_open(loaded, one.made, one.tail, tags)
        if closing and not generation.closes:
            continue
        if closing:
            tag = loaded.tokenizer(f"\n{closing}\n", add_special_tokens=False)["input_ids"]
            one.tokens += tuple(map(int, tag))
            one.closed = True
        used = 0 if closing else len(one.tokens) - _trace_length(loaded, one.tokens, one.tail, tags)
        if used < limit:
            answering.append(one)
            left.append(limit - used)
        elif used > limit:
            one.tokens = one.tokens[: limit - used]
            one.finish(loaded)
    go_on(answering, left)
    return [Budgeted(one.made, one.closed) for one in going]


@dataclass(slots=True)
class _Going:
    """A response on its way: what was made of it so far."""

    row: Row
    tail: str
    tokens: tuple[int, ...] = ()
    passes: int = 0
    closed: bool = False
    made: Generated = field(default_factory=lambda: Generated((), "", "length"))

    @property
    def is_cut(self) -> bool:
        return self.made.finish_reason == "length"

    def next_row(self) -> Row:
        """The row that goes on from here."""
        self.passes += 1
        if self.passes == 1:
            return self.row
        return Row(self.row.prompt + self.tokens, seed=self.row.seed + self.passes - 1, plain=self.row.plain)

    def finish(self, loaded: LoadedModel) -> None:
        self.made = finish(loaded, list(self.tokens), self.row.plain)
        self.tokens = self.made.token_ids


def _left_open(loaded: LoadedModel, made: Generated, tail: str, tags: Tags) -> str:
    """The tag that would close the trace that a response ends in; empty when none is open."""
    split = read_response(loaded, made.token_ids, made.text, tail, tags)
    return "" if split.complete else split.closing or opened_by(tail, tags)


def _trace_length(loaded: LoadedModel, tokens: Sequence[int], tail: str, tags: Tags) -> int:
    """Tokens up to the end of the trace; 0 where there is none."""
    from pytest_trust.generation import decode

    def closed(count: int) -> bool:
        split = read_response(loaded, tokens[:count], decode(loaded, tokens[:count]), tail, tags)
        return split.complete and bool(split.parts) and any(part.kind != "answer" for part in split.parts)

    if not closed(len(tokens)):
        return 0
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if closed(middle) else (middle + 1, high)
    return low
