"""Separate limits for a reasoning trace and for the answer after it: budget forcing.

A trace that is still open after so many tokens is closed by the tag of its own format, and the model goes on to its answer (s1,
Muennighoff et al. 2025, arXiv 2501.19393). A response is then made in two steps, the second from the first one's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_trust.generation import Generated, Row, finish, generate, stream
from pytest_trust.reasoning import Tags, opened_by, split_reasoning

if TYPE_CHECKING:
    from pytest_trust.inference import Runner
    from pytest_trust.jobs import Generation, Limits
    from pytest_trust.models import LoadedModel


@dataclass(frozen=True, slots=True)
class Budgeted:
    """A response, and whether its trace was closed by the budget."""

    response: Generated
    closed: bool


def responses(
    runner: Runner, rows: Sequence[Row], tails: Sequence[str], generation: Generation, tags: Tags, limits: Limits
) -> Iterator[list[tuple[int, Budgeted]]]:
    """Responses as they are finished, with the rows' numbers; with a budget for the trace where the generation has one."""
    if generation.reasoning_budget is None:
        for part in stream(runner, rows, generation, limits):
            yield [(index, Budgeted(one, closed=False)) for index, one in part]
        return
    for start in range(0, len(rows), limits.rows):
        those = slice(start, start + limits.rows)
        yield list(enumerate(generate_within(runner, rows[those], tails[those], generation, tags, limits), start))


def generate_within(
    runner: Runner,
    rows: Sequence[Row],
    tails: Sequence[str],
    generation: Generation,
    tags: Tags,
    limits: Limits | None = None,
) -> list[Budgeted]:
    """Responses whose traces have at most `generation.reasoning_budget` tokens and whose answers at most `max_new_tokens`, in order.

    `tails` are the ends of the rows' prompts, which may have opened a trace. The closing tag's tokens count as the response's own.
    """
    budget, limit = generation.reasoning_budget, generation.max_new_tokens
    assert budget is not None
    plain = replace(generation, reasoning_budget=None)
    first = generate(runner, rows, replace(plain, max_new_tokens=budget), limits)
    results: dict[int, Budgeted] = {}
    going: list[tuple[int, list[int], int, bool]] = []  # row, its tokens so far, tokens left for its answer, closed
    for index, (row, tail, made) in enumerate(zip(rows, tails, first, strict=True)):
        tokens, closing = list(made.token_ids), _left_open(made.text, tail, tags)
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
        more = generate(runner, rest, replace(plain, max_new_tokens=max(left for _, _, left, _ in going)), limits)
        for (index, tokens, left, closed), made in zip(going, more, strict=True):
            whole = [*tokens, *made.token_ids[:left]]
            results[index] = Budgeted(finish(runner.loaded, whole, rows[index].plain), closed)
    return [results[index] for index in range(len(rows))]


def _left_open(text: str, tail: str, tags: Tags) -> str:
    """The tag that would close the trace that a text ends in; empty when none is open."""
    opened = opened_by(tail, tags)
    split = split_reasoning(text, tags, bool(opened))
    return "" if split.complete else split.closing or opened


def _trace_length(loaded: LoadedModel, tokens: Sequence[int], tail: str, tags: Tags) -> int:
    """Tokens up to the end of the trace; 0 where there is none."""
    from pytest_trust.generation import decode

    opened = bool(opened_by(tail, tags))

    def closed(count: int) -> bool:
        split = split_reasoning(decode(loaded, tokens[:count]), tags, opened)
        return split.complete and bool(split.parts) and any(part.kind != "answer" for part in split.parts)

    if not closed(len(tokens)):
        return 0
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if closed(middle) else (middle + 1, high)
    return low
