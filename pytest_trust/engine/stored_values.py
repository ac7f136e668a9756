"""Stored responses and option scores as the dataclasses that other rooms read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pytest_trust.reasoning import Tags, opened_by, split_reasoning
from pytest_trust.responses import Job, OptionScores, Response

NO_SCORES: Final[Mapping[str, Any]] = {"log_likelihoods": [], "tokens": [], "bytes": []}


def responses_of(
    job: Job, found: Callable[[str, int], Mapping[str, Any] | None], tags: Tags
) -> dict[str, tuple[Response, ...]]:
    """Responses by probe id, `job.samples` of each. Probes that lack one are left out.

    `found` gives the stored form of a response for a probe id and a repeat, or None.
    """
    result = {}
    for probe in job.probes:
        values = [found(probe.id, repeat % job.repeats()) for repeat in range(job.samples)]
        if all(value is not None for value in values):
            result[probe.id] = tuple(response_of(value, tags) for value in values if value is not None)
    return result


def response_of(value: Mapping[str, Any], tags: Tags) -> Response:
    """A response from its stored form, to which the end of the prompt is added as `tail`."""
    opened = bool(opened_by(value["tail"], tags))
    spelled = [(start, end) for start, end in value.get("spelled", ())]
    split = split_reasoning(value["text"], tags, opened, spelled=spelled, ended=value["finish"] == "stop")
    return Response(
        text=value["text"],
        token_ids=tuple(value["ids"]),
        finish_reason=value["finish"],
        reasoning=split.reasoning,
        answer=split.answer,
        complete=split.complete,
        prompt_tokens=value["prompt_tokens"],
        closed=value.get("closed", False),
        answer_at=split.answer_at,
        tokens=value.get("tokens", len(value["ids"])),
        failure=value.get("failure", ""),
        saved=value.get("saved", 0),
        trace_at=split.trace_at,
    )


def placed(lead_in: Mapping[str, Any]) -> bool:
    """Whether a stored lead-in ends where an answer can begin: it has no trace that is still open."""
    return not lead_in.get("open", False)


def measured(scores: Mapping[str, Any] | None, lead_in: Mapping[str, Any] | None) -> bool:
    """Whether a probe's result is stored: its option scores, or a trace that did not end."""
    return scores is not None or (lead_in is not None and not placed(lead_in))


def scores_of(
    values: Mapping[str, Mapping[str, Any] | None], lead_ins: Mapping[str, Mapping[str, Any]], tags: Tags
) -> dict[str, OptionScores]:
    """Option scores by probe id from their stored forms and those of their lead-ins.

    A probe whose trace did not end has no scores, only its lead-in. Probes of which nothing is stored are left out.
    """
    found = {}
    for name, value in values.items():
        lead_in = lead_ins.get(name)
        if not measured(value, lead_in):
            continue
        scores = value or NO_SCORES
        found[name] = OptionScores(
            tuple(scores["log_likelihoods"]),
            tuple(scores["tokens"]),
            tuple(scores["bytes"]),
            lead_in=response_of(lead_in, tags) if lead_in and lead_in["text"] else None,
            first_tokens=tuple((text, p) for text, p in scores.get("first", ())),
        )
    return found


def recorded_options(value: Mapping[str, Any] | None, lead_in: Mapping[str, Any] | None) -> dict[str, Any]:
    """Option scores in the form of a recording, with the lead-in that stands before them."""
    return {**(value or NO_SCORES), **({"lead_in": dict(lead_in)} if lead_in and lead_in["text"] else {})}
