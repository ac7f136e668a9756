"""What a run was asked for: the one frozen object that its options become."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_trust.models.reference import Reference


@dataclass(frozen=True)
class TrustConfig:
    """What was asked for: command line over ini over default. No candidate: nothing is compared."""

    baseline: Reference | None
    candidates: tuple[Reference, ...]
    suites: tuple[str, ...]
    profile: str
    policy: Path | None
    strict: bool
    plan: bool
    record: Path | None
    record_topk: int
    store: Path
    report: Path | None
    device: str | None
    dtype: str | None
    batch_size: int | None
    max_new_tokens: int | None
    seed: int
    limit: float | None
    redact: bool
    sequential: bool
    trust_remote_code: bool
    testpaths: tuple[str, ...] | None
    judges: tuple[str, ...] = ()
    """NAME=SPECIFICATION of each judge that stands for a built-in one; see `pytest_trust.judges.external`."""

    mutants: tuple[str, ...] | None = None
    """Names that `--trust-mutants` was given; none: those of the selected dimensions; None: it was not given."""

    data: Path | None = None
    """The folder that the original files of public benchmarks lie in."""

    accept_data_change: bool = False

    reasoning_budget: int | None = None
    """Tokens after which a reasoning trace is closed; the response's limit is then the answer's alone."""

    max_reasoning_tokens: int | None = None
    """Limit of a reasoning trace apart from the answer's; a longer one is truncated, not closed."""

    reasoning_tags: tuple[tuple[str, str], ...] = ()
    """(opening, closing) beside those that are known."""

    engine: str = "local"
    """Where the models run: in this process, or (`ray`) in actors on a Ray cluster."""
    template: str = "own"
    """Behind whose prompts drift is measured: each model's `own`, or the baseline's, `shared`."""

    offload: str = "none"
    """`layers`: of each model one decoder layer is in memory at a time."""

    @property
    def candidate(self) -> Reference | None:
        """The candidate, or the first of several."""
        return self.candidates[0] if self.candidates else None

    @property
    def spread(self) -> bool:
        """Whether a model is to lie over all GPUs."""
        given = (self.device, *(model.options.get("device") for model in (self.baseline, *self.candidates) if model))
        return "balanced" in given

    @property
    def compares(self) -> bool:
        """Whether this run compares a pair; otherwise it records one model or prints a plan."""
        return self.candidate is not None and self.record is None and not self.plan
