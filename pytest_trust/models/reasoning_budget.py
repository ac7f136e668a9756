"""Separate limits for a reasoning trace and for the answer after it: budget forcing.

A trace that is still open when its budget is used up is closed by the tag of its own format. The model then goes on to
its answer (s1, Muennighoff et al. 2025, arXiv 2501.19393).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from pytest_trust.models.framing import decode, encode, least
from pytest_trust.models.generation import Generated, Row, finish, stream
from pytest_trust.models.tag_tokens import read_response
from pytest_trust.reasoning import Tags, opened_by

if TYPE_CHECKING:
    from pytest_trust.models.loaded import LoadedModel
    from pytest_trust.models.memory import BatchLimits
    from pytest_trust.models.runner import Runner
    from pytest_trust.responses import Generation

# Tokens that a closing tag may take.
_TAG_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Budgeted:
    """A response, and whether its trace was closed by the budget."""

    response: Generated
    closed: bool


def responses(
    runner: Runner,
    rows: Sequence[Row],
    tails: Sequence[str],
    generation: Generation,
    tags: Tags,
    limits: BatchLimits | None = None,
) -> Iterator[list[tuple[int, Budgeted]]]:
    """Responses as they are finished, with the rows' numbers.

    With a reasoning budget, a trace has at most that many tokens and an answer at most `max_new_tokens`. A longer trace
    is closed and followed by an answer if the generation `closes` traces; else the response ends there. A trace that
    loops is closed by its budget too; where nothing closes it, it ends its response at once. The closing tag's tokens
    count as the response's own. `tails` are the ends of the rows' prompts, which may have opened a trace.
    """
    if generation.reasoning_budget is None:
        for part in stream(runner, rows, generation, limits):
            yield [(number, Budgeted(one, closed=False)) for number, one in part]
        return
    # Most responses have no trace and end within the answer's limit. The others go on, first in their traces, then to
    # their answers.
    first = replace(
        generation, max_new_tokens=min(generation.reasoning_budget, generation.max_new_tokens), reasoning_budget=None
    )
    course = _Course(runner.loaded, rows, tails, generation, tags)
    if generation.closes:
        rows = [replace(row, goes_on=partial(course.will_close, number)) for number, row in enumerate(rows)]
    for part in stream(runner, rows, first, limits, further=course.further, longest=generation.longest + _TAG_TOKENS):
        yield [(number, course.finished(number, one, rows[number].plain)) for number, one in part]


class _Course:
    """How far each response is on its way from trace to answer."""

    def __init__(
        self, loaded: LoadedModel, rows: Sequence[Row], tails: Sequence[str], generation: Generation, tags: Tags
    ) -> None:
        self.loaded = loaded
        self.tails = tails
        self.limits = [min(row.most or generation.max_new_tokens, generation.max_new_tokens) for row in rows]
        self.budgets = [_budget(row, generation) for row in rows]
        self.closes = generation.closes
        self.tags = tags
        self.closed: set[int] = set()
        self._answering: set[int] = set()

    def further(self, number: int, said: list[int]) -> tuple[Sequence[int], int] | None:
        """As `generation.Further`."""
        if number in self._answering:
            return None
        tail = self.tails[number]
        split = read_response(self.loaded, said, decode(self.loaded, said), tail, self.tags)
        if not split.complete and len(said) < self.budgets[number]:
            return (), self.budgets[number] - len(said)
        self._answering.add(number)
        closing = "" if split.complete else split.closing or opened_by(tail, self.tags)
        if closing:
            if not self.closes:
                return None
            self.closed.add(number)
            return encode(self.loaded.tokenizer, f"\n{closing}\n"), self.limits[number]
        left = self.limits[number] - (len(said) - _trace_length(self.loaded, said, tail, self.tags))
        return ((), left) if left > 0 else None

    def will_close(self, number: int, said: Sequence[int]) -> bool:
        """Whether a response is in a trace that the budget closes: it gets to its answer though it loops."""
        if number in self._answering:
            return False
        return not read_response(self.loaded, said, decode(self.loaded, said), self.tails[number], self.tags).complete

    def finished(self, number: int, made: Generated, plain: bool) -> Budgeted:
        """A response whose answer is cut at its limit. A trace that ended early had left room for more tokens."""
        if made.finish_reason in ("length", "loop") and number not in self.closed:
            beyond = (
                len(made.token_ids)
                - _trace_length(self.loaded, made.token_ids, self.tails[number], self.tags)
                - self.limits[number]
            )
            split = read_response(self.loaded, made.token_ids, made.text, self.tails[number], self.tags)
            if beyond > 0 and split.complete:
                made = finish(self.loaded, list(made.token_ids[:-beyond]), plain)
        return Budgeted(made, number in self.closed)


def _budget(row: Row, generation: Generation) -> int:
    """The most tokens of a row's trace. The model's context must leave room for the answer."""
    assert generation.reasoning_budget is not None
    if row.room is None:
        return generation.reasoning_budget
    return max(1, min(generation.reasoning_budget, row.room - _TAG_TOKENS - generation.max_new_tokens))


def _trace_length(loaded: LoadedModel, tokens: Sequence[int], tail: str, tags: Tags) -> int:
    """Tokens up to the end of the trace; 0 where there is none."""

    def closed(count: int) -> bool:
        split = read_response(loaded, tokens[:count], decode(loaded, tokens[:count]), tail, tags)
        return split.complete and bool(split.parts) and any(part.kind != "answer" for part in split.parts)

    return least(len(tokens), closed) if closed(len(tokens)) else 0
