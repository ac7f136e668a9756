"""What fits into a device's memory: how much a batch may hold, and what to do when the memory runs out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_trust.errors import TrustError
from pytest_trust.keys import digest
from pytest_trust.models.identity import on_cuda
from pytest_trust.models.memory import Limits

if TYPE_CHECKING:
    from pytest_trust.engine.engine import Engine
    from pytest_trust.models.reference import Reference
    from pytest_trust.models.runner import Runner

Item = TypeVar("Item")


class Fitting:
    """Limits of an engine's batches. What was measured, and what did not fit, is remembered in the store per model, dtype and device."""

    def __init__(self, engine: Engine, batch_size: int | None) -> None:
        self._engine = engine
        self.batch_size = batch_size

    def limits(self, reference: Reference, runner: Runner) -> Limits:
        """What a batch may hold: the rows asked for, else as many tokens as fit the free memory, and no more than were seen to fit."""
        if self.batch_size is not None:
            return Limits(self.batch_size, sys.maxsize)
        limits = runner.limits(self._probed(reference, runner) if on_cuda(runner.device) else 0)
        key = self._key("fits", reference)
        seen = self._engine.store.get_json("notes", [key]).get(key)
        return Limits(limits.rows, min(limits.tokens, seen)) if seen else limits

    def _probed(self, reference: Reference, runner: Runner) -> int:
        """What a forward takes, measured once."""
        key = self._key("probed", reference)
        notes = self._engine.store.get_json("notes", [key])
        if key not in notes:
            notes[key] = runner.probe()
            self._engine.store.put_json("notes", notes)
        return int(notes[key])

    def _key(self, what: str, reference: Reference) -> str:
        """Of the tokens of a batch that were seen to fit (`fits`), or of what a forward takes (`probed`)."""
        identity = self._engine.identify(reference)
        return digest(what, 1, identity.fingerprint, identity.dtype, identity.device)

    def halving(
        self, items: Sequence[Item], run: Callable[[Sequence[Item]], list[Any]], reference: Reference | None = None
    ) -> list[Any]:
        """Run a batch; when the memory does not suffice, its halves. With a `reference`, what did not fit is remembered of that model."""
        if not items:
            return []
        try:
            return run(items)
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            self.ran_out(error, len(items))
        half = len(items) // 2
        if reference is not None:
            self.fewer(half, items, reference)
        return [*self.halving(items[:half], run, reference), *self.halving(items[half:], run, reference)]

    def ran_out(self, error: Exception, rows: int) -> None:
        """Let go of what memory can be had. Raises the error when it is another one, and TrustError when one row is too much."""
        import torch

        from pytest_trust.models.memory import out_of_memory

        if not out_of_memory(error):
            raise error
        if rows == 1:
            raise TrustError(
                "not enough memory for a single row: use a smaller dtype, --trust-max-new-tokens or another device"
            ) from None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def fewer(self, rows: int, items: Sequence[Any], reference: Reference) -> Limits:
        """Remember of a model that so many of these rows are to be tried."""
        tokens = rows * max(one.columns for one in items)
        self._engine.store.put_json("notes", {self._key("fits", reference): tokens}, replace=True)
        return Limits(rows, tokens)
