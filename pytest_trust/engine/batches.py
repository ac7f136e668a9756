"""A model's work for a run: one plan over all jobs, and the batches that the plan is cut into.

A plan needs keys and rendered prompts only, no weights. It includes results that are already stored. A run that
continues after an interruption therefore has the same batches: a row's result can depend on its batch in 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from pytest_trust.judges import get_stating
from pytest_trust.keys import row_seed
from pytest_trust.models.framing import decode
from pytest_trust.models.generation import Row
from pytest_trust.models.memory import BatchLimits
from pytest_trust.models.runner import Group
from pytest_trust.models.tag_tokens import read_response
from pytest_trust.models.token_trees import common_prefix
from pytest_trust.reasoning import Tags
from pytest_trust.responses import ANSWER_BEGINS, Generation, Job

if TYPE_CHECKING:
    from pytest_trust.engine.rendered import Rendered
    from pytest_trust.judges.judgement import Stating
    from pytest_trust.models.loaded import LoadedModel
    from pytest_trust.probes import Probe

# Responses of one part of the plan: enough to keep batches full, few enough to leave parts to other processes.
_ANSWERS = 1024
_PARTS_EACH = 4  # parts for each worker

# A lead-in is looked at after each of its first tokens, and then once in so many: a long trace is split each time.
_LOOK_EVERY = 8

# Tokens of a batch of options: some seconds of work on two cores, so that a killed run loses little.
_CHOICE_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Answer:
    """One response to make. `tail` is the end of the prompt's text, which may have opened a reasoning trace."""

    key: str
    row: Row
    tail: str
    generation: Generation

    @property
    def way(self) -> Generation:
        """The settings that responses of one batch must have in common; their ends and answers' limits may differ."""
        return replace(self.generation, max_new_tokens=1, until="")

    @property
    def columns(self) -> int:
        """The most tokens that prompt and response can have together."""
        return len(self.row.prompt) + self.generation.longest


@dataclass(frozen=True, slots=True)
class Choice:
    """The options of one probe to score."""

    key: str
    group: Group
    options: tuple[str, ...]

    @property
    def columns(self) -> int:
        """Tokens of the prompt with its longest option."""
        return max(map(len, self.group.rows))


@dataclass(frozen=True, slots=True)
class Answered:
    """Tells whether a response has stated its answer, after the trace if there is one."""

    judge: Stating
    probe: Probe
    tail: str
    tags: Tags

    def __call__(self, loaded: LoadedModel, said: Sequence[int]) -> bool:
        split = read_response(loaded, said, decode(loaded, said), self.tail, self.tags)
        return split.complete and self.judge.stated(split.answer, self.probe)


@dataclass(frozen=True, slots=True)
class Begun:
    """Tells whether a response has begun its answer, after the trace if it opened one."""

    tail: str
    tags: Tags

    def __call__(self, loaded: LoadedModel, said: Sequence[int]) -> bool:
        if len(said) > _LOOK_EVERY and len(said) % _LOOK_EVERY:
            return False
        return read_response(loaded, said, decode(loaded, said), self.tail, self.tags).begun


def plan_answers(rendered: Rendered, jobs: Iterable[Job]) -> list[Answer]:
    """Every response that the jobs ask of a model, and every lead-in before options; equal ones appear once.

    Responses with equal settings stand together. The longest come first, among settings and within them, so that a
    batch that does not fit into memory fails early.
    """
    found: dict[str, Answer] = {}
    plain, forced, context = rendered.identity.chat_format == "plain", rendered.forced(), rendered.context()
    for job in (job if job.task == "generate" else job.lead_in for job in jobs):
        if not job.probes:
            continue
        prompts, generation = rendered.prompts(job.probes), rendered.way(job.generation)
        probes, behind = {probe.id: probe for probe in job.probes}, rendered.behind(job)
        for (name, repeat), key in rendered.response_keys(job, prompts).items():
            if key not in found:
                prompt, probe = prompts[name], probes[name]
                # `User:` ends a response only where the prompt has such lines.
                row = Row(
                    prompt.ids,
                    row_seed(generation.seed, name, repeat),
                    plain=plain and bool(probe.messages),
                    forced=() if generation.until == ANSWER_BEGINS else forced,
                    most=generation.max_new_tokens,
                    room=None if context is None else context - len(prompt.ids) - behind.get(name, 0),
                    answered=_ending(generation.until, probe, prompt.tail, rendered.tags) if generation.until else None,
                )
                found[key] = Answer(key, row, prompt.tail, generation)
    longest: dict[Generation, int] = {}
    for one in found.values():
        longest[one.way] = max(longest.get(one.way, 0), one.columns)
    return sorted(
        found.values(), key=lambda one: (-longest[one.way], repr(one.way), -one.columns, one.row.prompt, one.key)
    )


def _ending(until: str, probe: Probe, tail: str, tags: Tags) -> Answered | Begun:
    """What ends a response early."""
    if until == ANSWER_BEGINS:
        return Begun(tail, tags)
    return Answered(get_stating(until.partition(" ")[0]), probe, tail, tags)


def plan_choices(rendered: Rendered, jobs: Iterable[Job]) -> list[Choice]:
    """Every probe whose options the jobs want scored and whose lead-in is stored and has ended.

    Equal ones appear once; those that begin alike are neighbours.
    """
    found: dict[str, Choice] = {}
    for job in jobs:
        if job.task != "choose":
            continue
        rows = rendered.option_rows(job)
        keys = rendered.option_keys(rows)
        for probe in job.probes:
            if probe.id in keys:
                key = keys[probe.id]
                found.setdefault(key, Choice(key, Group(rows[probe.id].ids, rows[probe.id].starts), probe.options))
    return sorted(found.values(), key=lambda one: (one.group.rows, one.key))


def answer_batches(plan: Sequence[Answer], workers: int = 1) -> Iterator[list[Answer]]:
    """Consecutive parts of the plan; the responses of a part have equal settings.

    Each of several workers can take a few parts, so that none waits long for another's last.
    """
    size = min(_ANSWERS, max(1, -(-len(plan) // (_PARTS_EACH * workers)))) if workers > 1 else _ANSWERS
    for _, same in groupby(plan, key=lambda one: one.way):
        answers = list(same)
        yield from (answers[start : start + size] for start in range(0, len(answers), size))


def choice_batches(plan: Sequence[Choice], limits: BatchLimits) -> list[list[Choice]]:
    """Batches of consecutive probes, the batch with the longest row first.

    A beginning that a probe shares with the probe before it is computed once, and counted once.
    """
    batches: list[list[Choice]] = []
    tokens = rows = 0
    for one in plan:
        new = sum(map(len, one.group.rows)) - common_prefix(one.group.rows) * (len(one.group.rows) - 1)
        if batches:
            new -= common_prefix([batches[-1][-1].group.rows[0], one.group.rows[0]])
        if not batches or tokens + new > min(_CHOICE_TOKENS, limits.tokens) or rows + len(one.group.rows) > limits.rows:
            batches.append([])
            tokens = rows = 0
        batches[-1].append(one)
        tokens, rows = tokens + new, rows + len(one.group.rows)
    return sorted(batches, key=lambda batch: -max(one.columns for one in batch))
