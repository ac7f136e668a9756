"""`--trust-engine=ray`: an executor whose models run in actors on a Ray cluster.

The store, the tests and the statistics stay in this process. The work that the store lacks is cut into chunks. An actor
turns a chunk into rows, and these are stored as soon as they come back. The rows have the keys of a local run: results
are equal, a killed run resumes, and a local run and a run on a cluster continue each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_trust.audit.executor import LocalExecutor
from pytest_trust.audit.ray.actors import Actors, Connection, connect, share
from pytest_trust.audit.ray.shipments import (
    Chunk,
    Done,
    Piece,
    ReadTexts,
    Shipped,
    Texts,
    cut,
    missing_of_dependence,
    missing_of_drift,
    missing_of_side,
    missing_of_texts,
    shipped,
)
from pytest_trust.audit.ray.worker import Settings, Worker
from pytest_trust.drift.alignment import OTHER_TOKENS, impossible
from pytest_trust.engine.engine import Engine
from pytest_trust.engine.store import Store, Table
from pytest_trust.errors import TrustError
from pytest_trust.models.files import converted_directory
from pytest_trust.models.identity import BALANCED
from pytest_trust.models.reference import Pair, Reference, check_device
from pytest_trust.responses import Job, Phase

if TYPE_CHECKING:
    from pytest_trust.drift.token_drift import TokenDrift

# Bytes that an actor on a CPU takes beside the weights: the interpreter, torch and a batch.
_BESIDE = 1 << 30
_HEADROOM = 1.3  # of the weights' bytes

# The phase that progress shows for each table.
_PHASES: Mapping[Table, Phase] = {"responses": "generate", "options": "score", "drifts": "drift"}

Sided = tuple[int | None, Piece]  # the place of the model that the piece belongs to; None: it belongs to the pair


class RayExecutor:
    """Runs models in actors, and loads none in this process.

    The cluster is joined or started when it is first needed. `note` is called with a line that names it. The other
    arguments are those of `Engine`. Models are identified in this process and loaded in the actors.
    """

    worker: type[Worker] = Worker

    def __init__(
        self,
        store: Path | Store,
        *,
        device: str | None = None,
        note: Callable[[str], None] | None = None,
        **settings: Any,
    ) -> None:
        if device is not None:
            check_device(device)
        self.engine = Engine(store, device_of=self._device_of, **settings)
        self._device = device
        self._local = LocalExecutor(self.engine)
        self._note = note
        self._connection: Connection | None = None
        self._actors: Actors | None = None
        self._contents: dict[Reference, Any] = {}

    def close(self) -> None:
        """End the actors, leave the cluster and close the store."""
        self._leave()
        self.engine.close()

    def acquire(self, jobs: Iterable[Job], pair: Pair) -> None:
        """See `Executor.acquire`. Two recordings need no actor: their drift is computed in this process.

        Raises:
            TrustError: also when no cluster answers, or when a chunk's actors died three times.
        """
        planned = list(jobs)
        both = tuple(dict.fromkeys((pair.baseline, pair.candidate)))
        for reference in both:
            self.engine.model(reference).require(planned)
        models = [reference for reference in both if self.engine.model(reference).runs]
        if not models:
            self._local.acquire(planned, pair)
            return
        self._acquire_sides(planned, models)
        if any(job.drift for job in planned):
            reason = impossible(self.engine, pair.baseline, pair.candidate)
            missing = {"": missing_of_drift, OTHER_TOKENS: missing_of_texts}.get(reason)
            if missing:
                pieces = missing(self.engine, planned, pair.baseline, pair.candidate)
                self._run(planned, [(None, piece) for piece in pieces], both)
            pieces = missing_of_dependence(self.engine, planned, pair.baseline, pair.candidate)
            self._run(planned, [(None, piece) for piece in pieces], both)

    def acquire_side(self, jobs: Iterable[Job], reference: Reference, keys: Set[str] | None = None) -> None:
        """See `Executor.acquire_side`. Where `keys` are given, only these are acquired."""
        self._acquire_sides(list(jobs), [reference], keys)

    def drifts_of_texts(
        self, p: Reference, q: Reference, texts: Sequence[str], clusters: Sequence[str], sides: tuple[str, str]
    ) -> tuple[list[TokenDrift], int]:
        """See `Executor.drifts_of_texts`. One actor reads all texts."""
        from pytest_trust.drift.token_drift import TokenDrift

        models = (p, q)
        self._joined()
        asked = Texts(tuple(self._shipped(model) for model in models), tuple(texts), tuple(clusters), sides)
        with closing(self._ready(models).run([asked])) as results:
            _, found = next(results)
        assert isinstance(found, ReadTexts)
        return [TokenDrift.from_bytes(one) for one in found.drifts], found.windowed

    def _device_of(self, reference: Reference) -> str:
        """The device of a model in an actor.

        `auto` is `cuda` where the cluster has GPUs, whatever this machine has. An actor sees one GPU only.
        """
        wanted = reference.options.get("device") or self._device or "auto"
        if wanted == "auto":
            return self._usual_device()
        if ":" in wanted or wanted == BALANCED:
            expected = "cuda" if wanted == BALANCED else wanted.partition(":")[0]
            raise TrustError(
                f"{reference.text}: device {wanted} with --trust-engine=ray: "
                f"an actor has one GPU of its own, expected {expected}"
            )
        return str(wanted)

    def _acquire_sides(self, jobs: Sequence[Job], models: Sequence[Reference], keys: Set[str] | None = None) -> None:
        """Responses and lead-ins come first: the rows of options depend on what stands before the answers."""
        scored = [job for job in jobs if job.task == "choose"]
        self._acquire_round([job if job.task == "generate" else job.lead_in for job in jobs], models, keys)
        if scored:
            self._acquire_round(scored, models, keys)

    def _acquire_round(self, jobs: Sequence[Job], models: Sequence[Reference], keys: Set[str] | None) -> None:
        fingerprints = {self.engine.identify(model).fingerprint for model in models}
        # All work is one round, so no actor waits between the models. Models with equal fingerprints share responses:
        # they take a round each, so that nothing is generated twice.
        rounds = [models] if len(fingerprints) == len(models) else [[model] for model in models]
        for group in rounds:
            pieces = [
                (place, piece)
                for place, model in enumerate(group)
                for piece in missing_of_side(self.engine, jobs, model)
            ]
            self._run(jobs, pieces if keys is None else _asked(pieces, keys), group)

    def _run(self, jobs: Sequence[Job], pieces: Sequence[Sided], models: Sequence[Reference]) -> None:
        """Do the pieces of these models, except those that another run on the same store has claimed.

        The claimed ones are waited for, and done here if the other run gives them up or dies.
        """
        keys: dict[Table, list[str]] = {}
        for _, piece in pieces:
            keys.setdefault(piece.table, []).extend(piece.keys)
        told = _Told(self.engine, pieces, models)
        with self.engine.claims:
            own = {key for table, wanted in keys.items() for key in self.engine.claims.claim(table, wanted)[0]}
            self._work(jobs, _asked(pieces, own), models, told)
            for table, wanted in keys.items():
                left = [key for key in wanted if key not in own]
                for _, found in self.engine.claims.shares(table, [left], waiting=lambda held: told.left(held[0])):
                    self._work(jobs, _asked(pieces, set(found)), models, told)
        told.end()

    def _work(self, jobs: Sequence[Job], pieces: Sequence[Sided], models: Sequence[Reference], told: _Told) -> None:
        """Do the pieces on the cluster."""
        if not pieces:
            return
        self._joined()
        actors = self._ready(models)
        room = actors.room()
        sent = tuple(self._shipped(model) for model in models)
        parts: dict[int | None, list[Piece]] = {}
        for side, piece in pieces:
            parts.setdefault(side, []).append(piece)
        chunks = [
            chunk for side, part in parts.items() for chunk in cut(self.engine, jobs, part, models, sent, side, room)
        ]
        with closing(actors.run(chunks)) as results:  # an error in this block ends the actors too
            for chunk, done in results:
                assert isinstance(chunk, Chunk) and isinstance(done, Done)
                self._commit(done)
                told(chunk, done)

    def _commit(self, done: Done) -> None:
        """Store the rows, in one transaction per table and context. Existing rows stay as they are."""
        groups: dict[tuple[Table, str], dict[str, bytes]] = {}
        for table, key, value, context in done.rows:
            groups.setdefault((table, context), {})[key] = value
        for (table, context), values in groups.items():
            self.engine.store.put(table, values, json.loads(context))

    def _shipped(self, reference: Reference) -> Shipped:
        if not self.engine.model(reference).runs and reference not in self._contents:
            self._contents[reference] = share(reference.path.read_bytes())
        return shipped(self.engine, reference, self._contents.get(reference))

    def _joined(self) -> Connection:
        if self._connection is None:
            self._connection = connect()
            if self._note:
                self._note(f"models run on {self._connection.text}")
        return self._connection

    def _usual_device(self) -> str:
        """The device of models whose reference names none.

        It is the same here and in the actors, since it decides the dtype and with it every key.
        """
        given = self._device or "auto"
        if given == "auto":
            return "cuda" if self._joined().gpus else "cpu"
        return str(given)

    def _ready(self, models: Sequence[Reference]) -> Actors:
        needs = self._needs(models)
        if self._actors is not None and any(self._actors.needs.get(name, 0) < amount for name, amount in needs.items()):
            self._actors.close()
            self._actors = None
        if self._actors is None:
            settings = Settings(
                device=self._usual_device(),
                dtype=self.engine.dtype,
                batch_size=self.engine.fitting.batch_size,
                trust_remote_code=self.engine.trust_remote_code,
                reasoning_tags=self.engine.tags,
                template="shared" if self.engine.shares_template else "own",
                offload=self.engine.offloads,
                models=str(converted_directory(self.engine.store.directory.resolve()).parent),
            )
            self._actors = Actors(settings, needs, worker=self.worker)
        return self._actors

    def _needs(self, models: Sequence[Reference]) -> dict[str, float]:
        """What an actor takes of a node: a GPU, or a CPU and the memory for the models that it holds at once."""
        identities = [self.engine.identify(model) for model in models if self.engine.model(model).runs]
        if any(identity.device != "cpu" for identity in identities):
            return {"CPU": 1, "GPU": 1}
        weights = 0 if self.engine.offloads else sum(identity.parameter_bytes for identity in identities)
        wanted = int(_BESIDE + _HEADROOM * weights)
        # Where no node has memory for both models, an actor holds one at a time.
        memory = min(wanted, self._joined().memory)
        return {"CPU": 1, "memory": memory} if memory else {"CPU": 1}

    def _leave(self) -> None:
        if self._actors is not None:
            self._actors.close()
        self._contents.clear()
        if self._connection is not None:
            self._connection.close()
        self._actors = self._connection = None


def _asked(pieces: Iterable[Sided], keys: Set[str]) -> list[Sided]:
    """The pieces that have any of these keys, cut down to these keys."""
    return [(side, replace(piece, keys=found)) for side, piece in pieces if (found := piece.keys & keys)]


class _Told:
    """Tells the progress of the pieces, by model and phase: after every chunk, and while another run is waited for."""

    def __init__(self, engine: Engine, pieces: Sequence[Sided], models: Sequence[Reference]) -> None:
        self._engine, self._pieces, self._models = engine, pieces, models
        self._state: dict[tuple[Reference, Phase], list[int]] = {}
        for side, piece in pieces:
            self._state.setdefault(self._of(side, piece.table), [0, 0, 0])[1] += piece.items
        for model, phase in self._state:
            self._tell(model, phase)

    def __call__(self, chunk: Chunk, done: Done) -> None:
        of = self._of(chunk.side, chunk.table)
        self._state[of][0] += chunk.items
        self._state[of][2] += done.tokens
        self._tell(*of)

    def left(self, keys: Sequence[str]) -> None:
        """Tell that of the phases of these keys, only these keys are not done yet."""
        waited: dict[tuple[Reference, Phase], int] = {}
        for side, piece in _asked(self._pieces, set(keys)):
            of = self._of(side, piece.table)
            waited[of] = waited.get(of, 0) + piece.items
        for of, items in waited.items():
            self._state[of][0] = self._state[of][1] - items
            self._tell(*of)

    def end(self) -> None:
        """Tell that everything is done."""
        for model, phase in self._state:
            self._engine.told_all(model, phase)

    def _of(self, side: int | None, table: Table) -> tuple[Reference, Phase]:
        return self._models[-1 if side is None else side], _PHASES[table]

    def _tell(self, model: Reference, phase: Phase) -> None:
        done, total, tokens = self._state[model, phase]
        self._engine.tell(model, phase, "", done, total, tokens)
