"""What a cluster is sent and what comes back: the missing work of a run, cut into chunks that any actor can do by itself.

Keys take no weights to compute, so the process that owns the store knows what is missing, and keys that an actor computes from the same
files are the same. A chunk brings the rows that the store holds of its probes already; an actor returns the rows that are new.
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
from pytest_trust.engine.rates import planned_tokens
from pytest_trust.engine.store import Table
from pytest_trust.errors import TrustError
from pytest_trust.keys import digest
from pytest_trust.models.reference import Kind, Reference, portable_options
from pytest_trust.responses import Job

if TYPE_CHECKING:
    from pytest_trust.engine.engine import Engine
    from pytest_trust.probes import Probe

_PER_ACTOR = 4  # chunks, so that none waits long for the last one of another
# Planned tokens of a chunk: less does not fill a batch, and more is a loss when a node dies.
_LEAST = 2_048
_MOST = 65_536

Rows = Mapping[Table, Mapping[str, bytes]]


@dataclass(frozen=True, slots=True)
class Shipped:
    """A model reference as another machine can read it: nothing in it depends on this process's directory.

    `fingerprint` and `rendering` are what the files must give there too. `content`: the file of a recording, or what fetches it;
    None for a model that is loaded where it runs.
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
        """The reference on the machine that was sent it; a recording lies in `directory`."""
        location = self.location if self.content is None else str(directory / self.location)
        options = MappingProxyType(dict(self.options))
        return Reference(self.text, self.kind, location, self.revision, options, self.label)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Work for one actor: the jobs hold its probes only, of `rows` the store knows already.

    `side` is the place in `models` of the one whose responses and options are wanted; None: the drift of the two. Of these, the `keys`, of `table`.
    `items` are responses, option scores or drift probes; `tokens` a plan of them.
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
    """What an actor made of a chunk: rows of the store (table, key, value, context as JSON), and tokens as its engine told them."""

    rows: tuple[tuple[Table, str, bytes, str], ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Texts:
    """Plain texts for one actor to read with two models, p and q, called `sides`; `clusters` has one name a text."""

    models: tuple[Shipped, ...]
    texts: tuple[str, ...]
    clusters: tuple[str, ...]
    sides: tuple[str, str]
    suites: str = "texts"

    @property
    def items(self) -> int:
        """How many there are."""
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class ReadTexts:
    """What an actor made of texts: the encoded `TokenDrift` of each, and how many were read in windows."""

    drifts: tuple[bytes, ...]
    windowed: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The smallest part of the work: one probe of one job, of which `keys` are missing in `table`."""

    job: int
    probe: Probe
    table: Table
    keys: frozenset[str]
    tokens: int

    @property
    def items(self) -> int:
        """Responses, option scores or drift probes."""
        return 1 if self.table == "drifts" else len(self.keys)


def shipped(engine: Engine, reference: Reference, content: Any = None) -> Shipped:
    """A reference with its identity here, by which another machine can tell whether it has the same files."""
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
    """What the store lacks of a model's responses and option scores; what two jobs share is in one piece only."""
    model = engine.local(reference)
    planned: set[str] = set()
    pieces = []
    # Of two jobs that ask one probe for samples, the one that asks for more makes the other's too.
    for index, job in sorted(enumerate(jobs), key=lambda entry: -entry[1].repeats()):
        keys = model.keys(job)
        planned |= engine.store.has(job.table, keys.values())
        for probe in job.probes:
            left = {keys[probe.id, repeat] for repeat in range(job.repeats())} - planned
            if left:
                planned |= left
                tokens = planned_tokens(job, probe) * len(left) // job.repeats()
                pieces.append(Piece(index, probe, job.table, frozenset(left), tokens))
    return pieces


def missing_of_drift(engine: Engine, jobs: Sequence[Job], baseline: Reference, candidate: Reference) -> list[Piece]:
    """What the store lacks of a pair's drift, planned on whole jobs: which probes give the noise floor depends on all of them."""
    planned: set[str] = set()
    pieces = []
    for index, job in enumerate(jobs):
        for unit in missing_parts(engine, units_of(engine, job, baseline, candidate)):
            keys = set(keys_of([unit])) - planned
            if keys:
                planned |= keys
                pieces.append(Piece(index, unit.probe, "drifts", frozenset(keys), unit_length(unit)))
    return pieces


def missing_of_texts(engine: Engine, jobs: Sequence[Job], baseline: Reference, candidate: Reference) -> list[Piece]:
    """What the store lacks of a pair with different tokenizers."""
    found = {
        one.key: Piece(index, one.probe, "drifts", frozenset({one.key}), one.length)
        for index, job in enumerate(jobs)
        for one in missing_texts(engine, [job], baseline, candidate)
    }
    return list(found.values())


def wanted_units(
    engine: Engine, jobs: Iterable[Job], baseline: Reference, candidate: Reference, wanted: frozenset[str]
) -> list[Unit]:
    """The jobs' drifts, of which only the keys in `wanted` are left."""
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
    """Chunks, longest first: what does not fit shows at once, and the last ones to end are short. Each has one task.

    Drift is cut where a local run would: its batches are then the same, and so is the last bit of every number.
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
        if side is None:  # drift is measured on first samples
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
    """The rows of the store that an actor needs for these jobs: rendered inputs and responses."""
    prompts: dict[str, bytes] = {}
    responses: dict[str, bytes] = {}
    for reference in dict.fromkeys(references):
        if not engine.model(reference).runs:
            continue
        model = engine.local(reference)
        for job in jobs:
            what = "prompt" if job.task == "generate" else "options"
            prompts |= engine.store.get("prompts", model.rendering_keys(what, job.probes).values())
            if job.task == "generate":
                responses |= engine.store.get("responses", model.keys(job, render=False).values())
    return {"prompts": prompts, "responses": responses}


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
                f"{sent.text}: {place} does not exist on the cluster's node {where}: put it on a path that every node sees, or give a model of the hub"
            )
