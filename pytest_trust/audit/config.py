"""A run's options as one frozen object."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_trust.models.decoding import Decoding
from pytest_trust.models.reference import Reference

if TYPE_CHECKING:
    from pytest_trust.judges import Judge


@dataclass(frozen=True)
class ReplacingJudge:
    """A judge that replaces a built-in one; see `pytest_trust.judges.external`."""

    name: str
    """The built-in judge that it replaces."""
    specification: str
    judge: Judge

    @property
    def model(self) -> str:
        """The model that judges, by its name or path."""
        return re.split("[?@]", self.specification.partition(":")[2])[0]


@dataclass(frozen=True)
class TrustConfig:
    """A run's options: the command line wins over the ini file, the ini file over the default.

    Without a candidate nothing is compared.
    """

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
    judges: tuple[ReplacingJudge, ...] = ()
    """The judges that replace built-in ones (`--trust-judge`)."""

    mutants: tuple[str, ...] | None = None
    """The names given to `--trust-mutants`. Empty: all of the selected dimensions. None: it was not given."""

    data: Path | None = None
    """The folder with the original files of public benchmarks."""

    accept_data_change: bool = False

    reasoning_budget: int | None = None
    """Tokens after which a reasoning trace is closed, so that the model answers."""

    max_reasoning_tokens: int | None = None
    """Most tokens of a reasoning trace, in place of the profile's; a longer trace is truncated, not closed."""

    reasoning_tags: tuple[tuple[str, str], ...] = ()
    """(opening, closing) pairs of tags, beside the built-in ones."""

    decoding: Decoding | None = None
    """How the next token is chosen (`models.decoding`); None where the policy says."""

    choices: str = ""
    """How choices are measured, one of `probes.CHOICES`; empty where the policy and the suites say."""

    engine: str = "local"
    """Where the models run: in this process (`local`), or in actors on a Ray cluster (`ray`)."""

    template: str = "own"
    """The chat template that drift is measured behind: each model's `own`, or the baseline's for both (`shared`)."""

    offload: str = "none"
    """`none`, or `layers`: one decoder layer of each model is in memory at a time."""

    @property
    def candidate(self) -> Reference | None:
        """The candidate, or the first of several."""
        return self.candidates[0] if self.candidates else None

    @property
    def spread(self) -> bool:
        """Whether a model is spread over all GPUs."""
        given = (self.device, *(model.options.get("device") for model in (self.baseline, *self.candidates) if model))
        return "balanced" in given

    @property
    def compares(self) -> bool:
        """Whether this run compares a pair; otherwise it records one model or prints a plan."""
        return self.candidate is not None and self.record is None and not self.plan
