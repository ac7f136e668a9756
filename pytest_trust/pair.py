"""The drift of a pair: both sides' hidden states on the same response tokens, reduced to divergences and stored per response.

Each side renders the prompt with its own template; the states that predict the response's tokens (its end token included) are
compared. With both models in memory work goes chunk by chunk; if only one fits, all of one side's states are kept until the other
side has run. A recording brings its own states, for its own responses only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal

from pytest_trust.jobs import Job, PairDrift, digest
from pytest_trust.references import Reference
from pytest_trust.subject import portable_key, shared_vocabulary

if TYPE_CHECKING:
    import torch

    from pytest_trust.acquisition import Engine
    from pytest_trust.divergence import TokenDivergences
    from pytest_trust.drift import TokenDrift
    from pytest_trust.heads import Head
    from pytest_trust.inference import Group
    from pytest_trust.probes import Probe

Side = Literal["baseline", "candidate"]
Text = tuple[tuple[int, ...], ...]  # token ids: one response, or one tuple per option

_KEYS = 1
_CHUNK = 16  # probes whose states exist at once while both models are in memory
# Of each job. The floor is a property of the pair of device and dtype, a few responses show it; all of them would double the cost.
_FLOOR_PROBES = 2

NOT_RECORDED = "the {side} is a recording, which holds its states on its own responses only"
NO_WEIGHTS = "the baseline is a recording, so it cannot be run a second time"
OTHER_TOKENS = "the tokenizers differ, so the models' next-token distributions are over different vocabularies"
NO_HEAD = "the head of {label} is quantised or missing"


@dataclass(slots=True)
class _View:
    """One side of a job: what it was shown (`contexts`, hashed), and the texts it gives drift to be measured on."""

    reference: Reference
    fingerprint: str
    recorded: bool
    contexts: dict[str, str] = field(default_factory=dict)
    texts: dict[str, Text] = field(default_factory=dict)
    prompts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    options: dict[str, Group] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)  # characters before the answer (tokens in a recording)

    def group(self, probe: str, texts: Sequence[Text]) -> Group:
        """What this side's model runs to be compared on `texts`."""
        from pytest_trust.inference import Group

        if probe in self.options:
            return self.options[probe]
        prompt = self.prompts[probe]
        return Group(tuple((*prompt, *text[0]) for text in texts), (len(prompt),) * len(texts))


@dataclass(frozen=True, slots=True)
class _Unit:
    """One probe of one job with the keys of what is missing; `floor` is empty when it is not wanted."""

    job: Job
    probe: Probe
    baseline: _View
    candidate: _View
    candidate_baseline: str
    baseline_candidate: str
    floor: str

    def side(self, side: Side) -> _View:
        return self.baseline if side == "baseline" else self.candidate

    def on(self, direction: Side) -> Text:
        """The text on which `direction`, p's side, is measured."""
        return self.side(direction).texts[self.probe.id]

    def texts(self) -> list[Text]:
        """The texts that both sides are run on: each side's own response, or the options once."""
        wanted = [self.on("candidate")] if self.candidate_baseline else []
        if self.baseline_candidate or self.floor:
            wanted.append(self.on("baseline"))
        return list(dict.fromkeys(wanted))


def acquire_drift(engine: Engine, jobs: Sequence[Job], baseline: Reference, candidate: Reference) -> None:
    """Measure and store what is missing of the pair's drift on the jobs' drift probes."""
    if not any(job.drift for job in jobs) or impossible(engine, baseline, candidate):
        return
    units = [unit for job in jobs for unit in _missing(engine, _units(engine, job, baseline, candidate))]
    if not units:
        return
    units.sort(key=lambda unit: -_length(unit))
    live = [reference for reference in dict.fromkeys((baseline, candidate)) if reference.kind != "recording"]
    for reference in live:
        if not _has_head(engine, reference):
            return
    size = _CHUNK if _all_fit(engine, live) else len(units)
    done = tokens = 0
    for start in range(0, len(units), size):
        part = units[start : start + size]
        values = _measure(engine, part, baseline, candidate)
        engine.store.put("drifts", values, {"chunk": len(part)})
        done, tokens = done + len(part), tokens + sum(len(row) for unit in part for text in unit.texts() for row in text)
        engine.tell(candidate, "drift", "", done, len(units), tokens)


def stored_drift(engine: Engine, job: Job, baseline: Reference, candidate: Reference) -> PairDrift:
    """What the store holds of the pair's drift on this job."""
    from pytest_trust.drift import TokenDrift

    ours, theirs = engine.identify(baseline), engine.identify(candidate)
    identical = ours.fingerprint == theirs.fingerprint and ours.rendering == theirs.rendering
    reason = impossible(engine, baseline, candidate)
    if reason:
        return PairDrift({}, {}, {}, reason, reason, reason, identical)
    units = list(_units(engine, job, baseline, candidate))
    stored = engine.store.get("drifts", [key for unit in units for key in (unit.candidate_baseline, unit.baseline_candidate, unit.floor) if key])

    def read(kind: str) -> dict[str, TokenDrift]:
        keys = {unit.probe.id: getattr(unit, kind) for unit in units}
        found = {name: TokenDrift.from_bytes(stored[key]) for name, key in keys.items() if key in stored}
        probes = {unit.probe.id: unit.probe for unit in units}
        return {name: replace(drift, probe=name, cluster=probes[name].cluster, suite=job.suite) for name, drift in found.items()}

    reasons = {}
    for side, other in (("candidate", baseline), ("baseline", candidate)):
        one_way = other.kind == "recording" and job.task == "generate"
        reasons[side] = NOT_RECORDED.format(side="candidate" if other is candidate else "baseline") if one_way else ""
    return PairDrift(
        candidate_baseline=read("candidate_baseline"),
        baseline_candidate=read("baseline_candidate"),
        floor=read("floor"),
        candidate_baseline_reason=reasons["candidate"],
        baseline_candidate_reason=reasons["baseline"],
        floor_reason=NO_WEIGHTS if baseline.kind == "recording" else "",
        identical=identical,
    )


def impossible(engine: Engine, baseline: Reference, candidate: Reference) -> str:
    """Why no drift of this pair can be measured, or nothing."""
    for reference in (baseline, candidate):
        if reference.kind != "recording":
            key = _headless(engine, reference)
            if engine.store.get("notes", [key]):
                return NO_HEAD.format(label=reference.label)
    return "" if _shared(engine, baseline, candidate) else OTHER_TOKENS


def _shared(engine: Engine, baseline: Reference, candidate: Reference) -> int:
    """Leading ids that mean the same to both; -1 for all, 0 for none."""
    ours, theirs = engine.identify(baseline), engine.identify(candidate)
    if ours.tokenizer == theirs.tokenizer:
        return -1
    recordings = [engine.recording(reference) for reference in (baseline, candidate)]
    if any(recordings):
        hashes = {
            recording.vocabulary if recording else engine.subject(reference).vocabulary()
            for recording, reference in zip(recordings, (baseline, candidate), strict=True)
        }
        return -1 if len(hashes) == 1 else 0
    return shared_vocabulary(engine.subject(baseline), engine.subject(candidate))


def _headless(engine: Engine, reference: Reference) -> str:
    return digest("no head", _KEYS, engine.identify(reference).fingerprint)


def _has_head(engine: Engine, reference: Reference) -> bool:
    if engine.runner(reference).head is not None:
        return True
    engine.store.put_json("notes", {_headless(engine, reference): True})
    return False


def _all_fit(engine: Engine, references: Sequence[Reference]) -> bool:
    for reference in references:
        engine.runner(reference)
    return all(engine.subject(reference).loaded for reference in references)


def _units(engine: Engine, job: Job, baseline: Reference, candidate: Reference) -> list[_Unit]:
    """The probes of a job that both sides have answered, with the keys of their drifts (empty where it cannot be had)."""
    probes = tuple(probe for probe in job.probes if probe.id in job.drift)
    if not probes:
        return []
    asked = replace(job, probes=probes)
    ours, theirs = _view(engine, asked, baseline), _view(engine, asked, candidate)
    both = [probe for probe in probes if probe.id in ours.texts and probe.id in theirs.texts]
    if job.task == "choose":
        both = [probe for probe in both if ours.texts[probe.id] == theirs.texts[probe.id]]
    floor = set() if ours.recorded else {probe.id for probe in sorted(both, key=lambda probe: probe.id)[:_FLOOR_PROBES]}
    shared = _shared(engine, baseline, candidate)
    units = []
    for probe in both:
        name = probe.id

        def key(p: _View, q: _View, name: str = name) -> str:
            if q.recorded and job.task == "generate":
                return ""
            return digest("drift", _KEYS, p.fingerprint, q.fingerprint, p.contexts[name], q.contexts[name], p.texts[name], shared)

        again = digest("floor", _KEYS, ours.fingerprint, ours.contexts[name], ours.texts[name]) if name in floor else ""
        units.append(_Unit(job, probe, ours, theirs, key(theirs, ours), key(ours, theirs), again))
    return units


def _missing(engine: Engine, units: Sequence[_Unit]) -> list[_Unit]:
    keys = [key for unit in units for key in (unit.candidate_baseline, unit.baseline_candidate, unit.floor) if key]
    have = engine.store.get("drifts", keys).keys()

    def without(key: str) -> str:
        return "" if key in have else key

    left = [
        replace(
            unit,
            candidate_baseline=without(unit.candidate_baseline),
            baseline_candidate=without(unit.baseline_candidate),
            floor=without(unit.floor),
        )
        for unit in units
    ]
    return [unit for unit in left if unit.candidate_baseline or unit.baseline_candidate or unit.floor]


def _view(engine: Engine, job: Job, reference: Reference) -> _View:
    from pytest_trust.inference import Group

    recording = engine.recording(reference)
    view = _View(reference, engine.identify(reference).fingerprint, recording is not None)
    if recording:
        view.fingerprint = f"recorded {recording.content}"
        for probe in job.probes:
            name = portable_key(probe, job, 0)
            text = recording.drift_text(name)
            if text is not None:
                view.texts[probe.id], view.contexts[probe.id] = text, name
                view.answers[probe.id] = recording.answer_start(name)
        return view
    subject = engine.subject(reference)
    if job.task == "choose":
        for name, rows in subject.options(job.probes).items():
            view.options[name] = Group(rows.ids, rows.starts)
            view.contexts[name] = digest(rows.ids, rows.starts)
            view.texts[name] = tuple(ids[start:] for ids, start in zip(rows.ids, rows.starts, strict=True))
        return view
    prompts = subject.prompts(job.probes)
    for name, samples in engine.responses(reference, replace(job, samples=1)).items():
        response = samples[0]
        if response.token_ids:
            view.texts[name] = (response.token_ids,)
            view.answers[name] = _before_answer(response.text, response.reasoning, response.answer)
    for name, prompt in prompts.items():
        view.prompts[name], view.contexts[name] = prompt.ids, digest(prompt.ids)
    return view


def _before_answer(text: str, reasoning: str, answer: str) -> int:
    """Characters of a response before its answer; all of them when there is no answer."""
    if not reasoning:
        return 0
    first = answer.split("\n\n")[0]
    place = text.rfind(first) if first else -1
    return place if place >= 0 else len(text)


def _length(unit: _Unit) -> int:
    sizes = [len(row) for view in (unit.baseline, unit.candidate) for row in view.texts[unit.probe.id]]
    return max(sizes) + max((len(view.prompts.get(unit.probe.id, ())) for view in (unit.baseline, unit.candidate)), default=0)


def _measure(engine: Engine, units: Sequence[_Unit], baseline: Reference, candidate: Reference) -> dict[str, bytes]:
    """Encoded token drifts by key."""
    ours, our_head = _states(engine, units, "baseline", baseline)
    theirs, their_head = (ours, our_head) if baseline == candidate else _states(engine, units, "candidate", candidate)
    again = _alone(engine, [unit for unit in units if unit.floor], baseline) if baseline.kind != "recording" else {}
    shared = _shared(engine, baseline, candidate)
    values: dict[str, bytes] = {}
    for direction, p, p_head, q, q_head in (
        ("candidate", theirs, their_head, ours, our_head),
        ("baseline", ours, our_head, theirs, their_head),
    ):
        side: Side = "candidate" if direction == "candidate" else "baseline"
        other = "baseline" if side == "candidate" else "candidate"
        keys = [unit.candidate_baseline if side == "candidate" else unit.baseline_candidate for unit in units]
        work = [
            (key, unit, p[index][unit.on(side)], q[index][unit.on(side)], unit.on(side)) for index, (key, unit) in enumerate(zip(keys, units, strict=True)) if key
        ]
        values |= _divergences(engine, work, p_head, q_head, shared, side, other)
    floors = [(unit.floor, unit, ours[index][unit.on("baseline")], again[unit.floor], unit.on("baseline")) for index, unit in enumerate(units) if unit.floor]
    return values | _divergences(engine, floors, our_head, our_head, -1, "baseline", "baseline")


Work = tuple[str, "_Unit", "torch.Tensor", "torch.Tensor", Text]


def _divergences(engine: Engine, work: Sequence[Work], p_head: Head, q_head: Head, shared: int, p: Side, q: str) -> dict[str, bytes]:
    import torch

    from pytest_trust.drift import TokenDrift
    from pytest_trust.heads import divergences_from_hidden

    if not work:
        return {}
    limit = shared if shared >= 0 else min(p_head.vocabulary, q_head.vocabulary)
    labels = [torch.tensor([token for row in text for token in row]) for *_, text in work]
    kept = [(row < limit).nonzero().view(-1) for row in labels]  # ids that only one side has cannot be compared
    found = divergences_from_hidden(
        torch.cat([state[keep.to(state.device)] for (_, _, state, _, _), keep in zip(work, kept, strict=True)]),
        p_head,
        torch.cat([state[keep.to(state.device)] for (_, _, _, state, _), keep in zip(work, kept, strict=True)]),
        q_head,
        labels=torch.cat([row[keep] for row, keep in zip(labels, kept, strict=True)]),
        shared_vocabulary=None if shared < 0 else shared,
    )
    values, start = {}, 0
    for (key, unit, _, _, text), keep, row in zip(work, kept, labels, strict=True):
        before = _answer_token(engine, unit.side(p), unit.probe.id, text)
        drift = TokenDrift.of(
            _rows(found, start, start + len(keep)),
            probe=unit.probe.id,
            cluster=unit.probe.cluster,
            suite=unit.job.suite,
            p=p,
            q=q,
            answer_start=int((keep < before).sum()),
            masked_tokens=len(row) - len(keep),
        )
        values[key] = drift.to_bytes()
        start += len(keep)
    return values


def _rows(found: TokenDivergences, start: int, stop: int) -> TokenDivergences:
    columns = {column.name: getattr(found, column.name) for column in fields(found)}
    return type(found)(**{name: None if value is None else value[start:stop] for name, value in columns.items()})


def _answer_token(engine: Engine, view: _View, probe: str, text: Text) -> int:
    """Index of the first token of the answer."""
    characters = view.answers.get(probe, 0)
    if not characters or view.recorded:
        return characters
    from pytest_trust.generation import decode

    loaded, tokens = engine.runner(view.reference).loaded, text[0]
    return next((count for count in range(len(tokens)) if len(decode(loaded, tokens[: count + 1])) > characters), len(tokens))


def _states(engine: Engine, units: Sequence[_Unit], side: Side, reference: Reference) -> tuple[list[Mapping[Text, torch.Tensor]], Head]:
    """Per unit the states of one side by text, [tokens, hidden size], options of a probe one after the other; and the side's head."""
    recording = engine.recording(reference)
    if recording:
        names = [portable_key(unit.probe, unit.job, 0) for unit in units]
        states = recording.states(names)
        other = units[0].candidate if side == "baseline" else units[0].baseline
        device = "cpu" if other.recorded else engine.identify(other.reference).device
        return [{unit.side(side).texts[unit.probe.id]: state} for unit, state in zip(units, states, strict=True)], recording.head(device)
    runner = engine.runner(reference)
    assert runner.head is not None
    result: list[Mapping[Text, torch.Tensor]] = []
    for start in range(0, len(units), _CHUNK):
        part = units[start : start + _CHUNK]
        groups = [unit.side(side).group(unit.probe.id, unit.texts()) for unit in part]
        for unit, found in zip(part, engine.halving(groups, runner.hidden_states), strict=True):
            result.append(_by_text(unit, found))
    return result, runner.head


def _by_text(unit: _Unit, found: list[torch.Tensor]) -> Mapping[Text, torch.Tensor]:
    import torch

    texts = unit.texts()
    return {texts[0]: torch.cat(found)} if unit.job.task == "choose" else dict(zip(texts, found, strict=True))


def _alone(engine: Engine, units: Sequence[_Unit], baseline: Reference) -> dict[str, torch.Tensor]:
    """The baseline's states on its own text again, each row by itself: no padding, no neighbours, no shared beginning."""
    import torch

    from pytest_trust.inference import Group, pairs

    runner = engine.runner(baseline) if units else None
    result = {}
    for unit in units:
        assert runner is not None
        group = unit.baseline.group(unit.probe.id, [unit.on("baseline")])
        rows = [runner.hidden_states([Group((row,), (start,))])[0][0] for row, start in pairs(group)]
        result[unit.floor] = torch.cat(rows)
    return result


Own = dict[str, tuple[Text, int, "torch.Tensor"]]


def own_states(engine: Engine, jobs: Sequence[Job], reference: Reference) -> tuple[Own, Head] | None:
    """What a recording keeps for drift: by portable key the text, its answer's first token and its states; and the head.

    None when no job asks for drift or the head cannot be read.
    """
    views = [_view(engine, replace(job, probes=tuple(probe for probe in job.probes if probe.id in job.drift)), reference) for job in jobs]
    if not any(view.texts for view in views) or not _has_head(engine, reference):
        return None
    units = [
        _Unit(job, probe, view, view, "", "own", "")
        for job, view in zip(jobs, views, strict=True)
        for probe in job.probes
        if probe.id in view.texts
    ]
    units.sort(key=lambda unit: -_length(unit))
    states, head = _states(engine, units, "baseline", reference)
    engine.tell(reference, "drift", "", len(units), len(units), 0)
    own: Own = {}
    for unit, found in zip(units, states, strict=True):
        text = unit.on("baseline")
        own[portable_key(unit.probe, unit.job, 0)] = (text, _answer_token(engine, unit.baseline, unit.probe.id, text), found[text])
    return own, head
