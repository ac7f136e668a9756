"""What a model has left to do for a run: one plan over all jobs, and the batches it is cut into.

A plan is made from keys and rendered prompts alone, without weights. It holds what is stored already too, so that a run that was
interrupted goes on in the batches in which it began: in 16 bits a row's result can depend on its batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from pytest_trust.judges import get_stating
from pytest_trust.keys import row_seed
from pytest_trust.models.generation import Row
from pytest_trust.models.memory import BatchLimits
from pytest_trust.models.runner import Group
from pytest_trust.models.token_trees import common_prefix
from pytest_trust.reasoning import DEFAULT_TAGS, Tags, opened_by, split_reasoning
from pytest_trust.responses import Generation, Job

if TYPE_CHECKING:
    from pytest_trust.engine.rendered import Rendered
    from pytest_trust.judges.judgement import Stating
    from pytest_trust.probes import Probe

# Responses of a part of the plan: enough for full batches to the end, few enough for another process to have a part.
_ANSWERS = 1024
_PARTS_EACH = 4

# Tokens of a batch of options: some seconds on two cores, so that little is lost when a run is killed.
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
        """How it is answered: equal for those that can run together, whose limits may differ where a trace has none of its own."""
        return (
            self.generation
            if self.generation.reasoning_budget is not None
            else replace(self.generation, max_new_tokens=1)
        )

    @property
    def columns(self) -> int:
        """Tokens that prompt and response come to at most."""
        return len(self.row.prompt) + self.generation.longest


@dataclass(frozen=True, slots=True)
class Choice:
    """The options of one probe to score."""

    key: str
    group: Group
    options: tuple[str, ...]

    @property
    def columns(self) -> int:
        """Tokens of the longest option with its prompt."""
        return max(map(len, self.group.rows))


@dataclass(frozen=True, slots=True)
class Answered:
    """Whether a response has stated its answer: behind its trace, where it has one."""

    judge: Stating
    probe: Probe
    opened: bool
    tags: Tags

    def __call__(self, text: str) -> bool:
        split = split_reasoning(text, self.tags, self.opened, ended=False)
        return split.complete and self.judge.stated(split.answer, self.probe)


def plan_answers(rendered: Rendered, jobs: Iterable[Job], tags: Tags = DEFAULT_TAGS) -> list[Answer]:
    """Every response that the jobs ask of a model, equal ones once: those settings first under which the longest may come, within
    them the longest first, so that what does not fit shows at once."""
    found: dict[str, Answer] = {}
    plain, forced = rendered.identity.chat_format == "plain", rendered.forced()
    for job in jobs:
        if job.task != "generate":
            continue
        prompts, generation = rendered.prompts(job.probes), rendered.generation(job)
        probes = {probe.id: probe for probe in job.probes}
        judge = get_stating(generation.until.partition(" ")[0]) if generation.until else None
        for (name, repeat), key in rendered.response_keys(job, prompts).items():
            if key not in found:
                # `User:` ends a response only where the prompt has such lines.
                seed = row_seed(generation.seed, name, repeat)
                row = Row(
                    prompts[name].ids,
                    seed,
                    plain=plain and bool(probes[name].messages),
                    forced=forced,
                    most=generation.max_new_tokens,
                )
                if judge:
                    row = replace(
                        row, answered=Answered(judge, probes[name], bool(opened_by(prompts[name].tail, tags)), tags)
                    )
                found[key] = Answer(key, row, prompts[name].tail, generation)
    longest: dict[Generation, int] = {}
    for one in found.values():
        longest[one.way] = max(longest.get(one.way, 0), one.columns)
    return sorted(
        found.values(), key=lambda one: (-longest[one.way], repr(one.way), -one.columns, one.row.prompt, one.key)
    )


def plan_choices(rendered: Rendered, jobs: Iterable[Job]) -> list[Choice]:
    """Every probe whose options the jobs want scored, equal ones once, beside those that begin alike."""
    found: dict[str, Choice] = {}
    for job in jobs:
        if job.task != "choose":
            continue
        rows = rendered.option_rows(job.probes)
        keys = rendered.option_keys(rows)
        for probe in job.probes:
            if probe.id in keys:
                key = keys[probe.id]
                found.setdefault(key, Choice(key, Group(rows[probe.id].ids, rows[probe.id].starts), probe.options))
    return sorted(found.values(), key=lambda one: (one.group.rows, one.key))


def answer_batches(plan: Sequence[Answer], workers: int = 1) -> Iterator[list[Answer]]:
    """Consecutive parts that are answered in one way. Within one, waiting rows take the places of finished ones. Of several workers each
    may take a few parts, so that none waits long for another's last."""
    size = min(_ANSWERS, max(1, -(-len(plan) // (_PARTS_EACH * workers)))) if workers > 1 else _ANSWERS
    for _, same in groupby(plan, key=lambda one: one.way):
        answers = list(same)
        yield from (answers[start : start + size] for start in range(0, len(answers), size))


def choice_batches(plan: Sequence[Choice], limits: BatchLimits) -> list[list[Choice]]:
    """Parts of probes that begin alike, the one with the longest row first. A beginning that a probe shares with the one before is
    counted once, as it is computed once."""
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
