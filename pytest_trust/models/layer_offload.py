"""Models too large for the device: one decoder layer is in memory at a time, read from the safetensors files.

The model is built without its weights. Weights outside the decoder layers (embeddings, last norm, head) are loaded
once and stay. Hooks load a layer before its forward and release it afterwards. The model's own forward makes masks and
rotary embeddings, so no architecture is spelled out here.

A forward reads all layers from the files. Many batches share this cost: each runs in a thread of its own and stops
before every layer until all batches are there (`models.layer_turns.Layers.together`). One thread computes at a time,
and each layer is read once for all batches. A waiting batch keeps its hidden states, mask and positions in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import TrustError
from pytest_trust.models.files import ModelFiles
from pytest_trust.models.layer_turns import Layers, put_weight
from pytest_trust.models.reference import Reference
from pytest_trust.models.runner import Group, Predictions, Runner, pairs
from pytest_trust.models.token_trees import Ids

if TYPE_CHECKING:
    import torch

    from pytest_trust.models.loaded import LoadedModel

_BATCH_TOKENS = 4096  # tokens of a batch, padding included


class OffloadedRunner(Runner):
    """The forward passes of a model that has one decoder layer in memory at a time.

    Batches are padded on the right. All batches of a call pass a layer together.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        assert loaded.layers is not None
        self._layers = loaded.layers
        super().__init__(loaded)

    def _can_share(self) -> bool:
        return False  # without a trial forward, which would read all weights

    def hidden_states(self, groups: Sequence[Group]) -> list[list[torch.Tensor]]:
        """As `Runner.hidden_states`. The weights are read once for all groups."""
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
        """As `hidden_states`, with each row in a batch of its own."""
        rows = [(index, row, start) for index, group in enumerate(groups) for row, start in pairs(group)]
        return self._run([[row[1:]] for row in rows], [[place] for place in range(len(rows))], rows, len(groups))

    def predictions(self, groups: Sequence[Group]) -> Iterator[Predictions]:
        """As `Runner.predictions`, one row at a time."""
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
    """A model without its decoder layers' weights, and these layers.

    Raises:
        TrustError: one line; the model cannot be read layer by layer.
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
    tied = {id(value): name for name, value in model.named_parameters()}  # a tied parameter's first name
    for name, value in list(model.named_parameters(remove_duplicate=False)):
        stored = name if name in read.shapes else tied[id(value)]
        if read.shapes.get(stored) != tuple(value.shape):
            raise _refusal(reference, f"{name} is not in its files as the architecture has it")
    resident: dict[str, Any] = {}
    for name, value in list(model.named_parameters(remove_duplicate=False)):
        if name.startswith(inside):
            put_weight(model, name, value.to("meta"))
            continue
        first = tied[id(value)]
        if first not in resident:
            stored = next(one for one in (first, name) if one in read.shapes)
            resident[first] = torch.nn.Parameter(read(stored), requires_grad=False)
        put_weight(model, name, resident[first])
    for name, buffer in model.named_buffers():
        if name in read.shapes:
            put_weight(model, name, read(name), parameter=False)
        elif buffer.is_meta:
            raise _refusal(reference, f"its buffer {name} is neither in its files nor computed")
        else:
            put_weight(model, name, buffer.to(device), parameter=False)
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
    """A context in which parameters take no memory and are not initialised.

    Computed tensors, such as rotary frequencies, are made as usual.
    """
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
        self._open = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 - not a dictionary
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
