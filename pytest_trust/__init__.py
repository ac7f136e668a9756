"""pytest-trust: trust regressions between two language models as ordinary failing tests.

This is the library under the plugin; it does not import pytest. Everything is imported when it is first used, so
`import pytest_trust` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_trust.version import __version__ as __version__

if TYPE_CHECKING:
    from pytest_trust.catalog.files import load_suite
    from pytest_trust.drift.compare import compare_models
    from pytest_trust.drift.cross_tokenizer.bits_per_byte import BitsPerByte, bits_per_byte
    from pytest_trust.drift.cross_tokenizer.chunk_bound import ChunkBound, chunk_bound
    from pytest_trust.drift.kernels.divergence import kl_divergence
    from pytest_trust.drift.summary import Drift
    from pytest_trust.errors import InvalidInput, TrustError
    from pytest_trust.judges import Judgement, get_judge
    from pytest_trust.models.reference import Pair
    from pytest_trust.plugin.fixtures import Result, Trust
    from pytest_trust.probes import Gate, Message, Probe, Suite
    from pytest_trust.reasoning import Split, split_reasoning
    from pytest_trust.records import (
        BitsRecord,
        Breakdown,
        CandidateRecord,
        Capability,
        ChunkBoundRecord,
        CorrectedRate,
        DependenceChange,
        DimensionTax,
        DriftAuc,
        DriftOfOutcome,
        DriftRecord,
        DriftSummary,
        EnvironmentRecord,
        Flip,
        FlipSide,
        GateRecord,
        JudgeError,
        ModelRecord,
        RunRecord,
        Sequential,
        SideRecord,
        StoppedEarly,
        TextDriftRecord,
        Trace,
        TraceDependence,
        TraceDependenceRecord,
        TrustTax,
    )
    from pytest_trust.report.json_report import comparable, read_report, write_report
    from pytest_trust.stats.comparison import Comparison, compare_scores
    from pytest_trust.stats.estimates import Statistic


_MODULES = {
    "BitsPerByte": "drift.cross_tokenizer.bits_per_byte",
    "BitsRecord": "records",
    "Breakdown": "records",
    "CandidateRecord": "records",
    "Capability": "records",
    "ChunkBound": "drift.cross_tokenizer.chunk_bound",
    "ChunkBoundRecord": "records",
    "Comparison": "stats.comparison",
    "CorrectedRate": "records",
    "DependenceChange": "records",
    "DimensionTax": "records",
    "Drift": "drift.summary",
    "DriftAuc": "records",
    "DriftOfOutcome": "records",
    "DriftRecord": "records",
    "DriftSummary": "records",
    "EnvironmentRecord": "records",
    "Flip": "records",
    "FlipSide": "records",
    "Gate": "probes",
    "GateRecord": "records",
    "InvalidInput": "errors",
    "JudgeError": "records",
    "Judgement": "judges",
    "Message": "probes",
    "ModelRecord": "records",
    "Pair": "models.reference",
    "Probe": "probes",
    "Result": "plugin.fixtures",
    "RunRecord": "records",
    "Sequential": "records",
    "SideRecord": "records",
    "Split": "reasoning",
    "Statistic": "stats.estimates",
    "StoppedEarly": "records",
    "Suite": "probes",
    "TextDriftRecord": "records",
    "Trace": "records",
    "TraceDependence": "records",
    "TraceDependenceRecord": "records",
    "Trust": "plugin.fixtures",
    "TrustError": "errors",
    "TrustTax": "records",
    "bits_per_byte": "drift.cross_tokenizer.bits_per_byte",
    "chunk_bound": "drift.cross_tokenizer.chunk_bound",
    "comparable": "report.json_report",
    "compare_models": "drift.compare",
    "compare_scores": "stats.comparison",
    "get_judge": "judges",
    "kl_divergence": "drift.kernels.divergence",
    "load_suite": "catalog.files",
    "read_report": "report.json_report",
    "split_reasoning": "reasoning",
    "write_report": "report.json_report",
}

__all__ = [
    "BitsPerByte",
    "BitsRecord",
    "Breakdown",
    "CandidateRecord",
    "Capability",
    "ChunkBound",
    "ChunkBoundRecord",
    "Comparison",
    "CorrectedRate",
    "DependenceChange",
    "DimensionTax",
    "Drift",
    "DriftAuc",
    "DriftOfOutcome",
    "DriftRecord",
    "DriftSummary",
    "EnvironmentRecord",
    "Flip",
    "FlipSide",
    "Gate",
    "GateRecord",
    "InvalidInput",
    "JudgeError",
    "Judgement",
    "Message",
    "ModelRecord",
    "Pair",
    "Probe",
    "Result",
    "RunRecord",
    "Sequential",
    "SideRecord",
    "Split",
    "Statistic",
    "StoppedEarly",
    "Suite",
    "TextDriftRecord",
    "Trace",
    "TraceDependence",
    "TraceDependenceRecord",
    "Trust",
    "TrustError",
    "TrustTax",
    "bits_per_byte",
    "chunk_bound",
    "comparable",
    "compare_models",
    "compare_scores",
    "get_judge",
    "kl_divergence",
    "load_suite",
    "read_report",
    "split_reasoning",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
