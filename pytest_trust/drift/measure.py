"""The drift of a pair: both sides' hidden states on the same tokens, reduced to divergences and stored per response.

Each side renders the prompt with its own template, or both use the baseline's. The states that predict the response's
tokens are compared. Think markers and tokens that frame a text are not counted (`drift.masking`), nor are tokens that
only one side has (`drift.sides.Vocabulary`). Pairs with too few tokens in common are left to
`drift.cross_tokenizer.responses`.

When both models fit into memory, the work goes part by part. When only one fits, all states of one side are kept until
the other side has run. A recording brings the states of its own responses only.

Answers that the candidate gave after a trace are measured a second time, with a baseline that has not read the trace:
the baseline reads its prompt and the answer alone. If its template opens a trace at the end of the prompt, an empty
trace is closed there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_trust.drift.alignment import (
    OTHER_TOKENS,
    impossible,
    missing_parts,
    units_of,
    view_of,
    vocabulary_of,
)
from pytest_trust.drift.cross_tokenizer.responses import measure_texts, missing_texts, stored_texts
from pytest_trust.drift.loaded_pair import all_fit, apart_key, device_of_pair, has_head
from pytest_trust.drift.masking import masked_tokens
from pytest_trust.drift.pair_drift import PairDrift
from pytest_trust.drift.reduce_pair import Read, divergences
from pytest_trust.drift.sides import Side, Unit, keys_of, parts_of, unit_length
from pytest_trust.engine.claimed_work import share
from pytest_trust.engine.model import Wanted
from pytest_trust.keys import portable_key
from pytest_trust.models.context_windows import in_windows
from pytest_trust.models.framing import encode, token_behind
from pytest_trust.models.reference import Reference
from pytest_trust.responses import Job, TokenIds

if TYPE_CHECKING:
    import torch

    from pytest_trust.drift.summary import TokenDrift
    from pytest_trust.engine.engine import Engine
    from pytest_trust.engine.model import Model
    from pytest_trust.models.heads import Head
    from pytest_trust.models.runner import Group

DRIFT_BATCH = 16  # probes whose states exist at once while both models are in memory
WITHOUT_TRACE: TokenIds = ()  # key of the baseline's states on the candidate's answer, read without the trace
NO_TRACES = "no response of the candidate has a trace and an answer after it"


def acquire_drift(engine: Engine, jobs: Sequence[Job], baseline: Reference, candidate: Reference) -> None:
    """Measure and store the pair's missing drifts on the jobs' drift probes.

    Raises:
        TrustError: a model cannot be loaded, or its logits are not finite.
    """
    if not any(job.drift for job in jobs):
        return
    reason = impossible(engine, baseline, candidate)
    if reason == OTHER_TOKENS:
        measure_texts(engine, missing_texts(engine, jobs, baseline, candidate), baseline, candidate)
    if reason:
        return
    units = [unit for job in jobs for unit in units_of(engine, job, baseline, candidate)]
    units = with_readings(engine, units)
    if missing_parts(engine, units):
        measure_units(engine, units, baseline, candidate)


def measure_units(engine: Engine, units: Sequence[Unit], baseline: Reference, candidate: Reference) -> None:
    """Measure and store the units' missing drifts. Where a head is not at hand, note that and measure nothing."""
    from pytest_trust.drift.kernels.reduction import path

    units = sorted(units, key=lambda unit: -unit_length(unit))
    left = len(missing_parts(engine, units))
    live = [reference for reference in dict.fromkeys((baseline, candidate)) if engine.model(reference).runs]
    for reference in live:
        if not has_head(engine, reference):
            return
    # If only one model fits, each part costs two loads, so each process gets one part. So it does for models that are
    # read layer by layer, where each part reads all layers.
    fit = not engine.offloads and all_fit(engine, live)
    size = DRIFT_BATCH if fit else -(-len(units) // engine.workers)
    if not fit and not engine.offloads:
        engine.store.put_json("notes", {apart_key(engine, baseline, candidate): True})
    parts = [units[start : start + size] for start in range(0, len(units), size)]

    def make(part: list[Unit]) -> Iterator[tuple[int, int]]:
        values = measure(engine, part, baseline, candidate)
        where = path(device_of_pair(engine, live))
        engine.store.put("drifts", values, {"chunk": len(part), "reduction": where, "process": engine.claims.name})
        yield len(part), sum(len(row) for unit in part for text in unit.texts() for row in text)

    share(engine, candidate, "drift", "drifts", parts, make, missing=left, keys=keys_of, part=parts_of)


def stored_drift(engine: Engine, job: Job, baseline: Reference, candidate: Reference) -> PairDrift:
    """The stored drift of the pair on this job."""
    from pytest_trust.drift.summary import TokenDrift

    one, other = engine.identify(baseline), engine.identify(candidate)
    identical = one.fingerprint == other.fingerprint and one.rendering == other.rendering
    reason = impossible(engine, baseline, candidate)
    if reason:
        return PairDrift(
            candidate_baseline_reason=reason,
            baseline_candidate_reason=reason,
            floor_reason=reason,
            answer_without_trace_reason=reason,
            identical=identical,
            texts=stored_texts(engine, job, baseline, candidate) if reason == OTHER_TOKENS else {},
        )
    units = list(units_of(engine, job, baseline, candidate))
    kinds = ("candidate_baseline", "baseline_candidate", "floor", "answer_without_trace")
    stored = engine.store.get("drifts", [key for unit in units for kind in kinds if (key := getattr(unit, kind))])

    def read(kind: str) -> dict[str, TokenDrift]:
        keys = {unit.probe.id: getattr(unit, kind) for unit in units}
        found = {name: TokenDrift.from_bytes(stored[key]) for name, key in keys.items() if key in stored}
        probes = {unit.probe.id: unit.probe for unit in units}
        return {
            name: replace(drift, probe=name, cluster=probes[name].cluster, suite=job.suite)
            for name, drift in found.items()
        }

    models = {"baseline": engine.model(baseline), "candidate": engine.model(candidate)}
    unread = {
        "candidate": _why_unread(job, models["baseline"], "baseline", "candidate"),
        "baseline": _why_unread(job, models["candidate"], "candidate", "baseline"),
    }
    return PairDrift(
        candidate_baseline=read("candidate_baseline"),
        baseline_candidate=read("baseline_candidate"),
        floor=read("floor"),
        answer_without_trace=read("answer_without_trace"),
        candidate_baseline_reason=unread["candidate"],
        baseline_candidate_reason=unread["baseline"],
        floor_reason=models["baseline"].why_no_floor,
        answer_without_trace_reason=unread["candidate"] or NO_TRACES,
        identical=identical,
    )


def _why_unread(job: Job, reader: Model, side: str, writer: str) -> str:
    """Why there is no drift on the text of the `writer`: the other `side` cannot read it. Empty where it can."""
    return reader.why_unread(side, writer) if job.task == "generate" and not reader.reads else ""


def with_readings(engine: Engine, units: Sequence[Unit]) -> list[Unit]:
    """Ask models that are not run here to read the other side's texts. Gives the units without unread directions."""
    units = list(units)
    directions: tuple[tuple[Side, Side, str], ...] = (
        ("baseline", "candidate", "candidate_baseline"),
        ("candidate", "baseline", "baseline_candidate"),
    )
    for side, other, direction in directions:
        model = engine.model(units[0].side(side).reference) if units else None
        if model is None or model.runs:
            continue
        asked = [unit for unit in units if getattr(unit, direction) and unit.probe.id in unit.side(side).prompts]
        model.read((unit.side(side).prompts[unit.probe.id], unit.on(other)[0]) for unit in asked)
        if asked and not model.reads:
            unread = {getattr(unit, direction) for unit in asked}
            units = [unit.without(direction) if getattr(unit, direction) in unread else unit for unit in units]
    return units


def measure(engine: Engine, units: Sequence[Unit], baseline: Reference, candidate: Reference) -> dict[str, bytes]:
    """Encoded token drifts of the units, by key."""
    baseline_states, baseline_head = _states(engine, units, "baseline", baseline)
    candidate_states, candidate_head = (
        (baseline_states, baseline_head) if baseline == candidate else _states(engine, units, "candidate", candidate)
    )
    again = _alone(engine, [unit for unit in units if unit.floor], baseline) if engine.model(baseline).runs else {}
    shared = vocabulary_of(engine, baseline, candidate).shared
    values: dict[str, bytes] = {}
    sides: tuple[Side, Side] = ("candidate", "baseline")
    states = {"candidate": candidate_states, "baseline": baseline_states}
    heads = {"candidate": candidate_head, "baseline": baseline_head}
    for p, q in (sides, sides[::-1]):
        work = [
            Read(
                key,
                unit,
                states[p][index][unit.on(p)],
                states[q][index][unit.on(p)],
                unit.on(p),
                _answer_token(engine, unit, p),
                _masked(engine, unit, p),
            )
            for index, unit in enumerate(units)
            if (key := unit.candidate_baseline if p == "candidate" else unit.baseline_candidate)
        ]
        values |= divergences(work, heads[p], heads[q], shared, p, q)
    alone = []
    for index, unit in enumerate(units):
        if unit.answer_without_trace:
            text, start = unit.on("candidate"), _answer_token(engine, unit, "candidate")
            masked = [place - start for place in _masked(engine, unit, "candidate") if place >= start]
            answer = (text[0][start:],)
            alone.append(
                Read(
                    unit.answer_without_trace,
                    unit,
                    _after(candidate_states[index][text], start),
                    baseline_states[index][WITHOUT_TRACE],
                    answer,
                    0,
                    masked,
                )
            )
    values |= divergences(alone, candidate_head, baseline_head, shared, *sides)
    floors = [
        Read(
            unit.floor,
            unit,
            baseline_states[index][unit.on("baseline")],
            again[unit.floor],
            unit.on("baseline"),
            _answer_token(engine, unit, "baseline"),
            _masked(engine, unit, "baseline"),
        )
        for index, unit in enumerate(units)
        if unit.floor
    ]
    return values | divergences(floors, baseline_head, baseline_head, -1, "baseline", "baseline")


def _after(states: Any, start: int) -> Any:
    """The states (or top k) of a text from its token `start` on."""
    from pytest_trust.engine.top_k import TopK

    return states.rows(start, len(states)) if isinstance(states, TopK) else states[start:]


def _answer_token(engine: Engine, unit: Unit, side: Side) -> int:
    """Index of the token that holds the first character of the answer in that side's text."""
    view = unit.side(side)
    characters = view.answers.get(unit.probe.id, 0)
    if not characters or view.recorded:
        return characters
    return token_behind(engine.local(view.reference).framing(), view.own(unit.on(side)[0]), characters)


def _answer_alone(engine: Engine, unit: Unit) -> Group:
    """The baseline's prompt followed by the candidate's answer, without the candidate's trace."""
    from pytest_trust.models.runner import Group

    view, name = unit.baseline, unit.probe.id
    context = view.prompts[name]
    if name in view.closings:
        context += encode(engine.local(view.reference).tokenizer, f"\n{view.closings[name]}\n\n")
    answer = view.own(unit.on("candidate")[0][_answer_token(engine, unit, "candidate") :])
    return Group(((*context, *answer),), (len(context),))


def _masked(engine: Engine, unit: Unit, side: Side, *, alone: bool = False) -> list[int]:
    """Indices of the tokens in a side's own text that belong to its template.

    The end token is one of them if the other side's template ends turns by other tokens. `alone` says that there is no
    other side.
    """
    view, other, probe, text = (
        unit.side(side),
        unit.baseline if side == "candidate" else unit.candidate,
        unit.probe.id,
        unit.on(side),
    )
    if probe in view.masked:
        return list(view.masked[probe])
    if probe not in view.prompts:  # no model has written the options
        return []
    ends = None
    if not alone and not other.recorded:
        ends = view.own(other.numbers(sorted(engine.local(other.reference).framing().eos_ids)))
    return masked_tokens(engine.local(view.reference).framing(), view.own(text[0]), view.markers[probe], ends)


def _states(
    engine: Engine, units: Sequence[Unit], side: Side, reference: Reference
) -> tuple[list[Mapping[TokenIds, Any]], Head | None]:
    """One side's states by text for each unit, [tokens, hidden size], and the side's head.

    The states of a probe's options follow one another. A top-k recording and a server give a `TopK` for each text, and
    no head.
    """
    model = engine.model(reference)
    if not model.runs:
        other: Side = "candidate" if side == "baseline" else "baseline"
        reader = engine.model(units[0].side(other).reference)
        wanted = []
        for unit in units:
            prompt = unit.side(side).prompts.get(unit.probe.id, ())
            wanted.append(Wanted(unit.job, unit.probe, unit.on(side), prompt, unit.on(other) if prompt else ()))
        return list(model.kept(wanted, reader)), model.head(reader)
    runner = engine.loaded(reference)
    assert runner.head is not None
    result: list[Mapping[TokenIds, torch.Tensor]] = []
    step = len(units) if engine.offloads else DRIFT_BATCH
    for start in range(0, len(units), step):
        part = units[start : start + step]
        groups = [unit.side(side).group(unit.probe.id, unit.texts()) for unit in part]
        if side == "baseline":
            groups = [
                _joined_groups(group, _answer_alone(engine, unit)) if unit.answer_without_trace else group
                for unit, group in zip(part, groups, strict=True)
            ]
        for unit, found in zip(
            part,
            engine.fitting.halving(groups, in_windows(runner.hidden_states, engine.local(reference).context())),
            strict=True,
        ):
            result.append(_by_text(engine, unit, side, found))
    numbering = units[0].side(side).numbering
    return result, runner.head if numbering is None else numbering.head(runner.head)


def _joined_groups(first: Group, second: Group) -> Group:
    from pytest_trust.models.runner import Group

    return Group(first.rows + second.rows, first.starts + second.starts)


def _by_text(engine: Engine, unit: Unit, side: Side, found: list[torch.Tensor]) -> Mapping[TokenIds, torch.Tensor]:
    import torch

    view, texts = unit.side(side), unit.texts()
    if unit.job.task == "choose":
        return {texts[0]: torch.cat(found)}
    states = {text: view.aligned(text[0], one) for text, one in zip(texts, found, strict=False)}
    if side == "baseline" and unit.answer_without_trace:
        answer = unit.on("candidate")[0][_answer_token(engine, unit, "candidate") :]
        states[WITHOUT_TRACE] = view.aligned(answer, found[len(texts)])
    return states


def _alone(engine: Engine, units: Sequence[Unit], baseline: Reference) -> dict[str, torch.Tensor]:
    """The baseline's states on its own texts, with each row run alone: no padding, neighbours or shared beginnings."""
    import torch

    if not units:
        return {}
    groups = [unit.baseline.group(unit.probe.id, [unit.on("baseline")]) for unit in units]
    found = in_windows(engine.loaded(baseline).alone, engine.local(baseline).context())(groups)
    return {unit.floor: torch.cat(rows) for unit, rows in zip(units, found, strict=True)}


Own = dict[str, tuple[TokenIds, int, list[int], "torch.Tensor"]]
"""By portable key: a text, its answer's first token, the indices of its template's tokens, its states."""


def own_states(engine: Engine, jobs: Sequence[Job], reference: Reference) -> tuple[Own, Head] | None:
    """What a recording keeps for drift: a model's texts with their states, and its head.

    None when no job asks for drift, or the head is not at hand.
    """
    views = [
        view_of(engine, replace(job, probes=tuple(probe for probe in job.probes if probe.id in job.drift)), reference)
        for job in jobs
    ]
    if not any(view.token_ids for view in views) or not has_head(engine, reference):
        return None
    units = [
        Unit(job, probe, view, view, "", "own", "")
        for job, view in zip(jobs, views, strict=True)
        for probe in job.probes
        if probe.id in view.token_ids
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
            _answer_token(engine, unit, "baseline"),
            _masked(engine, unit, "baseline", alone=True),
            found[text],
        )
    return own, head
