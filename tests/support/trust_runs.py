"""Whole trust runs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def trust_run(cwd: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--trust-profile=smoke",
        *map(str, arguments),
    ]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)


def pair(baseline: Path, candidate: Path) -> list[str]:
    return [f"--trust-baseline={baseline}", f"--trust-candidate={candidate}"]
