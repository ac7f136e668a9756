"""The sums over the vocabulary in torch operations, for any device: block by block, or as one formula to compile.

A block is a few rows that stay in the processor's cache. The columns are `TokenDivergences`' fields without `delta_p`,
and the log-normalisers `lse_p` and `lse_q`. They are not clamped, and rows that float32 cannot settle stay as they are.
The formula is in `reduction`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Bytes of one float32 scratch block. With 49,152 columns 8 to 16 rows are best. 1 to 4 rows are up to 1.5 times slower,
# because each of the dozen operations then pays its dispatch; more rows fall out of the cache. A GPU needs enough rows
# to fill it.
_CPU_BLOCK_BYTES = 2 * 2**20

_GPU_BLOCK_BYTES = 128 * 2**20


def block_rows(vocabulary: int, *, on_cpu: bool) -> int:
    """Rows of one float32 scratch block."""
    return max(1, (_CPU_BLOCK_BYTES if on_cpu else _GPU_BLOCK_BYTES) // (4 * vocabulary))


def blocks(count: int, rows: int) -> Iterator[tuple[int, int]]:
    """Bounds of blocks of at most `rows` of `count` rows."""
    for start in range(0, count, rows):
        yield start, min(start + rows, count)


def _centre(rows: torch.Tensor, inverse_temperature: float, out: torch.Tensor) -> torch.Tensor:
    """Write (rows - their maximum) / temperature into the float32 block `out`; return the maxima, [rows, 1]."""
    import torch

    if rows.dtype == torch.float32:
        top = rows.amax(-1, keepdim=True)
        torch.sub(rows, top, out=out)
    elif rows.dtype == torch.float64:
        top = rows.amax(-1, keepdim=True)
        out.copy_(rows - top)
    else:  # widen before subtracting: a 16-bit difference is rounded to 8 or 11 bits
        out.copy_(rows)
        top = out.amax(-1, keepdim=True)
        out.sub_(top)
    if inverse_temperature != 1.0:
        out.mul_(inverse_temperature)
    return top


def block_kl(p: torch.Tensor, q: torch.Tensor, chosen: torch.Tensor | None, inverse_temperature: float) -> torch.Tensor:
    """KL(p || q) of the chosen rows (all when None) of [rows, vocabulary], in nats, float32."""
    import torch

    count, vocabulary = p.shape[0] if chosen is None else chosen.numel(), p.shape[1]
    rows = min(block_rows(vocabulary, on_cpu=p.device.type == "cpu"), max(count, 1))
    scratch = torch.empty(3, rows, vocabulary, dtype=torch.float32, device=p.device)
    z, w, gap = torch.empty(3, count, dtype=torch.float32, device=p.device)
    for start, stop in blocks(count, rows):
        index: slice | torch.Tensor = slice(start, stop) if chosen is None else chosen[start:stop]
        a, b, d = scratch[:, : stop - start]
        _centre(p[index], inverse_temperature, a)
        _centre(q[index], inverse_temperature, b)
        torch.sub(a, b, out=d)
        torch.sum(a.exp_(), -1, out=z[start:stop])
        torch.sum(b.exp_(), -1, out=w[start:stop])
        torch.sum(d.mul_(a), -1, out=gap[start:stop])
    kl: torch.Tensor = gap.div_(z).sub_(z.log_().sub_(w.log_()))
    return kl


def block_columns(
    p: torch.Tensor,
    q: torch.Tensor,
    labels: torch.Tensor | None,
    inverse_temperature: float,
    jensen_shannon: bool,
) -> dict[str, torch.Tensor]:
    """All columns of rows [tokens, vocabulary]."""
    import torch

    count, vocabulary = p.shape
    names = ["z", "w", "to_q", "to_p", "dot_p", "dot_q", "total_variation", "top_p", "top_q"]
    names += ["mixture"] if jensen_shannon else []
    names += ["p_label", "q_label", "rank_p", "rank_q"] if labels is not None else []
    out = {name: torch.empty(count, dtype=torch.float32, device=p.device) for name in names}
    same = torch.empty(count, dtype=torch.bool, device=p.device)
    rows = min(block_rows(vocabulary, on_cpu=p.device.type == "cpu"), max(count, 1))
    scratch = torch.empty(4, rows, vocabulary, dtype=torch.float32, device=p.device)
    for start, stop in blocks(count, rows):
        at = slice(start, stop)
        a, b, d, e = scratch[:, : stop - start]
        out["top_p"][at] = _centre(p[at], inverse_temperature, a).view(-1)
        out["top_q"][at] = _centre(q[at], inverse_temperature, b).view(-1)
        # Both are at most 0, so a sum of 0 is a token that is most likely under both.
        torch.eq(torch.add(a, b, out=e).amax(-1), 0.0, out=same[at])
        if labels is not None:
            target = labels[at].unsqueeze(-1)
            out["p_label"][at] = a.gather(-1, target).view(-1)
            out["q_label"][at] = b.gather(-1, target).view(-1)
            # Ranks are taken on the logits as given, since centring rounds. float32 counts exactly up to 2^24 ids, and
            # faster than a sum of booleans.
            torch.sum(torch.gt(p[at], p[at].gather(-1, target), out=e), -1, out=out["rank_p"][at])
            torch.sum(torch.gt(q[at], q[at].gather(-1, target), out=e), -1, out=out["rank_q"][at])
        torch.sub(a, b, out=d)
        z = torch.sum(torch.exp(a, out=e), -1, out=out["z"][at])
        torch.sum(a.mul_(e), -1, out=out["dot_p"][at])
        torch.sum(torch.mul(d, e, out=a), -1, out=out["to_q"][at])
        w = torch.sum(torch.exp(b, out=a), -1, out=out["w"][at])
        torch.sum(b.mul_(a), -1, out=out["dot_q"][at])
        torch.sum(torch.mul(d, a, out=b), -1, out=out["to_p"][at])
        e.mul_(z.reciprocal().unsqueeze(-1))
        a.mul_(w.reciprocal().unsqueeze(-1))
        torch.sum(torch.sub(e, a, out=d).abs_(), -1, out=out["total_variation"][at])
        if jensen_shannon:  # the clamp keeps 0 log 0 at 0 (adds less than 1e-30)
            e.add_(a).clamp_(min=torch.finfo(torch.float32).tiny)
            torch.sum(e.mul_(torch.log(e, out=d)), -1, out=out["mixture"][at])
    return columns_of_sums({**out, "same_top": same}, inverse_temperature)


def columns_of_sums(sums: dict[str, torch.Tensor], inverse_temperature: float) -> dict[str, torch.Tensor]:
    """The columns from the sums over the vocabulary.

    With a and b, the centred and scaled logits of p and q, the sums are `z` = sum exp(a), `w` = sum exp(b), `to_q` =
    sum exp(a) (a - b), `to_p` = sum exp(b) (a - b), `dot_p` = sum exp(a) a, `dot_q` = sum exp(b) b, `total_variation` =
    sum |p - q| and `mixture` = sum (p + q) log (p + q). `top_p` and `top_q` are the maxima. `p_label` and `q_label` are
    the labels' centred logits, `rank_p` and `rank_q` count the logits above the labels'.
    """
    import torch

    z, w = sums["z"], sums["w"]
    log_z, log_w = z.log(), w.log()
    columns = {
        "kl_pq": sums["to_q"] / z - (log_z - log_w),
        "kl_qp": (log_z - log_w) - sums["to_p"] / w,
        "entropy_p": log_z - sums["dot_p"] / z,
        "entropy_q": log_w - sums["dot_q"] / w,
        "lse_p": log_z + inverse_temperature * sums["top_p"],
        "lse_q": log_w + inverse_temperature * sums["top_q"],
        "total_variation": 0.5 * sums["total_variation"],
        "same_top": sums["same_top"],
    }
    if "mixture" in sums:  # H(m) - (H(p) + H(q)) / 2 with m = (p + q) / 2
        columns["js"] = math.log(2.0) - 0.5 * (sums["mixture"] + columns["entropy_p"] + columns["entropy_q"])
    if "rank_p" in sums:
        for side, mass in (("p", z), ("q", w)):
            columns[f"{side}_label"] = torch.exp(sums[f"{side}_label"]) / mass
            columns[f"rank_{side}"] = sums[f"rank_{side}"] + 1.0
    return columns


def compiled_columns(
    p: torch.Tensor, q: torch.Tensor, labels: torch.Tensor | None, inverse_temperature: float, jensen_shannon: bool
) -> dict[str, torch.Tensor]:
    """As `block_columns`, by ``torch.compile`` of the formula. The compiler's errors are not caught."""
    import torch

    found: list[dict[str, torch.Tensor]] = []
    for start, stop in blocks(p.shape[0], block_rows(p.shape[1], on_cpu=p.device.type == "cpu")):
        target = None if labels is None else labels[start:stop]
        found.append(_compiler()(p[start:stop], q[start:stop], target, inverse_temperature, jensen_shannon))
    return columns_of_sums({name: torch.cat([part[name] for part in found]) for name in found[0]}, inverse_temperature)


@functools.cache
def _compiler() -> Any:
    import torch

    return torch.compile(_sums, dynamic=True)


def _sums(
    p: torch.Tensor, q: torch.Tensor, labels: torch.Tensor | None, inverse_temperature: float, jensen_shannon: bool
) -> dict[str, torch.Tensor]:
    """The sums that `columns_of_sums` takes, in plain operations for a compiler to fuse."""
    import torch

    x, y = p.float(), q.float()
    top_p, top_q = x.amax(-1, keepdim=True), y.amax(-1, keepdim=True)
    gap = ((x - top_p) - (y - top_q)) * inverse_temperature
    a, b = (x - top_p) * inverse_temperature, (y - top_q) * inverse_temperature
    e, f = a.exp(), b.exp()
    z, w = e.sum(-1), f.sum(-1)
    over_z, over_w = e / z.unsqueeze(-1), f / w.unsqueeze(-1)
    sums = {
        "z": z,
        "w": w,
        "to_q": (e * gap).sum(-1),
        "to_p": (f * gap).sum(-1),
        "dot_p": (e * a).sum(-1),
        "dot_q": (f * b).sum(-1),
        "top_p": top_p.view(-1),
        "top_q": top_q.view(-1),
        "total_variation": (over_z - over_w).abs().sum(-1),
        "same_top": ((x == top_p) & (y == top_q)).any(-1),
    }
    if jensen_shannon:
        both = (over_z + over_w).clamp(min=torch.finfo(torch.float32).tiny)
        sums["mixture"] = (both * both.log()).sum(-1)
    if labels is not None:
        target = labels.unsqueeze(-1)
        for side, logits, centred in (("p", x, a), ("q", y, b)):
            sums[f"{side}_label"] = centred.gather(-1, target).view(-1)
            sums[f"rank_{side}"] = (logits > logits.gather(-1, target)).sum(-1).float()
    return sums
