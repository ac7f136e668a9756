"""What a pair's drift is measured on: both sides' texts and contexts, and the keys under which the results are stored.

Keys take no weights to compute, so what the store holds is found without loading a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_trust.drift.masking import marker_spans
from pytest_trust.drift.shared_tokens import pair_numberings
from pytest_trust.keys import digest, portable_key
from pytest_trust.models.reference import Reference
from pytest_trust.reasoning import DEFAULT_TAGS, opened_by
from pytest_trust.responses import Job

if TYPE_CHECKING:
    from pytest_trust.drift.shared_tokens import Numbering
    from pytest_trust.engine.engine import Engine
from pytest_trust.drift.sides import Unit, View, Vocabulary, keys_of, parts_of

_KEYS = 2

# Of each job. The floor is a property of device and dtype, which a few responses show; all of them would double the cost.
_FLOOR_PROBES = 2

OTHER_TOKENS = (
    "the tokenizers differ, so the models' next-token distributions are over different vocabularies"  # see text_pair
)

TWO_RECORDINGS = "both models are recordings, and of one only the most likely tokens were kept"

SERVED_RECORDING = "the recording is of a model behind a server, of which it keeps the answers only"

NO_HEAD = "the head of {label} is quantised or missing"

NO_PROMPTS = "a recording keeps no prompts, so its template cannot be shared: leave out --trust-template=shared"


def impossible(engine: Engine, baseline: Reference, candidate: Reference) -> str:
    """Why no drift of this pair can be measured, or nothing."""
    if "server" in (baseline.kind, candidate.kind):
        from pytest_trust.drift.served import impossible_here

        reason = impossible_here(engine, baseline, candidate)
        if reason:
            return reason
    recordings = [recording for recording in (engine.recording(baseline), engine.recording(candidate)) if recording]
    if len(recordings) == 2 and any(recording.topk for recording in recordings):
        return TWO_RECORDINGS
    if any(not recording.vocabulary for recording in recordings):
        return SERVED_RECORDING
    if recordings and engine.shares_template:
        return NO_PROMPTS
    for reference in (baseline, candidate):
        if reference.has_weights:
            key = headless_key(engine, reference)
            noted = engine.store.get_json("notes", [key]).get(key)
            if noted:
                return noted if isinstance(noted, str) else NO_HEAD.format(label=reference.label)
    return "" if vocabulary_of(engine, baseline, candidate).shared else OTHER_TOKENS


def vocabulary_of(engine: Engine, baseline: Reference, candidate: Reference) -> Vocabulary:
    """What the pair's tokens have in common: same ids, leading ids (padded and extended vocabularies), the same pieces under other ids."""
    if "server" in (baseline.kind, candidate.kind):
        return Vocabulary(-1)  # a server's tokens are looked up one by one in the other's vocabulary
    ours, theirs = engine.identify(baseline), engine.identify(candidate)
    if ours.tokenizer == theirs.tokenizer:
        return Vocabulary(-1)
    found = engine.vocabularies.get((baseline, candidate))
    if found is None:
        found = engine.vocabularies[baseline, candidate] = _compared(engine, baseline, candidate)
    return found


def _compared(engine: Engine, baseline: Reference, candidate: Reference) -> Vocabulary:
    recordings = [engine.recording(reference) for reference in (baseline, candidate)]
    hashes = {
        recording.vocabulary if recording else engine.subject(reference).vocabulary()
        for recording, reference in zip(recordings, (baseline, candidate), strict=True)
    }
    if len(hashes) == 1:
        return Vocabulary(-1)
    pair = None if any(recordings) else pair_numberings(engine.subject(baseline), engine.subject(candidate))
    if pair is None:
        return Vocabulary(0)
    moved = any(numbering.order is not None for numbering in pair)
    return Vocabulary(pair[0].count, *pair, key=tuple(sorted(hashes)) if moved else ())


def headless_key(engine: Engine, reference: Reference) -> str:
    return digest("no head", _KEYS, engine.identify(reference).fingerprint)


def units_of(engine: Engine, job: Job, baseline: Reference, candidate: Reference) -> list[Unit]:
    """The probes of a job that both sides have answered, with the keys of their drifts (empty where it cannot be had)."""
    probes = tuple(probe for probe in job.probes if probe.id in job.drift)
    if not probes:
        return []
    asked = replace(job, probes=probes)
    vocabulary = vocabulary_of(engine, baseline, candidate)
    ours = view_of(engine, asked, baseline, vocabulary.baseline, candidate)
    theirs = view_of(engine, asked, candidate, vocabulary.candidate, baseline)
    if engine.shares_template:
        share_template(ours, theirs)
    both = [probe for probe in probes if probe.id in ours.texts and probe.id in theirs.texts]
    if job.task == "choose":
        both = [probe for probe in both if ours.texts[probe.id] == theirs.texts[probe.id]]
    floor = set() if ours.recorded else {probe.id for probe in sorted(both, key=lambda probe: probe.id)[:_FLOOR_PROBES]}
    shared = (vocabulary.shared, *vocabulary.key) if vocabulary.key else vocabulary.shared
    tags = [] if engine.tags == DEFAULT_TAGS else [engine.tags]  # they say where an answer begins
    units = []
    for probe in both:
        name = probe.id

        def key(p: View, q: View, name: str = name) -> str:
            if q.recorded and name not in q.prompts and job.task == "generate":
                return ""
            return digest(
                "drift",
                _KEYS,
                p.fingerprint,
                q.fingerprint,
                p.contexts[name],
                q.contexts[name],
                p.texts[name],
                shared,
                *tags,
            )

        again = digest("floor", _KEYS, ours.fingerprint, ours.contexts[name], ours.texts[name]) if name in floor else ""
        forward = key(theirs, ours)
        alone = digest("answer without trace", forward) if forward and name in theirs.traced else ""
        units.append(Unit(job, probe, ours, theirs, forward, key(ours, theirs), again, alone))
    return units


def missing_parts(engine: Engine, units: Sequence[Unit]) -> list[Unit]:
    keys = keys_of(units)
    have = engine.store.get("drifts", keys).keys()
    return parts_of(units, set(keys) - have)


def view_of(
    engine: Engine, job: Job, reference: Reference, numbering: Numbering | None = None, other: Reference | None = None
) -> View:
    """One side of a job; `other` is what a server's tokens are looked up in."""
    if reference.kind == "server":
        from pytest_trust.drift.served import served_view

        assert other is not None
        return served_view(engine, job, reference, other)
    from pytest_trust.models.runner import Group

    recording = engine.recording(reference)
    view = View(reference, engine.identify(reference).fingerprint, recording is not None, numbering=numbering)
    if recording:
        view.fingerprint = f"recorded {recording.content}"
        for probe in job.probes:
            name = portable_key(probe, job, 0)
            text = recording.drift_text(name)
            if text is not None:
                view.texts[probe.id], view.contexts[probe.id] = text, name
                view.answers[probe.id] = recording.answer_start(name)
                if job.task == "generate" and 0 < view.answers[probe.id] < len(text[0]):
                    view.traced.add(probe.id)
        return view
    subject = engine.subject(reference)
    view.context = subject.context()
    if job.task == "choose":
        for name, rows in subject.options(job.probes).items():
            view.options[name] = Group(rows.ids, rows.starts)
            view.contexts[name] = digest(rows.ids, rows.starts)
            view.texts[name] = tuple(
                view.numbers(ids[start:]) for ids, start in zip(rows.ids, rows.starts, strict=True)
            )
        return view
    prompts = subject.prompts(job.probes)
    for name, samples in engine.responses(reference, replace(job, samples=1)).items():
        response = samples[0]
        if response.token_ids:
            view.texts[name] = (view.numbers(response.token_ids),)
            view.answers[name] = response.answer_at
            if 0 < response.answer_at < len(response.text):
                view.traced.add(name)
            view.markers[name] = marker_spans(
                response.text, engine.tags, bool(opened_by(prompts[name].tail, engine.tags))
            )
    for name, prompt in prompts.items():
        view.prompts[name], view.contexts[name] = prompt.ids, digest(prompt.ids)
        closing = opened_by(prompt.tail, engine.tags)
        if closing:
            view.closings[name] = closing
    return view


def share_template(baseline: View, candidate: View) -> None:
    """Let the candidate read the baseline's prompts, in its own ids, in place of its own: what is left is what the weights have changed."""
    from pytest_trust.models.runner import Group

    for name, prompt in baseline.prompts.items():
        candidate.prompts[name] = candidate.own(baseline.numbers(prompt))
        candidate.contexts[name] = digest(candidate.prompts[name])
    for name, group in baseline.options.items():
        if candidate.texts.get(name) != baseline.texts[name]:
            continue
        rows = tuple(candidate.own(baseline.numbers(row)) for row in group.rows)
        texts = baseline.texts[name]
        candidate.options[name] = Group(
            rows, tuple(len(row) - len(text) for row, text in zip(rows, texts, strict=True))
        )
        candidate.contexts[name] = digest(candidate.options[name].rows, candidate.options[name].starts)
