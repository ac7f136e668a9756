"""The drift of a pair on one job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_trust.drift.cross_tokenizer.responses import TextDrift
    from pytest_trust.drift.summary import TokenDrift


@dataclass(frozen=True, slots=True)
class PairDrift:
    """Per-token divergences of a pair on the drift probes of a job, by probe id.

    A direction that was not measured has an empty mapping, and a reason in words.
    """

    candidate_baseline: Mapping[str, TokenDrift] = field(default_factory=dict)
    """KL(candidate || baseline) on the candidate's responses, or on the options of a choose job."""
    baseline_candidate: Mapping[str, TokenDrift] = field(default_factory=dict)
    """KL(baseline || candidate) on the baseline's responses, or on the options of a choose job."""
    floor: Mapping[str, TokenDrift] = field(default_factory=dict)
    """The baseline against itself in another batch composition, on its own responses or the options."""
    answer_without_trace: Mapping[str, TokenDrift] = field(default_factory=dict)
    """KL(p_c(y | x, z) || p_b(y | x)) on the candidate's answers y after a trace z.

    The candidate has read the prompt x and its own trace z; the baseline has read x alone.
    """
    candidate_baseline_reason: str = ""
    baseline_candidate_reason: str = ""
    floor_reason: str = ""
    answer_without_trace_reason: str = ""
    identical: bool = False
    """Whether baseline and candidate are the same model with the same prompts."""
    texts: Mapping[str, Sequence[TextDrift]] = field(default_factory=dict)
    """What takes the place of KL for a pair with different tokenizers (`drift.cross_tokenizer.responses`).

    The keys name whose responses it is measured on, `baseline` or `candidate`, or `options`.
    """
