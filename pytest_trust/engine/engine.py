"""One run's models, and the store that holds their results.

The engine looks up every result first; the keys need no weights. It loads a model only to make what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from pytest_trust.engine.batch_limits import Fitting
from pytest_trust.engine.local import Local
from pytest_trust.engine.store import Store
from pytest_trust.engine.workspace import Workspace
from pytest_trust.errors import TrustError
from pytest_trust.models.identity import ModelIdentity, choose_device
from pytest_trust.models.reference import Reference, check_device
from pytest_trust.reasoning import DEFAULT_TAGS, Tags
from pytest_trust.responses import Job, Progress

if TYPE_CHECKING:
    from pytest_trust.engine.model import Model
    from pytest_trust.models.runner import Runner


class Engine(Workspace):
    """One process's models and store.

    Arguments that are not listed here are those of `Workspace`. `close` releases the models.

    Args:
        device: the device of models whose reference names none; None and `auto` choose one (`models.identity`).
        device_of: gives a reference's device by name; it replaces `device`.
        dtype: the dtype of models whose reference names none; None and `auto` choose one (`models.identity`).
        batch_size: rows of a batch; None chooses by the free memory.
        template: the prompts that drift is measured behind: each model's `own`, or the baseline's, `shared` by both.
    """

    def __init__(
        self,
        store: Path | Store,
        *,
        device: str | None = None,
        device_of: Callable[[Reference], str] | None = None,
        dtype: str | None = None,
        batch_size: int | None = None,
        trust_remote_code: bool = False,
        progress: Callable[[Progress], None] | None = None,
        reasoning_tags: Tags = DEFAULT_TAGS,
        workers: int = 1,
        template: Literal["own", "shared"] = "own",
        offload: bool = False,
        keep: bool = False,
    ) -> None:
        if device is not None:
            check_device(device)
        if batch_size is not None and batch_size < 1:
            raise TrustError(f"batch size {batch_size}: expected 1 or more, or auto")
        super().__init__(
            store,
            device_of=device_of or (lambda reference: choose_device(reference, device)),
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            offload=offload,
            keep=keep,
            workers=workers,
            tags=reasoning_tags,
            progress=progress,
        )
        self.fitting = Fitting(self.store, batch_size)
        self.shares_template = template == "shared"
        self._models: dict[Reference, Model] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release weights, recordings, servers and the store's connection."""
        for model in self._models.values():
            model.close()
        self._models.clear()
        super().close()

    def model(self, reference: Reference) -> Model:
        """The model of a reference of any kind. This reads no file and asks no server."""
        if reference not in self._models:
            self._models[reference] = self._make(reference)
        return self._models[reference]

    def _make(self, reference: Reference) -> Model:
        if reference.kind == "recording":
            from pytest_trust.engine.recorded import Recorded

            return Recorded(reference, self.tags)
        if reference.kind == "server":
            from pytest_trust.engine.server.model import Served

            return Served(reference, self)
        return Local(reference, self, self.fitting)

    def local(self, reference: Reference) -> Local:
        """The model of a reference that has weights (`Model.runs`)."""
        model = self.model(reference)
        assert isinstance(model, Local), f"{reference.label} has no weights here"
        return model

    def identify(self, reference: Reference) -> ModelIdentity:
        """The identity of a reference.

        This loads no weights. It needs neither torch nor transformers, except to convert the demo once.
        """
        return self.model(reference).identity

    def loaded(self, reference: Reference) -> Runner:
        """The loaded model of a reference that has weights."""
        return self.local(reference).runner()

    def acquire(self, jobs: Iterable[Job], references: Iterable[Reference]) -> None:
        """Make the responses and option scores that are missing of these models.

        Every finished batch is stored at once, so a call after an interruption continues where the last one stopped.

        Raises:
            TrustError: a model cannot be had or loaded, a recording lacks probes, or the store cannot be written.
        """
        planned = list(jobs)
        models = [self.model(reference) for reference in dict.fromkeys(references)]
        for model in models:
            model.require(planned)
        # Finish our own work before waiting for other processes.
        for model in [model for model in models if not model.acquire(planned, wait=False)]:
            model.acquire(planned)
