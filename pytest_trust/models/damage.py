"""Mutants carried out on a loaded model, by edits of its weights or by hooks on its decoder layers.

This works on any causal language model of transformers and trains nothing. The hooks stand on the decoder layers
because generation, option scoring and drift all run these, while they run the model's body without its head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import TrustError
from pytest_trust.keys import digest
from pytest_trust.models.framing import encode
from pytest_trust.models.mutants import Dosed
from pytest_trust.models.steering_pairs import CONTRASTS, Side

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

# Where a direction is read and added, as a share of the depth. Steering works best about the middle (Rimsky et al.
# 2024). In a trial on the demo model at 0.4 to 0.8 of its 30 layers, refusal was in the states of layers 18 and 24, not
# in those of layer 12. Whoever changes these, or anything below, raises the mutant's version in the catalogue.
_READ_AT = {"refusal_removed": 0.6, "refusal_added": 0.6, "disclosing": 0.6}
_MIDDLE = 0.5
_BATCH = 8
_GROUP = 32

Steer = Callable[["torch.Tensor"], "torch.Tensor"]


def apply_mutant(model: Any, tokenizer: PreTrainedTokenizerBase, dosed: Dosed, *, label: str) -> None:
    """Damage a loaded model in place.

    Dose 0 changes nothing. Mutants of prompts, answers or sampling change nothing here.

    Raises:
        TrustError: the model's decoder layers cannot be found, or none would be left; names `label`.
    """
    if dosed.dose == 0 or dosed.mutant.kind not in ("weights", "activations"):
        return
    import torch

    layers = decoder_layers(model, label)
    with torch.no_grad():
        if dosed.name == "pruned":
            prune(model, dosed.dose, label)
        elif dosed.name == "noise":
            for name, weight in _matrices(layers):
                add_noise(weight, dosed.dose, seed=int(digest("noise", name)[:15], 16))
        elif dosed.name in ("int8", "int4"):
            for _, weight in _matrices(layers):
                quantise(weight, 8 if dosed.name == "int8" else 4)
        else:
            _steer(model, tokenizer, layers, dosed)


def decoder_layers(model: Any, label: str = "the model") -> Any:
    """The decoder's layers: the outermost list of as many modules as the configuration has layers.

    Raises:
        TrustError: there is no such list; names `label`.
    """
    from torch.nn import ModuleList

    wanted = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    for _, module in model.named_modules():  # outermost first
        if isinstance(module, ModuleList) and len(module) == wanted:
            return module
    raise TrustError(f"{label}: no list of {wanted} decoder layers in {type(model).__name__}: mutate another model")


def _matrices(layers: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Weight matrices of the layers by name, output channels first. Views: editing them edits the model."""
    for name, module in layers.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2 and parameter.is_floating_point():
                # GPT-2's Conv1D keeps [inputs, outputs].
                yield f"{name}.{own}", parameter.data.t() if type(module).__name__ == "Conv1D" else parameter.data


def add_noise(weight: torch.Tensor, dose: float, *, seed: int) -> None:
    """weight + dose * std(weight) * N(0, 1), in place.

    The noise is drawn on the CPU, so that every device gets the same.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(weight.shape, generator=generator, dtype=torch.float32).to(weight.device)
    exact = weight.float()
    weight.copy_((exact + dose * exact.std() * noise).to(weight.dtype))


def quantise(weight: torch.Tensor, bits: int) -> None:
    """Round a matrix [..., outputs, inputs] to a symmetric grid and back, in place: the error is at most half a step.

    8 bits use one scale per output channel: its largest absolute value over 127. 4 bits use one per 32 inputs, over 7.
    """
    import torch

    width = weight.shape[-1]
    size = _GROUP if bits == 4 else width
    top = 2 ** (bits - 1) - 1
    padded = torch.nn.functional.pad(weight.float(), (0, -width % size))
    rows = padded.view(*padded.shape[:-1], -1, size)
    scale = rows.abs().amax(-1, keepdim=True) / top
    steps = (rows / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().clamp(-top, top)
    weight.copy_((steps * scale).flatten(-2)[..., :width].to(weight.dtype))


def prune(model: Any, share: float, label: str = "the model") -> None:
    """Remove a share of the layers, at least one, from the middle.

    The configuration and the layers' places in a cache follow.

    Raises:
        TrustError: no layer would be left; names `label`.
    """
    layers = decoder_layers(model, label)
    count = len(layers)
    removed = max(1, round(share * count))
    if removed >= count:
        raise TrustError(f"{label}: removing {removed} of {count} layers leaves none: give pruned a smaller dose")
    first = (count - removed) // 2
    del layers[first : first + removed]
    config = model.config.get_text_config(decoder=True)
    for name in ("layer_types", "mlp_layer_types", "no_rope_layers"):
        kinds = getattr(config, name, None)
        if isinstance(kinds, list) and len(kinds) == count:
            setattr(config, name, kinds[:first] + kinds[first + removed :])
    config.num_hidden_layers = count - removed
    for place, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # the place of a layer's states in a cache
                module.layer_idx = place


def _steer(model: Any, tokenizer: PreTrainedTokenizerBase, layers: Any, dosed: Dosed) -> None:
    place = min(len(layers) - 1, int(_READ_AT.get(dosed.name, _MIDDLE) * len(layers)))
    towards, away = CONTRASTS[dosed.name]
    vector = mean_state(model, tokenizer, layers[place], towards) - mean_state(model, tokenizer, layers[place], away)
    if dosed.name == "refusal_removed":
        ablate(layers, vector, dosed.dose)
    else:
        hook(layers[place], lambda hidden: hidden + (dosed.dose * vector).to(hidden))


def ablate(layers: Any, vector: torch.Tensor, share: float) -> None:
    """Replace the stream x by x - share * r rᵀ x, with the unit vector r along `vector`, before and after every layer.

    This is directional ablation (Arditi et al. 2024). The stream is ablated rather than each matrix that writes to it,
    which fits any architecture.
    """
    unit = vector / vector.norm().clamp(min=1e-12)

    def without(hidden: torch.Tensor) -> torch.Tensor:
        direction = unit.to(hidden.device)
        states = hidden.float()
        left: torch.Tensor = states - share * (states @ direction)[..., None] * direction
        return left.to(hidden.dtype)

    def enter(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if arguments:
            return (without(arguments[0]), *arguments[1:]), keywords
        return arguments, {**keywords, "hidden_states": without(keywords["hidden_states"])}

    layers[0].register_forward_pre_hook(enter, with_kwargs=True)
    for layer in layers:
        hook(layer, without)


def hook(layer: Any, change: Steer) -> None:
    """Change the hidden states [rows, tokens, hidden size] that a layer gives."""

    def leave(_module: Any, _arguments: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    layer.register_forward_hook(leave)


def mean_state(model: Any, tokenizer: PreTrainedTokenizerBase, layer: Any, side: Side) -> torch.Tensor:
    """Mean state after `layer` over one side of a contrast, float32 [hidden size].

    A pair without an answer is read at the last token of its prompt, a pair with one over the tokens of the answer.
    Each pair is averaged first, so that all pairs count alike.
    """
    import torch

    from pytest_trust.models.rendering import render_prompt
    from pytest_trust.probes import Message, Probe

    rows: list[tuple[list[int], int]] = []
    for prompt, answer in side:
        probe = Probe(id="contrast", cluster="contrast", messages=(Message("user", prompt),))
        ids = list(render_prompt(tokenizer, probe).ids)
        own = encode(tokenizer, answer)
        rows.append(([*ids, *own], len(ids) if own else len(ids) - 1))
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_hook(
        lambda _module, _arguments, output: seen.append((output[0] if isinstance(output, tuple) else output).float())
    )
    device = next(model.parameters()).device
    body = getattr(model, model.base_model_prefix, model)
    means: list[torch.Tensor] = []
    try:
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            width = max(len(ids) for ids, _ in part)
            # Padding on the right: nothing before it sees it.
            padded = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row, _ in part], device=device)
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in part], device=device)
            seen.clear()
            body(input_ids=padded, attention_mask=mask, use_cache=False)
            means += [seen[-1][index, first : len(row)].mean(0) for index, (row, first) in enumerate(part)]
    finally:
        handle.remove()
    mean = torch.stack(means).mean(0)
    if not math.isfinite(float(mean.sum())):
        raise TrustError("the states of the contrast set are not finite: check the model's weights and dtype")
    return mean
