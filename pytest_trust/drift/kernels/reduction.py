"""Rows of logits reduced to divergences, with every sum over the vocabulary in float32 or better.

With a' = a - max a and Z = sum exp a' (b' and W for the other side),

    KL(p || q) = sum_v exp(a'_v) (a'_v - b'_v) / Z - (log Z - log W)

which is the definition rearranged: both sides are centred first, so the result does not depend on a shift of the logits, and it is
exactly 0 for equal rows because every term of the sum is.

The sums are taken by the first of these that can be had: on a CPU the compiled loop of `native`; on a CUDA device the Triton kernels of
`kernels`, else ``torch.compile`` of the formula; last, and for float64 and strided vocabularies on a CPU, torch operations on blocks of
rows. No path makes a float32 tensor of the inputs' size. `path` says which is taken. Rows that float32 cannot settle are taken again in
float64, whatever the path.
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

# Why a faster path is not taken on CUDA devices, by its name; filled by the first attempt.
_failed: dict[str, str] = {}


def path(device: str = "cpu") -> str:
    """What reduces logits on a device, in words, with the reason where it is not the fastest; an audit records it.

    `device` is a torch device or its type. On a CUDA device the answer is known after the first reduction there.
    """
    kind = str(device).split(":")[0]
    if kind == "cpu":
        from pytest_trust.drift.kernels import c_rows as native

        return native.status()
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
    """KL of the chosen rows (all when None), written into `kl`. Errors count tokens from `first`."""
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
    """All divergences of rows [tokens, vocabulary], by the names of `TokenDivergences`' fields, each [tokens]; and `lse_p`, `lse_q`: the
    log-normalisers of the scaled logits.

    `maps` makes the logits of p and of q from what is given. Unchecked but for the values: errors about those count tokens from `first`.
    """
    import torch

    done = _fast_columns(p, q, labels, inverse_temperature, jensen_shannon, maps)
    if done is None:
        p, q, maps = maps[0](p), maps[1](q), AS_THEY_ARE
        done = _cpu_columns(p, q, labels, inverse_temperature, jensen_shannon)
    # Equal distributions: what the difference of the entropies leaves is rounding only.
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
        except Exception as error:  # whatever Triton or its absence raises, slower paths give the same numbers
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
    """The columns by a GPU's kernels or ``torch.compile``, or None."""
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
    """Whether the kernels can take them: float64 has to be centred before it is narrowed."""
    import torch

    narrow = (torch.float32, torch.bfloat16, torch.float16)
    return p.device.type == "cuda" and p.dtype in narrow and q.dtype in narrow


def _give_up(name: str, error: Exception) -> None:
    """Not to be tried again in this process, and said by `path`; out of memory is no reason for that."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        raise error
    said = (str(error).strip().splitlines() or [""])[0]
    _failed[name] = f"{type(error).__name__}: {said}"[:200]


def _to_redo(values: torch.Tensor) -> torch.Tensor:
    """Rows that float32 cannot settle.

    NaN, +inf and -inf logits leave a row that is not finite (0 x inf at the least; the compiled code settles tokens that p excludes); above
    32 nats the rounding of the logits' differences alone nears 1e-5.
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
    """The rows at `positions` again, in float64 and with 0 log 0 = 0; the errors for NaN and +inf are raised here."""
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
    """Logits that are no distribution: NaN, +inf, or -inf alone, at token number `token` of side ``p`` or ``q``."""

    def __init__(self, side: str, token: int, what: str) -> None:
        super().__init__(
            f"{side}_logits: {what} at token {token}; expected finite logits or -inf: check the model's weights and dtype"
        )
        self.side, self.token, self.what = side, token, what

    def place(self, lengths: Sequence[int]) -> tuple[int, int]:
        """Which row the token is in, and its place there, when the tokens are rows of these lengths one after the other."""
        left = self.token
        for row, length in enumerate(lengths):
            if left < length:
                return row, left
            left -= length
        raise ValueError(f"token {self.token} is beyond the {sum(lengths)} tokens of the rows")


def _relative_entropy(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    import torch

    terms = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q))
    # Not left to the sum: exp underflows to 0 below -745 nats, and 0 x inf is NaN where q excludes what p
    # allows.
    return torch.where((log_q.isneginf() & ~log_p.isneginf()).any(-1), math.inf, terms.sum(-1))
