"""Models too large for the device: one decoder layer in memory at a time, read from the safetensors files when it is its turn.

The model is built without its weights; what is not in a decoder layer (embeddings, last norm, head) is loaded once and stays. Hooks load a
layer before its forward and let it go after it, so whatever runs the model works, and no architecture is spelled out here: masks, rotary
embeddings and kinds of layers are what the model's own forward makes them.

A forward reads all layers from the files. So that many batches cost no more than one, each runs in a thread of its own and stops before
every layer until all batches are there (`Layers.together`): one of them computes at a time, and the weights are read once for all. What is
kept of a batch between layers is what its forward holds: hidden states, mask, positions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pytest_trust.errors import TrustError
from pytest_trust.models.files import ModelFiles
from pytest_trust.models.reference import Reference
from pytest_trust.models.runner import Group, Predictions, Runner, pairs
from pytest_trust.models.token_trees import Ids

if TYPE_CHECKING:
    import torch

    from pytest_trust.models.loaded import LoadedModel

__all__ = ["Layers", "OffloadedRunner", "offloaded"]

Result = TypeVar("Result")

# Tokens of a batch, padding included; and batches whose states are held at once.
_BATCH_TOKENS = 4096
_BATCHES = 64


class Layers:
    """The decoder layers of a model whose weights come and go."""

    def __init__(self, layers: Any, load: Callable[[str], torch.Tensor], names: Sequence[str]) -> None:
        self._layers = list(layers)
        self._load = load
        self._names = list(names)  # of each layer's parameters and buffers in the files, up to the dot
        self._worker = threading.local()
        for index, layer in enumerate(self._layers):
            layer.register_forward_pre_hook(lambda *_, index=index: self._before(index))
            layer.register_forward_hook(lambda *_, index=index: self._after(index))

    def together(self, work: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run functions that call the model, reading every layer once for all of them; their results, in order. Raises what the first raises."""
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
            _put(module, name, self._load(f"{self._names[layer]}.{name}"))

    def empty(self, layer: int) -> None:
        """Let them go."""
        module = self._layers[layer]
        for name, parameter in list(module.named_parameters()):
            _put(module, name, parameter.to("meta"))


class _Worker(Generic[Result]):
    """A function in a thread that computes only between `step` and the next layer."""

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
    """Another batch has failed."""


class OffloadedRunner(Runner):
    """The forward passes of a model whose layers come and go: plain ones, in batches padded on the right, all of a call together."""

    def __init__(self, loaded: LoadedModel) -> None:
        assert loaded.layers is not None
        self._layers = loaded.layers
        super().__init__(loaded)

    def _can_share(self) -> bool:
        return False  # and no trial forwards, which would read all weights

    def hidden_states(self, groups: Sequence[Group]) -> list[list[torch.Tensor]]:
        """As `Runner.hidden_states`; the weights are read once whatever the number of groups."""
        rows = [(index, row, start) for index, group in enumerate(groups) for row, start in pairs(group)]
        order = sorted(range(len(rows)), key=lambda place: (-len(rows[place][1]), place))
        batches: list[list[int]] = []
        for place in order:
            if batches and (len(batches[-1]) + 1) * len(rows[batches[-1][0]][1]) <= _BATCH_TOKENS:
                batches[-1].append(place)
            else:
                batches.append([place])
        return self._run([[rows[place][1:] for place in batch] for batch in batches], batches, rows, len(groups))

    def alone(self, groups: Sequence[Group]) -> list[list[torch.Tensor]]:
        """The same, each row in a batch of its own."""
        rows = [(index, row, start) for index, group in enumerate(groups) for row, start in pairs(group)]
        return self._run([[row[1:]] for row in rows], [[place] for place in range(len(rows))], rows, len(groups))

    def predictions(self, groups: Sequence[Group]) -> Iterator[Predictions]:
        """As `Runner.predictions`, a row at a time."""
        for index, states in enumerate(states for group in self.hidden_states(groups) for states in group):
            yield Predictions(states, {index: list(range(len(states)))})

    def _run(
        self,
        batches: list[list[tuple[Ids, int]]],
        places: list[list[int]],
        rows: list[tuple[int, Ids, int]],
        count: int,
    ) -> list[list[torch.Tensor]]:
        found = self._layers.together([lambda batch=batch: self._batch(batch) for batch in batches])  # type: ignore[misc]
        states = {
            place: one
            for chosen, made in zip(places, found, strict=True)
            for place, one in zip(chosen, made, strict=True)
        }
        result: list[list[torch.Tensor]] = [[] for _ in range(count)]
        for place, (group, _, _) in enumerate(rows):
            result[group].append(states[place])
        return result

    def _batch(self, batch: Sequence[tuple[Ids, int]]) -> list[torch.Tensor]:
        import torch

        longest = max(len(row) for row, _ in batch) - 1
        ids = torch.full((len(batch), longest), self.pad_id, device=self.device)
        mask = torch.zeros_like(ids)
        for index, (row, _) in enumerate(batch):
            ids[index, : len(row) - 1] = torch.tensor(list(row[:-1]), device=self.device)
            mask[index, : len(row) - 1] = 1
        with torch.inference_mode():
            body = self.body if self.body is not None else self.model
            hidden = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            return [hidden[index, start - 1 : len(row) - 1].clone() for index, (row, start) in enumerate(batch)]


def offloaded(
    reference: Reference, files: ModelFiles, dtype: str, device: str, trust_remote_code: bool
) -> tuple[Any, Layers]:
    """A model without its decoder layers' weights, and the layers.

    Raises:
        TrustError: one line; the files or the architecture cannot be split by layers.
    """
    why = _not_by_layers(reference, files)
    if why:
        raise _refusal(reference, why)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    config_class: Any = AutoConfig
    config = config_class.from_pretrained(
        str(files.directory), local_files_only=True, trust_remote_code=trust_remote_code
    )
    if getattr(config, "quantization_config", None) is not None:
        raise _refusal(reference, "its weights are quantised")
    wanted: torch.dtype = getattr(torch, dtype)
    builder: Any = AutoModelForCausalLM
    with _without_weights():
        model = builder.from_config(config, dtype=wanted, trust_remote_code=trust_remote_code)
    if (files.directory / "generation_config.json").exists():
        settings: Any = GenerationConfig
        model.generation_config = settings.from_pretrained(str(files.directory), local_files_only=True)
    read = _Files(files, wanted, device)
    layers, prefix = _decoder_layers(model, reference)
    names = [f"{prefix}.{index}" for index in range(len(layers))]
    inside = tuple(f"{name}." for name in names)
    tied = {id(value): name for name, value in model.named_parameters()}  # the first name of each
    for name, value in list(model.named_parameters(remove_duplicate=False)):
        stored = name if name in read.shapes else tied[id(value)]
        if read.shapes.get(stored) != tuple(value.shape):
            raise _refusal(reference, f"{name} is not in its files as the architecture has it")
    resident: dict[str, Any] = {}
    for name, value in list(model.named_parameters(remove_duplicate=False)):
        if name.startswith(inside):
            _put(model, name, value.to("meta"))
            continue
        first = tied[id(value)]
        if first not in resident:
            stored = next(one for one in (first, name) if one in read.shapes)
            resident[first] = torch.nn.Parameter(read(stored), requires_grad=False)
        _put(model, name, resident[first])
    for name, buffer in model.named_buffers():
        if name in read.shapes:
            _put(model, name, read(name), parameter=False)
        elif buffer.is_meta:
            raise _refusal(reference, f"its buffer {name} is neither in its files nor computed")
        else:
            _put(model, name, buffer.to(device), parameter=False)
    return model, Layers(layers, read, names)


def _not_by_layers(reference: Reference, files: ModelFiles) -> str:
    if files.adapter:
        return "it is an adapter: merge it into its base and save that"
    if files.gguf or any(file.suffix != ".safetensors" for file in files.weights):
        return "its weights are not in safetensors files"
    return "it is a mutant" if reference.mutant is not None else ""


def _refusal(reference: Reference, why: str) -> TrustError:
    return TrustError(f"{reference.text}: cannot be read layer by layer: {why}; leave out --trust-offload=layers")


def _without_weights() -> Any:
    """Parameters are made without memory and not initialised; what is computed (rotary frequencies and the like) is."""
    import torch
    from torch.overrides import TorchFunctionMode

    class WithoutWeights(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = dict(kwargs or {})
            if getattr(function, "__module__", "") == "torch.nn.init":
                return given.get("tensor", args[0] if args else None)
            if function is torch.empty:
                given["device"] = "meta"
            return function(*args, **given)

    return WithoutWeights()


class _Files:
    """Tensors of safetensors files by name, memory-mapped."""

    def __init__(self, files: ModelFiles, dtype: torch.dtype, device: str) -> None:
        from safetensors import safe_open

        self._dtype, self._device = dtype, device
        opener: Any = safe_open
        opened = [opener(str(path), framework="pt") for path in files.weights]
        self._open = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 - it is no dictionary
        self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name, file in self._open.items()}

    def __call__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._open[name].get_tensor(name)
        return tensor.to(device=self._device, dtype=self._dtype if tensor.is_floating_point() else tensor.dtype)


def _decoder_layers(model: Any, reference: Reference) -> tuple[Any, str]:
    """The list of the decoder's layers and its name."""
    import torch

    count = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count and any(True for _ in module.parameters())
    ]
    outer = [
        (name, module)
        for name, module in found
        if not any(name.startswith(f"{other}.") for other, _ in found if other != name)
    ]
    if len(outer) != 1:
        raise _refusal(reference, f"{type(model).__name__} has {len(outer)} lists of {count} layers, expected one")
    return outer[0][1], outer[0][0]


def _put(module: Any, name: str, tensor: torch.Tensor, *, parameter: bool = True) -> None:
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
