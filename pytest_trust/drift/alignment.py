"""What a pair's drift is measured on: both sides' texts and prompts, and the keys of the results in the store.

The keys need no weights, so stored results are found without loading a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pytest_trust.drift.masking import marker_spans
from pytest_trust.drift.shared_tokens import pair_numberings
from pytest_trust.drift.sides import Unit, View, Vocabulary, keys_of, parts_of
from pytest_trust.keys import digest
from pytest_trust.models.reference import Reference
from pytest_trust.reasoning import DEFAULT_TAGS, opened_by
from pytest_trust.responses import Job

if TYPE_CHECKING:
    from pytest_trust.drift.shared_tokens import Numbering
    from pytest_trust.engine.engine import Engine
    from pytest_trust.engine.model import Model

_KEYS = 2  # version of the keys of drifts: raise it when their meaning changes

# Probes of each job whose noise floor is measured. The floor depends on device and dtype, so a few responses show it.
# All of them would double the cost.
_FLOOR_PROBES = 2

# `drift.cross_tokenizer.responses` measures pairs that are refused for this reason.
OTHER_TOKENS = "the tokenizers differ, so the models' next-token distributions are over different vocabularies"
NO_HEAD = "the head of {label} is quantised or missing"

_vocabularies: WeakKeyDictionary[Engine, dict[tuple[Reference, Reference], Vocabulary]] = WeakKeyDictionary()


def impossible(engine: Engine, baseline: Reference, candidate: Reference) -> str:
    """Why no drift of this pair can be measured; empty where it can."""
    models = [engine.model(baseline), engine.model(candidate)]
    models.sort(key=lambda model: not model.tokens_by_text)  # the server's reason comes first
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
    """The tokens that the pair has in common.

    There are three cases. All ids mean the same; the leading ids do, in padded and extended vocabularies; or the same
    pieces have other ids.
    """
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
    """Key of the store's note that the model's head is not at hand."""
    return digest("no head", _KEYS, model.identity.fingerprint)


def units_of(engine: Engine, job: Job, baseline: Reference, candidate: Reference) -> list[Unit]:
    """The drift probes of a job that both sides have answered, with the keys of their drifts.

    The two sides of a choose job must have the same option tokens. A key is empty where that drift cannot be measured.
    """
    probes = tuple(probe for probe in job.probes if probe.id in job.drift)
    if not probes:
        return []
    asked = replace(job, probes=probes)
    vocabulary = vocabulary_of(engine, baseline, candidate)
    baseline_view = view_of(engine, asked, baseline, vocabulary.baseline, candidate)
    candidate_view = view_of(engine, asked, candidate, vocabulary.candidate, baseline)
    if engine.shares_template:
        share_template(baseline_view, candidate_view)
    both = [probe for probe in probes if probe.id in baseline_view.token_ids and probe.id in candidate_view.token_ids]
    if job.task == "choose":
        both = [probe for probe in both if baseline_view.token_ids[probe.id] == candidate_view.token_ids[probe.id]]
    by_id = sorted(both, key=lambda probe: probe.id)
    floor = set() if baseline_view.recorded else {probe.id for probe in by_id[:_FLOOR_PROBES]}
    shared = (vocabulary.shared, *vocabulary.key) if vocabulary.key else vocabulary.shared
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
                p.token_ids[name],
                shared,
                *([] if p.tags == DEFAULT_TAGS else [p.tags]),  # they decide where an answer begins
            )

        again = (
            digest(
                "floor", _KEYS, baseline_view.fingerprint, baseline_view.contexts[name], baseline_view.token_ids[name]
            )
            if name in floor
            else ""
        )
        forward, backward = key(candidate_view, baseline_view), key(baseline_view, candidate_view)
        alone = digest("answer without trace", forward) if forward and name in candidate_view.traced else ""
        units.append(Unit(job, probe, baseline_view, candidate_view, forward, backward, again, alone))
    return units


def missing_parts(engine: Engine, units: Sequence[Unit]) -> list[Unit]:
    """The units with the keys that the store lacks."""
    keys = keys_of(units)
    have = engine.store.get("drifts", keys).keys()
    return parts_of(units, set(keys) - have)


def view_of(
    engine: Engine, job: Job, reference: Reference, numbering: Numbering | None = None, other: Reference | None = None
) -> View:
    """One side of a job. `other` is the model that reads this side's texts; None when the side's own model does."""
    from pytest_trust.models.runner import Group

    model = engine.model(reference)
    view = View(reference, model.source, recorded=not model.runs, numbering=numbering, tags=model.tags)
    if model.runs:
        view.context = engine.local(reference).context()
    for name, said in model.said(job, engine.model(other or reference)).items():
        view.contexts[name] = said.context
        view.token_ids[name] = tuple(view.numbers(row) for row in said.token_ids)
        view.answers[name] = said.answer_at if said.answer_token is None else said.answer_token
        if said.masked is not None:
            view.masked[name] = said.masked
        if said.traced:
            view.traced.add(name)
        if said.options:
            view.options[name] = Group(said.options, said.starts)
            view.lead_ins[name] = said.lead_in
        elif said.prompt:
            view.prompts[name] = said.prompt
        if said.masked is None and not said.options:
            opened = opened_by(said.tail, model.tags)
            view.markers[name] = marker_spans(said.text, model.tags, bool(opened))
            if opened:
                view.closings[name] = opened
    return view


def share_template(baseline: View, candidate: View) -> None:
    """Replace the candidate's prompts by the baseline's, in the candidate's ids.

    The drift then shows what the weights have changed, without the templates. Each model keeps the trace that it wrote
    before its options.
    """
    from pytest_trust.models.runner import Group

    for name, prompt in baseline.prompts.items():
        candidate.prompts[name] = candidate.own(baseline.numbers(prompt))
        candidate.contexts[name] = digest(candidate.prompts[name])
    for name, group in baseline.options.items():
        if candidate.token_ids.get(name) != baseline.token_ids[name]:
            continue
        texts, own = baseline.token_ids[name], candidate.options[name]
        rows = tuple(
            (
                *candidate.own(baseline.numbers(row[: start - baseline.lead_ins[name]])),
                *own_row[own_start - candidate.lead_ins[name] :],
            )
            for row, start, own_row, own_start in zip(group.rows, group.starts, own.rows, own.starts, strict=True)
        )
        candidate.options[name] = Group(
            rows, tuple(len(row) - len(text) for row, text in zip(rows, texts, strict=True))
        )
        candidate.contexts[name] = digest(candidate.options[name].rows, candidate.options[name].starts)
