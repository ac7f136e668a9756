"""What was measured of a pair on one job."""

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

    `candidate_baseline` is measured on the candidate's responses (p is the candidate), `baseline_candidate` on the baseline's (p is the
    baseline); for a choose job both are on the same option tokens. `floor`: the baseline against itself in another batch composition.
    `answer_without_trace`: KL(candidate || baseline) on the candidate's answers after a trace, KL(p_c(y | x, z) || p_b(y | x)): the candidate
    has read its own trace z, the baseline the prompt x alone.
    When a direction was not measured its mapping is empty and its reason says why in words. `texts`: of a pair with different tokenizers what
    there is in place of KL, by the side whose responses it is on (`pytest_trust.drift.cross_tokenizer.responses`).
    """

    candidate_baseline: Mapping[str, TokenDrift] = field(default_factory=dict)
    baseline_candidate: Mapping[str, TokenDrift] = field(default_factory=dict)
    floor: Mapping[str, TokenDrift] = field(default_factory=dict)
    answer_without_trace: Mapping[str, TokenDrift] = field(default_factory=dict)
    candidate_baseline_reason: str = ""
    baseline_candidate_reason: str = ""
    floor_reason: str = ""
    answer_without_trace_reason: str = ""
    identical: bool = False
    texts: Mapping[str, Sequence[TextDrift]] = field(default_factory=dict)
