"""What the models of one process share: store, claims, settings, memory and progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_trust.engine.claims import Claims
from pytest_trust.engine.store import Store
from pytest_trust.models.identity import ModelIdentity, choose_device
from pytest_trust.models.reference import Reference
from pytest_trust.reasoning import DEFAULT_TAGS, Tags
from pytest_trust.responses import Phase, Progress

if TYPE_CHECKING:
    from pytest_trust.models.runner import Runner

# Free memory that loading needs, as a multiple of the weights: they need room to be loaded and to be run.
_HEADROOM = 1.3


class Loadable(Protocol):
    """A model whose weights can be loaded and released."""

    reference: Reference

    @property
    def identity(self) -> ModelIdentity: ...
    @property
    def loaded(self) -> bool: ...
    def load(self) -> Runner: ...
    def release(self) -> None: ...


class Workspace:
    """Store, claims and settings of one process, the weights in its memory, and its progress.

    Args:
        store: the store or its directory.
        device_of: gives the name of the device that a model runs on.
        dtype: the dtype of models whose reference names none.
        trust_remote_code: allow models to run their own code.
        offload: keep one decoder layer of a model in memory at a time.
        keep: keep a model loaded while the other one answers, if both fit. Else it is released, and loaded again to
            measure the pair's drift.
        workers: number of this run's processes that share the work (`engine.claims`).
        tags: tags of reasoning, as for `split_reasoning`; the known ones, or those that a user gave beside them.
        progress: called after every batch.
    """

    def __init__(
        self,
        store: Path | Store,
        *,
        device_of: Callable[[Reference], str] = lambda reference: choose_device(reference, None),
        dtype: str | None = None,
        trust_remote_code: bool = False,
        offload: bool = False,
        keep: bool = False,
        workers: int = 1,
        tags: Tags = DEFAULT_TAGS,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.claims = Claims(self.store)
        self.device_of = device_of
        self.dtype = dtype
        self.trust_remote_code = trust_remote_code
        self.offloads = offload
        self.workers = workers
        self.tags: Tags = tuple(tuple(pair) for pair in tags)
        self._keep = keep
        self._progress = progress
        self._open: dict[tuple[Reference, Phase], int] = {}  # items in all, of phases that have begun and not ended
        self._loadable: list[Loadable] = []

    def add(self, model: Loadable) -> None:
        """Add a model whose weights may be in memory."""
        self._loadable.append(model)

    def runner(self, model: Loadable, *, alone: bool = False) -> Runner:
        """The loaded model. Other models are released first when they leave too little memory.

        A model that works `alone` has the others released in any case, unless the workspace keeps models loaded.
        """
        from pytest_trust.models.runner import free_bytes

        if alone and not self._keep:
            self.release_others(model.reference)
        if not model.loaded:
            identity = model.identity
            others = [other for other in self._loadable if other.loaded]
            needed = 0 if self.offloads else _HEADROOM * identity.parameter_bytes
            if others and free_bytes(identity.device) < needed:
                for other in others:
                    other.release()
            self.tell(model.reference, "load", "", 0, 1, 0)
            model.load()
            self.tell(model.reference, "load", "", 1, 1, 0)
        return model.load()

    def release_others(self, *kept: Reference) -> None:
        """Release the weights of every other model."""
        for model in self._loadable:
            if model.reference not in kept:
                model.release()

    def tell(
        self, reference: Reference, phase: Phase, suite: str, done: int, total: int, tokens: int, made: int = 0
    ) -> None:
        """Report how far a phase is; see `Progress`."""
        if self._progress is not None:
            self._open.pop((reference, phase), None)
            if done < total:
                self._open[reference, phase] = total
            self._progress(Progress(reference.label, phase, suite, done, total, tokens, made))

    def told_all(self, reference: Reference, phase: Phase) -> bool:
        """Report the end of a phase that this process left while others worked on it. Always True."""
        total = self._open.get((reference, phase))
        if total is not None:
            self.tell(reference, phase, "", total, total, 0)
        return True

    def close(self) -> None:
        """Release weights and the store's connection."""
        for model in self._loadable:
            model.release()
        self.claims.close()
        self.store.close()
