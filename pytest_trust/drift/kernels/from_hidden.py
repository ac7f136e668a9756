"""Divergences from hidden states: each chunk of tokens goes through the heads, and its logits are reduced at once."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from pytest_trust.drift.kernels.divergence import TokenDivergences
from pytest_trust.drift.kernels.reduction import reduce_rows
from pytest_trust.drift.kernels.torch_blocks import block_rows
from pytest_trust.errors import InvalidInput, TrustError
from pytest_trust.models.heads import Head, LogitMap
from pytest_trust.models.memory import out_of_memory

if TYPE_CHECKING:
    import torch

CPU_BUDGET = 256 * 2**20
"""Default peak of extra memory on a CPU, bytes."""

GPU_BUDGET = 2**30
"""Default peak of extra memory on a GPU, bytes."""

# Tokens of one head product on a CPU. With hidden size 576 and 49,152 ids the product costs the same per token from 256
# on. Smaller chunks stream the weights more often.
_CHUNK_TOKENS = 256


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
    `shared_vocabulary` is smaller than both, only ids below it are compared. Both sides are then renormalised over
    these, and ``masked_p`` and ``masked_q`` hold the mass that each side had beyond them.

    Args:
        p_hidden: [tokens, hidden size of p], the states that predict the labels.
        p_head: p's head.
        q_hidden: [tokens, hidden size of q].
        q_head: q's head; may be on another device: its products are moved to p's.
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
                p = _chunk_product("p", p_head, p_hidden[start:stop], chunk, buffers)
                q = _chunk_product("q", q_head, q_hidden[start:stop], chunk, buffers).to(device)
                here = None if targets is None else targets[start:stop]
                columns = reduce_rows(p[:, :shared], q[:, :shared], here, 1.0, jensen_shannon, start, maps=maps)
                if shared < max(p_head.vocabulary, q_head.vocabulary):
                    columns["masked_p"] = _mass_beyond(p, shared, columns["lse_p"], maps[0])
                    columns["masked_q"] = _mass_beyond(q, shared, columns["lse_q"], maps[1])
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
    """A chunk's product with the head, in a buffer that every chunk reuses.

    Fresh pages cost as much as the reduction.
    """
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
