"""A pytest plugin for `throughput.py`: counts the seconds that a run spends in its models, and its peak memory.

It counts the forwards of the models' bodies, the products with their heads, and the sums over the vocabulary that
follow. Any way of running these models on these tokens has to do that work. The counts go as JSON to the file that
TRUST_MODEL_SECONDS names.
"""

from __future__ import annotations

import json
import os
import resource
import time
from typing import Any

_SECONDS: dict[str, float] = {}
_depth = 0


def _counted(owner: Any, name: str, label: str) -> None:
    inner = getattr(owner, name)

    def outer(*args: Any, **named: Any) -> Any:
        global _depth
        _depth += 1
        start = time.perf_counter()
        try:
            return inner(*args, **named)
        finally:
            _depth -= 1
            if not _depth:  # the outermost counted call counts the calls inside it
                _SECONDS[label] = _SECONDS.get(label, 0.0) + time.perf_counter() - start

    setattr(owner, name, outer)


def pytest_configure(config: Any) -> None:
    """Wrap the functions whose seconds are counted."""
    from pytest_trust.drift import measure
    from pytest_trust.models import generation, heads, runner

    _counted(runner.Runner, "_forward_tree", "forward")
    _counted(runner.Runner, "step", "forward")
    _counted(runner.Runner, "_alone", "forward")
    _counted(heads.Head, "product", "head")
    _counted(generation, "choose_tokens", "choice")
    _counted(measure, "divergences", "divergence")


def pytest_unconfigure(config: Any) -> None:
    """Write the counts."""
    target = os.environ.get("TRUST_MODEL_SECONDS")
    if target and _SECONDS and not hasattr(config, "workerinput"):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with open(target, "w", encoding="utf-8") as file:
            json.dump({"seconds": sum(_SECONDS.values()), "parts": _SECONDS, "peak_kib": peak}, file)
