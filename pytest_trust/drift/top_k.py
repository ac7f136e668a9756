"""Drift against a distribution of which only the most likely tokens are known, as in a small recording.

Of p are known the log-probabilities of its K most likely tokens, the mass of all others together (the tail), its
entropy, and the log-probability of the token that follows. Merging tokens never raises an f-divergence (data
processing). KL, Jensen-Shannon and total variation over the K tokens and the merged tail are therefore lower bounds of
the true ones. The bound is attained by the p whose tail is spread as q's is, so the divergences of that p and q are
computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_trust.drift.kernels.divergence import TokenDivergences
from pytest_trust.drift.kernels.reduction import reduce_rows
from pytest_trust.engine.top_k import TopK

if TYPE_CHECKING:
    import torch

    from pytest_trust.models.heads import Head

_CHUNK_BYTES = 1 << 26  # of one float32 block of logits


def _chunk(vocabulary: int) -> int:
    return max(1, _CHUNK_BYTES // (4 * vocabulary))


def top_k(states: torch.Tensor, head: Head, labels: torch.Tensor, k: int) -> TopK:
    """The top `k` tokens at each of the states [tokens, hidden size], and what `TopK` keeps of all others.

    `k` is below the vocabulary; `labels` [tokens] are the tokens that follow.
    """
    import torch

    parts = []
    size = _chunk(head.vocabulary)
    with torch.no_grad():
        for start in range(0, states.shape[0], size):
            log_p = head.logits(states[start : start + size]).float().log_softmax(-1)
            found, ids = log_p.topk(k)
            here = labels[start : start + size].to(log_p.device)
            parts.append(
                TopK(
                    ids.int().cpu(),
                    found.cpu(),
                    log_p.scatter(-1, ids, float("-inf")).logsumexp(-1).cpu(),
                    log_p.gather(-1, here[:, None].long())[:, 0].cpu(),
                    -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(-1).cpu(),
                )
            )
    return TopK.joined(parts)


def divergences_from_top_k(p: TopK, q_hidden: torch.Tensor, q_head: Head, labels: torch.Tensor) -> TokenDivergences:
    """Lower bounds of the divergences of p and q at each token.

    The same-top flag, the entropies and the labels' probabilities are exact. ``tail`` is p's mass beyond its known
    tokens. ``rank_p`` is the label's rank among the known tokens, or K + 1.

    Args:
        p: what is known of p.
        q_hidden: [tokens, hidden size], q's post-norm states.
        q_head: q's head, over the same vocabulary.
        labels: [tokens], the tokens that follow.

    Raises:
        InvalidInput: logits of q with NaN or +inf (naming the token).
    """
    import torch

    parts = []
    size, device = _chunk(q_head.vocabulary), q_head.weight.device
    with torch.no_grad():
        for start in range(0, len(p), size):
            here = p.rows(start, start + size)
            ids, known, tail = here.ids.to(device).long(), here.log_p.to(device), here.tail.to(device)[:, None]
            label = labels[start : start + size].to(device).long()
            logits = q_head.logits(q_hidden[start : start + size].to(device)).float()
            log_q = logits.log_softmax(-1)
            beyond = log_q.scatter(-1, ids, float("-inf"))
            nearest = (beyond + (tail - beyond.logsumexp(-1, keepdim=True))).scatter(-1, ids, known)
            columns = reduce_rows(nearest, logits, label, 1.0, True, start)
            columns["p_label"] = here.label.to(device).exp()
            columns["delta_p"] = columns["p_label"] - columns["q_label"]
            columns["entropy_p"] = here.entropy.to(device)
            columns["same_top"] = log_q.gather(-1, ids[:, :1])[:, 0] >= log_q.amax(-1)
            at = ids == label[:, None]
            columns["rank_p"] = torch.where(at.any(-1), at.int().argmax(-1) + 1, ids.shape[1] + 1).int()
            columns["tail"] = tail[:, 0].exp()
            parts.append(TokenDivergences.of(columns))
    return TokenDivergences.concatenate(parts)


def swapped(found: TokenDivergences) -> TokenDivergences:
    """The same with p and q exchanged."""
    columns = {
        "kl_pq": found.kl_qp,
        "kl_qp": found.kl_pq,
        "js": found.js,
        "total_variation": found.total_variation,
        "entropy_p": found.entropy_q,
        "entropy_q": found.entropy_p,
        "same_top": found.same_top,
        "p_label": found.q_label,
        "q_label": found.p_label,
        "rank_p": found.rank_q,
        "rank_q": found.rank_p,
        "tail": found.tail,
    }
    present = {name: column for name, column in columns.items() if column is not None}
    if found.delta_p is not None:
        present["delta_p"] = -found.delta_p
    return TokenDivergences.of(present)
