"""What several processes need: how many GPUs there are, and which one a worker of pytest-xdist takes.

Standard library only: `CUDA_VISIBLE_DEVICES` counts only when it is set before torch is imported.
"""

from __future__ import annotations

import os
import subprocess


def visible_gpus() -> int | None:
    """Number of NVIDIA GPUs this process may use, from the caller's own list, else from the driver; None when there are none."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([name for name in listed.split(",") if name.strip() not in ("", "-1")]) or None
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return len(found.stdout.splitlines()) or None


def claim_resources(worker: str, count: int, *, spread: bool = False) -> None:
    """Give this worker its GPU out of the caller's list (all of them where a model is `spread` over several), and its share of the CPU's
    threads. Call it before torch is imported."""
    index = int(worker.removeprefix("gw") or 0)
    gpus = None if spread else visible_gpus()
    if gpus:
        listed = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = listed[index % len(listed)]
    # a worker with every core's threads slows all of them down
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // max(1, count))))
