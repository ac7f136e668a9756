"""The part of `--trust-engine=ray` that runs on the cluster: an ordinary engine with a store of its own.

This module does not import Ray.
"""

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
from pytest_trust.reasoning import Tags
from pytest_trust.responses import Progress
from pytest_trust.version import __version__

if TYPE_CHECKING:
    from pytest_trust.models.reference import Reference


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the actors' engines.

    `models`: the controller's directory of converted models. `version`: the controller's version of pytest-trust.
    """

    device: str | None
    dtype: str | None
    batch_size: int | None
    trust_remote_code: bool
    reasoning_tags: Tags
    template: Literal["own", "shared"]
    offload: bool
    models: str
    version: str = __version__


class NewRows(Store):
    """A store that remembers the rows put into it since the last `take`."""

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
        if replace:  # a note about this machine, not a result
            return
        beside = json.dumps(context or {}, sort_keys=True)
        self._new += [(table, key, value, beside) for key, value in values.items()]

    def take(self) -> tuple[tuple[Table, str, bytes, str], ...]:
        taken, self._new = tuple(self._new), []
        return taken


class Worker:
    """The object behind an actor: its models stay loaded from chunk to chunk, and it has a store of its own.

    The store is in the system's temporary directory. `close` removes it; the store of a killed actor stays.
    """

    def __init__(self, settings: Settings, fetch: Callable[[Any], bytes] = lambda content: content) -> None:
        self._settings = settings
        self._fetch = fetch  # gives the bytes of a recording's content, which may be a promise of them
        self._engine: tuple[Engine, NewRows] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._tokens: dict[tuple[str, str, str], int] = {}

    def ready(self) -> str:
        """The name of this machine. Raises TrustError when another version of pytest-trust is installed on it."""
        if __version__ != self._settings.version:
            raise TrustError(
                f"the cluster's node {platform.node()} has pytest-trust {__version__}, "
                f"expected {self._settings.version}: install the same version on every node"
            )
        return platform.node()

    def run(self, chunk: Chunk) -> Done:
        """Do a chunk.

        Raises:
            TrustError: a model is not on this machine, has other files here, or cannot be loaded or run.
        """
        engine, store = self._made()
        for table, values in chunk.rows.items():
            store.put(table, values, replace=table == "notes")
        store.take()  # forget them: the controller has them already
        self._tokens.clear()
        models = [self._model(engine, sent) for sent in chunk.models]
        engine.release_others(*models)
        if chunk.side is None:
            self._measure(engine, chunk, models[0], models[-1])
        else:
            engine.model(models[chunk.side]).acquire(chunk.jobs, keys=chunk.keys)
        return Done(store.take(), sum(self._tokens.values()))

    def read(self, texts: Texts) -> ReadTexts:
        """The drift of plain texts between two models. Nothing is stored.

        Raises what `run` raises, and InvalidInput as `compare_models` does.
        """
        engine, _ = self._made()
        p, q = (self._model(engine, sent) for sent in texts.models)
        engine.release_others(p, q)
        drifts, windowed = drifts_of_texts_here(engine, p, q, texts.texts, texts.clusters, texts.sides)
        return ReadTexts(tuple(drift.to_bytes() for drift in drifts), windowed)

    def _measure(self, engine: Engine, chunk: Chunk, baseline: Reference, candidate: Reference) -> None:
        from pytest_trust.drift.cross_tokenizer.responses import measure_texts, missing_texts
        from pytest_trust.drift.measure import measure_units
        from pytest_trust.drift.trace_dependence import measure_readings, missing_readings, parts_of

        left = chunk.keys
        for reference, other in dict.fromkeys(((baseline, candidate), (candidate, baseline))):
            readings = parts_of(missing_readings(engine, chunk.jobs, reference, other), chunk.keys)
            if readings:
                measure_readings(engine, readings, reference)
                left -= {key for one in readings for key in one.keys.values()}
        if not left:
            return
        if vocabulary_of(engine, baseline, candidate).shared:
            units = wanted_units(engine, chunk.jobs, baseline, candidate, chunk.keys)
            if units:
                measure_units(engine, units, baseline, candidate)
        else:
            texts = missing_texts(engine, chunk.jobs, baseline, candidate)
            measure_texts(engine, with_keys(texts, chunk.keys), baseline, candidate)

    def close(self) -> None:
        """Release the models and remove the files."""
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
            if converted.is_dir():  # this machine sees the controller's directory: nothing is converted again
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
                keep=True,  # chunks of the two models may alternate
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
                f"{sent.text}: other files lie under this name on the cluster's node {platform.node()}: "
                f"its fingerprint there is {identity.fingerprint[:12]}, in this process {sent.fingerprint[:12]}: "
                "copy the same model to every node, or pin org/name@revision"
            )
        return reference
