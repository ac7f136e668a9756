"""Trace dependence: how much a model's answer depends on its trace, in nats and without a judge.

A model reads its own answer y to the prompt x twice: behind its own trace z, and behind another one, z'. With its own
weights p, the dependence of a response is

    D(z') = sum over the answer's tokens t of KL(p(. | x, z, y_<t) || p(. | x, z', y_<t))   in nats, at least 0.

`trace_cuts.KINDS` are the three z'. The idea is that of early answering (Lanham et al. 2023, arXiv 2307.13702, section
2.3), which asks whether the answer changes when the trace is cut. KL shows what changes in the distribution, too.

A greedy answer counts as changed where the most likely token differs at one of its tokens or more. Greedy decoding
behind z' would have given another text: up to the first such token it gives the same.

Where options are scored, the trace stands before them. D(z') is then KL(P(. | x, z) || P(. | x, z')) of the options'
probabilities, normalised over the options, and a choice counts as changed where the likeliest option differs.

Only models whose weights are here can read their answers again. The store keeps each reading, so a second run makes
none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_trust.drift.alignment import NO_HEAD, headless_key
from pytest_trust.drift.loaded_pair import has_head
from pytest_trust.drift.masking import marker_spans, masked_tokens
from pytest_trust.drift.measure import DRIFT_BATCH
from pytest_trust.drift.trace_cuts import KINDS, cut_response
from pytest_trust.engine.claimed_work import share
from pytest_trust.engine.model import Said
from pytest_trust.errors import InvalidInput
from pytest_trust.judges.samples import normalised
from pytest_trust.keys import digest
from pytest_trust.models.context_windows import in_windows
from pytest_trust.models.framing import encode
from pytest_trust.models.reference import Reference
from pytest_trust.reasoning import opened_by
from pytest_trust.responses import Job, OptionScores

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
class Answer:
    """One answer, or one choice of an option, as it was read behind another trace."""

    probe: str
    """Id of the probe."""
    cluster: str
    """Cluster of the probe."""
    suite: str
    """Suite of the probe."""
    nats: float
    """D(z'), summed over the counted tokens of the answer."""
    tokens: int
    """Number of these tokens; of a choice, the number of its options."""
    changed: bool | None
    """Whether the answer would be another one; None for a sampled answer."""
    begins_otherwise: bool | None
    """Whether its first counted token would be another one; None for a sampled answer and for a choice."""
    by_token: TokenDrift | None = None
    """The divergences at the counted tokens; None for a choice."""


@dataclass(frozen=True, slots=True)
class Dependence:
    """The dependence of one model's answers on their traces."""

    answers: Mapping[str, Mapping[str, Answer]] = field(default_factory=dict)
    """By kind and probe id.

    A kind without answers is left out, as `other` is where only one of the models has traces.
    """
    reason: str = ""
    """Why there are no answers."""


def readings_of(engine: Engine, job: Job, reference: Reference, other: Reference) -> list[Reading]:
    """The drift probes' responses that have a trace of a word or more and an answer after it. This loads no weights."""
    model, others = engine.model(reference), engine.model(other)
    probes = tuple(probe for probe in job.probes if probe.id in job.drift)
    if not model.runs or not probes:
        return []
    asked = replace(job, probes=probes, samples=1)
    said = _led_in(engine.local(reference), asked) if job.task == "choose" else model.said(asked, others)
    traced = {name: one for name, one in said.items() if one.traced and one.trace_at[1] > one.trace_at[0]}
    if not traced:
        return []
    if job.task == "choose":
        theirs = {name: one.lead_in.reasoning for name, one in others.options(asked).items() if one.lead_in}
    else:
        theirs = {name: responses[0].reasoning for name, responses in others.responses(asked).items()}
    found = []
    for probe in probes:
        if probe.id not in traced:
            continue
        one, trace = traced[probe.id], theirs.get(probe.id, "")
        key = digest(
            "trace dependence", _KEYS, model.source, one.context, one.token_ids, one.trace_at, one.answer_at, model.tags
        )
        keys = {kind: digest(key, kind, *([trace] if kind == "other" else [])) for kind in KINDS}
        if not trace:
            del keys["other"]
        found.append(Reading(job, probe, one, trace, keys))
    return found


def _led_in(model: Local, job: Job) -> dict[str, Said]:
    """By probe id, what stands before the options of a job: as `Said` of a response, with the options behind it."""
    led = {name: one.lead_in for name, one in model.options(job).items() if one.lead_in and one.log_likelihoods}
    prompts, rows = model.prompts([probe for probe in job.probes if probe.id in led]), model.option_rows(job)
    return {
        name: Said(
            context=digest(rows[name].ids, rows[name].starts),
            token_ids=(one.token_ids,),
            prompt=prompts[name].ids,
            options=rows[name].ids,
            starts=rows[name].starts,
            text=one.text,
            tail=prompts[name].tail,
            answer_at=len(one.text),
            traced=one.complete,
            trace_at=one.trace_at,
        )
        for name, one in led.items()
        if name in rows
    }


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
    """The response itself, then one row for each kind that is wanted; of a choice, all options for each kind."""
    answer: tuple[int, ...] = ()
    """The tokens of the answer; none for a choice."""
    counted: Sequence[int] = ()
    """Indices in the answer of the tokens that are counted: not those of the template."""


def _rows(model: Local, reading: Reading) -> _Rows:
    from pytest_trust.models.runner import Group

    framing, said = model.framing(), reading.said
    cut = cut_response(framing, said.token_ids[0], said.text, said.trace_at, said.answer_at)
    before = {FULL: said.token_ids[0][: cut.start], "half": cut.half, "none": cut.behind(())}
    # Encoded anew, a trace may have other tokens than the model has written: an equal one is the response itself.
    same = reading.other == said.text[slice(*said.trace_at)]
    before["other"] = before[FULL] if same else cut.behind(encode(framing.tokenizer, reading.other))
    if said.options:
        length = len(said.prompt) + len(said.token_ids[0])
        shorter = [len(said.prompt) + len(before[kind]) - length for kind in reading.keys]
        rows = [(*said.prompt, *before[kind], *option[length:]) for kind in reading.keys for option in said.options]
        return _Rows(reading, Group(tuple(rows), tuple(start + by for by in shorter for start in said.starts)))
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
    """What the store keeps of the readings, by key: encoded token drifts, and log-likelihoods of options as JSON."""
    model, runner = engine.local(reference), engine.loaded(reference)
    assert runner.head is not None
    rows = [_rows(model, reading) for reading in readings]
    read = in_windows(runner.hidden_states, model.context())
    states = engine.fitting.halving([one.group for one in rows], read)
    both = list(zip(rows, states, strict=True))
    answers = [(one, found) for one, found in both if not one.reading.said.options]
    choices = [(one, found) for one, found in both if one.reading.said.options]
    return _divergences(answers, runner.head, reference, model.context()) | _scores(choices, runner.head)


def _scores(choices: Sequence[tuple[_Rows, Sequence[torch.Tensor]]], head: Head) -> dict[str, bytes]:
    """The options' log-likelihoods in nats, by key, from the states of each option [tokens, hidden size]."""
    import torch

    from pytest_trust.models.option_scores import token_log_likelihoods

    values = {}
    for one, states in choices:
        options = [row[start:] for row, start in zip(one.group.rows, one.group.starts, strict=True)]
        found = iter(token_log_likelihoods(head, torch.cat(list(states)), [token for row in options for token in row]))
        totals = [sum(next(found) for _ in row) for row in options]
        each = len(one.reading.said.options)
        for place, key in enumerate(one.reading.keys.values()):
            values[key] = json.dumps({"log_likelihoods": totals[place * each : (place + 1) * each]}).encode()
    return values


def _divergences(
    answers: Sequence[tuple[_Rows, Sequence[torch.Tensor]]], head: Head, reference: Reference, context: int | None
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

    if not answers:
        return {}
    work, p, q, labels = [], [], [], []
    for one, (own, *others) in answers:
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
    model = engine.model(reference)
    if not model.runs:
        return Dependence(reason=NOT_HERE.format(label=reference.label))
    readings = readings_of(engine, job, reference, other)
    stored = engine.store.get("drifts", keys_of(readings))
    if job.task == "choose":
        scores = model.options(job) if stored else {}

        def read(one: Reading, value: bytes) -> Answer:
            return _choice(one, scores[one.probe.id], json.loads(value)["log_likelihoods"])
    else:
        greedy = engine.local(reference).way(job.generation).greedy

        def read(one: Reading, value: bytes) -> Answer:
            return _answer(one, value, greedy)

    answers = {}
    for kind in KINDS:
        found = {one.probe.id: read(one, stored[key]) for one in readings if (key := one.keys.get(kind, "")) in stored}
        if found:
            answers[kind] = found
    if answers:
        return Dependence(answers)
    reason = _headless(engine, reference) or NOT_READ if readings else NO_TRACES
    return Dependence(reason=reason.format(side=side))


def _answer(reading: Reading, value: bytes, greedy: bool) -> Answer:
    import numpy

    from pytest_trust.drift.token_drift import TokenDrift

    probe = reading.probe
    drift = replace(TokenDrift.from_bytes(value), probe=probe.id, cluster=probe.cluster, suite=reading.job.suite)
    known = greedy and len(drift) > 0
    return Answer(
        probe.id,
        probe.cluster,
        reading.job.suite,
        nats=float(drift.kl_pq.sum(dtype=numpy.float64)),
        tokens=len(drift),
        changed=not drift.same_top.all() if known else None,
        begins_otherwise=not drift.same_top[0] if known else None,
        by_token=drift,
    )


def _choice(reading: Reading, full: OptionScores, behind: Sequence[float]) -> Answer:
    """A choice from the options' scores behind the model's own trace, and their log-likelihoods behind another."""
    import numpy

    values = [
        numpy.array(normalised(scores, reading.job.normalise))
        for scores in (full, replace(full, log_likelihoods=tuple(behind)))
    ]
    log_p, log_q = (one - numpy.logaddexp.reduce(one) for one in values)
    nats = float((numpy.exp(log_p) * (log_p - log_q)).sum())
    return Answer(
        reading.probe.id,
        reading.probe.cluster,
        reading.job.suite,
        nats=max(0.0, nats),
        tokens=len(behind),
        changed=bool(values[0].argmax() != values[1].argmax()),
        begins_otherwise=None,
    )


def _headless(engine: Engine, reference: Reference) -> str:
    """The store's note that the model's head is not at hand, in words; empty where there is none."""
    key = headless_key(engine.model(reference))
    noted = engine.store.get_json("notes", [key]).get(key)
    return noted if isinstance(noted, str) else NO_HEAD.format(label=reference.label) if noted else ""
