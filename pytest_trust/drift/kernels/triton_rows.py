"""Triton kernels for rows of logits on a GPU: one pass over the vocabulary with online rescaling, each logit read once.

This module is imported only where the kernels run: with logits on a CUDA device, or by tests under Triton's interpreter
(TRITON_INTERPRET=1 before the first import of triton). A program takes one row of both sides and walks the vocabulary
in blocks. Every lane keeps its own float32 sums over its entries, so that no sum is longer than vocabulary / BLOCK.
Only the two maxima are reduced block by block.

When a maximum grows, the sums so far are rescaled to it. With d = old max - new max for p and e for q, Z becomes exp(d)
Z, and S = sum exp(a) (a - b) becomes exp(d) (S + Z (d - e)).

Total variation and Jensen-Shannon need both normalisers. A second kernel therefore reads the logits again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from pytest_trust.drift.kernels.torch_blocks import columns_of_sums
from pytest_trust.models.heads import AS_THEY_ARE, LogitMap

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["columns_of_rows", "kl_of_rows"]

# Eight 16-bit logits a thread: one 16-byte load a side, and the sums of the full kernel fit the registers.
_BLOCK, _WARPS = 2048, 8
# `enable_fp_fusion` is named because Triton warns where it takes its default.
_OPTIONS = {"BLOCK": _BLOCK, "num_warps": _WARPS, "enable_fp_fusion": True}
_SUMS = ("z", "w", "to_q", "top_p", "top_q", "to_p", "dot_p", "dot_q", "same_top")
_LABEL_SUMS = ("p_label", "q_label", "rank_p", "rank_q")


@triton.jit  # type: ignore[untyped-decorator]
def _logits(start, stride, offsets, inside, scale, cap, SCALED: tl.constexpr, CAPPED: tl.constexpr):  # type: ignore[no-untyped-def]
    """A block of logits in float32; -inf beyond the vocabulary."""
    x = tl.load(start + offsets * stride, mask=inside, other=float("-inf")).to(tl.float32)
    if SCALED:
        x = x * scale
    if CAPPED:  # tanh u = sign u (1 - exp(-2 |u|)) / (1 + exp(-2 |u|))
        small = tl.exp(-2.0 * tl.abs(x) / cap)
        bent = cap * (1.0 - small) / (1.0 + small)
        x = tl.where(x < 0.0, -bent, bent)
    if SCALED or CAPPED:
        x = tl.where(inside, x, float("-inf"))
    return x


@triton.jit  # type: ignore[untyped-decorator]
def _sums_kernel(  # type: ignore[no-untyped-def]
    p,
    q,
    rows,
    labels,
    out,
    count,
    vocabulary,
    p_row_stride,
    q_row_stride,
    p_stride,
    q_stride,
    inverse_temperature,
    p_scale,
    p_cap,
    q_scale,
    q_cap,
    CHOSEN: tl.constexpr,
    WHOLE: tl.constexpr,
    LABELS: tl.constexpr,
    P_SCALED: tl.constexpr,
    P_CAPPED: tl.constexpr,
    Q_SCALED: tl.constexpr,
    Q_CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    row = program.to(tl.int64)
    if CHOSEN:
        row = tl.load(rows + program).to(tl.int64)
    p_start = p + row * p_row_stride
    q_start = q + row * q_row_stride
    lanes = tl.arange(0, BLOCK)
    nothing = tl.zeros([BLOCK], tl.float32)
    z, w, to_q = nothing, nothing, nothing
    to_p, dot_p, dot_q = nothing, nothing, nothing
    same, above_p, above_q = nothing, nothing, nothing
    top_p = tl.full([], float("-inf"), tl.float32)
    top_q = tl.full([], float("-inf"), tl.float32)
    label_p = tl.full([], 0.0, tl.float32)
    label_q = tl.full([], 0.0, tl.float32)
    if LABELS:
        label = tl.load(labels + program).to(tl.int64)
        label_p = _logits(p_start, p_stride, label, label >= 0, p_scale, p_cap, P_SCALED, P_CAPPED)
        label_q = _logits(q_start, q_stride, label, label >= 0, q_scale, q_cap, Q_SCALED, Q_CAPPED)
    for first in range(0, vocabulary, BLOCK):
        offsets = first + lanes
        inside = offsets < vocabulary
        wide = offsets.to(tl.int64)
        x = _logits(p_start, p_stride, wide, inside, p_scale, p_cap, P_SCALED, P_CAPPED)
        y = _logits(q_start, q_stride, wide, inside, q_scale, q_cap, Q_SCALED, Q_CAPPED)
        new_p = tl.maximum(top_p, tl.max(x, 0))
        new_q = tl.maximum(top_q, tl.max(y, 0))
        if (new_p > top_p) | (new_q > top_q):
            by_p = tl.where(top_p == float("-inf"), 0.0, (top_p - new_p) * inverse_temperature)
            by_q = tl.where(top_q == float("-inf"), 0.0, (top_q - new_q) * inverse_temperature)
            grow_p = tl.exp(by_p)
            grow_q = tl.exp(by_q)
            to_q = grow_p * (to_q + z * (by_p - by_q))
            if WHOLE:
                to_p = grow_q * (to_p + w * (by_p - by_q))
                dot_p = grow_p * (dot_p + z * by_p)
                dot_q = grow_q * (dot_q + w * by_q)
                same = nothing
            z = z * grow_p
            w = w * grow_q
            top_p = new_p
            top_q = new_q
        if WHOLE:
            both = inside & (x == top_p) & (y == top_q)
            same = tl.where(both, 1.0, same)
        if LABELS:
            above_p += tl.where(x > label_p, 1.0, 0.0)
            above_q += tl.where(y > label_q, 1.0, 0.0)
        a = x - tl.where(top_p == float("-inf"), 0.0, top_p)
        b = y - tl.where(top_q == float("-inf"), 0.0, top_q)
        gap = (a - b) * inverse_temperature  # before a and b are scaled: exactly 0 for equal logits
        a = a * inverse_temperature
        b = b * inverse_temperature
        e = tl.exp(a)
        f = tl.exp(b)
        z += e
        w += f
        in_p = a != float("-inf")
        to_q += tl.where(in_p, e * gap, 0.0)  # 0 log 0 = 0; infinite where q alone excludes the token
        if WHOLE:
            in_q = b != float("-inf")
            to_p += tl.where(in_q, f * gap, 0.0)
            dot_p += tl.where(in_p, e * a, 0.0)
            dot_q += tl.where(in_q, f * b, 0.0)
    to = out + program
    tl.store(to, tl.sum(z, 0))
    tl.store(to + count, tl.sum(w, 0))
    tl.store(to + 2 * count, tl.sum(to_q, 0))
    tl.store(to + 3 * count, top_p)
    tl.store(to + 4 * count, top_q)
    if WHOLE:
        tl.store(to + 5 * count, tl.sum(to_p, 0))
        tl.store(to + 6 * count, tl.sum(dot_p, 0))
        tl.store(to + 7 * count, tl.sum(dot_q, 0))
        tl.store(to + 8 * count, tl.max(same, 0))
    if LABELS:
        tl.store(to + 9 * count, (label_p - top_p) * inverse_temperature)
        tl.store(to + 10 * count, (label_q - top_q) * inverse_temperature)
        tl.store(to + 11 * count, tl.sum(above_p, 0))
        tl.store(to + 12 * count, tl.sum(above_q, 0))


@triton.jit  # type: ignore[untyped-decorator]
def _apart_kernel(  # type: ignore[no-untyped-def]
    p,
    q,
    sums,
    out,
    count,
    vocabulary,
    p_row_stride,
    q_row_stride,
    p_stride,
    q_stride,
    inverse_temperature,
    p_scale,
    p_cap,
    q_scale,
    q_cap,
    MIXTURE: tl.constexpr,
    P_SCALED: tl.constexpr,
    P_CAPPED: tl.constexpr,
    Q_SCALED: tl.constexpr,
    Q_CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """sum |p - q| and sum (p + q) log (p + q) of one row, from the sums of the first kernel."""
    program = tl.program_id(0)
    row = program.to(tl.int64)
    p_start = p + row * p_row_stride
    q_start = q + row * q_row_stride
    over_z = 1.0 / tl.load(sums + program)
    over_w = 1.0 / tl.load(sums + count + program)
    top_p = tl.load(sums + 3 * count + program)
    top_q = tl.load(sums + 4 * count + program)
    variation = tl.zeros([BLOCK], tl.float32)
    mixture = tl.zeros([BLOCK], tl.float32)
    for first in range(0, vocabulary, BLOCK):
        offsets = first + tl.arange(0, BLOCK)
        inside = offsets < vocabulary
        wide = offsets.to(tl.int64)
        x = _logits(p_start, p_stride, wide, inside, p_scale, p_cap, P_SCALED, P_CAPPED)
        y = _logits(q_start, q_stride, wide, inside, q_scale, q_cap, Q_SCALED, Q_CAPPED)
        # The absolute values change nothing but the rounding. Without them the compiler fuses product and difference,
        # and equal probabilities do not differ by exactly 0.
        one = tl.abs(tl.exp((x - top_p) * inverse_temperature) * over_z)
        other = tl.abs(tl.exp((y - top_q) * inverse_temperature) * over_w)
        variation += tl.abs(one - other)
        if MIXTURE:
            both = tl.maximum(one + other, 1.1754944e-38)
            mixture += both * tl.log(both)
    tl.store(out + program, tl.sum(variation, 0))
    if MIXTURE:
        tl.store(out + count + program, tl.sum(mixture, 0))


def kl_of_rows(
    p: torch.Tensor, q: torch.Tensor, chosen: torch.Tensor | None, inverse_temperature: float
) -> torch.Tensor:
    """KL(p || q) of the chosen rows (all when None) of [rows, vocabulary], in nats, float64.

    The values are not clamped. Rows whose logits are no distribution give a value that is not finite.
    """
    count = p.shape[0] if chosen is None else chosen.numel()
    sums = torch.empty(5, count, dtype=torch.float32, device=p.device)
    _launch_sums(p, q, chosen, None, sums, inverse_temperature, AS_THEY_ARE, whole=False)
    z, w, to_q, top_p, top_q = sums.double()
    kl = to_q / z - (z.log() - w.log())
    return torch.where((top_p == -torch.inf) | (top_q == -torch.inf), torch.nan, kl)


def columns_of_rows(
    p: torch.Tensor,
    q: torch.Tensor,
    labels: torch.Tensor | None,
    inverse_temperature: float,
    jensen_shannon: bool,
    maps: tuple[LogitMap, LogitMap] = AS_THEY_ARE,
) -> dict[str, torch.Tensor]:
    """As `torch_blocks.block_columns`, in float64. `maps` makes the logits of p and q from the values given."""
    count = p.shape[0]
    names = _SUMS + (_LABEL_SUMS if labels is not None else ())
    sums = torch.empty(len(names), count, dtype=torch.float32, device=p.device)
    _launch_sums(p, q, None, labels, sums, inverse_temperature, maps, whole=True)
    apart = torch.empty(1 + jensen_shannon, count, dtype=torch.float32, device=p.device)
    with _on(p):
        _apart_kernel[(count,)](
            *(p, q, sums, apart, count, p.shape[1]),
            *(p.stride(0), q.stride(0), p.stride(1), q.stride(1), inverse_temperature),
            *_numbers(maps),
            MIXTURE=jensen_shannon,
            **_switches(maps),
            **_OPTIONS,
        )
    table = {name: column.double() for name, column in zip(names, sums, strict=True)}
    table |= {name: column.double() for name, column in zip(("total_variation", "mixture"), apart, strict=False)}
    empty = (table["top_p"] == -torch.inf) | (table["top_q"] == -torch.inf)
    columns = columns_of_sums(table, inverse_temperature)
    return columns | {"kl_pq": torch.where(empty, torch.nan, columns["kl_pq"])}


def _launch_sums(
    p: torch.Tensor,
    q: torch.Tensor,
    chosen: torch.Tensor | None,
    labels: torch.Tensor | None,
    sums: torch.Tensor,
    inverse_temperature: float,
    maps: tuple[LogitMap, LogitMap],
    *,
    whole: bool,
) -> None:
    count = sums.shape[1]
    with _on(p):
        _sums_kernel[(count,)](
            *(p, q, p if chosen is None else chosen, p if labels is None else labels, sums, count, p.shape[1]),
            *(p.stride(0), q.stride(0), p.stride(1), q.stride(1), inverse_temperature),
            *_numbers(maps),
            CHOSEN=chosen is not None,
            WHOLE=whole,
            LABELS=labels is not None,
            **_switches(maps),
            **_OPTIONS,
        )


def _on(tensor: torch.Tensor) -> Any:
    """The tensor's device as the current one: Triton launches there, whatever device its arguments are on."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)  # -1: leave it (the interpreter, on a CPU)


def _numbers(maps: Sequence[LogitMap]) -> list[float]:
    return [number for one in maps for number in (float(one.scale), float(one.soft_cap or 1.0))]


def _switches(maps: Sequence[LogitMap]) -> dict[str, bool]:
    p, q = maps
    return {
        "P_SCALED": p.scale != 1.0,
        "P_CAPPED": p.soft_cap is not None,
        "Q_SCALED": q.scale != 1.0,
        "Q_CAPPED": q.soft_cap is not None,
    }
