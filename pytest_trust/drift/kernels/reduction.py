"""Rows of logits reduced to divergences, with every sum over the vocabulary in float32 or better.

With a' = a - max a and Z = sum exp a' (b' and W for the other side),

    KL(p || q) = sum_v exp(a'_v) (a'_v - b'_v) / Z - (log Z - log W)

This is the definition rearranged. Both sides are centred first, so that the result does not depend on a shift of the
logits. It is exactly 0 for equal rows, because every term of the sum is.

On a CPU the sums are taken by the compiled loop of `c_rows`, on a CUDA device by the Triton kernels of `triton_rows`,
else by ``torch.compile`` of the formula. Where these fail, and on a CPU for float64 and strided vocabularies, they are
taken by torch operations on blocks of rows (`torch_blocks`). No path makes a float32 tensor of the inputs' size; `path`
says which path is taken. Rows that float32 cannot settle are computed again in float64 on every path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_trust.drift.kernels.torch_blocks import block_columns, block_kl, block_rows, blocks, compiled_columns
from pytest_trust.errors import InvalidInput
from pytest_trust.models.heads import AS_THEY_ARE, LogitMap

if TYPE_CHECKING:
    import torch

__all__ = ["OddLogits", "kl_rows", "path", "reduce_rows"]

# Nats above which a row is computed again in float64: a float32 row is within 3e-7 of its size.
_WIDE_ABOVE = 32.0

# The error of each faster path that has failed on a CUDA device, by the path's name. A path is tried once.
_failed: dict[str, str] = {}


def path(device: str = "cpu") -> str:
    """The code that reduces logits on a device, in words, with the reason where it is not the fastest.

    An audit records it.

    `device` is a torch device or its type. On a CUDA device the answer is known after the first reduction there.
    """
    kind = str(device).split(":")[0]
    if kind == "cpu":
        from pytest_trust.drift.kernels import c_rows

        return c_rows.status()
    if kind != "cuda":
        return f"torch blocks: no kernel for {kind}"
    name = next((name for name in ("Triton", "torch.compile") if name not in _failed), "torch blocks")
    return name + "".join(f"; {other}: {why}" for other, why in _failed.items())


def kl_rows(
    p: torch.Tensor,
    q: torch.Tensor,
    chosen: torch.Tensor | None,
    inverse_temperature: float,
    kl: torch.Tensor,
    first: int,
) -> None:
    """Write KL(p || q) of the chosen rows (all when None) into `kl`, in nats. Errors count tokens from `first`.

    Raises:
        OddLogits: a row holds NaN, +inf or only -inf.
    """
    if (p.shape[0] if chosen is None else chosen.numel()) == 0:
        return
    values = _fast_kl(p, q, chosen, inverse_temperature)
    if values is None:
        values = block_kl(p, q, chosen, inverse_temperature)
    odd = _to_redo(values).nonzero().view(-1)
    values.clamp_(min=0.0)
    if odd.numel():
        positions = odd if chosen is None else chosen[odd]
        values[odd] = _wide_rows(p, q, positions, inverse_temperature, first)["kl_pq"].to(values.dtype)
    kl[slice(None) if chosen is None else chosen] = values.float()


def reduce_rows(
    p: torch.Tensor,
    q: torch.Tensor,
    labels: torch.Tensor | None,
    inverse_temperature: float,
    jensen_shannon: bool,
    first: int = 0,
    maps: tuple[LogitMap, LogitMap] = AS_THEY_ARE,
) -> dict[str, torch.Tensor]:
    """All divergences of rows [tokens, vocabulary], each [tokens], by the names of `TokenDivergences`' fields.

    `lse_p` and `lse_q`, the log-normalisers of the scaled logits, are among them. `maps` makes the logits of p and q
    from the values given. Shapes and dtypes are not checked. Errors count tokens from `first`.

    Raises:
        OddLogits: a row holds NaN, +inf or only -inf.
    """
    import torch

    done = _fast_columns(p, q, labels, inverse_temperature, jensen_shannon, maps)
    if done is None:
        p, q, maps = maps[0](p), maps[1](q), AS_THEY_ARE
        done = _cpu_columns(p, q, labels, inverse_temperature, jensen_shannon)
    # For equal distributions the difference of the entropies is rounding only.
    if jensen_shannon:
        done["js"] = torch.where(done["total_variation"] == 0.0, 0.0, done["js"])
    same = done.pop("same_top").bool()
    worst = torch.stack([done[name] for name in ("kl_pq", "kl_qp", "entropy_p", "entropy_q")]).amax(0)
    odd = _to_redo(worst).nonzero().view(-1)
    if odd.numel():
        exact = _wide_rows(p, q, odd, inverse_temperature, first, None if labels is None else labels[odd], maps)
        same[odd] = exact["same_top"].bool()
        for name, column in done.items():
            if not name.startswith("rank"):
                column[odd] = exact[name].to(column.dtype)
    for name in ("kl_pq", "kl_qp", "entropy_p", "entropy_q", "total_variation"):
        done[name].clamp_(min=0.0)
    if jensen_shannon:
        done["js"].clamp_(min=0.0, max=math.log(2.0))
    whole = {"rank_p": torch.int32, "rank_q": torch.int32}
    columns = {name: column.to(whole.get(name, torch.float32)) for name, column in done.items()} | {"same_top": same}
    if labels is not None:
        columns["delta_p"] = columns["p_label"] - columns["q_label"]
    return columns


def _fast_kl(
    p: torch.Tensor, q: torch.Tensor, chosen: torch.Tensor | None, inverse_temperature: float
) -> torch.Tensor | None:
    """KL(p || q) of the chosen rows by compiled code, or None."""
    if p.device.type == "cpu":
        from pytest_trust.drift.kernels.c_rows import reduce_native

        return reduce_native(p, q, inverse_temperature, chosen=chosen, kl_only=True)
    if _on_cuda(p, q) and "Triton" not in _failed:
        try:
            from pytest_trust.drift.kernels.triton_rows import kl_of_rows

            return kl_of_rows(p, q, chosen, inverse_temperature)
        except Exception as error:  # a slower path gives the same numbers, whatever Triton or its absence raises
            _give_up("Triton", error)
    return None


def _cpu_columns(
    p: torch.Tensor, q: torch.Tensor, labels: torch.Tensor | None, inverse_temperature: float, jensen_shannon: bool
) -> dict[str, torch.Tensor]:
    from pytest_trust.drift.kernels.c_rows import COLUMNS, reduce_native

    table = reduce_native(p, q, inverse_temperature, labels=labels, jensen_shannon=jensen_shannon)
    if table is None:
        return block_columns(p, q, labels, inverse_temperature, jensen_shannon)
    absent = {"js"} if not jensen_shannon else set()
    absent |= {"p_label", "q_label", "rank_p", "rank_q"} if labels is None else set()
    return {name: table[:, index] for index, name in enumerate(COLUMNS) if name not in absent}


def _fast_columns(
    p: torch.Tensor,
    q: torch.Tensor,
    labels: torch.Tensor | None,
    inverse_temperature: float,
    jensen_shannon: bool,
    maps: tuple[LogitMap, LogitMap],
) -> dict[str, torch.Tensor] | None:
    """The columns by the Triton kernels or ``torch.compile``, or None."""
    if not _on_cuda(p, q) or not p.shape[0]:
        return None
    if "Triton" not in _failed:
        try:
            from pytest_trust.drift.kernels.triton_rows import columns_of_rows

            return columns_of_rows(p, q, labels, inverse_temperature, jensen_shannon, maps)
        except Exception as error:
            _give_up("Triton", error)
    if "torch.compile" not in _failed:
        try:
            return compiled_columns(maps[0](p), maps[1](q), labels, inverse_temperature, jensen_shannon)
        except Exception as error:
            _give_up("torch.compile", error)
    return None


def _on_cuda(p: torch.Tensor, q: torch.Tensor) -> bool:
    """Whether the kernels can take these logits. They cannot take float64, which must be centred before narrowing."""
    import torch

    narrow = (torch.float32, torch.bfloat16, torch.float16)
    return p.device.type == "cuda" and p.dtype in narrow and q.dtype in narrow


def _give_up(name: str, error: Exception) -> None:
    """Do not try a path again in this process, and let `path` say why.

    Running out of memory is no reason: it is raised.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        raise error
    said = (str(error).strip().splitlines() or [""])[0]
    _failed[name] = f"{type(error).__name__}: {said}"[:200]


def _to_redo(values: torch.Tensor) -> torch.Tensor:
    """Rows that float32 cannot settle.

    NaN, +inf and -inf logits make a row's value not finite, but for tokens that p excludes, which the compiled code
    settles. Above 32 nats the rounding of the logits' differences alone nears 1e-5.
    """
    return ~(values <= _WIDE_ABOVE)


def _wide_rows(
    p: torch.Tensor,
    q: torch.Tensor,
    positions: torch.Tensor,
    inverse_temperature: float,
    first: int,
    labels: torch.Tensor | None = None,
    maps: tuple[LogitMap, LogitMap] = AS_THEY_ARE,
) -> dict[str, torch.Tensor]:
    """The columns of the rows at `positions`, in float64 and with 0 log 0 = 0. `labels` has one id for each of them.

    Raises:
        OddLogits: a row holds NaN, +inf or only -inf.
    """
    import torch

    found: dict[str, list[torch.Tensor]] = {}
    step = max(1, block_rows(p.shape[1], on_cpu=p.device.type == "cpu") // 4)
    for start, stop in blocks(positions.numel(), step):
        here = positions[start:stop]
        logs: dict[str, torch.Tensor] = {}
        for side, given, logit_map in (("p", p, maps[0]), ("q", q, maps[1])):
            wide = logit_map(given[here].double())
            bad = torch.isnan(wide) | torch.isposinf(wide)
            for wrong, what in ((bad.any(-1), "NaN or +inf"), (wide.isneginf().all(-1), "nothing but -inf")):
                if bool(wrong.any()):
                    token = first + int(here[wrong.nonzero()[0, 0]])
                    raise OddLogits(side, token, what)
            wide = wide.mul_(inverse_temperature)
            normaliser = wide.logsumexp(-1)
            logs[side] = wide - normaliser.unsqueeze(-1)
            found.setdefault(f"lse_{side}", []).append(normaliser)
        log_p, log_q = logs["p"], logs["q"]
        mixture = torch.logaddexp(log_p, log_q) - math.log(2.0)
        values = {
            "kl_pq": _relative_entropy(log_p, log_q),
            "kl_qp": _relative_entropy(log_q, log_p),
            "js": 0.5 * (_relative_entropy(log_p, mixture) + _relative_entropy(log_q, mixture)),
            "total_variation": 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1),
            "entropy_p": -torch.where(log_p.isneginf(), 0.0, log_p.exp() * log_p).sum(-1),
            "entropy_q": -torch.where(log_q.isneginf(), 0.0, log_q.exp() * log_q).sum(-1),
            "same_top": ((log_p == log_p.amax(-1, keepdim=True)) & (log_q == log_q.amax(-1, keepdim=True))).any(-1),
        }
        if labels is not None:
            target = labels[start:stop].unsqueeze(-1)
            values["p_label"] = log_p.gather(-1, target).view(-1).exp()
            values["q_label"] = log_q.gather(-1, target).view(-1).exp()
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: torch.cat(parts) for name, parts in found.items()}


class OddLogits(InvalidInput):
    """Logits that are no distribution: NaN, +inf, or only -inf, at token number `token` of side ``p`` or ``q``."""

    def __init__(self, side: str, token: int, what: str) -> None:
        super().__init__(
            f"{side}_logits: {what} at token {token}; "
            "expected finite logits or -inf: check the model's weights and dtype"
        )
        self.side, self.token, self.what = side, token, what

    def place(self, lengths: Sequence[int]) -> tuple[int, int]:
        """The token's row and its place there, where the tokens are rows of these lengths one after the other."""
        left = self.token
        for row, length in enumerate(lengths):
            if left < length:
                return row, left
            left -= length
        raise ValueError(f"token {self.token} is beyond the {sum(lengths)} tokens of the rows")


def _relative_entropy(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    import torch

    terms = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q))
    # The sum cannot tell: exp underflows to 0 below -745 nats, and 0 x inf is NaN where q excludes what p allows.
    return torch.where((log_q.isneginf() & ~log_p.isneginf()).any(-1), math.inf, terms.sum(-1))
