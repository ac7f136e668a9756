"""What is asked of a model and what comes back: frozen dataclasses that every room speaks of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from pytest_trust.probes import Probe


Task = Literal["generate", "choose"]

TokenIds = tuple[tuple[int, ...], ...]
"""The token ids of one response, or of each option of a probe."""
Phase = Literal["load", "generate", "score", "drift"]

ANSWER_BEGINS: Final = "the answer begins 1"
"""As `Generation.until`: a response ends where its answer begins, behind its trace if it opened one."""

# Tokens that a lead-in may have beside its trace: the blanks and tags that a model writes before its answer.
_LEAD_IN_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Generation:
    """How responses are produced. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole vocabulary.

    `reasoning_budget` is the most tokens that a trace may have; `max_new_tokens` then limits the answer alone. A longer
    trace is closed and the model answers (budget forcing). With `closes` false the response ends there instead, without
    an answer. `until` is the identity of the judge that ends a response once its answer is stated (`judges.Stating`),
    or `ANSWER_BEGINS`; empty means neither.

    `min_p` keeps the tokens that are at least so likely as this share of the likeliest one (Nguyen et al. 2024, arXiv
    2407.01082). `repetition_penalty` divides the positive logits of tokens that stand in the prompt or the response,
    and multiplies their negative ones (Keskar et al. 2019, arXiv 1909.05858); 1 leaves them. `own` means the settings
    of the model's own generation_config.json in place of the sampling settings here.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    reasoning_budget: int | None = None
    closes: bool = True
    until: str = ""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    own: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}, expected 1 or more")
        if self.reasoning_budget is not None and self.reasoning_budget < 1:
            raise ValueError(f"reasoning_budget is {self.reasoning_budget}, expected 1 or more, or None")
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"temperature {self.temperature}, top_p {self.top_p}, top_k {self.top_k}: "
                "expected >= 0, in (0, 1], >= 0"
            )
        if not 0 <= self.min_p <= 1 or not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(
                f"min_p {self.min_p}, repetition_penalty {self.repetition_penalty}: expected in [0, 1], above 0"
            )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def longest(self) -> int:
        """The most tokens that a response may have, not counting a closing tag."""
        return self.max_new_tokens + (self.reasoning_budget or 0)


@dataclass(frozen=True, slots=True)
class Job:
    """The work of one suite: every probe is answered `samples` times, or its options are scored.

    `drift` holds the ids of the probes on whose responses (or options) the drift of the pair is measured.

    The options of a chat probe are scored where the model's answer begins. A model may write a trace before that: the
    `lead_in`. In a job whose options are scored, `generation` says how the lead-in is produced.
    """

    suite: str
    task: Task
    probes: tuple[Probe, ...]
    generation: Generation
    samples: int = 1
    drift: frozenset[str] = frozenset()
    normalise: str = "none"

    @property
    def table(self) -> Literal["responses", "options"]:
        """The store's table for the results of this job."""
        return "responses" if self.task == "generate" else "options"

    @property
    def lead_in(self) -> Job:
        """The job whose responses stand before the options: each ends where the model's answer begins.

        A probe that is a text of its own has none. The options of such a probe continue the text.
        """
        probes = tuple(probe for probe in self.probes if probe.messages) if self.task == "choose" else ()
        way = self.generation
        tokens = way.max_new_tokens if way.reasoning_budget is None else _LEAD_IN_TOKENS
        generation = replace(way, max_new_tokens=tokens, until=ANSWER_BEGINS)
        return replace(self, task="generate", probes=probes, generation=generation, samples=1, drift=frozenset())

    @property
    def options(self) -> bool:
        """Whether the job needs the probes' options: to score them, or to leave room for them."""
        return self.task == "choose" or self.generation.until == ANSWER_BEGINS

    def repeats(self) -> int:
        """How many distinct samples to compute of each probe: 1 for greedy answers, which are all equal."""
        return 1 if self.generation.greedy else self.samples


@dataclass(frozen=True, slots=True)
class Response:
    """One sample of one probe.

    text: without the end tokens.
    token_ids: every produced token, the end token included; empty for a server, which returns no token ids.
    tokens: the number of tokens that a server reports.
    finish_reason: `stop` (an end token), `length` (the token limit), `answered` (its answer was stated or has begun,
    and nothing more was asked for), `loop` (it repeated itself without end, and was stopped) or `error` (a server ended
    it for another reason, so that it is no answer).
    failure: that other reason in the server's words, such as `content_filter`; empty unless the response is an `error`.
    complete: false when a reasoning trace was opened and never closed.
    prompt_tokens: the length of the rendered prompt.
    closed: the reasoning budget closed the trace.
    answer_at: characters of `text` before the answer, 0 without a trace.
    saved: tokens that a response which loops was not given, up to its limit.
    trace_at: the characters [start, end) of `text` that are the trace, (0, 0) without one (`reasoning.Split.trace_at`).
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length", "answered", "loop", "error"]
    reasoning: str
    answer: str
    complete: bool
    prompt_tokens: int
    closed: bool = False
    answer_at: int = 0
    tokens: int = 0
    failure: str = ""
    saved: int = 0
    trace_at: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class OptionScores:
    """Per option of a probe, in the probe's order: its log-likelihood in nats, and what to normalise it by.

    log_likelihoods: log P(option | prompt, lead-in). The lead-in is the model's own trace, up to where its answer
        begins. Empty where the trace did not end, since the model then has no answer.
    lead_in: what the model wrote before its answer; None where it wrote nothing.
    first_tokens: the likeliest tokens in the place of the options that begin none of them, with their probabilities.
    """

    log_likelihoods: tuple[float, ...]
    tokens: tuple[int, ...]
    bytes: tuple[int, ...]
    lead_in: Response | None = None
    first_tokens: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of one phase: sent when it begins, after every batch and while waiting for other processes.

    An item is a response, a probe or a drift probe.
    total: items that the phase needs; done: those of them that are in the store.
    made: items that this process has made since the phase began; tokens: the tokens of these.
    """

    model: str
    phase: Phase
    suite: str
    done: int
    total: int
    tokens: int
    made: int = 0
