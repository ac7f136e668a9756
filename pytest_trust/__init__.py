"""pytest-trust: trust regressions between two language models as ordinary failing tests.

The library under the plugin, free of pytest. Everything is imported when it is first used: `import pytest_trust` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_trust.catalog.files import load_suite
    from pytest_trust.drift.compare import compare_models
    from pytest_trust.drift.cross_tokenizer.bits_per_byte import BitsPerByte, bits_per_byte
    from pytest_trust.drift.cross_tokenizer.chunk_bound import ChunkBound, chunk_bound
    from pytest_trust.drift.kernels.divergence import kl_divergence
    from pytest_trust.drift.summary import Drift
    from pytest_trust.errors import InvalidInput, TrustError
    from pytest_trust.judges import Judgement, get_judge
    from pytest_trust.probes import Gate, Message, Probe, Suite
    from pytest_trust.reasoning import Split, split_reasoning
    from pytest_trust.stats.comparison import Comparison, compare_scores
    from pytest_trust.stats.estimates import Statistic

__version__ = "0.1.0"

_MODULES = {
    "BitsPerByte": "drift.cross_tokenizer.bits_per_byte",
    "ChunkBound": "drift.cross_tokenizer.chunk_bound",
    "Comparison": "stats.comparison",
    "Drift": "drift.summary",
    "Gate": "probes",
    "InvalidInput": "errors",
    "Judgement": "judges",
    "Message": "probes",
    "Probe": "probes",
    "Split": "reasoning",
    "Statistic": "stats.estimates",
    "Suite": "probes",
    "TrustError": "errors",
    "bits_per_byte": "drift.cross_tokenizer.bits_per_byte",
    "chunk_bound": "drift.cross_tokenizer.chunk_bound",
    "compare_models": "drift.compare",
    "compare_scores": "stats.comparison",
    "get_judge": "judges",
    "kl_divergence": "drift.kernels.divergence",
    "load_suite": "catalog.files",
    "split_reasoning": "reasoning",
}

__all__ = [
    "BitsPerByte",
    "ChunkBound",
    "Comparison",
    "Drift",
    "Gate",
    "InvalidInput",
    "Judgement",
    "Message",
    "Probe",
    "Split",
    "Statistic",
    "Suite",
    "TrustError",
    "bits_per_byte",
    "chunk_bound",
    "compare_models",
    "compare_scores",
    "get_judge",
    "kl_divergence",
    "load_suite",
    "split_reasoning",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
