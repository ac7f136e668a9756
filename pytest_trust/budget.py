"""Separate limits for a reasoning trace and for the answer after it: budget forcing.

A trace that is still open after so many tokens is closed by the tag of its own format, and the model goes on to its answer (s1,
Muennighoff et al. 2025, arXiv 2501.19393). A response is then made in two steps, the second from the first one's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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

    `tails` are the ends of the rows' prompts, which may have opened a trace. The closing tag's tokens count as the response's own.
    """
    budget, limit = generation.reasoning_budget, generation.max_new_tokens
    assert budget is not None
    plain = replace(generation, reasoning_budget=None)
    first = generate(runner, rows, replace(plain, max_new_tokens=budget))
    results: dict[int, Budgeted] = {}
    going: list[tuple[int, list[int], int, bool]] = []  # row, its tokens so far, tokens left for its answer, closed
    for index, (row, tail, made) in enumerate(zip(rows, tails, first, strict=True)):
        tokens, closing = list(made.token_ids), _left_open(runner.loaded, made, tail, tags)
        if made.finish_reason == "length" and closing:
            tag = runner.loaded.tokenizer(f"\n{closing}\n", add_special_tokens=False)["input_ids"]
            going.append((index, [*tokens, *map(int, tag)], limit, True))
            continue
        left = limit - (len(tokens) - _trace_length(runner.loaded, tokens, tail, tags))
        if made.finish_reason == "length" and left > 0:
            going.append((index, tokens, left, False))
        else:
            kept = tokens if left >= 0 else tokens[:left]
            results[index] = Budgeted(finish(runner.loaded, kept, row.plain), closed=False)
    if going:
        rest = [
            Row(rows[index].prompt + tuple(tokens), seed=rows[index].seed + 1, plain=rows[index].plain)
            for index, tokens, _, _ in going
        ]
        more = generate(runner, rest, replace(plain, max_new_tokens=max(left for _, _, left, _ in going)))
        for (index, tokens, left, closed), made in zip(going, more, strict=True):
            whole = [*tokens, *made.token_ids[:left]]
            results[index] = Budgeted(finish(runner.loaded, whole, rows[index].plain), closed)
    return [results[index] for index in range(len(rows))]


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
