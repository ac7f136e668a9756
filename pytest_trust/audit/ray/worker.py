"""The part of `--trust-engine=ray` that runs on the cluster: an ordinary engine over a store of its own, fed with chunks. Free of Ray."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_trust.audit.executor import drifts_of_texts_here
from pytest_trust.audit.ray.shipments import Chunk, Done, ReadTexts, Shipped, Texts, check_here, wanted_units
from pytest_trust.drift.alignment import vocabulary_of
from pytest_trust.engine.claimed_work import with_keys
from pytest_trust.engine.engine import Engine
from pytest_trust.engine.store import Store, Table
from pytest_trust.errors import TrustError
from pytest_trust.responses import Progress
from pytest_trust.version import __version__

if TYPE_CHECKING:
    from pytest_trust.models.reference import Reference


@dataclass(frozen=True, slots=True)
class Settings:
    """How the actors' engines are set up, and by which version; `models` is where the controller keeps what it has converted."""

    device: str | None
    dtype: str | None
    batch_size: int | None
    trust_remote_code: bool
    reasoning_tags: tuple[tuple[str, str], ...]
    template: Literal["own", "shared"]
    offload: bool
    models: str
    version: str = __version__


class NewRows(Store):
    """A store that remembers what was put into it since it was last asked."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._new: list[tuple[Table, str, bytes, str]] = []

    def put(
        self,
        table: Table,
        values: Mapping[str, bytes],
        context: Mapping[str, object] | None = None,
        *,
        replace: bool = False,
    ) -> None:
        super().put(table, values, context, replace=replace)
        if replace:  # what is known of this machine, no result
            return
        beside = json.dumps(context or {}, sort_keys=True)
        self._new += [(table, key, value, beside) for key, value in values.items()]

    def take(self) -> tuple[tuple[Table, str, bytes, str], ...]:
        taken, self._new = tuple(self._new), []
        return taken


class Worker:
    """What an actor is: a model stays loaded from chunk to chunk, and what was computed stays in the worker's own store.

    The store lies in the system's temporary directory and goes with `close`; of an actor that is killed it stays.
    """

    def __init__(self, settings: Settings, fetch: Callable[[Any], bytes] = lambda content: content) -> None:
        self._settings = settings
        self._fetch = fetch  # of a recording's content: where that is a promise, its bytes
        self._engine: tuple[Engine, NewRows] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._tokens: dict[tuple[str, str, str], int] = {}

    def ready(self) -> str:
        """The name of this machine. Raises TrustError when another version of pytest-trust is installed on it."""
        if __version__ != self._settings.version:
            raise TrustError(
                f"the cluster's node {platform.node()} has pytest-trust {__version__}, expected {self._settings.version}: install the same version on every node"
            )
        return platform.node()

    def run(self, chunk: Chunk) -> Done:
        """Do a chunk.

        Raises:
            TrustError: a model is not on this machine, is another one here, or cannot be loaded or run.
        """
        engine, store = self._made()
        for table, values in chunk.rows.items():
            store.put(table, values)
        store.take()  # these came from the controller
        self._tokens.clear()
        models = [self._model(engine, sent) for sent in chunk.models]
        engine.release_others(*models)
        if chunk.side is None:
            self._measure(engine, chunk, models[0], models[-1])
        else:
            engine.model(models[chunk.side]).acquire(chunk.jobs, keys=chunk.keys)
        return Done(store.take(), sum(self._tokens.values()))

    def read(self, texts: Texts) -> ReadTexts:
        """The drift of plain texts between two models. Nothing of it is stored. Raises as `run`, and InvalidInput as `compare_models`."""
        engine, _ = self._made()
        p, q = (self._model(engine, sent) for sent in texts.models)
        engine.release_others(p, q)
        drifts, windowed = drifts_of_texts_here(engine, p, q, texts.texts, texts.clusters, texts.sides)
        return ReadTexts(tuple(drift.to_bytes() for drift in drifts), windowed)

    def _measure(self, engine: Engine, chunk: Chunk, baseline: Reference, candidate: Reference) -> None:
        from pytest_trust.drift.cross_tokenizer.responses import measure_texts, missing_texts
        from pytest_trust.drift.measure import measure_units

        if vocabulary_of(engine, baseline, candidate).shared:
            units = wanted_units(engine, chunk.jobs, baseline, candidate, chunk.keys)
            if units:
                measure_units(engine, units, baseline, candidate)
        else:
            texts = missing_texts(engine, chunk.jobs, baseline, candidate)
            measure_texts(engine, with_keys(texts, chunk.keys), baseline, candidate)

    def close(self) -> None:
        """Let go of models and files."""
        if self._engine is not None:
            self._engine[0].close()
        if self._directory is not None:
            self._directory.cleanup()
        self._engine = self._directory = None

    def _made(self) -> tuple[Engine, NewRows]:
        if self._engine is None:
            settings = self._settings
            self._directory = tempfile.TemporaryDirectory(prefix="pytest-trust-")
            directory = Path(self._directory.name)
            converted = Path(settings.models)
            if converted.is_dir():  # on this machine too: the demo need not be converted again
                (directory / converted.name).symlink_to(converted)
            store = NewRows(directory)
            engine = Engine(
                store,
                device=settings.device,
                dtype=settings.dtype,
                batch_size=settings.batch_size,
                trust_remote_code=settings.trust_remote_code,
                reasoning_tags=settings.reasoning_tags,
                template=settings.template,
                offload=settings.offload,
                keep=True,  # chunks of both sides may come in turns
                progress=self._told,
            )
            self._engine = engine, store
        return self._engine

    def _told(self, progress: Progress) -> None:
        self._tokens[progress.model, progress.phase, progress.suite] = progress.tokens

    def _model(self, engine: Engine, sent: Shipped) -> Reference:
        reference = sent.reference(engine.store.directory)
        if sent.content is not None:
            if not reference.path.exists():
                reference.path.write_bytes(self._fetch(sent.content))
            return reference
        check_here(reference, sent, platform.node())
        identity = engine.identify(reference)
        if (identity.fingerprint, identity.rendering) != (sent.fingerprint, sent.rendering):
            raise TrustError(
                f"{sent.text}: other files lie under this name on the cluster's node {platform.node()}: its fingerprint there is {identity.fingerprint[:12]}, "
                f"in this process {sent.fingerprint[:12]}: copy the same model to every node, or pin org/name@revision"
            )
        return reference
