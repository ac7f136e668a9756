"""Writes recordings. `pytest_trust.engine.recording` describes their format and reads them."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_trust.engine.recording import FORMAT, MANIFEST, TENSORS, InvalidRecording, hash_of_head, schema_of
from pytest_trust.errors import InvalidInput, TrustError
from pytest_trust.models.decoding import SETTINGS, in_words
from pytest_trust.models.reference import Reference
from pytest_trust.reasoning import DEFAULT_TAGS
from pytest_trust.responses import Job

if TYPE_CHECKING:
    import torch

    from pytest_trust.audit.executor import Executor
    from pytest_trust.engine.engine import Engine

_FLOAT16_LIMIT = 60_000.0


def write_recording(
    path: Path, executor: Executor, reference: Reference, jobs: Sequence[Job], *, topk: int = 0
) -> None:
    """Write a model's part of these jobs to `path`; what the store lacks is acquired first.

    The file appears whole or not at all. With `topk` above 0 it holds the `topk` likeliest tokens of every distribution
    in place of hidden states and the head.

    Raises:
        TrustError: the reference is a recording itself, the model cannot be had, or the file cannot be written.
    """
    engine, planned = executor.engine, list(jobs)
    model = engine.model(reference)
    if not model.answers:
        raise InvalidRecording(f"{reference.text}: already a recording: give the model it was made from")
    executor.acquire_side(planned, reference)
    if topk and not model.runs:
        raise InvalidInput(
            f"{reference.label}: of a model behind a server only its answers are recorded: leave out ?topk"
        )
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "schema": schema_of(topk),
        "topk": topk,
        "identity": model.identity.as_dict(),
        "vocabulary": model.vocabulary(),
        "responses": {},
        "options": {},
        "suites": {job.suite: len(job.probes) for job in planned},
        "drift": {},
        "head": {},
    }
    if model.tags != DEFAULT_TAGS:
        manifest["tags"] = model.tags
        manifest["trace"] = [model.read_format.marks, model.read_format.source]
    ways = [(model.way(job.generation), job.generation) for job in planned]
    own = [way for way, asked in ways if in_words(way) != in_words(asked)]
    if own and model.runs:
        manifest["decoding"] = {name: getattr(own[0], name) for name in SETTINGS}
    for job in planned:
        manifest[job.table] |= model.recorded(job)
    tensors: dict[str, torch.Tensor] = {}
    if model.runs:
        tensors, manifest["drift"], manifest["head"] = _drift_part(engine, reference, planned, topk)
    _write(path, json.dumps(manifest, sort_keys=True).encode("utf-8", "surrogatepass"), tensors)


def _drift_part(
    engine: Engine, reference: Reference, jobs: Sequence[Job], topk: int
) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    from pytest_trust.drift.measure import own_states

    found = own_states(engine, jobs, reference)
    if found is None:
        return {}, {}, {}
    import torch

    items, head = found
    entries: dict[str, Any] = {}
    offset = 0
    for key, (text, answer_start, masked, states) in items.items():
        entries[key] = {"text": text, "answer_start": answer_start, "offset": offset, "tokens": states.shape[0]}
        entries[key] |= {"masked": masked} if masked else {}
        offset += states.shape[0]
    if topk:
        from pytest_trust.drift.top_k import top_k
        from pytest_trust.engine.top_k import TopK

        if topk >= head.vocabulary:
            raise InvalidInput(f"topk={topk}: expected less than the vocabulary's {head.vocabulary} tokens")
        tops = TopK.joined(
            [
                top_k(states, head, torch.tensor([token for row in text for token in row]), topk)
                for text, *_, states in items.values()
            ]
        )
        return {name: getattr(tops, name).contiguous() for name in TopK.__slots__}, entries, {}
    tensors = {
        "hidden": _in_16_bits(torch.cat([states for *_, states in items.values()])),
        "head": _in_16_bits(head.weight),
    }
    if head.bias is not None:
        tensors["bias"] = head.bias.float().cpu()
    return tensors, entries, {"soft_cap": head.soft_cap, "scale": head.scale, "hash": hash_of_head(head)}


def _in_16_bits(values: torch.Tensor) -> torch.Tensor:
    import torch

    fits = values.dtype != torch.bfloat16 and bool(values.abs().max() < _FLOAT16_LIMIT)
    return values.to(torch.float16 if fits else torch.bfloat16).contiguous().cpu()


def _write(path: Path, manifest: bytes, tensors: Mapping[str, torch.Tensor]) -> None:
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr(_entry(MANIFEST), manifest, zipfile.ZIP_DEFLATED)
            if tensors:
                from safetensors.torch import save

                archive.writestr(_entry(TENSORS), save(dict(tensors)), zipfile.ZIP_STORED)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise TrustError(
            f"{path}: the recording cannot be written ({error.strerror or error}): make room, or give another file"
        ) from None
    finally:
        if temporary is not None:
            os.unlink(temporary)


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name)  # with a fixed date: the same recording is the same file
