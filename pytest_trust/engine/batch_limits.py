"""How much a batch may hold on a device, and smaller batches when the memory runs out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_trust.engine.store import Store
from pytest_trust.keys import digest
from pytest_trust.models.identity import ModelIdentity, on_cuda
from pytest_trust.models.memory import BatchLimits, halving, ran_out

if TYPE_CHECKING:
    from pytest_trust.models.runner import Runner

Item = TypeVar("Item")
Made = TypeVar("Made")

TOO_MUCH = "not enough memory for a single row: use a smaller dtype, --trust-max-new-tokens or another device"


class Fitting:
    """Limits of one process's batches.

    The store keeps, per model, dtype and device, how much memory a forward takes and how many tokens have fitted.
    `batch_size` None chooses by the free memory.
    """

    def __init__(self, store: Store, batch_size: int | None) -> None:
        self._store = store
        self.batch_size = batch_size

    def limits(self, identity: ModelIdentity, runner: Runner) -> BatchLimits:
        """The batch size if it was given; else as many tokens as fit the free memory and have fitted before."""
        if self.batch_size is not None:
            return BatchLimits(self.batch_size, sys.maxsize)
        limits = runner.limits(self._probed(identity, runner) if on_cuda(runner.device) else 0)
        key = _key("fits", identity)
        seen = self._store.get_json("notes", [key]).get(key)
        return BatchLimits(limits.rows, min(limits.tokens, seen)) if seen else limits

    def _probed(self, identity: ModelIdentity, runner: Runner) -> int:
        """The memory that a forward takes, as `Runner.probe` measures it; measured once."""
        key = _key("probed", identity)
        notes = self._store.get_json("notes", [key])
        if key not in notes:
            notes[key] = runner.probe()
            self._store.put_json("notes", notes)
        return int(notes[key])

    def halving(
        self,
        items: Sequence[Item],
        run: Callable[[Sequence[Item]], list[Made]],
        identity: ModelIdentity | None = None,
    ) -> list[Made]:
        """Run a batch, in halves when the memory runs out. The store keeps the smaller limit of an `identity`."""

        def fewer(rows: int, tried: Sequence[Item]) -> None:
            if identity is not None:
                self.fewer(rows, tried, identity)

        return halving(items, run, too_much=TOO_MUCH, fewer=fewer)

    def ran_out(self, error: Exception, rows: int) -> None:
        """Free memory after a batch of `rows` failed; see `models.memory.ran_out`."""
        ran_out(error, rows, TOO_MUCH)

    def fewer(self, rows: int, items: Sequence[Any], identity: ModelIdentity) -> BatchLimits:
        """Store that a batch of this model shall hold no more than so many of these rows; gives the new limits."""
        tokens = rows * max(one.columns for one in items)
        self._store.put_json("notes", {_key("fits", identity): tokens}, replace=True)
        return BatchLimits(rows, tokens)


def _key(what: str, identity: ModelIdentity) -> str:
    """Key of a note: the tokens of a batch that fit (`fits`), or the memory that a forward takes (`probed`)."""
    return digest(what, 1, identity.fingerprint, identity.dtype, identity.device)
