"""Keys of the store and of a recording: digests of what a result depends on."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_trust.probes import Probe
from pytest_trust.responses import Generation, Job

_VERSION = 1  # version of a recording's keys; raise it when the meaning of a key changes

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def digest(*parts: object) -> str:
    """SHA-256 of the parts as canonical JSON, in hexadecimal. Every key is made by it."""
    return hashlib.sha256(_canonical(parts).encode("utf-8", "surrogatepass")).hexdigest()


def probe_input(probe: Probe) -> list[object]:
    """The part of a probe that a model sees, as built-in types. Probes with the same input give equal values."""
    messages = [[message.role, message.content] for message in probe.messages]
    return [messages, "" if messages else probe.text, list(probe.options)]


def sampling(generation: Generation, probe_id: str, repeat: int) -> list[object]:
    """The generation part of a response's key. Only sampled answers have a seed and sampling settings in it."""
    budget: list[object] = (
        []
        if generation.reasoning_budget is None
        else ["budget" if generation.closes else "trace", generation.reasoning_budget]
    )
    if generation.until:
        budget += ["until", generation.until]
    if generation.min_p and not generation.greedy:
        budget += ["min_p", generation.min_p]
    if generation.repetition_penalty != 1:
        budget += ["repetition_penalty", generation.repetition_penalty]
    if generation.own:  # a recording or a server: what the model's own settings are is not known here
        return [generation.max_new_tokens, "own", row_seed(generation.seed, probe_id, repeat), *budget]
    if generation.greedy:
        return [generation.max_new_tokens, "greedy", *budget]
    settings = [generation.max_new_tokens, generation.temperature, generation.top_p, generation.top_k]
    return [*settings, row_seed(generation.seed, probe_id, repeat), *budget]


def row_seed(seed: int, probe_id: str, repeat: int) -> int:
    """Seed of one sample. It depends on the run's seed, the probe and the repeat, so the batch cannot matter."""
    return int(digest("sample", seed, probe_id, repeat)[:15], 16)


def portable_key(probe: Probe, job: Job, repeat: int) -> str:
    """The key inside a recording: it names a response or an option score without naming a model."""
    # Options are scored behind what the model writes before its answer, if the probe is a chat.
    way = job.generation if job.task == "generate" else job.lead_in.generation if probe.messages else None
    generation = [] if way is None else sampling(way, probe.id, repeat)
    return digest("recorded", _VERSION, job.task, probe_input(probe), generation)
