"""Decoder layers that take turns in memory: each is read from the files before its forward and released afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

_BATCHES = 64  # batches that run together; their hidden states are in memory at once


class Layers:
    """The decoder layers of a model, of which one is in memory at a time."""

    def __init__(self, layers: Any, load: Callable[[str], torch.Tensor], names: Sequence[str]) -> None:
        self._layers = list(layers)
        self._load = load
        self._names = list(names)  # prefix of each layer's parameters in the files, without the dot
        self._worker = threading.local()
        for index, layer in enumerate(self._layers):
            layer.register_forward_pre_hook(lambda *_, index=index: self._before(index))
            layer.register_forward_hook(lambda *_, index=index: self._after(index))

    def together(self, work: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run functions that call the model, and read every layer once for all of them. Gives their results in order.

        Raises:
            BaseException: the first error that a function raised; the others are stopped.
        """
        found: list[Result] = []
        for start in range(0, len(work), _BATCHES):
            found += self._together(work[start : start + _BATCHES])
        return found

    def _together(self, work: Sequence[Callable[[], Result]]) -> list[Result]:
        workers = [_Worker(call, self._worker) for call in work]
        try:
            for worker in workers:
                worker.step()
            while (layer := next((worker.at for worker in workers if worker.at is not None), None)) is not None:
                self.fill(layer)
                try:
                    for worker in workers:
                        if worker.at == layer:
                            worker.step()
                finally:
                    self.empty(layer)
        finally:
            for worker in workers:
                worker.cancel()
        return [worker.result for worker in workers]

    def _before(self, layer: int) -> None:
        worker: _Worker[Any] | None = getattr(self._worker, "current", None)
        if worker is None:
            self.fill(layer)
        else:
            worker.pause(layer)

    def _after(self, layer: int) -> None:
        if getattr(self._worker, "current", None) is None:
            self.empty(layer)

    def fill(self, layer: int) -> None:
        """Read a layer's weights."""
        module = self._layers[layer]
        for name, _ in list(module.named_parameters()):
            put_weight(module, name, self._load(f"{self._names[layer]}.{name}"))

    def empty(self, layer: int) -> None:
        """Release a layer's weights."""
        module = self._layers[layer]
        for name, parameter in list(module.named_parameters()):
            put_weight(module, name, parameter.to("meta"))


class _Worker(Generic[Result]):
    """A function in a thread. `step` runs it until its next layer or its end."""

    def __init__(self, call: Callable[[], Result], local: threading.local) -> None:
        self.at: int | None = None
        self._call, self._local = call, local
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._cancelled = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def result(self) -> Result:
        return self._result

    def step(self) -> None:
        self.at = None
        self._go.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error

    def pause(self, layer: int) -> None:
        self.at = layer
        self._stopped.release()
        self._go.acquire()
        if self._cancelled:
            raise _Cancelled

    def cancel(self) -> None:
        self._cancelled = True
        self._go.release()
        self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        if self._cancelled:
            return
        self._local.current = self
        try:
            self._result = self._call()
        except _Cancelled:
            pass
        except BaseException as error:
            self._error = error
        self.at = None
        self._stopped.release()


class _Cancelled(Exception):
    """Stops a worker when another batch has failed."""


def put_weight(module: Any, name: str, tensor: torch.Tensor, *, parameter: bool = True) -> None:
    """Set a parameter or buffer by its dotted name."""
    import torch

    *path, last = name.split(".")
    for part in path:
        module = getattr(module, part)
    if parameter:
        module._parameters[last] = (
            tensor if isinstance(tensor, torch.nn.Parameter) else torch.nn.Parameter(tensor, requires_grad=False)
        )
    else:
        module._buffers[last] = tensor
