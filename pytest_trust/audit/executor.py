"""Executors run the models: in this process, or on a Ray cluster (`audit.ray.executor`)."""

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
    """Generates the results that a run lacks. They go to the store of `engine`, which reads them from there."""

    engine: Engine

    def acquire(self, jobs: Iterable[Job], pair: Pair) -> None:
        """Generate what the store lacks: the baseline's results, the candidate's, then the drift of the pair
        and both models' trace dependence.

        Every finished batch is stored at once: a call after an interruption continues there.

        Raises:
            TrustError: a model cannot be had or loaded, a recording lacks probes, or the store cannot be written.
        """

    def acquire_side(self, jobs: Iterable[Job], reference: Reference) -> None:
        """Generate the responses and option scores of one model that the store lacks."""

    def drifts_of_texts(
        self, p: Reference, q: Reference, texts: Sequence[str], clusters: Sequence[str], sides: tuple[str, str]
    ) -> tuple[list[TokenDrift], int]:
        """KL(p || q) per token of plain texts, in nats, and the number of texts that were read in windows.

        `clusters` has one name a text; `sides` are the names of p and q in messages. Nothing is stored.

        Raises InvalidInput as `compare_models` does.
        """
        ...

    def close(self) -> None:
        """Release the models and close the store."""


class LocalExecutor:
    """Runs the models in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def acquire(self, jobs: Iterable[Job], pair: Pair) -> None:
        """See `Executor.acquire`."""
        from pytest_trust.drift.measure import acquire_drift
        from pytest_trust.drift.trace_dependence import acquire_dependence

        planned, references = list(jobs), tuple(dict.fromkeys((pair.baseline, pair.candidate)))
        models = [self.engine.model(reference) for reference in references]
        models[0].check_beside(models[-1])
        answering = [model for model in models if model.answers]
        left = sum(tokens_left(planned, model) for model in answering)
        start = time.monotonic()
        if left and len(answering) == 2:
            answering[1].read_ahead()  # its files are read while the first model works
        self.engine.acquire(planned, references)
        acquire_drift(self.engine, planned, pair.baseline, pair.candidate)
        acquire_dependence(self.engine, planned, pair.baseline, pair.candidate)
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
    """`Executor.drifts_of_texts`, with the models of an engine in this process."""
    from pytest_trust.drift.compare import drifts_of_texts

    loaded = [engine.loaded(reference).loaded for reference in (p, q)]
    pairs = [(one.model, one.tokenizer) for one in loaded]
    return drifts_of_texts(pairs[0], pairs[1], texts, clusters, sides=sides)
