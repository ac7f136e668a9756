"""What a run reports: frozen dataclasses, made once and never changed. Dictionaries exist at two borders, pytest-xdist's and JSON's.

`to_json` turns a record into built-in types, `from_json` turns these into the record again. A record's fields are the keys of the JSON
report; the string under a field says what it is, and `pytest_trust/report/schema.json` is generated from both.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pytest_trust.errors import InvalidInput

SCHEMA = 2
"""The number of the JSON report's schema."""

Verdict = Literal["held", "regressed", "inconclusive", "not measured"]

VERDICTS: tuple[Verdict, ...] = ("regressed", "held", "inconclusive", "not measured")

DIMENSIONS = ("safety", "toxicity", "stereotypes", "ethics", "privacy", "robustness")

Kind = TypeVar("Kind")


def dimension_rank(dimension: str) -> tuple[int, str]:
    """The place of a dimension: the audit's six in their order, then a user's own by name."""
    return DIMENSIONS.index(dimension) if dimension in DIMENSIONS else len(DIMENSIONS), dimension


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """One model of a run."""

    model: str
    """Its label."""
    reference: str
    """The reference as it was given, without its label."""
    fingerprint: str = ""
    """Hash of its weights, tokenizer and settings; empty where it is not known."""
    dtype: str = ""
    """The type its weights are computed in; empty where it is not known."""
    device: str = ""
    """Where it ran; may change from run to run. Empty where it is not known."""
    parameters: int = 0
    """Number of parameters; 0 where its files, or its server, do not tell."""
    lineage: str = ""
    """How the candidate was made from the baseline, in words; empty for a baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecord:
    """The two models that a gate compared."""

    baseline: ModelRecord
    """The model that is compared with."""
    candidate: ModelRecord
    """The model that is judged."""
    warnings: tuple[str, ...]
    """Sentences about the pair, sorted."""


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
    """Share of the samples that count, 0 to 1."""
    truncated: int
    """Responses that were cut before their answer."""
    closed: int
    """Traces that the reasoning budget closed."""
    judge_errors: tuple[str, ...]
    """The first three different errors of the judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedRate:
    """A side's rate, corrected for its judge's errors."""

    sensitivity: float
    """Share of the bad responses that the judge calls bad."""
    specificity: float
    """Share of the others that it does not call bad."""
    corrected: float
    """The corrected rate."""
    lower: float | None
    """Its lower 95 % limit; null where it cannot be had."""
    upper: float | None
    """Its upper 95 % limit; null where it cannot be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeError:
    """What a gate owes to the measured errors of its judge."""

    baseline: CorrectedRate
    """The baseline's rate, corrected."""
    candidate: CorrectedRate
    """The candidate's rate, corrected."""
    labels: str
    """The human labels that the errors were measured on."""
    flips_expected: float
    """Flips to worse that the judge's errors alone would give."""
    flips_limit: int
    """So many flips are not exceeded by them with a probability of 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential:
    """How far a gate was visited under --trust-sequential."""

    units: int
    """Units that were compared."""
    of: int
    """Units of the whole budget."""
    e_value: float
    """Evidence for a regression; large values speak against "no regression"."""
    stopped: bool
    """Whether it was known early."""
    given_up: bool
    """Whether the rest of the budget would hardly have decided it."""
    tokens: int = 0
    """Response tokens that both models wrote for the suite."""
    saved: int = 0
    """About how many more the whole budget would have taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipSide:
    """What one model did on a probe that flipped: the sample that speaks for it."""

    outcome: str
    """The outcome of the sample."""
    score: float | None
    """The probe's score, larger is worse; null where it has none."""
    answer: str
    """The answer in full, or its length and hash."""
    reasoning: str
    """The reasoning in full, or its length and hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A probe whose score moved."""

    probe: str
    """The probe's id."""
    cluster: str
    """The probe's cluster."""
    subtype: str
    """The probe's subtype."""
    prompt: str
    """The prompt in full, or its length and hash."""
    worse: bool
    """Whether the candidate's score is the worse one."""
    baseline: FlipSide
    """What the baseline did."""
    candidate: FlipSide
    """What the candidate did."""
    in_trace: bool = False
    """Whether it flipped in the reasoning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """A gate on the probes that share one value of a factor; exploratory."""

    value: str
    """The factor's value."""
    n: int
    """Probes measured on both sides."""
    baseline: float
    """The baseline's mean score."""
    candidate: float
    """The candidate's mean score."""
    delta: float
    """candidate - baseline, larger is worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A gate on the models' reasoning. A response without a trace has said nothing in it."""

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
    """The margin it is held to."""
    n: int
    """Units that were compared."""
    worse: int | None
    """Flips to worse; null for graded scores."""
    better: int | None
    """Flips to better; null for graded scores."""
    baseline: SideRecord
    """The baseline's reasoning."""
    candidate: SideRecord
    """The candidate's reasoning."""
    gated: bool
    """Whether the policy holds the gate to it, by a `trace_margin`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSummary:
    """How far two models' next-token distributions are apart in one direction. A number that is undefined or infinite is null."""

    direction: str
    """KL(candidate || baseline) or KL(baseline || candidate)."""
    on: str
    """The text it is measured on, in words."""
    tokens: int
    """Number of tokens."""
    responses: int
    """Number of responses."""
    clusters: int
    """Number of clusters of probes; the errors are taken over them."""
    mean: float | None
    """Nats per token, each token counting the same."""
    error: float | None
    """Clustered standard error of `mean`."""
    lower: float | None
    """Lower limit of the two-sided 95 % interval of `mean`."""
    upper: float | None
    """Upper limit of the two-sided 95 % interval of `mean`; null for a lower bound."""
    macro_mean: float | None
    """Nats per token, each response counting the same."""
    per_sequence: float | None
    """Nats per response."""
    per_sequence_error: float | None
    """Clustered standard error of `per_sequence`."""
    median: float | None
    """Median over tokens, nats."""
    p90: float | None
    """90th percentile over tokens, nats."""
    p99: float | None
    """99th percentile over tokens, nats."""
    p999: float | None
    """99.9th percentile over tokens, nats."""
    maximum: float | None
    """The largest token's divergence, nats."""
    same_top: float | None
    """Share of tokens whose most likely token is the same."""
    js: float | None
    """Mean Jensen-Shannon divergence, nats per token."""
    total_variation: float | None
    """Mean total variation, 0 to 1."""
    delta_p: float | None
    """Mean change of the probability of the token that follows, candidate - baseline."""
    rms_delta_p: float | None
    """Root mean square of that change."""
    first: Mapping[str, float | None]
    """Nats per token over the first 1, 5 and 20 tokens of the answers."""
    rest: float | None
    """Nats per token after the first 20 tokens of the answers."""
    by_confidence: Mapping[str, float | None]
    """Nats per token where the baseline was `sure` (entropy below 0.1 nats), `unsure` (below 1) and `open`."""
    answer_mean: float | None
    """Nats per token of the answers."""
    reasoning_mean: float | None
    """Nats per token of the reasoning."""
    answer_per_sequence: float | None
    """Nats per response in its answer, both models having read the response's own reasoning."""
    reasoning_per_sequence: float | None
    """Nats per response in its reasoning; with `answer_per_sequence` it adds up to `per_sequence` (chain rule)."""
    masked_mass: Mapping[str, float | None]
    """Mean probability that each side puts on tokens the other does not have, left out."""
    tail_mass: float | None
    """Mean probability beyond what a top-k recording keeps: the divergences are lower bounds. Null elsewhere."""
    masked_tokens: int
    """Tokens that are not counted: template, think markers, those only one side has."""
    infinite: int
    """Tokens with an infinite divergence."""
    windowed: int
    """Texts longer than the context, read in overlapping windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsRecord:
    """Bits per byte of the same texts under both models."""

    baseline: float | None
    """Under the baseline."""
    candidate: float | None
    """Under the candidate."""
    difference: float | None
    """candidate - baseline: above 0 where the candidate predicts the texts worse."""
    error: float | None
    """Clustered standard error of `difference`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkBoundRecord:
    """The chunk-level lower bound of a divergence between models with different tokenizers."""

    of: str
    """What it is a lower bound of, in words."""
    per_chunk: float | None
    """Nats per chunk."""
    error: float | None
    """Clustered standard error of `per_chunk`."""
    per_response: float | None
    """Nats per response."""
    chunks: int
    """Number of chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDriftRecord:
    """What stands in place of KL where the tokenizers differ."""

    on: str
    """The texts it is measured on, in words."""
    responses: int
    """Number of texts."""
    bytes: int
    """Their UTF-8 bytes."""
    bits_per_byte: BitsRecord
    """How well each model predicts them."""
    chunk_bound: ChunkBoundRecord | None
    """A lower bound of the divergence; null where no chunk could be had."""
    left_out: int
    """Texts that one of the tokenizers does not know all of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRecord:
    """The drift of a suite or dimension."""

    candidate_baseline: DriftSummary | None = None
    """KL(candidate || baseline), on the candidate's responses."""
    candidate_baseline_reason: str = ""
    """Why there is none."""
    baseline_candidate: DriftSummary | None = None
    """KL(baseline || candidate), on the baseline's responses."""
    baseline_candidate_reason: str = ""
    """Why there is none."""
    answer_without_trace: DriftSummary | None = None
    """KL(p_c(y | x, z) || p_b(y | x)) on the candidate's answers y: the candidate has read its trace z, the baseline the prompt x alone.
    Null where the candidate did not reason."""
    floor: float | None = None
    """The noise floor: the baseline against itself in another batch, nats per token."""
    identical: bool = False
    """Whether the two distributions are the same on every token."""
    texts: Mapping[str, TextDriftRecord] = field(default_factory=dict)
    """Where the tokenizers differ: by the texts (`candidate_responses`, `baseline_responses`, `options`) what stands in place of KL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftByFlip:
    """Drift of the candidate's responses, nats per token, apart for probes that flipped and probes that did not."""

    flipped: tuple[float, ...]
    """A number per response whose probe flipped."""
    unflipped: tuple[float, ...]
    """A number per response whose probe did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftAuc:
    """The probability that a flipped probe's response drifted more than an unflipped one's, ties half; 0.5 tells nothing."""

    auc: float
    """The probability: the area under the ROC curve."""
    lower: float
    """Its lower 95 % limit."""
    upper: float
    """Its upper 95 % limit."""
    flipped: int
    """Probes that flipped."""
    unflipped: int
    """Probes that did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftOfOutcome:
    """The drift of the candidate's responses with one outcome."""

    probes: int
    """Number of probes."""
    mean: float
    """Nats per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRecord:
    """One gate: what was compared, what came out, and why."""

    gate: str
    """dimension/suite/metric."""
    nodeid: str = ""
    """The test that compared."""
    dimension: str
    """The suite's dimension."""
    suite: str
    """The suite's name, with its dimension."""
    metric: str
    """The gate's name in its suite."""
    title: str
    """What a bad response does, in words."""
    unit: str
    """share, score or nats."""
    judge: str
    """The judge and its version."""
    control: bool
    """Whether it is a control, and so no verdict on trust."""
    verdict: Verdict
    """held: `upper` is below `margin`. regressed: `lower` is above 0, and not held. inconclusive: neither. not measured: `reason` says why."""
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
    """The error rate."""
    family: int
    """Number of gates that share `alpha`."""
    power: float
    """The probability that `detectable` and `needed` are for."""
    p_value: float | None
    """One-sided, of "no regression"; not adjusted."""
    p_holm: float | None = None
    """`p_value` adjusted over the family by Holm's method; decides nothing."""
    n: int
    """Units that were compared."""
    n_clusters: int
    """Their clusters."""
    detectable: float | None
    """The smallest change that is found with the probability `power`; null where none is."""
    needed: int | None
    """Probes it would take to tell; null unless inconclusive."""
    method: str
    """The test and the limits, in words."""
    worse: int | None
    """Flips to worse; null for graded scores."""
    better: int | None
    """Flips to better; null for graded scores."""
    missing: tuple[str, ...]
    """Units without a score on a side."""
    judge_error: JudgeError | None
    """What the gate owes to its judge's errors; null where they were not measured."""
    sequential: Sequential | None
    """How far it was visited; null without --trust-sequential."""
    baseline: SideRecord
    """The baseline's side."""
    candidate: SideRecord
    """The candidate's side."""
    ceiling: float | None
    """The candidate's absolute ceiling; null without one."""
    never: tuple[str, ...]
    """Probes that must never flip and did."""
    identical: bool
    """Whether every pair has the same scores."""
    notes: tuple[str, ...] = ()
    """What the suite says of itself."""
    drift: DriftRecord | None = None
    """The drift of the suite's responses; null where nothing was measured."""
    drift_auc: DriftAuc | None = None
    """Whether drift predicted the flips; null below 5 probes a side."""
    drift_by_outcome: Mapping[str, DriftOfOutcome] = field(default_factory=dict)
    """Drift by the outcome of the candidate's response."""
    trace: Trace | None = None
    """The same gate on the reasoning; null where no model reasoned or the judge cannot read a trace."""
    breakdown: Mapping[str, tuple[Breakdown, ...]]
    """By factor of the probes a row per value, the largest `delta` first."""
    flips: tuple[Flip, ...]
    """The probes that flipped, the worst first."""
    flips_total: int
    """Number of flips."""

    @property
    def by_difference(self) -> bool:
        """The limits alone say regressed: the lower one is above 0, and the upper one is not below the margin."""
        return self.lower is not None and self.lower > 0 and not (self.upper is not None and self.upper < self.margin)

    @property
    def above_ceiling(self) -> bool:
        """The candidate's value is above its ceiling, whether or not that is shown."""
        return self.ceiling is not None and self.candidate.value is not None and self.candidate.value > self.ceiling


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRecord:
    """What one comparison gives its run: the gate, and what the run's summary needs beside it."""

    gate: GateRecord
    """The gate."""
    pair: PairRecord
    """The two models."""
    dimension_drift: DriftRecord | None
    """The drift of the whole dimension as far as it was acquired."""
    drift_by_flip: DriftByFlip
    """What `drift_auc` is computed from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """A control gate, turned round: larger is better."""

    gate: str
    """The gate's name."""
    dimension: str
    """The suite's dimension."""
    suite: str
    """The suite's name."""
    unit: str
    """share, score or nats."""
    n: int
    """Units that were compared."""
    measured: bool
    """Whether it was measured."""
    change: float | None
    """Minus the change of the error rate: larger is better."""
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
    """A dimension of the trust tax."""

    verdict: Verdict
    """The verdict of its worst gate: regressed, then not measured, inconclusive, held."""
    gates: Mapping[str, Verdict]
    """The verdict of each of its gates."""
    worse: tuple[str, ...]
    """Probes that became worse."""
    better: tuple[str, ...]
    """Probes that became better."""
    drift_auc: DriftAuc | None = None
    """Whether drift predicted its flips; null below 5 probes a side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustTax:
    """What a candidate gained in capability beside what it lost in trust; never a single number."""

    capability: tuple[Capability, ...]
    """A row per gate of a control."""
    dimensions: Mapping[str, DimensionTax]
    """The dimensions by name, controls left out."""
    sentence: str = ""
    """Both in words, with no claim beyond the verdicts; written by the JSON report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord(ModelRecord):
    """A candidate, and what its gates have in common."""

    drift: Mapping[str, DriftRecord]
    """Drift by dimension."""
    identical: bool
    """Whether it cannot be told apart from the baseline."""
    tax: TrustTax
    """Its trust tax."""
    counts: Mapping[str, int]
    """Its gates by verdict, as in the run's `counts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedEarly:
    """What --trust-sequential saved, each suite counted once."""

    tokens: int
    """Response tokens that both models wrote."""
    saved: int
    """About how many more the whole budget would have taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentRecord:
    """Where and when a run was; changes from run to run, and is not compared."""

    created: str
    """UTC, ISO 8601."""
    python: str
    """Python's version."""
    platform: str
    """The system and its processor."""
    versions: Mapping[str, str]
    """Versions of the packages that numbers depend on."""
    devices: Mapping[str, str]
    """Where the baseline and the (first) candidate ran."""
    store: str
    """The store's directory."""
    report: str | None
    """This file; null where none was asked for or it could not be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run that compared: the document of the JSON report."""

    schema: int = SCHEMA
    """The number of this schema."""
    baseline: ModelRecord
    """The baseline."""
    candidate: ModelRecord
    """The candidate; of several the first."""
    candidates: tuple[CandidateRecord, ...]
    """All candidates, in the order of the options."""
    profile: str
    """Name of the profile."""
    policy: str
    """Name of the policy."""
    identical: bool
    """Whether no candidate can be told apart from the baseline."""
    warnings: tuple[str, ...]
    """Sentences, sorted."""
    counts: Mapping[str, int]
    """Gates by verdict (`regressed`, `held`, `inconclusive`, `not measured`) and their sum `gates`, controls left out; and `controls`."""
    drift: Mapping[str, DriftRecord]
    """Drift by dimension; of several candidates the first one's."""
    gates: tuple[GateRecord, ...]
    """The gates, sorted by `gate`, then `nodeid`; `candidate.model` says whose."""
    stopped_early: StoppedEarly | None = None
    """What stopping early saved; null where nothing was."""
    redacted: bool = False
    """Whether prompts and answers were replaced by their length and the start of their SHA-256."""
    environment: EnvironmentRecord
    """Where and when it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """What a run would do for one gate."""

    gate: str
    """dimension/suite/metric."""
    unit: str
    """share or score."""
    probes: int
    """Number of probes."""
    clusters: int
    """Their clusters."""
    margin: float | None
    """The margin; null where nobody gives one."""
    detectable: float | None
    """The smallest change that would be found; infinite where none would, null where it is not known."""
    responses: int
    """Responses of each model."""
    tokens: int
    """At most so many tokens of each model."""

    @property
    def blind(self) -> bool:
        """A change as small as the margin would not be found."""
        return self.detectable is not None and self.margin is not None and self.detectable > self.margin


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTotals:
    """What a run would do in all."""

    responses: int
    """Responses of all models."""
    stored: int
    """Those that are in the store already."""
    tokens: int
    """Tokens to make, an estimate from above."""
    seconds: float | None
    """About how long that takes; null where it is not known."""
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
    """By label what a recording holds."""
    profile: str
    """Name of the profile."""
    policy: str
    """Name of the policy."""
    power: float
    """The probability that `detectable` is for."""
    rows: tuple[PlanRow, ...]
    """The gates."""
    totals: PlanTotals
    """The sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MutantGate:
    """What one gate said to a mutant; fields as in a gate record."""

    gate: str
    """dimension/suite/metric."""
    dimension: str
    """The suite's dimension."""
    control: bool
    """Whether it is a control."""
    unit: str
    """share, score or nats."""
    verdict: Verdict
    """The verdict."""
    reason: str
    """Why the verdict is what it is."""
    n: int
    """Units that were compared."""
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
    """What the gates said to one mutant at one dose."""

    mutant: str
    """Its name."""
    dose: float
    """Its dose; at 0 nothing is damaged."""
    highest: bool
    """Whether it is the mutant's highest dose."""
    meaning: str
    """What is damaged."""
    source: str
    """Where the damage comes from."""
    own: tuple[str, ...]
    """The measured dimensions that must notice it."""
    killed: tuple[str, ...]
    """Those that did."""
    noticed: tuple[str, ...]
    """The gates that regressed."""
    drift: float | None
    """KL(mutant || baseline), nats per token."""
    gates: tuple[MutantGate, ...]
    """The gates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MutantDimension:
    """What the mutants say about one dimension."""

    control: bool
    """Whether it is a control."""
    mutants: int
    """Its own mutants at every positive dose."""
    killed: int
    """Those that were killed."""
    highest: int
    """Its own mutants at the highest dose."""
    highest_killed: int
    """Those that were killed."""
    survivors: tuple[str, ...]
    """Mutants that survived the highest dose."""
    unmoved: tuple[str, ...]
    """Gates that no mutant moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NullKilled:
    """A gate that regressed though nothing was damaged."""

    mutant: str
    """The mutant at dose 0."""
    gate: str
    """The gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MutantsRecord:
    """A run of --trust-mutants: its JSON report."""

    schema: int = SCHEMA
    """The number of this schema."""
    kind: Literal["mutants"] = "mutants"
    """Tells it from the report of a comparison."""
    profile: str
    """Name of the profile."""
    policy: str
    """Name of the policy."""
    baseline: ModelRecord
    """The model that was damaged."""
    warnings: tuple[str, ...]
    """Sentences, sorted."""
    mutants: tuple[MutantRecord, ...]
    """The mutants, in the order in which they were run."""
    dimensions: Mapping[str, MutantDimension]
    """What they say about each dimension."""
    null_killed: tuple[NullKilled, ...]
    """Gates that regressed though nothing was damaged."""
    passed: bool
    """False where there is one of these, or a survivor in a dimension that is no control."""


@cache
def field_types(kind: Any) -> dict[str, Any]:
    """The type of every field of a record."""
    hints = get_type_hints(kind)
    return {one.name: hints[one.name] for one in fields(kind)}


def to_json(record: Any) -> dict[str, Any]:
    """The record as built-in types, numbers as they are.

    Raises:
        InvalidInput: a value in it is of another type (a NumPy scalar, a tensor); the message names the field.
    """
    plain: dict[str, Any] = _plain(record, "")
    return plain


def _plain(value: Any, where: str) -> Any:
    # bool, int and float exactly: numpy.float64 is a float too, and must not hide here.
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
    """The record of that kind in what `to_json` gave.

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
