"""The drift of a pair: both sides' hidden states on the same response tokens, reduced to divergences and stored per response.

Each side renders the prompt with its own template (or, shared, the baseline's); the states that predict the response's tokens are compared.
Think markers and tokens that frame a text are not counted (`masking`), nor are those that only one side has (`drift_plan.Vocabulary`); pairs
whose tokens have too little in common are for `text_pair`. With both models in memory work goes chunk by chunk; if only one fits, all of one
side's states are kept until the other side has run. A recording brings its own states, for its own responses only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from pytest_trust.drift_plan import (
    OTHER_TOKENS,
    Side,
    Text,
    Unit,
    View,
    headless_key,
    impossible,
    missing_parts,
    unit_length,
    units_of,
    view_of,
    vocabulary_of,
)
from pytest_trust.errors import InvalidInput
from pytest_trust.jobs import Job, PairDrift, digest
from pytest_trust.masking import masked_tokens, token_behind
from pytest_trust.references import Reference
from pytest_trust.subject import portable_key
from pytest_trust.text_pair import acquire_texts, stored_texts
from pytest_trust.windowing import in_windows

if TYPE_CHECKING:
    import torch

    from pytest_trust.acquisition import Engine
    from pytest_trust.divergence import TokenDivergences
    from pytest_trust.drift import TokenDrift
    from pytest_trust.heads import Head
    from pytest_trust.inference import Runner

CHUNK = 16  # probes whose states exist at once while both models are in memory
NOT_RECORDED = "the {side} is a recording, which holds its states on its own responses only"
_head_hashes: WeakKeyDictionary[Runner, str] = WeakKeyDictionary()
_checked: WeakSet[Runner] = WeakSet()  # loaded models whose heads have been compared with their own logits
NO_WEIGHTS = "the baseline is a recording, so it cannot be run a second time"


def acquire_drift(engine: Engine, jobs: Sequence[Job], baseline: Reference, candidate: Reference) -> None:
    """Measure and store what is missing of the pair's drift on the jobs' drift probes."""
    from pytest_trust.reduction import path

    if not any(job.drift for job in jobs):
        return
    reason = impossible(engine, baseline, candidate)
    if reason == OTHER_TOKENS:
        acquire_texts(engine, jobs, baseline, candidate)
    if reason:
        return
    units = [unit for job in jobs for unit in missing_parts(engine, units_of(engine, job, baseline, candidate))]
    if not units:
        return
    units.sort(key=lambda unit: -unit_length(unit))
    live = [reference for reference in dict.fromkeys((baseline, candidate)) if reference.kind != "recording"]
    for reference in live:
        if not has_head(engine, reference):
            return
    # Where layers come and go, all texts pass a layer while it is there.
    fit = not engine.offloads and _all_fit(engine, live)
    size = CHUNK if fit else len(units)
    if not fit and not engine.offloads:
        engine.store.put_json("notes", {_apart_key(engine, baseline, candidate): True})
    done = tokens = 0
    for start in range(0, len(units), size):
        part = units[start : start + size]
        values = measure(engine, part, baseline, candidate)
        engine.store.put("drifts", values, {"chunk": len(part), "reduction": path(_device(engine, live))})
        done, tokens = (
            done + len(part),
            tokens + sum(len(row) for unit in part for text in unit.texts() for row in text),
        )
        engine.tell(candidate, "drift", "", done, len(units), tokens)


def stored_drift(engine: Engine, job: Job, baseline: Reference, candidate: Reference) -> PairDrift:
    """What the store holds of the pair's drift on this job."""
    from pytest_trust.drift import TokenDrift

    ours, theirs = engine.identify(baseline), engine.identify(candidate)
    identical = ours.fingerprint == theirs.fingerprint and ours.rendering == theirs.rendering
    reason = impossible(engine, baseline, candidate)
    if reason:
        texts = stored_texts(engine, job, baseline, candidate) if reason == OTHER_TOKENS else {}
        return PairDrift({}, {}, {}, reason, reason, reason, identical, texts)
    units = list(units_of(engine, job, baseline, candidate))
    stored = engine.store.get(
        "drifts",
        [key for unit in units for key in (unit.candidate_baseline, unit.baseline_candidate, unit.floor) if key],
    )

    def read(kind: str) -> dict[str, TokenDrift]:
        keys = {unit.probe.id: getattr(unit, kind) for unit in units}
        found = {name: TokenDrift.from_bytes(stored[key]) for name, key in keys.items() if key in stored}
        probes = {unit.probe.id: unit.probe for unit in units}
        return {
            name: replace(drift, probe=name, cluster=probes[name].cluster, suite=job.suite)
            for name, drift in found.items()
        }

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


def has_head(engine: Engine, reference: Reference) -> bool:
    """Whether the model's head is at hand and makes its logits; else the reason is noted, for `impossible` to give."""
    from pytest_trust.drift_models import check_head

    runner = engine.runner(reference)
    if runner.head is None:
        engine.store.put_json("notes", {headless_key(engine, reference): True})
        return False
    if runner not in _checked:
        try:
            check_head(runner.model, runner.head)
        except InvalidInput as error:
            engine.store.put_json("notes", {headless_key(engine, reference): f"{reference.label}: {error}"})
            return False
        _checked.add(runner)
    return True


def _device(engine: Engine, live: Sequence[Reference]) -> str:
    """Where the logits are reduced."""
    return str(engine.runner(live[0]).device) if live else "cpu"


def one_at_a_time(engine: Engine, baseline: Reference, candidate: Reference) -> bool:
    """Whether the pair did not fit into memory together when its drift was measured; remembered by the store."""
    key = _apart_key(engine, baseline, candidate)
    return key in engine.store.get_json("notes", [key])


def _apart_key(engine: Engine, baseline: Reference, candidate: Reference) -> str:
    return digest("one at a time", *(engine.identify(reference).fingerprint for reference in (baseline, candidate)))


def _all_fit(engine: Engine, references: Sequence[Reference]) -> bool:
    for reference in references:
        engine.runner(reference)
    return all(engine.subject(reference).loaded for reference in references)


def measure(engine: Engine, units: Sequence[Unit], baseline: Reference, candidate: Reference) -> dict[str, bytes]:
    """Encoded token drifts by key."""
    ours, our_head = _states(engine, units, "baseline", baseline)
    theirs, their_head = (ours, our_head) if baseline == candidate else _states(engine, units, "candidate", candidate)
    again = _alone(engine, [unit for unit in units if unit.floor], baseline) if baseline.kind != "recording" else {}
    shared = vocabulary_of(engine, baseline, candidate).shared
    values: dict[str, bytes] = {}
    for direction, p, p_head, q, q_head in (
        ("candidate", theirs, their_head, ours, our_head),
        ("baseline", ours, our_head, theirs, their_head),
    ):
        side: Side = "candidate" if direction == "candidate" else "baseline"
        other = "baseline" if side == "candidate" else "candidate"
        keys = [unit.candidate_baseline if side == "candidate" else unit.baseline_candidate for unit in units]
        work = [
            (key, unit, p[index][unit.on(side)], q[index][unit.on(side)], unit.on(side))
            for index, (key, unit) in enumerate(zip(keys, units, strict=True))
            if key
        ]
        values |= _divergences(engine, work, p_head, q_head, shared, side, other)
    floors = [
        (unit.floor, unit, ours[index][unit.on("baseline")], again[unit.floor], unit.on("baseline"))
        for index, unit in enumerate(units)
        if unit.floor
    ]
    return values | _divergences(engine, floors, our_head, our_head, -1, "baseline", "baseline")


Work = tuple[str, "Unit", Any, Any, Text]


def _divergences(
    engine: Engine, work: Sequence[Work], p_head: Head | None, q_head: Head | None, shared: int, p: Side, q: str
) -> dict[str, bytes]:
    import torch

    from pytest_trust.drift import TokenDrift
    from pytest_trust.heads import divergences_from_hidden
    from pytest_trust.reduction import OddLogits
    from pytest_trust.topk import TopK, divergences_from_top_k, swapped

    if not work:
        return {}
    limit = shared if shared >= 0 else min(head.vocabulary for head in (p_head, q_head) if head)
    labels = [torch.tensor([token for row in text for token in row]) for *_, text in work]
    kept = []
    for (_, unit, *_, text), row in zip(work, labels, strict=True):
        counted = row < limit  # ids that only one side has cannot be compared
        counted[_masked(engine, unit.side(p), unit.side("baseline" if p == "candidate" else "candidate"), unit.probe.id, text)] = False
        kept.append(counted.nonzero().view(-1))
    try:
        counted = torch.cat([row[keep] for row, keep in zip(labels, kept, strict=True)])
        ours = _joined([state for _, _, state, _, _ in work], kept)
        theirs = _joined([state for _, _, _, state, _ in work], kept)
        if isinstance(ours, TopK):
            assert q_head is not None
            found = divergences_from_top_k(ours, theirs, q_head, counted)
        elif isinstance(theirs, TopK):
            assert p_head is not None
            found = swapped(divergences_from_top_k(theirs, ours, p_head, counted))
        else:
            assert p_head is not None
            assert q_head is not None
            found = divergences_from_hidden(
                ours, p_head, theirs, q_head, labels=counted, shared_vocabulary=None if shared < 0 else shared
            )
    except OddLogits as odd:
        index, place = odd.place([len(keep) for keep in kept])
        unit, whose = work[index][1], p if odd.side == "p" else q
        label = (unit.candidate if whose == "candidate" else unit.baseline).reference.label
        raise InvalidInput(
            f"{label} ({whose}): {odd.what} in its logits for token {int(kept[index][place])} of the {p}'s text on probe "
            f"{unit.probe.id}; expected finite logits: check the model's weights and dtype"
        ) from odd
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
            windowed=any(unit.side(side).beyond(unit.probe.id, text) for side in ("baseline", "candidate")),
        )
        values[key] = drift.to_bytes()
        start += len(keep)
    return values


def _joined(states: Sequence[Any], kept: Sequence[torch.Tensor]) -> Any:
    """The counted tokens of all texts, one after the other: states, or what a top-k recording has in their place."""
    import torch

    from pytest_trust.topk import TopK

    if isinstance(states[0], TopK):
        return TopK.joined([state.at(keep) for state, keep in zip(states, kept, strict=True)])
    return torch.cat([state[keep.to(state.device)] for state, keep in zip(states, kept, strict=True)])


def _rows(found: TokenDivergences, start: int, stop: int) -> TokenDivergences:
    whole = {column.name: getattr(found, column.name) for column in fields(found)}
    part: dict[str, Any] = {name: None if value is None else value[start:stop] for name, value in whole.items()}
    return type(found)(**part)


def _answer_token(engine: Engine, view: View, probe: str, text: Text) -> int:
    """Index of the first token of the answer."""
    characters = view.answers.get(probe, 0)
    if not characters or view.recorded:
        return characters
    return token_behind(engine.subject(view.reference).framing(), view.own(text[0]), characters)


def _masked(engine: Engine, view: View, other: View, probe: str, text: Text) -> list[int]:
    """Places of the text's tokens that are its template's; `text` is `view`'s own."""
    if view.recorded:
        recording = engine.recording(view.reference)
        return recording.masked(view.contexts[probe]) if recording else []
    if probe not in view.prompts:  # options are written by nobody
        return []
    ends = None
    if not other.recorded:
        ends = view.own(other.numbers(sorted(engine.subject(other.reference).framing().eos_ids)))
    return masked_tokens(engine.subject(view.reference).framing(), view.own(text[0]), view.markers[probe], ends)


def _states(
    engine: Engine, units: Sequence[Unit], side: Side, reference: Reference
) -> tuple[list[Mapping[Text, Any]], Head | None]:
    """Per unit the states of one side by text, [tokens, hidden size], options of a probe one after the other; and the side's head. Of a
    top-k recording a `TopK` a text, and no head."""
    recording = engine.recording(reference)
    if recording:
        names = [portable_key(unit.probe, unit.job, 0) for unit in units]
        if recording.topk:
            kept = zip(units, recording.tops(names), strict=True)
            return [{unit.side(side).texts[unit.probe.id]: tops} for unit, tops in kept], None
        states = recording.states(names)
        other = units[0].candidate if side == "baseline" else units[0].baseline
        return [
            {unit.side(side).texts[unit.probe.id]: state} for unit, state in zip(units, states, strict=True)
        ], recorded_head(engine, reference, other.reference)
    runner = engine.runner(reference)
    assert runner.head is not None
    result: list[Mapping[Text, torch.Tensor]] = []
    step = len(units) if engine.offloads else CHUNK
    for start in range(0, len(units), step):
        part = units[start : start + step]
        groups = [unit.side(side).group(unit.probe.id, unit.texts()) for unit in part]
        for unit, found in zip(part, engine.halving(groups, in_windows(runner.hidden_states, engine.subject(reference).context())), strict=True):
            result.append(_by_text(unit, unit.side(side), found))
    numbering = units[0].side(side).numbering
    return result, runner.head if numbering is None else numbering.head(runner.head)


def recorded_head(engine: Engine, reference: Reference, other: Reference) -> Head:
    """The head of a recording, on the other side's device; that side's own where it is the same, so that there is one of it in memory."""
    from pytest_trust.recording import hash_of_head

    recording, beside = engine.recording(reference), engine.recording(other)
    assert recording is not None
    if beside is not None:
        same = bool(recording.head_hash) and recording.head_hash == beside.head_hash and str(other.path) < str(reference.path)
        return (beside if same else recording).head()
    runner = engine.runner(other)
    assert runner.head is not None
    if runner not in _head_hashes:
        _head_hashes[runner] = hash_of_head(runner.head)
    return runner.head if _head_hashes[runner] == recording.head_hash else recording.head(runner.device)


def _by_text(unit: Unit, view: View, found: list[torch.Tensor]) -> Mapping[Text, torch.Tensor]:
    import torch

    texts = unit.texts()
    if unit.job.task == "choose":
        return {texts[0]: torch.cat(found)}
    return {text: view.aligned(text[0], states) for text, states in zip(texts, found, strict=True)}


def _alone(engine: Engine, units: Sequence[Unit], baseline: Reference) -> dict[str, torch.Tensor]:
    """The baseline's states on its own text again, each row by itself: no padding, no neighbours, no shared beginning."""
    import torch

    if not units:
        return {}
    groups = [unit.baseline.group(unit.probe.id, [unit.on("baseline")]) for unit in units]
    found = in_windows(engine.runner(baseline).alone, engine.subject(baseline).context())(groups)
    return {unit.floor: torch.cat(rows) for unit, rows in zip(units, found, strict=True)}


Own = dict[str, tuple[Text, int, list[int], "torch.Tensor"]]


def own_states(engine: Engine, jobs: Sequence[Job], reference: Reference) -> tuple[Own, Head] | None:
    """What a recording keeps for drift: by portable key the text, its answer's first token, the places of its template's tokens and its states;
    and the head.

    None when no job asks for drift or the head cannot be read.
    """
    views = [
        view_of(engine, replace(job, probes=tuple(probe for probe in job.probes if probe.id in job.drift)), reference)
        for job in jobs
    ]
    if not any(view.texts for view in views) or not has_head(engine, reference):
        return None
    units = [
        Unit(job, probe, view, view, "", "own", "")
        for job, view in zip(jobs, views, strict=True)
        for probe in job.probes
        if probe.id in view.texts
    ]
    units.sort(key=lambda unit: -unit_length(unit))
    states, head = _states(engine, units, "baseline", reference)
    assert head is not None  # recordings are not recorded again
    engine.tell(reference, "drift", "", len(units), len(units), 0)
    own: Own = {}
    for unit, found in zip(units, states, strict=True):
        text = unit.on("baseline")
        own[portable_key(unit.probe, unit.job, 0)] = (
            text,
            _answer_token(engine, unit.baseline, unit.probe.id, text),
            _masked(engine, unit.baseline, replace(unit.candidate, recorded=True), unit.probe.id, text),
            found[text],
        )
    return own, head
