"""Where the models of a run are run: here, or on a Ray cluster (`audit.ray.executor`)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from pytest_trust.engine.engine import Engine
from pytest_trust.engine.rates import remember_rate, tokens_left
from pytest_trust.models.reference import Pair, Reference
from pytest_trust.responses import Job

if TYPE_CHECKING:
    from pytest_trust.drift.token_drift import TokenDrift


class Executor(Protocol):
    """Makes what a run lacks; results go to the store of its engine, which reads them."""

    engine: Engine

    def acquire(self, jobs: Iterable[Job], pair: Pair) -> None:
        """Make everything that is missing: the baseline's part, the candidate's, then the drift of the pair.

        Every finished batch is in the store at once, so an interrupted call continues where it was.

        Raises:
            TrustError: a model cannot be had or loaded, a recording lacks probes, or the store cannot be written.
        """

    def acquire_side(self, jobs: Iterable[Job], reference: Reference) -> None:
        """Make what is missing of one model's responses and option scores."""

    def drifts_of_texts(
        self, p: Reference, q: Reference, texts: Sequence[str], clusters: Sequence[str], sides: tuple[str, str]
    ) -> tuple[list[TokenDrift], int]:
        """KL(p || q) per token of plain texts, and how many were read in windows; `sides` are what p and q are called. Nothing is stored.

        Raises InvalidInput as `compare_models`.
        """
        ...

    def close(self) -> None:
        """Let models and store go."""


class LocalExecutor:
    """Runs the models in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def acquire(self, jobs: Iterable[Job], pair: Pair) -> None:
        """See `Executor.acquire`."""
        from pytest_trust.drift.measure import acquire_drift

        planned, references = list(jobs), tuple(dict.fromkeys((pair.baseline, pair.candidate)))
        models = [self.engine.model(reference) for reference in references]
        models[0].check_beside(models[-1])
        for model in models:
            model.require(planned)
        answering = [model for model in models if model.answers]
        left = sum(tokens_left(planned, model) for model in answering)
        start = time.monotonic()
        if left and len(answering) == 2:
            answering[1].read_ahead()  # while the first one works
        self.engine.acquire(planned, references)
        acquire_drift(self.engine, planned, pair.baseline, pair.candidate)
        fingerprints = [model.identity.fingerprint for model in answering]
        remember_rate(self.engine.store, fingerprints, left, time.monotonic() - start)

    def acquire_side(self, jobs: Iterable[Job], reference: Reference) -> None:
        """See `Executor.acquire_side`."""
        self.engine.acquire(jobs, [reference])

    def drifts_of_texts(
        self, p: Reference, q: Reference, texts: Sequence[str], clusters: Sequence[str], sides: tuple[str, str]
    ) -> tuple[list[TokenDrift], int]:
        """See `Executor.drifts_of_texts`."""
        return drifts_of_texts_here(self.engine, p, q, texts, clusters, sides)

    def close(self) -> None:
        """See `Executor.close`."""
        self.engine.close()


def drifts_of_texts_here(
    engine: Engine, p: Reference, q: Reference, texts: Sequence[str], clusters: Sequence[str], sides: tuple[str, str]
) -> tuple[list[TokenDrift], int]:
    """`Executor.drifts_of_texts` with the models of an engine in this process."""
    from pytest_trust.drift.compare import drifts_of_texts

    loaded = [engine.loaded(reference).loaded for reference in (p, q)]
    pairs = [(one.model, one.tokenizer) for one in loaded]
    return drifts_of_texts(pairs[0], pairs[1], texts, clusters, sides=sides)
