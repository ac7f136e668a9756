"""Output heads, and divergences straight from hidden states: the logits of a chunk of tokens, reduced at
once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_trust.blocks import LogitMap, block_rows
from pytest_trust.divergence import TokenDivergences
from pytest_trust.errors import InvalidInput, TrustError
from pytest_trust.reduction import reduce_rows

if TYPE_CHECKING:
    import torch

__all__ = ["CPU_BUDGET", "GPU_BUDGET", "Head", "divergences_from_hidden", "head_of"]

CPU_BUDGET = 256 * 2**20
"""Default peak of extra memory on a CPU, bytes."""
GPU_BUDGET = 2**30
"""Default peak of extra memory on a GPU, bytes."""

# Tokens of one head product. Measured with hidden size 576 and 49,152 ids: from 256 on the product costs the
# same per token; smaller chunks stream the weights more often.
_CHUNK_TOKENS = 256

# Model types that multiply by `logits_scaling`; the Granite family, and all others, divide by it.
_MULTIPLY_BY_LOGITS_SCALING = frozenset({"hyperclovax"})


@dataclass(frozen=True, slots=True)
class Head:
    """What turns a post-norm hidden state into logits.

    ``soft_cap * tanh((weight @ hidden + bias) * scale / soft_cap)``, or without the tanh where there is no
    cap. The product is taken in the weights' own dtype, as the model's forward does; scale and soft cap in
    float32.
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
        """What stands between the product and the logits."""
        return LogitMap(self.scale, self.soft_cap)

    def product(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """``weight @ hidden + bias`` [tokens, vocabulary] of hidden states [tokens, hidden size], in the weights' dtype.

        `out` is a buffer of that shape and dtype.

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

        In the weights' dtype where the product is all there is, else in float32. `out` and what it raises as of `product`.
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
    ``output_multiplier`` (Muse). `drift_models.check_head` compares the outcome with the model's own logits.

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
    """Weight and bias of an output layer, with PEFT's wrappers resolved to what is active."""
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


def divergences_from_hidden(
    p_hidden: torch.Tensor,
    p_head: Head,
    q_hidden: torch.Tensor,
    q_head: Head,
    *,
    labels: torch.Tensor | None = None,
    shared_vocabulary: int | None = None,
    budget_bytes: int | None = None,
    jensen_shannon: bool = True,
) -> TokenDivergences:
    """Divergences of p and q from post-norm hidden states, each through its own head.

    The logits exist for a chunk of tokens at a time. Where the heads have different vocabularies, or
    `shared_vocabulary` is smaller than both, only ids below it are compared, both sides are renormalised over
    them, and ``masked_p`` and ``masked_q`` hold the mass that each side had beyond them.

    Args:
        p_hidden: [tokens, hidden size of p], the states that predict the labels.
        p_head: p's head.
        q_hidden: [tokens, hidden size of q].
        q_head: q's head; may be on another device, its logits are then moved to p's.
        labels: [tokens], the tokens that follow; below the shared vocabulary.
        shared_vocabulary: number of leading ids that mean the same to both; default: the smaller vocabulary.
        budget_bytes: peak of extra memory; default 256 MiB on a CPU and 1 GiB on a GPU. Never less than one
            token's.
        jensen_shannon: also compute ``js``.

    Raises:
        InvalidInput: other shapes, labels outside the shared ids, logits with NaN or +inf (naming the token).
        TrustError: not enough memory for one token.
    """
    import torch

    if p_hidden.ndim != 2 or q_hidden.ndim != 2 or p_hidden.shape[0] != q_hidden.shape[0]:
        raise InvalidInput(
            f"hidden states have shapes {tuple(p_hidden.shape)} and {tuple(q_hidden.shape)}; "
            "expected [tokens, hidden size] with equally many tokens"
        )
    count = p_hidden.shape[0]
    smaller = min(p_head.vocabulary, q_head.vocabulary)
    shared = smaller if shared_vocabulary is None else shared_vocabulary
    if not 1 <= shared <= smaller:
        raise InvalidInput(f"shared_vocabulary is {shared}; expected 1 to {smaller}, the smaller head's size")
    device = p_head.weight.device
    targets = None
    if labels is not None:
        targets = labels.to(device=device, dtype=torch.long)
        if targets.shape != (count,):
            raise InvalidInput(f"labels have shape {tuple(labels.shape)}; expected ({count},), one a token")
        if count and (int(targets.min()) < 0 or int(targets.max()) >= shared):
            raise InvalidInput(
                f"labels go from {int(targets.min())} to {int(targets.max())}; "
                f"expected ids below {shared}, the shared vocabulary"
            )
    budget = budget_bytes or (CPU_BUDGET if device.type == "cpu" else GPU_BUDGET)
    chunk = _chunk_tokens(p_head, q_head, budget, count)
    maps = (p_head.logit_map, q_head.logit_map)
    parts: list[TokenDivergences] = []
    buffers: dict[str, torch.Tensor] = {}
    start = 0
    with torch.no_grad():
        while start < count or not parts:
            stop = min(start + chunk, count)
            try:
                ours = _chunk_product("p", p_head, p_hidden[start:stop], chunk, buffers)
                theirs = _chunk_product("q", q_head, q_hidden[start:stop], chunk, buffers).to(device)
                here = None if targets is None else targets[start:stop]
                columns = reduce_rows(ours[:, :shared], theirs[:, :shared], here, 1.0, jensen_shannon, start, maps=maps)
                if shared < max(p_head.vocabulary, q_head.vocabulary):
                    columns["masked_p"] = _mass_beyond(ours, shared, columns["lse_p"], maps[0])
                    columns["masked_q"] = _mass_beyond(theirs, shared, columns["lse_q"], maps[1])
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if chunk == 1:
                    needed = p_head.bytes_per_token() + q_head.bytes_per_token()
                    raise TrustError(
                        f"out of memory on {device} for one token's logits ({needed >> 20} MiB); "
                        "free memory there or use another device"
                    ) from error
                buffers.clear()
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                chunk = max(1, chunk // 2)
                continue
            parts.append(TokenDivergences.of(columns))
            start = stop
    return TokenDivergences.concatenate(parts)


def _chunk_tokens(p_head: Head, q_head: Head, budget: int, count: int) -> int:
    """Tokens whose logits fit the budget beside the reduction's scratch of four float32 blocks."""
    on_cpu = p_head.weight.device.type == "cpu"
    per_token = p_head.bytes_per_token() + q_head.bytes_per_token()
    widest = max(p_head.vocabulary, q_head.vocabulary)
    scratch = 16 * widest * block_rows(widest, on_cpu=on_cpu)
    most = max(1, (budget - min(scratch, budget // 2)) // per_token)
    return max(1, min(most, count, _CHUNK_TOKENS if on_cpu else most))


def _chunk_product(
    side: str, head: Head, hidden: torch.Tensor, chunk: int, buffers: dict[str, torch.Tensor]
) -> torch.Tensor:
    """A chunk's product with the head in a buffer that every chunk reuses: fresh pages cost as much as the reduction."""
    import torch

    if side not in buffers:
        buffers[side] = torch.empty(chunk, head.vocabulary, dtype=head.weight.dtype, device=head.weight.device)
    return head.product(hidden, out=buffers[side][: hidden.shape[0]])


def _mass_beyond(product: torch.Tensor, shared: int, log_shared: torch.Tensor, logit_map: LogitMap) -> torch.Tensor:
    """Probability of the ids from `shared` on, [tokens], given the log-normaliser of the ids below it."""
    import torch

    vocabulary = product.shape[1]
    if shared == vocabulary or not product.shape[0]:
        return torch.zeros_like(log_shared)
    rows = block_rows(vocabulary - shared, on_cpu=product.device.type == "cpu")
    beyond = [logit_map(product[i : i + rows, shared:]).float().logsumexp(-1) for i in range(0, product.shape[0], rows)]
    return torch.sigmoid(torch.cat(beyond) - log_shared)


def halving(items: Sequence[int], run: Callable[[Sequence[int]], None]) -> None:
    """Run on a batch; where the memory does not suffice on its halves, in order.

    Raises:
        TrustError: not enough for a single item.
    """
    try:
        run(items)
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not out_of_memory(error):
            raise
        if len(items) == 1:
            raise TrustError("out of memory for a single window of a text: give a smaller window, a smaller dtype or another device") from error
    else:
        return
    gc.collect()
    middle = len(items) // 2
    halving(items[:middle], run)
    halving(items[middle:], run)


def out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory ran out: torch has several."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "allocate memory" in str(error) or "out of memory" in str(error)  # the CPU allocator raises RuntimeError
