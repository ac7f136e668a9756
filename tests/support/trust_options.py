"""A run's options that a job is made of, without a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def trust(**options: Any) -> Any:
    return SimpleNamespace(
        **{"limit": None, "max_new_tokens": None, "reasoning_budget": None, "max_reasoning_tokens": None, "seed": 3}
        | options
    )
