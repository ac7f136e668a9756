"""Output heads: from a post-norm hidden state to logits, with each architecture's scale and soft cap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import InvalidInput

if TYPE_CHECKING:
    import torch

# Model types that multiply by `logits_scaling`. The Granite family and all others divide by it.
_MULTIPLY_BY_LOGITS_SCALING = frozenset({"hyperclovax"})


@dataclass(frozen=True, slots=True)
class Head:
    """The map from a post-norm hidden state to logits.

    ``soft_cap * tanh((weight @ hidden + bias) * scale / soft_cap)``, without the tanh where there is no cap. The
    product is taken in the weights' own dtype, as in the model's forward; scale and soft cap are applied in float32.
    """

    weight: torch.Tensor
    """[vocabulary, hidden size]"""
    bias: torch.Tensor | None = None
    """[vocabulary]"""
    soft_cap: float | None = None
    """Bound of the logits (Gemma's ``final_logit_softcapping``); None for no bound."""
    scale: float = 1.0
    """Factor on the logits, before the soft cap (Cohere's ``logit_scale``, one over Granite's
    ``logits_scaling``)."""

    @property
    def vocabulary(self) -> int:
        """Number of ids, padding included."""
        return int(self.weight.shape[0])

    @property
    def logit_map(self) -> LogitMap:
        """The map from the product to the logits."""
        return LogitMap(self.scale, self.soft_cap)

    def product(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """``weight @ hidden + bias`` [tokens, vocabulary] of hidden states [tokens, hidden size].

        It is in the weights' dtype. `out` is a buffer of that shape and dtype.

        Raises:
            InvalidInput: the last axis is not the head's hidden size.
        """
        import torch

        if hidden.shape[-1] != self.weight.shape[1]:
            raise InvalidInput(
                f"hidden states have size {hidden.shape[-1]}; expected {self.weight.shape[1]}, the size of this head"
            )
        rows = hidden.to(device=self.weight.device, dtype=self.weight.dtype)
        with torch.no_grad():
            if self.bias is None:
                return torch.mm(rows, self.weight.t(), out=out)
            return torch.addmm(self.bias.to(self.weight.dtype), rows, self.weight.t(), out=out)

    def logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [..., vocabulary] of post-norm hidden states [..., hidden size].

        They are in the weights' dtype where the head has neither scale nor soft cap, else in float32. `out` is a buffer
        for the product.

        Raises:
            InvalidInput: the last axis is not the head's hidden size.
        """
        product = self.product(hidden.reshape(-1, hidden.shape[-1]), out)
        return self.logit_map(product).view(*hidden.shape[:-1], self.vocabulary)

    def bytes_per_token(self) -> int:
        """Peak bytes of one token's logits."""
        return self.vocabulary * (int(self.weight.element_size()) + (0 if self.logit_map.plain else 4))


def head_of(model: Any) -> Head:
    """The head of a loaded transformers causal language model, also under a PEFT adapter.

    Reads ``get_output_embeddings()`` and, from the text configuration, ``final_logit_softcapping`` (Gemma),
    ``logits_soft_cap`` (RecurrentGemma), ``output_logit_soft_cap`` (xLSTM), ``logit_scale`` (Cohere:
    multiplied), ``logits_scaling`` (Granite: divided), ``lm_head_multiplier`` (Falcon-H1) and
    ``output_multiplier`` (Muse). `hidden_states.check_head` compares the outcome with the model's own logits.

    Raises:
        InvalidInput: no output embeddings, or weights that are not a floating-point matrix (a quantised
            head).
    """
    layer = model.get_output_embeddings()
    if layer is None:
        raise InvalidInput(f"{type(model).__name__} has no output embeddings; expected a causal language model")
    weight, bias = _layer_weights(layer)
    if weight is None or weight.ndim != 2 or not weight.is_floating_point():
        raise InvalidInput(
            f"the head of {type(model).__name__} is a {type(layer).__name__} "
            "without a floating-point weight matrix; load the model with its head unquantised"
        )
    config = model.config.get_text_config(decoder=True)
    model_type = str(getattr(config, "model_type", ""))
    scale = 1.0
    for name in ("logit_scale", "lm_head_multiplier", "output_multiplier"):
        value = getattr(config, name, None)
        # MPT's configuration has a logit_scale, which its forward does not read.
        if isinstance(value, int | float) and model_type != "mpt":
            scale *= float(value)
    granite = getattr(config, "logits_scaling", None)
    if isinstance(granite, int | float):
        scale = scale * float(granite) if model_type in _MULTIPLY_BY_LOGITS_SCALING else scale / float(granite)
    caps = (
        getattr(config, name, None) for name in ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    )
    cap = next((float(value) for value in caps if value), None)
    return Head(weight=weight, bias=bias, soft_cap=cap, scale=scale)


def _layer_weights(layer: Any) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Weight and bias of an output layer. PEFT's wrappers are resolved to their active adapter."""
    import torch

    saved = getattr(layer, "modules_to_save", None)
    if saved is not None and hasattr(layer, "original_module"):
        active = None if getattr(layer, "disable_adapters", False) else layer.active_adapter
        if isinstance(active, list):
            active = active[0] if active else None
        return _layer_weights(layer.original_module if active is None else saved[active])
    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    weight, bias = getattr(base, "weight", None), getattr(base, "bias", None)
    if weight is not None and base is not layer and not layer.merged and not layer.disable_adapters:
        for name in layer.active_adapters:
            if name in getattr(layer, "lora_A", {}):
                with torch.no_grad():
                    weight = weight + layer.get_delta_weight(name).to(weight.dtype)
    return (None if weight is None else weight.detach()), (None if bias is None else bias.detach())


@dataclass(frozen=True, slots=True)
class LogitMap:
    """The map from a head's product to its logits: ``soft_cap * tanh(scale * x / soft_cap)``, in float32."""

    scale: float = 1.0
    soft_cap: float | None = None

    @property
    def plain(self) -> bool:
        """Whether it changes nothing."""
        return self.soft_cap is None and self.scale == 1.0

    def __call__(self, product: torch.Tensor) -> torch.Tensor:
        """The logits: `product` itself where nothing changes, else a new tensor, float32 or wider."""
        import torch

        if self.plain:
            return product
        logits = product.to(torch.float64 if product.dtype == torch.float64 else torch.float32, copy=True)
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.soft_cap is not None:
            logits.div_(self.soft_cap).tanh_().mul_(self.soft_cap)
        return logits


AS_THEY_ARE = (LogitMap(), LogitMap())
"""The maps of p and q where logits are given."""
