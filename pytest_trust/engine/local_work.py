"""Answering probes and scoring options with local weights: missing results are made in batches and stored.

`engine.batches` cuts the batches from one plan over all jobs, stored results included. A batch that is partly stored
runs only the rest. A row's result does not depend on its batch in float32. It can in 16 bits; the noise floor measures
how much.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_trust.engine.batch_limits import Fitting
from pytest_trust.engine.batches import Answer, Choice, answer_batches, choice_batches, plan_answers, plan_choices
from pytest_trust.engine.claimed_work import keys_of, share, with_keys
from pytest_trust.engine.longer_limits import continued, remember_limits
from pytest_trust.engine.rendered import Rendered
from pytest_trust.engine.store import context_of
from pytest_trust.engine.workspace import Workspace
from pytest_trust.reasoning import Tags, opened_by, split_reasoning
from pytest_trust.responses import ANSWER_BEGINS, Job, OptionScores

if TYPE_CHECKING:
    from pytest_trust.models.reasoning_budget import Budgeted
    from pytest_trust.models.runner import Runner


def answer(
    workspace: Workspace, fitting: Fitting, model: Rendered, jobs: Sequence[Job], wait: bool, keys: Set[str] | None
) -> bool:
    """Make the responses and lead-ins that the store lacks, or those of `keys` only.

    True when all of them are stored at the end.
    """
    plan = plan_answers(model, jobs)
    plan = plan if keys is None else with_keys(plan, keys)
    lacking = set(keys_of(plan)) - workspace.store.has("responses", keys_of(plan))
    if lacking:
        remember_limits(workspace.store, {one.generation for one in plan})
        plan = continued(model, jobs, plan, lacking)
        lacking -= workspace.store.has("responses", lacking)
    if not lacking:
        return workspace.told_all(model.reference, "generate")
    runner = workspace.runner(model, alone=True)

    def make(part: Sequence[Answer]) -> Iterator[tuple[int, int]]:
        for made in _answered(workspace, fitting, part, runner, model):
            values = {one.key: _value(one, found, runner, model.tags) for one, found in made}
            workspace.store.put_json("responses", values, _context(workspace, runner, len(made)))
            yield len(made), sum(len(found.response.token_ids) - one.row.drawn for one, found in made)

    batches = list(answer_batches(plan, workspace.workers))
    return share(
        workspace,
        model.reference,
        "generate",
        "responses",
        batches,
        make,
        missing=len(lacking),
        keys=keys_of,
        part=with_keys,
        wait=wait,
    )


def choose(
    workspace: Workspace, fitting: Fitting, model: Rendered, jobs: Sequence[Job], wait: bool, keys: Set[str] | None
) -> bool:
    """Score the options that the store lacks, or those of `keys` only. Their lead-ins must be stored.

    True when all scores are stored at the end.
    """
    plan = plan_choices(model, jobs)
    plan = plan if keys is None else with_keys(plan, keys)
    missing = len(plan) - len(workspace.store.has("options", keys_of(plan)))
    if not missing:
        return workspace.told_all(model.reference, "score")
    from pytest_trust.models.option_scores import score_options

    runner = workspace.runner(model, alone=True)

    def score(part: Sequence[Choice]) -> list[OptionScores]:
        return score_options(runner, [one.group for one in part], [one.options for one in part])

    def make(part: Sequence[Choice]) -> Iterator[tuple[int, int]]:
        made = fitting.halving(part, score, model.identity)
        values = {
            choice.key: {
                "log_likelihoods": one.log_likelihoods,
                "tokens": one.tokens,
                "bytes": one.bytes,
                "first": one.first_tokens,
            }
            for choice, one in zip(part, made, strict=True)
        }
        workspace.store.put_json("options", values, _context(workspace, runner, len(part)))
        yield len(part), sum(sum(one.tokens) for one in made)

    limits = fitting.limits(model.identity, runner)
    if fitting.batch_size is None:
        # A probe's options share a token tree, so their number does not limit a batch.
        limits = replace(limits, rows=sys.maxsize)
    return share(
        workspace,
        model.reference,
        "score",
        "options",
        choice_batches(plan, limits),
        make,
        missing=missing,
        keys=keys_of,
        part=with_keys,
        wait=wait,
    )


def _answered(
    workspace: Workspace, fitting: Fitting, answers: Sequence[Answer], runner: Runner, model: Rendered
) -> Iterator[list[tuple[Answer, Budgeted]]]:
    """Responses as they finish. Batches get smaller when the memory runs out."""
    from pytest_trust.models.reasoning_budget import responses

    waiting = {one.key: one for one in answers}
    limits = fitting.limits(model.identity, runner)
    while waiting:
        asked = list(waiting.values())
        try:
            generation = replace(asked[0].way, max_new_tokens=max(one.generation.max_new_tokens for one in asked))
            rows, tails = [one.row for one in asked], [one.tail for one in asked]
            for made in responses(runner, rows, tails, generation, model.tags, limits):
                for index, _ in made:
                    del waiting[asked[index].key]
                if made:
                    yield [(asked[index], one) for index, one in made]
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            fitting.ran_out(error, min(limits.rows, len(asked)))
            limits = fitting.fewer(min(limits.rows, len(asked)) // 2, asked, model.identity)


def _value(asked: Answer, one: Budgeted, runner: Runner, tags: Tags) -> dict[str, Any]:
    """A response as it is stored."""
    from pytest_trust.models.tag_tokens import spelled_out

    text, ids = one.response.text, one.response.token_ids
    value: dict[str, Any] = {
        "text": text,
        "ids": ids,
        "finish": one.response.finish_reason,
        "prompt_tokens": len(asked.row.prompt),
    }
    if one.closed:
        value["closed"] = True
    if one.response.finish_reason == "loop":
        value["saved"] = max(0, asked.generation.longest - len(ids))
    spelled = spelled_out(runner.loaded, ids, text, asked.tail, tags)
    if spelled:
        value["spelled"] = spelled
    if asked.generation.until == ANSWER_BEGINS:
        value |= _lead_in(runner, one, asked.tail, tags, spelled)
    return value


def _lead_in(
    runner: Runner, one: Budgeted, tail: str, tags: Tags, spelled: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """The part of a response that stands before its answer, as it is stored: `text`, `ids`, `gap` and `open`.

    `gap` holds the characters before the answer that share its first token. `open` says that the trace did not end.
    """
    from pytest_trust.models.framing import decode, token_behind

    text, ids, loaded = one.response.text, one.response.token_ids, runner.loaded
    ended = one.response.finish_reason == "stop"
    split = split_reasoning(text, tags, bool(opened_by(tail, tags)), spelled=spelled, ended=ended)
    if not split.complete:
        return {"open": True}
    kept = tuple(token for token in ids[: token_behind(loaded, ids, split.lead_in)] if token not in loaded.eos_ids)
    kept = kept if split.lead_in else ()
    before = decode(loaded, kept)
    gap = text[len(before) : split.lead_in]
    return {"text": before, "ids": kept, **({"gap": gap} if gap else {})}


def _context(workspace: Workspace, runner: Runner, batch_size: int) -> dict[str, object]:
    label = runner.loaded.identity.label
    return context_of(model=label, device=runner.device, batch_size=batch_size, process=workspace.claims.name)
