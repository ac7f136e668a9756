"""Trace dependence: how much a model's answer depends on its trace, in nats and without a judge.

A model reads its own answer y to the prompt x twice: behind its own trace z, and behind another one, z'. With its own
weights p, the dependence of a response is

    D(z') = sum over the answer's tokens t of KL(p(. | x, z, y_<t) || p(. | x, z', y_<t))   in nats, at least 0.

`trace_cuts.KINDS` are the three z'. The idea is that of early answering (Lanham et al. 2023, arXiv 2307.13702, section
2.3), which asks whether the answer changes when the trace is cut. KL shows what changes in the distribution, too.

An answer counts as changed where the most likely token differs at one of its tokens or more. If the answer was produced
greedily, greedy decoding behind z' would have given another text: up to the first such token it gives the same.

Only models whose weights are here can read their answers again. The store keeps each reading, so a second run makes
none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_trust.drift.alignment import NO_HEAD, headless_key
from pytest_trust.drift.loaded_pair import has_head
from pytest_trust.drift.masking import marker_spans, masked_tokens
from pytest_trust.drift.measure import DRIFT_BATCH
from pytest_trust.drift.trace_cuts import KINDS, cut_response, encode
from pytest_trust.engine.claimed_work import share
from pytest_trust.engine.model import Said
from pytest_trust.errors import InvalidInput
from pytest_trust.keys import digest
from pytest_trust.models.context_windows import in_windows
from pytest_trust.models.reference import Reference
from pytest_trust.reasoning import opened_by
from pytest_trust.responses import Job

if TYPE_CHECKING:
    import torch

    from pytest_trust.drift.token_drift import TokenDrift
    from pytest_trust.engine.engine import Engine
    from pytest_trust.engine.local import Local
    from pytest_trust.models.heads import Head
    from pytest_trust.models.runner import Group
    from pytest_trust.probes import Probe

_KEYS = 1  # version of the keys: raise it when their meaning changes

FULL = "full"  # the name of a response's own trace in a `TokenDrift`

NOT_HERE = "{label} is not run here, so it cannot read its answers behind other traces"
NO_TRACES = "no response of the {side} has a trace and an answer after it"
NOT_READ = "the {side} has not read its answers behind other traces"


@dataclass(frozen=True, slots=True)
class Reading:
    """One response with a trace, and what its model reads its answer behind."""

    job: Job
    probe: Probe
    said: Said
    other: str
    """The text of the other model's trace for the same probe; empty where there is none."""
    keys: Mapping[str, str]
    """The keys of the results in the store, by kind."""

    @property
    def length(self) -> int:
        """Tokens of the prompt and the response together."""
        return len(self.said.prompt) + len(self.said.token_ids[0])


@dataclass(frozen=True, slots=True)
class Dependence:
    """The dependence of one model's answers on their traces."""

    answers: Mapping[str, Mapping[str, TokenDrift]] = field(default_factory=dict)
    """By kind and probe id, KL(p(. | x, z) || p(. | x, z')) at each counted token of the answer.

    A kind without answers is left out, as `other` is where only one of the models has traces.
    """
    greedy: bool = True
    """Whether the answers were produced greedily."""
    reason: str = ""
    """Why there are no answers."""


def readings_of(engine: Engine, job: Job, reference: Reference, other: Reference) -> list[Reading]:
    """The drift probes' responses that have a trace of a word or more and an answer after it. This loads no weights."""
    model = engine.model(reference)
    probes = tuple(probe for probe in job.probes if probe.id in job.drift)
    if not model.runs or job.task != "generate" or not probes:
        return []
    asked = replace(job, probes=probes, samples=1)
    said = model.said(asked, engine.model(other))
    traced = {name: one for name, one in said.items() if one.traced and one.trace_at[1] > one.trace_at[0]}
    if not traced:
        return []
    others = engine.model(other).responses(asked)
    found = []
    for probe in probes:
        if probe.id not in traced:
            continue
        one = traced[probe.id]
        theirs = others[probe.id][0].reasoning if probe.id in others else ""
        key = digest(
            "trace dependence", _KEYS, model.source, one.context, one.token_ids, one.trace_at, one.answer_at, model.tags
        )
        keys = {kind: digest(key, kind, *([theirs] if kind == "other" else [])) for kind in KINDS}
        if not theirs:
            del keys["other"]
        found.append(Reading(job, probe, one, theirs, keys))
    return found


def acquire_dependence(engine: Engine, jobs: Sequence[Job], baseline: Reference, candidate: Reference) -> None:
    """Measure and store what is missing of both models' trace dependence on the jobs' drift probes.

    Raises:
        TrustError: a model cannot be loaded, or its logits are not finite.
    """
    for reference, other in dict.fromkeys(((baseline, candidate), (candidate, baseline))):
        readings = missing_readings(engine, jobs, reference, other)
        if readings:
            measure_readings(engine, readings, reference)


def missing_readings(engine: Engine, jobs: Sequence[Job], reference: Reference, other: Reference) -> list[Reading]:
    """The readings of the jobs, with the keys that the store lacks. What two jobs share is in one reading only.

    A model whose head is known not to be at hand has none.
    """
    readings = [reading for job in jobs for reading in readings_of(engine, job, reference, other)]
    if not readings or _headless(engine, reference):
        return []
    wanted = set(keys_of(readings))
    return parts_of(readings, wanted - engine.store.has("drifts", wanted))


def measure_readings(engine: Engine, readings: Sequence[Reading], reference: Reference) -> None:
    """Measure and store the readings. Where the model's head is not at hand, note that and measure nothing."""
    if not has_head(engine, reference):
        return
    readings = sorted(readings, key=lambda one: -one.length)
    size = -(-len(readings) // engine.workers) if engine.offloads else DRIFT_BATCH
    parts = [readings[start : start + size] for start in range(0, len(readings), size)]

    def make(part: list[Reading]) -> Iterator[tuple[int, int]]:
        engine.store.put("drifts", measure(engine, part, reference), {"process": engine.claims.name})
        yield len(part), sum(len(one.said.token_ids[0]) for one in part)

    share(engine, reference, "drift", "drifts", parts, make, missing=len(readings), keys=keys_of, part=parts_of)


def keys_of(readings: Sequence[Reading]) -> list[str]:
    """The keys of all results of the readings."""
    return [key for one in readings for key in one.keys.values()]


def parts_of(readings: Sequence[Reading], keys: Set[str]) -> list[Reading]:
    """The readings with these keys only, each in one of them. Readings that have none of them are left out."""
    left, found = set(keys), []
    for one in readings:
        own = {kind: key for kind, key in one.keys.items() if key in left}
        if own:
            left.difference_update(own.values())
            found.append(replace(one, keys=own))
    return found


@dataclass(frozen=True, slots=True)
class _Rows:
    """One response as it is read."""

    reading: Reading
    group: Group
    """The response itself, then one row for each kind that is wanted."""
    answer: tuple[int, ...]
    counted: list[int]
    """Indices in the answer of the tokens that are counted: not those of the template."""


def _rows(model: Local, reading: Reading) -> _Rows:
    from pytest_trust.models.runner import Group

    framing, said = model.framing(), reading.said
    cut = cut_response(framing, said.token_ids[0], said.text, said.trace_at, said.answer_at)
    before = {FULL: said.token_ids[0][: cut.start], "half": cut.half, "none": cut.behind(())}
    # Encoded anew, a trace may have other tokens than the model has written: an equal one is the response itself.
    same = reading.other == said.text[slice(*said.trace_at)]
    before["other"] = before[FULL] if same else cut.behind(encode(framing, reading.other))
    heads = [(*said.prompt, *before[kind]) for kind in (FULL, *reading.keys)]
    spans = marker_spans(said.text, model.tags, bool(opened_by(said.tail, model.tags)))
    masked = set(masked_tokens(framing, said.token_ids[0], spans, None))
    return _Rows(
        reading,
        Group(tuple((*head, *cut.answer) for head in heads), tuple(map(len, heads))),
        cut.answer,
        [place for place in range(len(cut.answer)) if place + cut.start not in masked],
    )


def measure(engine: Engine, readings: Sequence[Reading], reference: Reference) -> dict[str, bytes]:
    """Encoded token drifts of the readings, by key."""
    model, runner = engine.local(reference), engine.loaded(reference)
    assert runner.head is not None
    rows = [_rows(model, reading) for reading in readings]
    read = in_windows(runner.hidden_states, model.context())
    states = engine.fitting.halving([one.group for one in rows], read)
    return _divergences(rows, states, runner.head, reference, model.context())


def _divergences(
    rows: Sequence[_Rows],
    states: Sequence[Sequence[torch.Tensor]],
    head: Head,
    reference: Reference,
    context: int | None,
) -> dict[str, bytes]:
    """Encoded token drifts by key, from the states of each row's answer [tokens, hidden size].

    Raises:
        InvalidInput: a logit is NaN or infinite; names model, probe and kind.
    """
    import torch

    from pytest_trust.drift.kernels.from_hidden import divergences_from_hidden
    from pytest_trust.drift.kernels.reduction import OddLogits
    from pytest_trust.drift.reduce_pair import rows_of
    from pytest_trust.drift.token_drift import TokenDrift

    work, p, q, labels = [], [], [], []
    for one, (own, *others) in zip(rows, states, strict=True):
        for kind, behind in zip(one.reading.keys, others, strict=True):
            work.append((one, kind))
            p.append(own[one.counted])
            q.append(behind[one.counted])
            labels.append(torch.tensor([one.answer[place] for place in one.counted], dtype=torch.long))
    try:
        found = divergences_from_hidden(torch.cat(p), head, torch.cat(q), head, labels=torch.cat(labels))
    except OddLogits as odd:
        index, token = odd.place([len(one.counted) for one, _ in work])
        one, kind = work[index]
        raise InvalidInput(
            f"{reference.label}: {odd.what} in its logits for token {one.counted[token]} of its answer on probe "
            f"{one.reading.probe.id} behind its {FULL if odd.side == 'p' else kind} trace; "
            "expected finite logits: check the model's weights and dtype"
        ) from odd
    values, start = {}, 0
    for one, kind in work:
        stop = start + len(one.counted)
        drift = TokenDrift.of(
            rows_of(found, start, stop),
            probe=one.reading.probe.id,
            cluster=one.reading.probe.cluster,
            suite=one.reading.job.suite,
            p=FULL,
            q=kind,
            masked_tokens=len(one.answer) - len(one.counted),
            windowed=context is not None and any(len(row) - 1 > context for row in one.group.rows),
        )
        values[one.reading.keys[kind]] = drift.to_bytes()
        start = stop
    return values


def stored_dependence(engine: Engine, job: Job, reference: Reference, other: Reference, side: str) -> Dependence:
    """What is stored of a model's trace dependence on a job; `side` is its name in the reason why there is none."""
    from pytest_trust.drift.token_drift import TokenDrift

    model = engine.model(reference)
    if not model.runs:
        return Dependence(reason=NOT_HERE.format(label=reference.label))
    readings = readings_of(engine, job, reference, other)
    stored = engine.store.get("drifts", keys_of(readings))
    answers: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        found = {
            one.probe.id: replace(
                TokenDrift.from_bytes(stored[key]), probe=one.probe.id, cluster=one.probe.cluster, suite=job.suite
            )
            for one in readings
            if (key := one.keys.get(kind, "")) in stored
        }
        if found:
            answers[kind] = found
    reason = ""
    if not answers:
        reason = (_headless(engine, reference) or NOT_READ if readings else NO_TRACES).format(side=side)
    return Dependence(answers, engine.local(reference).generation(job).greedy, reason)


def _headless(engine: Engine, reference: Reference) -> str:
    """The store's note that the model's head is not at hand, in words; empty where there is none."""
    key = headless_key(engine.model(reference))
    noted = engine.store.get_json("notes", [key]).get(key)
    return noted if isinstance(noted, str) else NO_HEAD.format(label=reference.label) if noted else ""
