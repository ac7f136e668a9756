"""What a pair's drift is measured on: both sides' texts and contexts, and the keys under which the results are stored.

Keys take no weights to compute, so what the store holds is found without loading a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pytest_trust.drift.masking import marker_spans
from pytest_trust.drift.shared_tokens import pair_numberings
from pytest_trust.keys import digest
from pytest_trust.models.reference import Reference
from pytest_trust.reasoning import DEFAULT_TAGS, opened_by
from pytest_trust.responses import Job

if TYPE_CHECKING:
    from pytest_trust.drift.shared_tokens import Numbering
    from pytest_trust.engine.engine import Engine
    from pytest_trust.engine.model import Model
from pytest_trust.drift.sides import Unit, View, Vocabulary, keys_of, parts_of

_KEYS = 2

# Of each job. The floor is a property of device and dtype, which a few responses show; all of them would double the cost.
_FLOOR_PROBES = 2

OTHER_TOKENS = (
    "the tokenizers differ, so the models' next-token distributions are over different vocabularies"  # see text_pair
)


_vocabularies: WeakKeyDictionary[Engine, dict[tuple[Reference, Reference], Vocabulary]] = WeakKeyDictionary()

NO_HEAD = "the head of {label} is quantised or missing"


def impossible(engine: Engine, baseline: Reference, candidate: Reference) -> str:
    """Why no drift of this pair can be measured, or nothing."""
    models = [engine.model(baseline), engine.model(candidate)]
    models.sort(key=lambda model: not model.tokens_by_text)  # what a server lacks, it lacks against any other
    for model, other in (models, models[::-1]):
        reason = model.why_no_drift(other, shared_template=engine.shares_template)
        if reason:
            return reason
    for model in models:
        if model.runs:
            key = headless_key(model)
            noted = engine.store.get_json("notes", [key]).get(key)
            if noted:
                return noted if isinstance(noted, str) else NO_HEAD.format(label=model.reference.label)
    return "" if vocabulary_of(engine, baseline, candidate).shared else OTHER_TOKENS


def vocabulary_of(engine: Engine, baseline: Reference, candidate: Reference) -> Vocabulary:
    """What the pair's tokens have in common: the same ids, leading ids (padded and extended vocabularies), or the same pieces under other ids."""
    models = engine.model(baseline), engine.model(candidate)
    if any(model.tokens_by_text for model in models) or len({model.identity.tokenizer for model in models}) == 1:
        return Vocabulary(-1)
    by_pair = _vocabularies.setdefault(engine, {})
    if (baseline, candidate) not in by_pair:
        by_pair[baseline, candidate] = _compared(engine, baseline, candidate)
    return by_pair[baseline, candidate]


def _compared(engine: Engine, baseline: Reference, candidate: Reference) -> Vocabulary:
    models = engine.model(baseline), engine.model(candidate)
    hashes = {model.vocabulary() for model in models}
    if len(hashes) == 1:
        return Vocabulary(-1)
    if not all(model.runs for model in models):
        return Vocabulary(0)
    pair = pair_numberings(engine.local(baseline), engine.local(candidate))
    if pair is None:
        return Vocabulary(0)
    moved = any(numbering.order is not None for numbering in pair)
    return Vocabulary(pair[0].count, *pair, key=tuple(sorted(hashes)) if moved else ())


def headless_key(model: Model) -> str:
    """Of the store's note that the model's head is not at hand."""
    return digest("no head", _KEYS, model.identity.fingerprint)


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
    """One side of a job. `other` is the model that reads what this side said; its own, where there is none."""
    from pytest_trust.models.runner import Group

    model = engine.model(reference)
    view = View(reference, model.source, recorded=not model.runs, numbering=numbering)
    if model.runs:
        view.context = engine.local(reference).context()
    for name, said in model.said(job, engine.model(other or reference)).items():
        view.contexts[name] = said.context
        view.texts[name] = tuple(view.numbers(row) for row in said.rows)
        view.answers[name] = said.answer_at if said.answer_token is None else said.answer_token
        if said.masked is not None:
            view.masked[name] = said.masked
        if said.traced:
            view.traced.add(name)
        if said.options:
            view.options[name] = Group(said.options, said.starts)
        elif said.prompt:
            view.prompts[name] = said.prompt
        if said.masked is None and not said.options:
            opened = opened_by(said.tail, engine.tags)
            view.markers[name] = marker_spans(said.text, engine.tags, bool(opened))
            if opened:
                view.closings[name] = opened
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
