"""What is sent to a cluster and what comes back: the missing work of a run, cut into chunks.

Any actor can do any chunk by itself. Keys are computed without weights, so the process that owns the store knows what
is missing, and an actor computes the same keys from the same files. A chunk holds the rows of its probes that are
already stored. An actor returns the new rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_trust.drift.alignment import missing_parts, units_of
from pytest_trust.drift.cross_tokenizer.responses import missing_texts
from pytest_trust.drift.measure import DRIFT_BATCH
from pytest_trust.drift.sides import Unit, keys_of, parts_of, unit_length
from pytest_trust.drift.trace_dependence import missing_readings
from pytest_trust.engine.batches import plan_answers
from pytest_trust.engine.longer_limits import LIMITS_KEY, continued, remember_limits, shorter_keys
from pytest_trust.engine.rates import planned_tokens
from pytest_trust.engine.store import Table
from pytest_trust.errors import TrustError
from pytest_trust.keys import digest
from pytest_trust.models.reference import Kind, Reference, portable_options
from pytest_trust.responses import Job

if TYPE_CHECKING:
    from pytest_trust.engine.engine import Engine
    from pytest_trust.probes import Probe

_PER_ACTOR = 4  # chunks, so that no actor is idle for long while another does the last one
# Planned tokens of a chunk: fewer do not fill a batch, and more are lost when a node dies.
_LEAST = 2_048
_MOST = 65_536

Rows = Mapping[Table, Mapping[str, bytes]]


@dataclass(frozen=True, slots=True)
class Shipped:
    """A model reference that another machine can read: it does not depend on this process's directory.

    `fingerprint` and `rendering` must be those of the other machine's files too. `content`: the bytes of a recording's
    file, or a promise of them; None for a model that is loaded from the other machine's files.
    """

    text: str
    kind: Kind
    location: str
    revision: str
    options: tuple[tuple[str, str], ...]
    label: str
    fingerprint: str
    rendering: str
    content: Any = None

    def reference(self, directory: Path) -> Reference:
        """The reference on the machine that received it. A recording's file is in `directory`."""
        location = self.location if self.content is None else str(directory / self.location)
        options = MappingProxyType(dict(self.options))
        return Reference(self.text, self.kind, location, self.revision, options, self.label)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Work for one actor: compute the rows `keys` of `table`.

    `side`: the place in `models` of the model whose responses or option scores are wanted; None: the drift of the pair.
    `jobs` hold the chunk's probes only. `rows` are the stored rows that the actor needs.
    `items`: the number of responses, option scores or drift probes. `tokens`: the planned number of tokens.
    """

    models: tuple[Shipped, ...]
    side: int | None
    jobs: tuple[Job, ...]
    rows: Rows
    table: Table
    keys: frozenset[str]
    items: int
    tokens: int

    @property
    def suites(self) -> str:
        return ", ".join(dict.fromkeys(job.suite for job in self.jobs))


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a chunk: rows for the store (table, key, value, context as JSON), and the tokens they took."""

    rows: tuple[tuple[Table, str, bytes, str], ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Texts:
    """Plain texts that one actor reads with two models, p and q.

    `clusters` has one name a text. `sides` are the names of p and q in messages.
    """

    models: tuple[Shipped, ...]
    texts: tuple[str, ...]
    clusters: tuple[str, ...]
    sides: tuple[str, str]
    suites: str = "texts"

    @property
    def items(self) -> int:
        """The number of texts."""
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class ReadTexts:
    """The result of texts: the encoded `TokenDrift` of each, and the number of texts that were read in windows."""

    drifts: tuple[bytes, ...]
    windowed: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The smallest part of the work: one probe of one job, whose `keys` are missing in `table`.

    `job` is the job's place in the list of jobs. `tokens` is the planned number.
    """

    job: int
    probe: Probe
    table: Table
    keys: frozenset[str]
    tokens: int

    @property
    def items(self) -> int:
        """The number of responses, option scores or drift probes."""
        return 1 if self.table == "drifts" else len(self.keys)


def shipped(engine: Engine, reference: Reference, content: Any = None) -> Shipped:
    """A reference with its identity on this machine; another machine can tell by it whether its files are the same."""
    identity = engine.identify(reference)
    location = reference.location
    if content is not None:
        location = f"{digest(identity.fingerprint, reference.location)[:16]}{reference.path.suffix}"
    return Shipped(
        reference.text,
        reference.kind,
        location,
        reference.revision,
        tuple(portable_options(reference).items()),
        reference.label,
        identity.fingerprint,
        identity.rendering,
        content,
    )


def missing_of_side(engine: Engine, jobs: Sequence[Job], reference: Reference) -> list[Piece]:
    """The responses and option scores of a model that the store lacks. What two jobs share is in one piece only."""
    model = engine.local(reference)
    planned: set[str] = set()
    pieces = []
    # Two jobs may have the same probe: the job with more samples comes first, and generates the other's too.
    for index, job in sorted(enumerate(jobs), key=lambda entry: -entry[1].repeats()):
        keys = model.keys(job)
        if job.task == "generate":
            lacking = set(keys.values()) - engine.store.has("responses", keys.values())
            if lacking:
                remember_limits(engine.store, [model.way(job.generation)])
                continued(model, [job], plan_answers(model, [job]), lacking)  # stores what ended under shorter limits
        planned |= engine.store.has(job.table, keys.values())
        for probe in job.probes:
            # A probe whose trace did not end has no options to score.
            own = {keys[name] for repeat in range(job.repeats()) if (name := (probe.id, repeat)) in keys}
            left = own - planned
            if left:
                planned |= left
                tokens = planned_tokens(job, probe) * len(left) // job.repeats()
                pieces.append(Piece(index, probe, job.table, frozenset(left), tokens))
    return pieces


def missing_of_drift(engine: Engine, jobs: Sequence[Job], baseline: Reference, candidate: Reference) -> list[Piece]:
    """The drift of a pair that the store lacks.

    `jobs` must be whole: all of their probes together decide which ones give the noise floor.
    """
    planned: set[str] = set()
    pieces = []
    for index, job in enumerate(jobs):
        for unit in missing_parts(engine, units_of(engine, job, baseline, candidate)):
            keys = set(keys_of([unit])) - planned
            if keys:
                planned |= keys
                pieces.append(Piece(index, unit.probe, "drifts", frozenset(keys), unit_length(unit)))
    return pieces


def missing_of_dependence(
    engine: Engine, jobs: Sequence[Job], baseline: Reference, candidate: Reference
) -> list[Piece]:
    """The trace dependence of both models that the store lacks."""
    planned: set[str] = set()
    pieces = []
    for reference, other in dict.fromkeys(((baseline, candidate), (candidate, baseline))):
        for index, job in enumerate(jobs):
            for reading in missing_readings(engine, [job], reference, other):
                keys = set(reading.keys.values()) - planned
                if keys:
                    planned |= keys
                    pieces.append(Piece(index, reading.probe, "drifts", frozenset(keys), reading.length))
    return pieces


def missing_of_texts(engine: Engine, jobs: Sequence[Job], baseline: Reference, candidate: Reference) -> list[Piece]:
    """What replaces drift for a pair with different tokenizers, as far as the store lacks it."""
    found = {
        one.key: Piece(index, one.probe, "drifts", frozenset({one.key}), one.length)
        for index, job in enumerate(jobs)
        for one in missing_texts(engine, [job], baseline, candidate)
    }
    return list(found.values())


def wanted_units(
    engine: Engine, jobs: Iterable[Job], baseline: Reference, candidate: Reference, wanted: frozenset[str]
) -> list[Unit]:
    """The units of the jobs' drift whose keys are in `wanted`."""
    return parts_of([unit for job in jobs for unit in units_of(engine, job, baseline, candidate)], wanted)


def cut(
    engine: Engine,
    jobs: Sequence[Job],
    pieces: Iterable[Piece],
    pair: Sequence[Reference],
    models: tuple[Shipped, ...],
    side: int | None,
    actors: int,
) -> Iterator[Chunk]:
    """Cut the pieces into chunks, the longest first. All pieces of a chunk have the same task.

    The longest chunks come first, so that one that does not fit into memory fails at once, and the last ones are short.
    Drift is cut at the batches of a local run: equal batches give numbers that are equal to the last bit.
    """
    if side is None:
        step, task = DRIFT_BATCH, dict.fromkeys(range(len(jobs)), "")
        ordered = sorted(pieces, key=lambda piece: -piece.tokens)
    else:
        step, task = 1, {index: job.task for index, job in enumerate(jobs)}
        ordered = sorted(
            pieces, key=lambda piece: (task[piece.job] != "generate", -piece.tokens, piece.job, piece.probe.id)
        )
    limit = min(max(_LEAST, sum(piece.tokens for piece in ordered) // (_PER_ACTOR * max(1, actors))), _MOST)
    part: list[Piece] = []
    for piece in ordered:
        full = len(part) % step == 0 and sum(one.tokens for one in part) + piece.tokens > limit
        if part and (full or task[part[0].job] != task[piece.job]):
            yield _chunk(engine, jobs, part, pair, models, side)
            part = []
        part.append(piece)
    if part:
        yield _chunk(engine, jobs, part, pair, models, side)


def _chunk(
    engine: Engine,
    jobs: Sequence[Job],
    pieces: Sequence[Piece],
    pair: Sequence[Reference],
    models: tuple[Shipped, ...],
    side: int | None,
) -> Chunk:
    parts: dict[int, list[Probe]] = {}
    for piece in pieces:
        parts.setdefault(piece.job, []).append(piece.probe)
    cut_jobs = []
    for index, probes in sorted(parts.items()):
        job = replace(jobs[index], probes=tuple(probes), drift=frozenset())
        if side is None:  # drift is measured on the first sample of each probe
            job = replace(job, samples=1, drift=frozenset(probe.id for probe in probes))
        cut_jobs.append(job)
    return Chunk(
        models=models,
        side=side,
        jobs=tuple(cut_jobs),
        rows=known_rows(engine, cut_jobs, pair if side is None else (pair[side],)),
        table=pieces[0].table,
        keys=frozenset().union(*(piece.keys for piece in pieces)),
        items=sum(piece.items for piece in pieces),
        tokens=sum(piece.tokens for piece in pieces),
    )


def known_rows(engine: Engine, jobs: Iterable[Job], references: Iterable[Reference]) -> Rows:
    """The stored rows that an actor needs for these jobs.

    These are rendered inputs, responses, lead-ins, responses that go on under a longer limit, and option scores.
    """
    prompts: dict[str, bytes] = {}
    responses: dict[str, bytes] = {}
    options: dict[str, bytes] = {}
    for reference in dict.fromkeys(references):
        if not engine.model(reference).runs:
            continue
        model = engine.local(reference)
        for job in jobs:
            for what in ("prompt", "options") if job.options else ("prompt",):
                prompts |= engine.store.get("prompts", model.rendering_keys(what, job.probes).values())
            written = job if job.task == "generate" else job.lead_in
            responses |= engine.store.get("responses", model.keys(written, render=False).values())
            if job.task == "choose":
                options |= engine.store.get("options", model.keys(job, render=False).values())
            if job.task == "generate":
                shorter = [key for keys in shorter_keys(model, job).values() for key, _ in keys]
                responses |= engine.store.get("responses", shorter)
    notes = engine.store.get("notes", [LIMITS_KEY])
    return {"prompts": prompts, "responses": responses, "options": options, "notes": notes}


def check_here(reference: Reference, sent: Shipped, where: str) -> None:
    """Refuse a model whose files this machine does not have.

    Raises:
        TrustError: one line naming path and machine.
    """
    places = [reference.location] if reference.on_disk else []
    base = reference.options.get("base", "")
    if base.startswith("/"):
        places.append(base.partition("?")[0])
    for place in places:
        if not Path(place).exists():
            raise TrustError(
                f"{sent.text}: {place} does not exist on the cluster's node {where}: "
                "put it on a path that every node sees, or give a model of the hub"
            )
