"""The kernels' tests where there is no GPU: in a process of their own, under Triton's interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels' tests run on the GPU itself")
def test_the_kernels_under_the_interpreter():
    # Triton decides when it is first imported whether it interprets, and this process may have imported it.
    pytest.importorskip("triton", reason="triton is not installed: pip install 'pytest-trust[gpu]'")
    kernels = Path(__file__).with_name("test_kernels.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(kernels)],
        cwd=kernels.parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed
    assert int(passed[1]) >= 30
