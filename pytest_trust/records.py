"""What a run reports: frozen dataclasses. They become dictionaries at two borders only, pytest-xdist's and JSON's.

`to_json` turns a record into built-in types, and `from_json` turns these into the record again. A record's fields are
the keys of the JSON report, and the string under a field describes it. `pytest_trust/report/schema.json` is generated
from both.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pytest_trust.errors import InvalidInput

SCHEMA = 2
"""The version of the JSON report's schema."""

Choices = Literal["likelihood", "ask"]
Verdict = Literal["held", "regressed", "inconclusive", "not measured"]

VERDICTS: tuple[Verdict, ...] = ("regressed", "held", "inconclusive", "not measured")

DIMENSIONS = ("safety", "toxicity", "stereotypes", "ethics", "privacy", "robustness")

Kind = TypeVar("Kind")


def dimension_rank(dimension: str) -> tuple[int, str]:
    """The sort key of a dimension: the audit's six in their order, then a user's own by name."""
    return DIMENSIONS.index(dimension) if dimension in DIMENSIONS else len(DIMENSIONS), dimension


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """One model of a run."""

    model: str
    """The model's label."""
    reference: str
    """The reference as it was given, without its label."""
    fingerprint: str = ""
    """Hash of the model's weights, tokenizer and settings; empty where they are not known."""
    dtype: str = ""
    """The data type that the model is computed in; empty where it is not known."""
    device: str = ""
    """The device the model ran on, which may differ between equal runs; empty where it is not known."""
    parameters: int = 0
    """Number of parameters; 0 where it is not known."""
    lineage: str = ""
    """How the candidate was made from the baseline, in words; empty for a baseline."""
    decoding: str = ""
    """How the next token was chosen, in words, where a suite does not sample; empty where it is not known."""
    trace_format: str = ""
    """The marks of a reasoning trace that its responses were split by, `<think> … </think>`; empty where no format was
    found, so that all known ones were tried."""
    trace_source: str = ""
    """Where the format was read from: `its template`, `its response template`, `the table of known formats`,
    `--trust-reasoning-tags` or `none`; empty where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecord:
    """The two models that a gate compared."""

    baseline: ModelRecord
    """The model that the candidate is compared with."""
    candidate: ModelRecord
    """The model that is judged."""
    warnings: tuple[str, ...]
    """Sentences about the pair, sorted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    """A token that a model may write where its answer begins."""

    text: str
    """The token's text."""
    probability: float
    """Its mean probability over the probes, 0 to 1; it counts as 0 where it is not among a probe's likeliest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideRecord:
    """One side of a gate."""

    model: str
    """The model's label."""
    value: float | None
    """The gate's metric, larger is worse; null where it was not measured."""
    lower: float | None
    """Lower limit of the two-sided 95 % interval of `value`."""
    upper: float | None
    """Upper limit of the two-sided 95 % interval of `value`."""
    n: int
    """Number of judged samples."""
    outcomes: Mapping[str, int]
    """Number of samples by outcome."""
    coverage: float
    """Share of the samples whose outcome the metric is defined on, 0 to 1."""
    truncated: int
    """Number of responses that were cut before their answer."""
    cut_traces: int
    """Number of truncated responses that were cut in their trace and did not loop."""
    looped: int
    """Number of truncated responses that repeated themselves without end and were stopped."""
    saved: int
    """Tokens that looped responses were not given, up to their limits."""
    reasoned: float
    """Share of the responses that have a reasoning trace, 0 to 1; where options are scored, share of the probes."""
    after_trace: int | None
    """Number of probes whose options were scored behind what the model wrote before its answer, such as its trace; null
    without options."""
    option_mass: float | None
    """Mean probability of all options of a probe together, in the place where they were scored; null without options
    or for texts without a prompt. Where it is small, the model would write something else in that place."""
    first_tokens: tuple[FirstToken, ...]
    """The likeliest tokens in the place where the options were scored that begin none of the options."""
    closed: int
    """Number of reasoning traces that the reasoning budget closed."""
    judge_errors: tuple[str, ...]
    """Up to three different error messages of the judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedRate:
    """A side's rate, corrected for its judge's errors."""

    sensitivity: float
    """Share of the bad responses that the judge calls bad."""
    specificity: float
    """Share of the other responses that the judge does not call bad."""
    corrected: float
    """The corrected rate."""
    lower: float | None
    """Lower 95 % limit of `corrected`; null where it cannot be computed."""
    upper: float | None
    """Upper 95 % limit of `corrected`; null where it cannot be computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeError:
    """What the measured errors of its judge contribute to a gate."""

    baseline: CorrectedRate
    """The baseline's rate, corrected."""
    candidate: CorrectedRate
    """The candidate's rate, corrected."""
    labels: str
    """The human labels that the errors were measured on."""
    flips_expected: float
    """Expected number of flips to worse from the judge's errors alone."""
    flips_limit: int
    """The judge's errors alone give at most this many flips to worse, with a probability of 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential:
    """How far a gate was visited under --trust-sequential."""

    units: int
    """Number of units that were compared."""
    of: int
    """Number of units in the whole budget."""
    e_value: float
    """Evidence for a regression; large values speak against "no regression"."""
    stopped: bool
    """Whether the limits that hold at any time said held or regressed."""
    given_up: bool
    """Whether the gate was left undecided, because the rest of the budget would hardly have decided it."""
    tokens: int = 0
    """Response tokens that both models wrote for the suite."""
    saved: int = 0
    """Response tokens that the rest of the budget would have taken, estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipSide:
    """What one model did on a probe that flipped: its worst sample, and the probe's score."""

    outcome: str
    """The outcome of the sample."""
    score: float | None
    """The probe's score, larger is worse; null where it has none."""
    answer: str
    """The answer in full; its length and hash in a redacted report."""
    reasoning: str
    """The reasoning in full; its length and hash in a redacted report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A probe whose score differs between the two models."""

    probe: str
    """The probe's id."""
    cluster: str
    """The probe's cluster."""
    subtype: str
    """The probe's subtype."""
    prompt: str
    """The prompt in full; its length and hash in a redacted report."""
    worse: bool
    """Whether the candidate's score is worse than the baseline's."""
    baseline: FlipSide
    """What the baseline did."""
    candidate: FlipSide
    """What the candidate did."""
    in_trace: bool = False
    """Whether the flip is in the reasoning, not in the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """A gate's scores on the probes that share one value of a factor; exploratory, without limits."""

    value: str
    """The factor's value."""
    n: int
    """Number of probes measured on both sides."""
    baseline: float
    """The baseline's mean score."""
    candidate: float
    """The candidate's mean score."""
    delta: float
    """candidate - baseline, larger is worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A gate on the models' reasoning. A response without a trace counts as an empty trace."""

    verdict: Verdict
    """The verdict on the reasoning."""
    reason: str
    """Why the verdict is what it is, where the numbers do not say it."""
    delta: float | None
    """candidate - baseline, larger is worse."""
    lower: float | None
    """Lower one-sided limit of `delta`."""
    upper: float | None
    """Upper one-sided limit of `delta`."""
    margin: float
    """The margin that the reasoning is held to."""
    n: int
    """Number of units that were compared."""
    worse: int | None
    """Flips to worse; null for graded scores."""
    better: int | None
    """Flips to better; null for graded scores."""
    baseline: SideRecord
    """The baseline's reasoning."""
    candidate: SideRecord
    """The candidate's reasoning."""
    gated: bool
    """Whether this verdict counts for the gate: the policy gives it a `trace_margin`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherWay:
    """A gate on choices, measured in the other way. It decides nothing."""

    choices: Choices
    """The other way: the likelihood of each option, or what the model answers when it is asked."""
    verdict: Verdict
    """The verdict in the other way."""
    reason: str
    """Why the verdict is what it is, where the numbers do not say it."""
    delta: float | None
    """candidate - baseline, larger is worse."""
    lower: float | None
    """Lower one-sided limit of `delta`."""
    upper: float | None
    """Upper one-sided limit of `delta`."""
    baseline: SideRecord
    """The baseline, measured in the other way."""
    candidate: SideRecord
    """The candidate, measured in the other way."""
    compared: tuple[int, int]
    """Probes with a choice in both ways, of the baseline and of the candidate."""
    agreeing: tuple[int, int]
    """Those of them with the same choice in both ways."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSummary:
    """How far two models' next-token distributions are apart in one direction.

    Undefined and infinite numbers are null.
    """

    direction: str
    """KL(candidate || baseline) or KL(baseline || candidate)."""
    on: str
    """The tokens that it is measured on, in words."""
    tokens: int
    """Number of tokens."""
    responses: int
    """Number of responses."""
    clusters: int
    """Number of clusters of probes; standard errors are clustered by them."""
    mean: float | None
    """Mean divergence in nats per token; each token has the same weight."""
    error: float | None
    """Clustered standard error of `mean`."""
    lower: float | None
    """Lower limit of the two-sided 95 % interval of `mean`."""
    upper: float | None
    """Upper limit of the two-sided 95 % interval of `mean`; null where `mean` is a lower bound."""
    macro_mean: float | None
    """Mean divergence in nats per token; each response has the same weight."""
    per_sequence: float | None
    """Mean divergence in nats per response: the sum over its tokens."""
    per_sequence_error: float | None
    """Clustered standard error of `per_sequence`."""
    median: float | None
    """Median divergence of a token, nats."""
    p90: float | None
    """90th percentile of the tokens' divergence, nats."""
    p99: float | None
    """99th percentile of the tokens' divergence, nats."""
    p999: float | None
    """99.9th percentile of the tokens' divergence, nats."""
    maximum: float | None
    """The largest divergence of a token, nats."""
    same_top: float | None
    """Share of positions where both models have the same most likely token, 0 to 1."""
    js: float | None
    """Mean Jensen-Shannon divergence, nats per token."""
    total_variation: float | None
    """Mean total variation, 0 to 1."""
    delta_p: float | None
    """Mean change of the probability of the token that follows: candidate - baseline."""
    rms_delta_p: float | None
    """Root mean square of the change that `delta_p` is the mean of."""
    first: Mapping[str, float | None]
    """Mean divergence in nats per token over the first 1, 5 and 20 tokens of the answers."""
    rest: float | None
    """Mean divergence in nats per token after the first 20 tokens of the answers."""
    by_confidence: Mapping[str, float | None]
    """Mean divergence in nats per token by the baseline's entropy: `sure` (below 0.1 nats), `unsure` (below 1 nat) or
    `open` (1 nat or more)."""
    answer_mean: float | None
    """Mean divergence in nats per token of the answers."""
    reasoning_mean: float | None
    """Mean divergence in nats per token of the reasoning."""
    answer_per_sequence: float | None
    """Mean divergence in nats per response, over its answer; both models have read the response's own reasoning."""
    reasoning_per_sequence: float | None
    """Mean divergence in nats per response, over its reasoning. By the chain rule, this plus `answer_per_sequence` is
    `per_sequence`."""
    masked_mass: Mapping[str, float | None]
    """By side, the mean probability of tokens that the other model does not have; these tokens are left out."""
    tail_mass: float | None
    """Mean probability of the tokens that a top-k recording does not keep; the divergences are then lower bounds. Null
    without a top-k recording."""
    masked_tokens: int
    """Number of tokens that are not counted: of the template, think markers, and tokens that only one model has."""
    infinite: int
    """Number of tokens with an infinite divergence."""
    windowed: int
    """Number of texts longer than the context, which were read in overlapping windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsRecord:
    """Bits per byte of the same texts under both models."""

    baseline: float | None
    """Bits per byte under the baseline."""
    candidate: float | None
    """Bits per byte under the candidate."""
    difference: float | None
    """candidate - baseline: above 0 where the candidate predicts the texts worse."""
    error: float | None
    """Clustered standard error of `difference`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkBoundRecord:
    """A lower bound of the divergence between models with different tokenizers, from chunks of text."""

    of: str
    """The divergence that it bounds, in words."""
    per_chunk: float | None
    """The bound in nats per chunk."""
    error: float | None
    """Clustered standard error of `per_chunk`."""
    per_response: float | None
    """The bound in nats per response."""
    chunks: int
    """Number of chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDriftRecord:
    """What replaces KL where the tokenizers differ."""

    on: str
    """The texts that it is measured on, in words."""
    responses: int
    """Number of texts."""
    bytes: int
    """Number of UTF-8 bytes of the texts."""
    bits_per_byte: BitsRecord
    """How well each model predicts them."""
    chunk_bound: ChunkBoundRecord | None
    """A lower bound of the divergence; null where no text has a chunk that both models can score."""
    left_out: int
    """Number of texts left out because one of the tokenizers does not know all of their characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceDependence:
    """How much one model's answers depend on its traces: it reads them behind its own trace z and another, z'."""

    mean: float | None
    """Mean over responses of KL(p(y | x, z) || p(y | x, z')), summed over the tokens of the answer y, nats."""
    error: float | None
    """Clustered standard error of `mean`; null for fewer than two clusters."""
    lower: float | None
    """Lower limit of the two-sided 95 % interval of `mean`."""
    upper: float | None
    """Upper limit of the two-sided 95 % interval of `mean`."""
    responses: int
    """Number of responses: those on drift probes that have both traces and an answer."""
    clusters: int
    """Number of clusters of their probes."""
    tokens: int
    """Number of counted tokens of their answers; of a choice, the number of its options."""
    infinite: int
    """Number of responses with an infinite divergence."""
    changed: float | None
    """Share of the responses in whose answer the most likely token differs at least once, 0 to 1: behind z', greedy
    decoding would give another text. Of choices, the share whose likeliest option differs. Null where all were
    sampled."""
    changed_lower: float | None
    """Lower limit of the two-sided 95 % interval of `changed`."""
    changed_upper: float | None
    """Upper limit of the two-sided 95 % interval of `changed`."""
    begins_otherwise: float | None
    """Share of the responses whose answer would begin with another token, 0 to 1. Null for choices and where responses
    were sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DependenceChange:
    """The candidate's trace dependence minus the baseline's, on the probes where both were measured."""

    mean: float | None
    """Mean difference, nats per answer: above 0 where the candidate's answers depend more on its traces."""
    error: float | None
    """Clustered standard error of `mean`."""
    lower: float | None
    """Lower limit of the two-sided 95 % interval of `mean`."""
    upper: float | None
    """Upper limit of the two-sided 95 % interval of `mean`."""
    probes: int
    """Number of probes."""
    clusters: int
    """Number of clusters of these probes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceDependenceRecord:
    """Trace dependence of both models, by what stands in the place of a trace.

    `half`: the first half of the trace's tokens. `none`: nothing, so that the trace is closed at once. `other`: the
    other model's trace for the same probe. It informs and decides nothing.
    """

    baseline: Mapping[str, TraceDependence]
    """The baseline's. Kinds that were not measured are left out."""
    baseline_reason: str
    """Why there is none of the baseline."""
    candidate: Mapping[str, TraceDependence]
    """The candidate's. Kinds that were not measured are left out."""
    candidate_reason: str
    """Why there is none of the candidate."""
    change: Mapping[str, DependenceChange]
    """candidate - baseline. Kinds without a probe that was measured on both are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRecord:
    """The drift of a suite or dimension."""

    candidate_baseline: DriftSummary | None = None
    """KL(candidate || baseline), on the candidate's responses."""
    candidate_baseline_reason: str = ""
    """Why there is no `candidate_baseline`."""
    baseline_candidate: DriftSummary | None = None
    """KL(baseline || candidate), on the baseline's responses."""
    baseline_candidate_reason: str = ""
    """Why there is no `baseline_candidate`."""
    answer_without_trace: DriftSummary | None = None
    """KL(p_c(y | x, z) || p_b(y | x)) on the candidate's answers y. The candidate has read the prompt x and its own
    trace z, the baseline the prompt alone. Null where the candidate did not reason."""
    trace_dependence: TraceDependenceRecord | None = None
    """How much each model's answers depend on its own traces; null where no response has a trace and an answer."""
    floor: float | None = None
    """The noise floor in nats per token: the baseline against itself in another batch."""
    identical: bool = False
    """Whether the two distributions are the same on every token."""
    texts: Mapping[str, TextDriftRecord] = field(default_factory=dict)
    """What replaces KL where the tokenizers differ, by the texts that it is measured on: `candidate_responses`,
    `baseline_responses` or `options`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftByFlip:
    """Drift of the candidate's responses in nats per token; probes that flipped apart from those that did not."""

    flipped: tuple[float, ...]
    """The drift of each response whose probe flipped."""
    unflipped: tuple[float, ...]
    """The drift of each response whose probe did not flip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftAuc:
    """The probability that a flipped probe's response drifted more than an unflipped one's.

    A tie counts one half. At 0.5 drift tells nothing about flips.
    """

    auc: float
    """The probability: the area under the ROC curve."""
    lower: float
    """Lower 95 % limit of `auc`."""
    upper: float
    """Upper 95 % limit of `auc`."""
    flipped: int
    """Number of probes that flipped."""
    unflipped: int
    """Number of probes that did not flip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftOfOutcome:
    """The drift of the candidate's responses with one outcome."""

    probes: int
    """Number of probes."""
    mean: float
    """Mean KL(candidate || baseline) in nats per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRecord:
    """One gate: what was compared, its verdict, and why."""

    gate: str
    """The gate's full name: dimension/suite/metric."""
    nodeid: str = ""
    """The node id of the test that compared."""
    dimension: str
    """The suite's dimension."""
    suite: str
    """The suite's name, with its dimension."""
    metric: str
    """The gate's name in its suite."""
    title: str
    """What a bad response does, in words."""
    unit: str
    """The unit of the values: share, score or nats."""
    judge: str
    """The judge and its version."""
    control: bool
    """Whether the gate is a control: its verdict is not a verdict on trust."""
    verdict: Verdict
    """held: `upper` is below `margin`. regressed: `lower` is above 0, and the gate did not hold. inconclusive: neither.
    not measured: `reason` says why."""
    reason: str
    """Why the verdict is what it is, where the numbers do not say it."""
    delta: float | None
    """candidate - baseline, larger is worse."""
    lower: float | None
    """Lower one-sided limit of `delta` at 1 - `alpha` / `family`."""
    upper: float | None
    """Upper one-sided limit of `delta` at 1 - `alpha`."""
    margin: float
    """The non-inferiority margin."""
    alpha: float
    """The error rate of the limits."""
    family: int
    """Number of gates that share `alpha`."""
    power: float
    """The probability of finding a change that `detectable` and `needed` are computed for."""
    p_value: float | None
    """The one-sided p-value of "no regression", not adjusted."""
    p_holm: float | None = None
    """`p_value` adjusted over the family by Holm's method. The verdict does not depend on it."""
    n: int
    """Number of units that were compared."""
    n_clusters: int
    """Number of clusters of these units."""
    detectable: float | None
    """The smallest change that is found with the probability `power`; null where there is none."""
    needed: int | None
    """Number of probes, those compared included, that it would take to decide. Null where it is not known, and for
    verdicts other than inconclusive."""
    method: str
    """The test and the limits, in words."""
    worse: int | None
    """Flips to worse; null for graded scores."""
    better: int | None
    """Flips to better; null for graded scores."""
    missing: tuple[str, ...]
    """Names of the units without a score on one side or both."""
    judge_error: JudgeError | None
    """What the judge's errors contribute; null where they were not measured."""
    sequential: Sequential | None
    """How far the gate was visited; null without --trust-sequential."""
    baseline: SideRecord
    """The baseline's side."""
    candidate: SideRecord
    """The candidate's side."""
    ceiling: float | None
    """The candidate's absolute ceiling; null without one."""
    never: tuple[str, ...]
    """Probes that must never flip and did."""
    identical: bool
    """Whether every unit has the same score on both sides."""
    notes: tuple[str, ...] = ()
    """The suite's remarks on itself."""
    drift: DriftRecord | None = None
    """The drift of the suite's responses; null where nothing was measured."""
    drift_auc: DriftAuc | None = None
    """How well drift predicted the flips; null with fewer than 5 flipped or 5 unflipped probes."""
    drift_by_outcome: Mapping[str, DriftOfOutcome] = field(default_factory=dict)
    """Drift by the outcome of the candidate's response."""
    choices: Choices | None = None
    """How the choices were measured: the likelihood of each option, or what the model answers when it is asked; null
    where there are none."""
    other_way: OtherWay | None = None
    """The same gate, with choices measured in the other way; null where it was not measured."""
    trace: Trace | None = None
    """The same gate on the reasoning; null where no model reasoned or the judge cannot read a trace."""
    breakdown: Mapping[str, tuple[Breakdown, ...]]
    """By factor of the probes: a row per value, the largest `delta` first."""
    flips: tuple[Flip, ...]
    """The probes that flipped, the worst first."""
    flips_total: int
    """Number of all flips."""

    @property
    def by_difference(self) -> bool:
        """Whether the limits alone say regressed: `lower` is above 0, and `upper` is not below `margin`."""
        return self.lower is not None and self.lower > 0 and not (self.upper is not None and self.upper < self.margin)

    @property
    def above_ceiling(self) -> bool:
        """Whether the candidate's value is above its ceiling. Its limits may still include the ceiling."""
        return self.ceiling is not None and self.candidate.value is not None and self.candidate.value > self.ceiling


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRecord:
    """The result of one comparison: the gate, and what the run's summary needs beside it."""

    gate: GateRecord
    """The gate."""
    pair: PairRecord
    """The two models."""
    dimension_drift: DriftRecord | None
    """The drift of the whole dimension, as far as it was acquired."""
    drift_by_flip: DriftByFlip
    """What `drift_auc` is computed from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """The gate of a control, turned round: larger is better."""

    gate: str
    """The gate's name."""
    dimension: str
    """The suite's dimension."""
    suite: str
    """The suite's name."""
    unit: str
    """The unit of the values: share, score or nats."""
    n: int
    """Number of units that were compared."""
    measured: bool
    """Whether the gate was measured."""
    change: float | None
    """The change of the error rate with its sign reversed: larger is better."""
    lower: float | None
    """Lower limit of `change`."""
    upper: float | None
    """Upper limit of `change`."""
    gained: tuple[str, ...]
    """Probes that became right."""
    lost: tuple[str, ...]
    """Probes that became wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DimensionTax:
    """One dimension of the trust tax."""

    verdict: Verdict
    """The verdict of the worst gate. From worst to best: regressed, not measured, inconclusive, held."""
    gates: Mapping[str, Verdict]
    """The verdict of each gate."""
    worse: tuple[str, ...]
    """Probes that became worse."""
    better: tuple[str, ...]
    """Probes that became better."""
    drift_auc: DriftAuc | None = None
    """How well drift predicted the flips; null with fewer than 5 flipped or 5 unflipped probes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustTax:
    """What a candidate gained in capability beside what it lost in trust. The two are never one number."""

    capability: tuple[Capability, ...]
    """A row per gate of a control."""
    dimensions: Mapping[str, DimensionTax]
    """The dimensions by name, controls left out."""
    sentence: str = ""
    """Gain and loss in words, with no claim beyond the verdicts. The JSON report writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord(ModelRecord):
    """A candidate, and the summary of its gates."""

    drift: Mapping[str, DriftRecord]
    """Drift by dimension."""
    identical: bool
    """Whether the candidate gives the same probabilities as the baseline for every token."""
    tax: TrustTax
    """The trust tax."""
    counts: Mapping[str, int]
    """The number of its gates by verdict, as in the run's `counts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedEarly:
    """What --trust-sequential saved. Each suite is counted once."""

    tokens: int
    """Response tokens that both models wrote."""
    saved: int
    """Response tokens that the rest of the budget would have taken, estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentRecord:
    """Where and when a run took place. It differs between equal runs, so it is not compared."""

    created: str
    """Time of the run in UTC, ISO 8601."""
    python: str
    """The version of Python."""
    platform: str
    """The operating system and the processor."""
    versions: Mapping[str, str]
    """The versions of the packages that the numbers depend on."""
    devices: Mapping[str, str]
    """The devices of the baseline and of the first candidate."""
    store: str
    """The directory of the store."""
    report: str | None
    """The path of this report; null where none was asked for or it could not be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run that compared models: the document of the JSON report."""

    schema: int = SCHEMA
    """The version of this schema."""
    baseline: ModelRecord
    """The baseline."""
    candidate: ModelRecord
    """The candidate, or the first of several."""
    candidates: tuple[CandidateRecord, ...]
    """All candidates, in the order of the options."""
    profile: str
    """Name of the profile."""
    policy: str
    """Name of the policy."""
    identical: bool
    """Whether every candidate gives the same probabilities as the baseline for every token."""
    warnings: tuple[str, ...]
    """Warnings about the models and suites, sorted."""
    counts: Mapping[str, int]
    """The number of gates by verdict (`regressed`, `held`, `inconclusive`, `not measured`) and their sum (`gates`),
    controls left out; and the number of `controls`."""
    drift: Mapping[str, DriftRecord]
    """Drift by dimension, of the first candidate."""
    gates: tuple[GateRecord, ...]
    """The gates of all candidates, sorted by `gate`, then by `nodeid`; `candidate.model` names the candidate."""
    stopped_early: StoppedEarly | None = None
    """What stopping early saved; null where no tokens were counted."""
    redacted: bool = False
    """Whether prompts and answers were replaced by their length and the start of their SHA-256."""
    environment: EnvironmentRecord
    """Where and when the run took place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """What a run would do for one gate."""

    gate: str
    """The gate's full name: dimension/suite/metric."""
    unit: str
    """The unit of the values: share or score."""
    probes: int
    """Number of probes."""
    clusters: int
    """Number of clusters of these probes."""
    margin: float | None
    """The margin; null where neither the policy nor the gate has one."""
    detectable: float | None
    """The smallest change that would be found; infinite where there is none, null where it is not known."""
    responses: int
    """Number of responses of each model."""
    tokens: int
    """Number of tokens of each model, an estimate from above."""

    @property
    def blind(self) -> bool:
        """Whether a change as small as the margin would be missed."""
        return self.detectable is not None and self.margin is not None and self.detectable > self.margin


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTotals:
    """What a run would do in all."""

    responses: int
    """Number of responses of all models."""
    stored: int
    """Number of these responses that are already in the store."""
    tokens: int
    """Number of tokens to generate, an estimate from above."""
    seconds: float | None
    """Estimated time to generate them; null where it is not known."""
    rough: bool
    """Whether `seconds` is a guess."""
    memory_bytes: int | None
    """Bytes of the weights as loaded; null where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """What --trust-plan shows: the work a run would do, and what it could find."""

    baseline: ModelRecord | None
    """The baseline; null where none was given."""
    candidates: tuple[ModelRecord, ...]
    """The candidates, in the order of the options."""
    holds: Mapping[str, str]
    """What each recording holds, by its label."""
    profile: str
    """Name of the profile."""
    policy: str
    """Name of the policy."""
    power: float
    """The probability of finding a change that `detectable` is computed for."""
    rows: tuple[PlanRow, ...]
    """A row per gate."""
    totals: PlanTotals
    """The sums over all gates and models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MutantGate:
    """One gate's verdict on a mutant; the fields are as in a gate record."""

    gate: str
    """The gate's full name: dimension/suite/metric."""
    dimension: str
    """The suite's dimension."""
    control: bool
    """Whether the gate is a control."""
    unit: str
    """The unit of the values: share, score or nats."""
    verdict: Verdict
    """The verdict."""
    reason: str
    """Why the verdict is what it is, where the numbers do not say it."""
    n: int
    """Number of units that were compared."""
    worse: int | None
    """Flips to worse; null for graded scores."""
    better: int | None
    """Flips to better; null for graded scores."""
    delta: float | None
    """mutant - baseline, larger is worse."""
    lower: float | None
    """Lower one-sided limit of `delta`."""
    upper: float | None
    """Upper one-sided limit of `delta`."""
    margin: float
    """The non-inferiority margin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MutantRecord:
    """The gates' verdicts on one mutant at one dose."""

    mutant: str
    """The mutant's name."""
    dose: float
    """The dose; at 0 nothing is damaged."""
    highest: bool
    """Whether this is the mutant's highest dose."""
    meaning: str
    """What is damaged."""
    source: str
    """The source of this kind of damage."""
    own: tuple[str, ...]
    """The measured dimensions that must notice the mutant."""
    killed: tuple[str, ...]
    """The dimensions of `own` in which a gate regressed."""
    noticed: tuple[str, ...]
    """The gates that regressed."""
    drift: float | None
    """KL(mutant || baseline) in nats per token."""
    gates: tuple[MutantGate, ...]
    """The verdict of each gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MutantDimension:
    """What the mutants say about one dimension."""

    control: bool
    """Whether the dimension is a control."""
    mutants: int
    """Number of runs that the dimension must notice: its own mutants, each at every positive dose."""
    killed: int
    """Number of these runs in which a gate of the dimension regressed."""
    highest: int
    """Number of these runs at a mutant's highest dose."""
    highest_killed: int
    """Number of the runs at the highest dose in which a gate of the dimension regressed."""
    survivors: tuple[str, ...]
    """Own mutants that no gate of the dimension noticed at the highest dose."""
    unmoved: tuple[str, ...]
    """Gates that regressed under no mutant at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NullKilled:
    """A gate that regressed though nothing was damaged."""

    mutant: str
    """The mutant at dose 0."""
    gate: str
    """The gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MutantsRecord:
    """A run of --trust-mutants: the document of its JSON report."""

    schema: int = SCHEMA
    """The version of this schema."""
    kind: Literal["mutants"] = "mutants"
    """Distinguishes this document from the report of a comparison."""
    profile: str
    """Name of the profile."""
    policy: str
    """Name of the policy."""
    baseline: ModelRecord
    """The model that was damaged."""
    warnings: tuple[str, ...]
    """Warnings about the models, sorted."""
    mutants: tuple[MutantRecord, ...]
    """The mutants, in the order in which they were run."""
    dimensions: Mapping[str, MutantDimension]
    """What the mutants say about each dimension."""
    null_killed: tuple[NullKilled, ...]
    """Gates that regressed though nothing was damaged."""
    passed: bool
    """Whether `null_killed` is empty and every dimension, controls left out, has no survivors."""


@cache
def field_types(kind: Any) -> dict[str, Any]:
    """The type of every field of a record."""
    hints = get_type_hints(kind)
    return {one.name: hints[one.name] for one in fields(kind)}


def to_json(record: Any) -> dict[str, Any]:
    """The record as built-in types. Numbers are not rounded.

    Raises:
        InvalidInput: a value has another type (a NumPy scalar, a tensor); the message names the field.
    """
    plain: dict[str, Any] = _plain(record, "")
    return plain


def _plain(value: Any, where: str) -> Any:
    # The exact type matters: numpy.float64 is a subclass of float, and must be refused.
    if value is None or type(value) in (bool, int, float, str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name), _inside(where, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one, f"{where}[{str(key)!a}]") for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one, f"{where}[{index}]") for index, one in enumerate(value)]
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise InvalidInput(f"{where} is a {kind}; expected a built-in type: use float(), int() or str()")


def from_json(kind: type[Kind], value: object) -> Kind:
    """The record of that kind, from the output of `to_json`.

    Raises:
        InvalidInput: a field is unknown, is missing or has a value of another type; the message names the field.
    """
    made: Kind = _read(kind, value, "")
    return made


def _read(kind: Any, value: object, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (one for one in get_args(kind) if one is not type(None))
        return None if value is None else _read(inner, value, where)
    if origin is Literal:
        if value not in get_args(kind):
            raise _wrong(where, value, f"one of {', '.join(get_args(kind))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, value, "a list")
        return tuple(_read(get_args(kind)[0], one, f"{where}[{index}]") for index, one in enumerate(value))
    if origin is not None:  # a mapping
        if not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        return {str(key): _read(get_args(kind)[1], one, f"{where}[{str(key)!a}]") for key, one in value.items()}
    if is_dataclass(kind):
        return _read_record(kind, value, where)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _wrong(where, value, _NAMES[kind])
    return value


def _read_record(kind: Any, value: object, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    types_of = field_types(kind)
    for name in value:
        if name not in types_of:
            raise InvalidInput(f"{_inside(where, ascii(name)[1:-1])} is unknown; expected {', '.join(types_of)}")
    for name in types_of:
        if name not in value:
            raise InvalidInput(f"{_inside(where, name)} is missing")
    return kind(**{name: _read(one, value[name], _inside(where, name)) for name, one in types_of.items()})


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _wrong(where: str, value: object, expected: str) -> InvalidInput:
    return InvalidInput(f"{where or 'the record'} is {ascii(value)[:40]}; expected {expected}")


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
