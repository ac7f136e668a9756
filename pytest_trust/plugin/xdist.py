"""The resources of pytest-xdist's workers: the number of GPUs, and each worker's GPU and threads.

Standard library only, since `CUDA_VISIBLE_DEVICES` has no effect once torch is imported.
"""

from __future__ import annotations

import os
import subprocess


def visible_gpus() -> int | None:
    """Number of NVIDIA GPUs that this process may use; None when there are none.

    It comes from the caller's `CUDA_VISIBLE_DEVICES`, else from the driver.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([name for name in listed.split(",") if name.strip() not in ("", "-1")]) or None
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return len(found.stdout.splitlines()) or None


def claim_resources(worker: str, count: int, *, spread: bool = False) -> None:
    """Give this worker, one of `count`, its GPU out of the caller's list and its share of the CPU's threads.

    A model that is `spread` over several GPUs needs them all. Call this before torch is imported.
    """
    index = int(worker.removeprefix("gw") or 0)
    gpus = None if spread else visible_gpus()
    if gpus:
        listed = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = listed[index % len(listed)]
    # Workers with a thread for every core each would slow one another down.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // max(1, count))))
