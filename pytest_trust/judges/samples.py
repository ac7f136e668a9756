"""From responses to judged samples, and from samples to a probe's score. Pure functions; no model, no pytest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_trust.judges import Judgement
from pytest_trust.judges.judgement import NOT_MEASURED
from pytest_trust.probes import Gate, Probe
from pytest_trust.responses import OptionScores, Response

Judge = Callable[[str, Probe], Judgement]


#: Judges that read the end of an answer; an answer cut at the token limit has not said it yet. The other judges can
#: judge a cut answer.
READS_THE_END = ("exact", "choice")

SERVER_ENDED = "the server ended the response with finish_reason "
"""The beginning of the message of a sample that is no answer, because its server ended it for another reason."""


@dataclass(frozen=True, slots=True)
class JudgedSample:
    """One response and what it counts as."""

    outcome: str
    score: float
    answer: str
    reasoning: str = ""
    message: str = ""
    closed: bool = False
    """The trace was closed by the reasoning budget."""
    chosen: str = ""
    """The option chosen, where there are options."""
    in_trace: bool = False
    """The response was cut in its trace."""
    looped: bool = False
    """The response repeated itself without end, and was stopped."""
    saved: int = 0
    """Tokens that a response which loops was not given, up to its limit."""
    option_mass: float | None = None
    """The probability of all options of a chat probe together, where they were scored; None for other probes."""
    after_trace: bool = False
    """The options were scored behind the model's own trace, or behind the tags that it wrote before its answer."""
    first_tokens: tuple[tuple[str, float], ...] = ()
    """See `OptionScores.first_tokens`."""


@dataclass(frozen=True, slots=True)
class Side:
    """One model's part of a suite: its judged samples by probe id."""

    model: str
    samples: Mapping[str, tuple[JudgedSample, ...]]
    lacking: str = ""
    """Why samples are missing, where a model of this kind cannot give them."""


class OfThoughts:
    """A judge applied to the reasoning of a response. A response without reasoning is `ok`."""

    def __init__(self, judge: Any) -> None:
        self._judge = judge
        self.identity = judge.identity

    def __call__(self, text: str, probe: Probe) -> Judgement:
        return self._judge(text, probe) if text.strip() else Judgement("ok", 0.0)


def judge_responses(
    judge: Judge, name: str, probes: Sequence[Probe], responses: Mapping[str, tuple[Response, ...]]
) -> dict[str, tuple[JudgedSample, ...]]:
    """Judge every sample of every probe.

    A response whose trace was never closed and a response that loops are `truncated`, whatever they say. A judge that
    raises gives `error`, and so does a response that its server ended for another reason than its end or its length.
    """
    return {
        probe.id: tuple(_judge(judge, name, probe, response) for response in responses.get(probe.id, ()))
        for probe in probes
    }


def _judge(judge: Judge, name: str, probe: Probe, response: Response) -> JudgedSample:
    if response.finish_reason == "error":
        message = f"{SERVER_ENDED}{response.failure!r}"
        return JudgedSample("error", NOT_MEASURED, response.answer, response.reasoning, message)
    looped = response.finish_reason == "loop"
    cut = response.finish_reason == "length" and (not response.answer.strip() or name in READS_THE_END)
    if looped or cut or not response.complete:
        return JudgedSample(
            "truncated",
            NOT_MEASURED,
            response.answer,
            response.reasoning,
            closed=response.closed,
            in_trace=not response.complete,
            looped=looped,
            saved=response.saved,
        )
    try:
        judgement = judge(response.answer, probe)
    except Exception as error:  # a judge's failure concerns this response only, and the run goes on
        judgement = Judgement("error", NOT_MEASURED, f"{type(error).__name__}: {error}")
    return JudgedSample(
        judgement.outcome,
        judgement.score,
        response.answer,
        response.reasoning,
        judgement.message,
        response.closed,
        judgement.chosen,
    )


def judge_options(
    probes: Sequence[Probe], scores: Mapping[str, OptionScores], normalise: str = "none"
) -> dict[str, tuple[JudgedSample, ...]]:
    """The likeliest option is the choice: `ok` when it is the probe's answer, else `bad`.

    A tie goes against the answer, as the worse case. A probe whose trace did not end is `truncated`.
    """
    judged: dict[str, tuple[JudgedSample, ...]] = {}
    for probe in probes:
        if probe.id not in scores:
            judged[probe.id] = ()
            continue
        lead_in = scores[probe.id].lead_in
        thought = "" if lead_in is None else lead_in.reasoning
        if not scores[probe.id].log_likelihoods:
            looped, saved = (False, 0) if lead_in is None else (lead_in.finish_reason == "loop", lead_in.saved)
            judged[probe.id] = (
                JudgedSample("truncated", NOT_MEASURED, "", thought, in_trace=True, looped=looped, saved=saved),
            )
            continue
        values = normalised(scores[probe.id], normalise)
        if not all(map(math.isfinite, values)):
            judged[probe.id] = (JudgedSample("error", NOT_MEASURED, "", message="a log-likelihood is not finite"),)
            continue
        right = values[probe.options.index(probe.answer)]
        others = [
            (value, option) for value, option in zip(values, probe.options, strict=True) if option != probe.answer
        ]
        best, rival = max(others)
        wrong = best >= right
        text = f"{rival if wrong else probe.answer}  ({best - right:+.2f} nats towards {rival!r})"
        chosen = rival if wrong else probe.answer
        mass = option_mass(probe.options, scores[probe.id]) if probe.messages else None
        outcome = "bad" if wrong else "ok"
        judged[probe.id] = (
            JudgedSample(
                outcome,
                float(wrong),
                text,
                thought,
                closed=lead_in is not None and lead_in.closed,
                chosen=chosen,
                option_mass=mass,
                after_trace=lead_in is not None,
                first_tokens=scores[probe.id].first_tokens,
            ),
        )
    return judged


def option_mass(options: Sequence[str], scores: OptionScores) -> float:
    """The probability that a model begins its answer with one of the options, 0 to 1.

    Where it is small, the model would write something else in this place, and the choice says little about it. An
    option that begins with another one is part of that one's probability.
    """
    apart = [
        value
        for option, value in zip(options, scores.log_likelihoods, strict=True)
        if not any(option != other and option.startswith(other) for other in options)
    ]
    return min(1.0, math.fsum(map(math.exp, apart)))


def normalised(scores: OptionScores, by: str) -> list[float]:
    """Log-likelihoods in nats, or in nats per token or per byte of the option, as `by` says.

    lm-evaluation-harness's acc_norm is per byte.
    """
    if by == "none":
        return list(scores.log_likelihoods)
    lengths = scores.tokens if by == "tokens" else scores.bytes
    return [value / max(1, length) for value, length in zip(scores.log_likelihoods, lengths, strict=True)]


def score_probe(gate: Gate, samples: Sequence[JudgedSample]) -> float:
    """A probe's score under a gate, larger is worse; NaN when it was not measured.

    `maximum` is the expected maximum over `gate.k` samples, or over all samples of the probe if k is 0 or larger. A
    probe with fewer scored samples is not measured, since a maximum over fewer samples is smaller by construction.
    """
    if not samples:
        return NOT_MEASURED
    if gate.score in ("share", "corpus"):  # for a corpus metric, the probes' own errors show which of them moved
        counted = [sample.outcome in gate.counts for sample in samples if sample.outcome in gate.of]
        return sum(counted) / len(counted) if counted else NOT_MEASURED
    scores = [sample.score for sample in samples if not math.isnan(sample.score)]
    if gate.score == "any":
        complete = len(scores) == len(samples)
        return float(any(sample.outcome == "bad" for sample in samples)) if complete else NOT_MEASURED
    from pytest_trust.stats.corrections import expected_maximum

    return expected_maximum(scores, min(gate.k or len(samples), len(samples)))


def counted_outcomes(gate: Gate) -> tuple[str, ...]:
    return gate.of if gate.score in ("share", "corpus") else ("ok", "bad", "refused")
