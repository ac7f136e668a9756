"""Stored responses and option scores as the dataclasses that other rooms read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pytest_trust.reasoning import Tags, opened_by, split_reasoning
from pytest_trust.responses import Job, OptionScores, Response


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
    )


def scores_of(values: Mapping[str, Mapping[str, Any] | None]) -> dict[str, OptionScores]:
    """Option scores by probe id from their stored forms. Missing ones are left out."""
    return {
        name: OptionScores(tuple(value["log_likelihoods"]), tuple(value["tokens"]), tuple(value["bytes"]))
        for name, value in values.items()
        if value is not None
    }
