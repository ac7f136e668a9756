"""Exact divergences between two next-token distributions, per token, over the full vocabulary.

These are pure functions on logits, usable by themselves. `reduction` takes the sums over the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from pytest_trust.drift.kernels.reduction import kl_rows, reduce_rows
from pytest_trust.errors import InvalidInput

if TYPE_CHECKING:
    import numpy
    import torch

__all__ = ["TokenDivergences", "kl_divergence", "token_divergences"]


@dataclass(frozen=True, slots=True)
class TokenDivergences:
    """Divergences of p and q at each token; tensors of the logits' shape without the vocabulary axis.

    The label fields are None where no labels were given; ``js`` is None where it was not asked for.
    """

    kl_pq: torch.Tensor
    """KL(p || q) in nats, float32, at least 0; inf where p puts mass on a token that q excludes."""
    kl_qp: torch.Tensor
    """KL(q || p) in nats, float32, at least 0."""
    js: torch.Tensor | None
    """Jensen-Shannon divergence in nats, float32, between 0 and log 2; symmetric."""
    total_variation: torch.Tensor
    """Half of sum |p - q|, float32, between 0 and 1; symmetric."""
    entropy_p: torch.Tensor
    """Entropy of p in nats, float32."""
    entropy_q: torch.Tensor
    """Entropy of q in nats, float32."""
    same_top: torch.Tensor
    """Bool: one token is most likely under both. Tied tops (common in 16 bits) agree if they share a token."""
    p_label: torch.Tensor | None = None
    """Probability of the label under p, float32."""
    q_label: torch.Tensor | None = None
    """Probability of the label under q, float32."""
    delta_p: torch.Tensor | None = None
    """``p_label - q_label``: positive where p (the candidate) is surer of the label than q (the baseline)."""
    rank_p: torch.Tensor | None = None
    """Rank of the label under p, int32: 1 plus the number of tokens that are strictly more likely."""
    rank_q: torch.Tensor | None = None
    """Rank of the label under q, int32."""
    masked_p: torch.Tensor | None = None
    """Mass of p, before it was renormalised, on ids that are not shared, float32; None where all ids are shared."""
    masked_q: torch.Tensor | None = None
    """Mass of q, before it was renormalised, on ids that are not shared, float32; None where all ids are shared."""
    tail: torch.Tensor | None = None
    """Mass beyond the known tokens of a side of which only the top k are known, float32; None where all are known.

    Where it is given, the divergences are lower bounds (`pytest_trust.drift.top_k`).
    """

    def __len__(self) -> int:
        """Number of tokens."""
        return self.kl_pq.numel()

    def tokens(self, start: int, stop: int) -> TokenDivergences:
        """The tokens from `start` up to `stop`, for divergences of shape [tokens]."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return self.of({name: column[start:stop] for name, column in columns.items() if column is not None})

    @classmethod
    def of(cls, columns: Mapping[str, torch.Tensor]) -> TokenDivergences:
        """From columns by field name. Columns without a field are left out, and fields without a column are None."""
        given = {field.name: columns[field.name] for field in fields(cls) if field.name in columns}
        return cls(**{"js": None, **given})  # type: ignore[arg-type]

    @classmethod
    def concatenate(cls, parts: list[TokenDivergences]) -> TokenDivergences:
        """One object for the tokens of all parts, in order. The parts must have the same optional fields."""
        import torch

        present = [field.name for field in fields(cls) if getattr(parts[0], field.name) is not None]
        return cls.of({name: torch.cat([getattr(part, name) for part in parts]) for name in present})


def kl_divergence(
    p_logits: torch.Tensor | numpy.ndarray[Any, Any],
    q_logits: torch.Tensor | numpy.ndarray[Any, Any],
    *,
    temperature: float = 1.0,
    mask: torch.Tensor | numpy.ndarray[Any, Any] | None = None,
) -> torch.Tensor | numpy.ndarray[Any, Any]:
    """KL(p || q) in nats per token, from logits over the full vocabulary.

    Args:
        p_logits: logits of p, shape [..., vocabulary], float16, bfloat16, float32 or float64; need not be
            contiguous. Entries of -inf are excluded tokens: they contribute 0 where p excludes them, inf where only q
            does.
        q_logits: logits of q, same shape and device.
        temperature: both sides' logits are divided by it; above 0.
        mask: bool, shape [...]; tokens where it is False are not read and give 0, so that
            ``kl.sum() / mask.sum()`` is the mean.

    Returns:
        float32, shape [...]: a NumPy array if both inputs are, else a tensor on the inputs' device. Within
        1e-5 nats of a float64 evaluation up to 256 nats (then float32's spacing); never negative; exactly 0
        for identical logits.

    Raises:
        InvalidInput: shapes or devices differ, logits are not floating point, a row holds NaN, +inf or only
            -inf.
    """
    import numpy
    import torch

    as_numpy = isinstance(p_logits, numpy.ndarray) and isinstance(q_logits, numpy.ndarray)
    p, q = _checked(p_logits, q_logits, temperature)
    chosen = None if mask is None else _checked_mask(mask, p)
    kl = torch.zeros(p.shape[:-1], dtype=torch.float32, device=p.device)
    flat, start = kl.view(-1), 0
    with torch.no_grad():
        for rows_p, rows_q in _row_views(p, q):
            stop = start + rows_p.shape[0]
            here = None if chosen is None else chosen[start:stop].nonzero().view(-1)
            kl_rows(rows_p, rows_q, here, 1.0 / temperature, flat[start:stop], start)
            start = stop
    return kl.numpy() if as_numpy else kl


def token_divergences(
    p_logits: torch.Tensor | numpy.ndarray[Any, Any],
    q_logits: torch.Tensor | numpy.ndarray[Any, Any],
    *,
    labels: torch.Tensor | numpy.ndarray[Any, Any] | None = None,
    temperature: float = 1.0,
    jensen_shannon: bool = True,
) -> TokenDivergences:
    """All divergences of p and q at each token, in one pass over blocks of rows.

    Args:
        p_logits: logits of p, shape [..., vocabulary], as for `kl_divergence`.
        q_logits: logits of q, same shape and device.
        labels: the token that follows at each position, integers of shape [...]; gives the label fields.
        temperature: both sides' logits are divided by it; above 0.
        jensen_shannon: compute ``js``, which costs one more logarithm per vocabulary entry.

    Raises:
        InvalidInput: as `kl_divergence`; also labels of another shape or outside the vocabulary.
    """
    import torch

    p, q = _checked(p_logits, q_logits, temperature)
    targets = None if labels is None else _checked_labels(labels, p)
    parts: list[dict[str, torch.Tensor]] = []
    start = 0
    with torch.no_grad():
        for rows_p, rows_q in _row_views(p, q):
            stop = start + rows_p.shape[0]
            here = None if targets is None else targets[start:stop]
            parts.append(reduce_rows(rows_p, rows_q, here, 1.0 / temperature, jensen_shannon, start))
            start = stop
    leading = p.shape[:-1]
    return TokenDivergences.of({name: torch.cat([part[name] for part in parts]).reshape(leading) for name in parts[0]})


def _checked(p_logits: object, q_logits: object, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    p, q = torch.as_tensor(p_logits), torch.as_tensor(q_logits)
    if p.ndim == 0 or p.shape != q.shape:
        raise InvalidInput(
            f"p_logits has shape {tuple(p.shape)} and q_logits {tuple(q.shape)}; "
            "expected the same [..., vocabulary]: slice both to the ids they share"
        )
    if p.shape[-1] == 0:
        raise InvalidInput(f"p_logits has shape {tuple(p.shape)}; expected at least one vocabulary entry")
    if p.device != q.device:
        raise InvalidInput(f"p_logits is on {p.device} and q_logits on {q.device}; move both to one device")
    for name, tensor in (("p_logits", p), ("q_logits", q)):
        if not tensor.is_floating_point():
            raise InvalidInput(f"{name} is {tensor.dtype}; expected floating-point logits")
    if not (math.isfinite(temperature) and temperature > 0):
        raise InvalidInput(f"temperature is {temperature}; expected a finite number above 0")
    return p.detach(), q.detach()


def _checked_mask(mask: object, p: torch.Tensor) -> torch.Tensor:
    """The mask as a flat bool tensor."""
    import torch

    chosen = torch.as_tensor(mask, device=p.device)
    if chosen.shape != p.shape[:-1] or chosen.dtype != torch.bool:
        raise InvalidInput(
            f"mask is {chosen.dtype} of shape {tuple(chosen.shape)}; expected bool of shape {tuple(p.shape[:-1])}"
        )
    return chosen.reshape(-1)


def _checked_labels(labels: object, p: torch.Tensor) -> torch.Tensor:
    """The labels as a flat int64 tensor."""
    import torch

    targets = torch.as_tensor(labels, device=p.device)
    if targets.shape != p.shape[:-1] or targets.is_floating_point() or targets.dtype == torch.bool:
        raise InvalidInput(
            f"labels are {targets.dtype} of shape {tuple(targets.shape)}; "
            f"expected integers of shape {tuple(p.shape[:-1])}"
        )
    if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= p.shape[-1]):
        raise InvalidInput(
            f"labels go from {int(targets.min())} to {int(targets.max())}; expected token ids below {p.shape[-1]}"
        )
    return targets.reshape(-1).long()


def _row_views(p: torch.Tensor, q: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The logits as views [rows, vocabulary], in order. Axes that cannot be flattened are walked: a reshape copies."""
    try:
        yield p.view(-1, p.shape[-1]), q.view(-1, q.shape[-1])
    except RuntimeError:
        for index in range(p.shape[0]):
            yield from _row_views(p[index], q[index])
