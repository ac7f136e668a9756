"""Responses under longer limits begin as those under shorter ones: what the store holds is not generated again.

A response that ended by itself is the same under every longer limit. One that was cut goes on from there. The store
notes the limits that were used in it, so that the shorter response of a key can be looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pytest_trust.engine.store import Store
from pytest_trust.engine.stored_values import response_of
from pytest_trust.keys import digest
from pytest_trust.reasoning import Tags
from pytest_trust.responses import ANSWER_BEGINS, Generation, Job

if TYPE_CHECKING:
    from pytest_trust.engine.batches import Answer
    from pytest_trust.engine.rendered import Rendered

#: Key of the store's note of the limits that were used in it.
LIMITS_KEY = digest("limits", 1)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a response: of its answer, of its trace (None: the first limits both), and whether that closes."""

    answer: int
    trace: int | None
    closes: bool

    @classmethod
    def of(cls, generation: Generation) -> Limits:
        closes = generation.closes and generation.reasoning_budget is not None
        return cls(generation.max_new_tokens, generation.reasoning_budget, closes)

    def on(self, generation: Generation) -> Generation:
        return replace(
            generation,
            max_new_tokens=self.answer,
            reasoning_budget=self.trace,
            closes=self.closes or self.trace is None,
        )

    def within(self, longer: Limits) -> bool:
        """Whether every response that ends by itself under these limits does so under the longer ones."""
        if self == longer:
            return False
        answer = longer.answer >= self.answer
        if longer.trace is None:
            return self.trace is None and answer
        return answer and longer.trace >= (self.answer if self.trace is None else self.trace)


def remember_limits(store: Store, generations: Iterable[Generation]) -> None:
    """Note the limits of these generations."""
    known = store.get_json("notes", [LIMITS_KEY]).get(LIMITS_KEY, [])
    new = sorted({(one.answer, one.trace, one.closes) for one in map(Limits.of, generations)}, key=str)
    found = [*known, *(list(one) for one in new if list(one) not in known)]
    if found != known:
        store.put_json("notes", {LIMITS_KEY: found}, replace=True)


def shorter_keys(rendered: Rendered, job: Job) -> dict[str, list[tuple[str, Limits]]]:
    """For each response key of a job, the keys of the same response under the shorter limits that were used."""
    known = rendered.store.get_json("notes", [LIMITS_KEY]).get(LIMITS_KEY, [])
    job = job if job.task == "generate" else job.lead_in
    generation = rendered.way(job.generation)
    longer = Limits.of(generation)
    shorter = [limits for limits in (Limits(*one) for one in known) if limits.within(longer)]
    shorter.sort(key=lambda one: (one.trace or 0, one.answer), reverse=True)
    prompts = rendered.prompts(job.probes)
    own = rendered.response_keys(job, prompts)
    found: dict[str, list[tuple[str, Limits]]] = {key: [] for key in own.values()}
    for limits in shorter:
        for name, key in rendered.response_keys(job, prompts, limits.on(generation)).items():
            found[own[name]].append((key, limits))
    return found


def continued(rendered: Rendered, jobs: Sequence[Job], plan: Sequence[Answer], missing: Set[str]) -> list[Answer]:
    """The plan, in which missing responses go on from what is stored of them.

    Responses that are the same under shorter limits are stored under their new keys.
    """
    shorter: dict[str, list[tuple[str, Limits]]] = {}
    for job in jobs:
        shorter |= shorter_keys(rendered, job)
    wanted = {one.key: (one, shorter.get(one.key, [])) for one in plan if one.key in missing}
    stored = rendered.store.get_json("responses", [key for _, others in wanted.values() for key, _ in others])
    same: dict[str, Any] = {}
    begun: dict[str, Mapping[str, Any]] = {}
    for key, (one, others) in wanted.items():
        for value, limits in ((stored[other], limits) for other, limits in others if other in stored):
            use = _use(value, limits, one, rendered.tags)
            if use == "same":
                same[key] = value
            elif use == "begun":
                begun[key] = value
            if use:
                break
    if same:
        rendered.store.put_json("responses", same)
    return [_from_there(one, begun[one.key]) if one.key in begun else one for one in plan]


def _use(value: Mapping[str, Any], limits: Limits, one: Answer, tags: Tags) -> Literal["same", "begun", ""]:
    """Whether a response that is stored under shorter limits is the one that is wanted, or its beginning."""
    longer = Limits.of(one.generation)
    if value.get("closed"):
        return ""  # a longer budget closes the trace elsewhere
    if value["finish"] in ("stop", "answered"):
        return "same"
    if value["finish"] == "loop":
        return "" if longer.closes else "same"  # a budget closes a trace that loops
    lead_in = one.generation.until == ANSWER_BEGINS
    in_trace = not response_of({**value, "tail": one.tail}, tags).complete
    if lead_in and not in_trace:
        return ""  # its last tokens were not stored
    count = len(value["ids"])
    if longer.trace is None:
        return "begun" if count < longer.answer else ""
    if in_trace:
        if count < longer.trace:
            return "begun"
        return "same" if limits.closes == longer.closes else ""
    return "begun" if limits.answer < longer.answer or limits.trace is None else "same"


def _from_there(one: Answer, value: Mapping[str, Any]) -> Answer:
    ids = tuple(value["ids"])
    return replace(one, row=replace(one.row, forced=ids, drawn=len(ids) - len(one.row.forced)))
