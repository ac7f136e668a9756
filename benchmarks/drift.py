"""What the drift computation costs: ours, the eager formula and the head products, side by side in one run.

    OMP_NUM_THREADS=2 python benchmarks/drift.py              # CPU rows
    python benchmarks/drift.py --device cuda                  # GPU rows
    python benchmarks/drift.py --rows 256 --json drift.json   # shorter, with the numbers as a file

The repeats alternate between what is compared, so that a slower minute of the machine slows both; a row is the fastest of its repeats, as
everything else that runs on the machine only adds to it.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pytest_trust.divergence import kl_divergence, token_divergences
from pytest_trust.heads import CPU_BUDGET, GPU_BUDGET, Head, divergences_from_hidden
from pytest_trust.reduction import path

# rows, vocabulary, hidden size, dtype
CPU_SHAPE = (1024, 49_152, 576, torch.float32)
GPU_SHAPE = (8192, 151_936, 4096, torch.bfloat16)


def eager(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) as it is usually written."""
    log_p, log_q = (torch.log_softmax(x.float(), -1) for x in (p, q))
    return torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def liger() -> Callable[[torch.Tensor, torch.Tensor], object] | str:
    """Liger-Kernel's path, its kl_div on log_softmax of both sides; or why there is none."""
    if importlib.util.find_spec("liger_kernel") is None:
        return "liger-kernel is not installed (pip install liger-kernel)"
    from liger_kernel.transformers.kl_div import LigerKLDIVLoss

    loss = LigerKLDIVLoss(reduction="none", log_target=True)

    def call(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return loss(torch.log_softmax(q, -1), torch.log_softmax(p, -1)).sum(-1)

    return call


def bandwidth_of_a_copy(p: torch.Tensor, repeats: int) -> float:
    """Bytes read and written a second by a copy from device memory to device memory."""
    to = torch.empty_like(p)
    seconds = timed({"copy": lambda: to.copy_(p)}, repeats, "cuda")["copy"]
    return 2 * p.numel() * p.element_size() / seconds


def timed(calls: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Fewest seconds of each call; one unmeasured round first."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            synchronise(device)
            start = time.perf_counter()
            call()
            synchronise(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in seconds.items()}


def synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def extra_memory(call: Callable[[], object], device: str) -> int:
    """Bytes beyond what is allocated before the call: the allocator's peak on a GPU, the resident set sampled on a CPU."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - before
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed is still resident otherwise, and would hide this one's
    before = peak = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return peak - before


def resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


def head_products(p: torch.Tensor, p_head: Head, q: torch.Tensor, q_head: Head, chunk: int) -> None:
    """The two products alone, in the same chunks and reused buffers as the divergences take them."""
    buffers = [
        torch.empty(chunk, head.vocabulary, dtype=head.weight.dtype, device=head.weight.device)
        for head in (p_head, q_head)
    ]
    for start in range(0, len(p), chunk):
        for hidden, head, buffer in ((p, p_head, buffers[0]), (q, q_head, buffers[1])):
            part = hidden[start : start + chunk]
            head.product(part, out=buffer[: len(part)])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cpu")
    options.add_argument("--rows", type=int)
    options.add_argument("--vocabulary", type=int)
    options.add_argument("--hidden", type=int)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    device = given.device
    shape = CPU_SHAPE if device == "cpu" else GPU_SHAPE
    rows, vocabulary, hidden, dtype = (
        given.rows or shape[0],
        given.vocabulary or shape[1],
        given.hidden or shape[2],
        shape[3],
    )
    random = torch.Generator(device=device).manual_seed(0)

    def draw(*size: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*size, generator=random, device=device) * scale).to(dtype)

    name = torch.cuda.get_device_name() if device != "cpu" else platform.processor() or platform.machine()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{name}, {torch.get_num_threads()} threads, load {load:.1f}, torch {torch.__version__}")
    print(f"{rows} x {vocabulary}, hidden {hidden}, {dtype}, fastest of {given.repeats}")
    p = draw(rows, vocabulary, scale=3.0)
    q = p + draw(rows, vocabulary, scale=0.3)
    labels = torch.randint(0, vocabulary, (rows,), generator=random, device=device)
    calls: dict[str, Callable[[], object]] = {
        "eager log_softmax + kl_div": lambda: eager(p, q),
        "kl_divergence": lambda: kl_divergence(p, q),
        "token_divergences without Jensen-Shannon": lambda: token_divergences(
            p, q, labels=labels, jensen_shannon=False
        ),
        "token_divergences": lambda: token_divergences(p, q, labels=labels),
    }
    liger_path = liger() if device != "cpu" else "Liger-Kernel has no CPU kernels"
    if not isinstance(liger_path, str):
        calls["Liger-Kernel, kl_div of log_softmax"] = lambda: liger_path(p, q)
    seconds = timed(calls, given.repeats, device)
    memory = {name: extra_memory(call, device) for name, call in calls.items()}
    error = float((kl_divergence(p[:16], q[:16]).double() - eager_wide(p[:16], q[:16])).abs().max())
    calls.clear()
    bandwidth = bandwidth_of_a_copy(p, given.repeats) if device != "cpu" else None
    inputs = 2 * p.numel() * p.element_size()
    p_hidden = draw(rows, hidden)
    q_hidden = p_hidden + draw(rows, hidden, scale=0.1)
    weight = draw(vocabulary, hidden, scale=3.0 / hidden**0.5)
    p_head, q_head = Head(weight), Head(weight + draw(vocabulary, hidden, scale=0.01))
    chunk = 256 if device == "cpu" else max(1, GPU_BUDGET // (4 * vocabulary * dtype.itemsize))
    from_hidden: dict[str, Callable[[], object]] = {
        "two head products": lambda: head_products(p_hidden, p_head, q_hidden, q_head, chunk),
        "divergences_from_hidden": lambda: divergences_from_hidden(p_hidden, p_head, q_hidden, q_head, labels=labels),
    }
    seconds |= timed(from_hidden, given.repeats, device)
    memory |= {name: extra_memory(call, device) for name, call in from_hidden.items()}
    print(f"\n{'what':44}{'seconds':>9}{'extra MiB':>11}")
    for name, value in seconds.items():
        print(f"{name:44}{value:9.3f}{memory[name] / 2**20:11.0f}")
    speedup = seconds["eager log_softmax + kl_div"] / seconds["kl_divergence"]
    overhead = seconds["divergences_from_hidden"] / seconds["two head products"]
    budget = (CPU_BUDGET if device == "cpu" else GPU_BUDGET) >> 20
    print(f"\nreduced by: {path(device)}")
    print(f"kl_divergence: {speedup:.1f} times faster than eager; largest error {error:.1e} nats against float64")
    figures: dict[str, object] = {
        "speedup": speedup,
        "overhead": overhead,
        "error": error,
        "path": path(device),
        "load": load,
    }
    if bandwidth is not None:
        reached = inputs / seconds["kl_divergence"]
        figures |= {"bandwidth_share": reached / bandwidth, "extra_memory_share": memory["kl_divergence"] / inputs}
        print(f"bandwidth: {reached / 1e12:.2f} TB/s, {reached / bandwidth:.0%} of a device-to-device copy's")
        print(f"extra memory: {memory['kl_divergence'] / inputs:.2%} of the inputs")
    if isinstance(liger_path, str):
        print(f"no Liger-Kernel row: {liger_path}")
    else:
        figures["against_liger"] = seconds["Liger-Kernel, kl_div of log_softmax"] / seconds["kl_divergence"]
        print(f"{figures['against_liger']:.1f} times faster than Liger-Kernel's path")
    print(f"from hidden states: {overhead:.2f} times the head products; budget {budget} MiB")
    if given.json:
        result = {
            "device": device,
            "shape": [rows, vocabulary, hidden],
            "dtype": str(dtype),
            "threads": torch.get_num_threads(),
        }
        result |= {"seconds": seconds, "extra_bytes": memory, **figures}
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def eager_wide(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The eager formula in float64."""
    log_p, log_q = (torch.log_softmax(x.double(), -1) for x in (p, q))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


if __name__ == "__main__":
    main()
