"""Recordings: one model's responses, option scores and compact logits in a portable file that is a model reference.

The file is a zip of `manifest.json` and `tensors.safetensors`. Only these two entries are read; nothing is extracted or
executed.

For drift, a recording holds the model's post-norm hidden states on its own responses, and its head once. Both have 16
bits. Values in bfloat16 stay as they are; others become float16 where they fit, because it is eight times finer than
bfloat16. They give the logits up to that rounding, in a hundredth of the space. `KL(recorded || other)` on the recorded
responses then needs the weights of the other model only.

A recording with `topk=K` holds the K most likely tokens in place of states and head. The file is smaller and gives a
lower bound of the divergence (`drift.top_k`).
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_trust.engine.model import UNKNOWN_FORMAT, ReadFormat
from pytest_trust.errors import InvalidInput
from pytest_trust.keys import digest, portable_key
from pytest_trust.models.decoding import checked
from pytest_trust.models.identity import ModelIdentity
from pytest_trust.reasoning import Tags
from pytest_trust.responses import Job, TokenIds

if TYPE_CHECKING:
    import torch

    from pytest_trust.engine.top_k import TopK
    from pytest_trust.models.heads import Head

SCHEMA = 2  # schema 1 has no top k; files without a top k are still written as 1
FORMAT = "pytest-trust recording"
MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"
_MANIFEST_LIMIT, _TENSORS_LIMIT = 1 << 29, 1 << 35
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    OSError,
    RuntimeError,
    RecursionError,
)


class InvalidRecording(InvalidInput):
    """A file that is not a recording, is damaged, was written by a newer version, or lacks what a run needs."""


@dataclass(slots=True)
class Recording:
    """A recording in memory. Its tensors are read when drift is measured."""

    path: Path
    identity: ModelIdentity
    vocabulary: str
    """Hash of the model's tokens and their ids; empty where they are unknown."""
    content: str
    """Hash of the file's content."""
    _responses: Mapping[str, dict[str, Any]]
    _options: Mapping[str, dict[str, Any]]
    _drift: Mapping[str, dict[str, Any]]
    _head: Mapping[str, Any]
    tags: Tags = ()
    """The tags of the model's own reasoning format; empty where all that are known were tried."""
    decoding: Mapping[str, float] = field(default_factory=dict)
    """The sampling settings of the model's own that it was recorded with; empty where it was asked as the run said."""
    topk: int = 0
    """Tokens kept of each distribution; 0 in a recording of states."""
    read_format: ReadFormat = UNKNOWN_FORMAT
    """The trace format of `tags`, in a report's words."""
    _tensors: dict[str, torch.Tensor] | None = None
    _heads: dict[str, Head] = field(default_factory=dict)

    @property
    def head_hash(self) -> str:
        """The recorded head's `hash_of_head`; empty where it is unknown."""
        return str(self._head.get("hash", ""))

    def response(self, key: str) -> dict[str, Any] | None:
        return self._responses.get(key)

    def options(self, key: str) -> dict[str, Any] | None:
        return self._options.get(key)

    def token_ids(self, key: str) -> TokenIds | None:
        """Token ids of the recorded text: the response, or each option."""
        entry = self._drift.get(key)
        return None if entry is None else tuple(map(tuple, entry["text"]))

    def answer_start(self, key: str) -> int:
        """Index of the first answer token of a recorded response."""
        return int(self._drift[key]["answer_start"])

    def masked(self, key: str) -> list[int]:
        """Indices of a recorded response's tokens that belong to its template, such as think markers."""
        return list(self._drift[key].get("masked", ()))

    def states(self, keys: Sequence[str]) -> list[torch.Tensor]:
        """Hidden states of recorded texts, [tokens, hidden size] each."""
        hidden = self._read_tensors()["hidden"]
        return [
            hidden[entry["offset"] : entry["offset"] + entry["tokens"]] for entry in (self._drift[key] for key in keys)
        ]

    def tops(self, keys: Sequence[str]) -> list[TopK]:
        """The most likely tokens of recorded texts, from a top-k recording."""
        from pytest_trust.engine.top_k import TopK

        tensors = self._read_tensors()
        whole = TopK(*(tensors[name] for name in TopK.__slots__))
        return [
            whole.rows(entry["offset"], entry["offset"] + entry["tokens"])
            for entry in (self._drift[key] for key in keys)
        ]

    def head(self, device: str = "cpu") -> Head:
        """The recorded model's head in float32; made once per device."""
        if device not in self._heads:
            import torch

            from pytest_trust.models.heads import Head

            tensors = self._read_tensors()
            bias = tensors.get("bias")
            self._heads[device] = Head(
                tensors["head"].to(device=device, dtype=torch.float32),
                None if bias is None else bias.to(device=device, dtype=torch.float32),
                self._head["soft_cap"],
                self._head["scale"],
            )
        return self._heads[device]

    def require(self, jobs: Iterable[Job]) -> None:
        """Refuse jobs whose results were not recorded.

        Raises:
            InvalidRecording: one line with the number of missing probes by suite.
        """
        lacking = []
        for job in jobs:
            table = self._responses if job.task == "generate" else self._options
            repeats = range(job.repeats() if job.task == "generate" else 1)
            missing = sum(
                any(portable_key(probe, job, repeat) not in table for repeat in repeats) for probe in job.probes
            )
            if missing:
                lacking.append(f"{missing} of {len(job.probes)} of {job.suite}")
        if lacking:
            shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more suites" if len(lacking) > 5 else "")
            raise InvalidRecording(
                f"{self.path}: lacks probes that this run needs ({shown}): "
                "record again with the same suites, profile, limit and seed, or select fewer"
            )

    def verify(self) -> str:
        """Read every part of the file and describe it in words. Raises InvalidRecording where it is damaged."""
        parts = [f"{len(self._responses):,} responses", f"{len(self._options):,} option scores"]
        if self._drift and self.topk:
            tokens = self._read_tensors()["ids"].shape[0]
            parts.append(
                f"the {self.topk} most likely of {len(self._drift):,} texts' tokens ({tokens:,}): KL as a lower bound"
            )
        elif self._drift:
            tensors = self._read_tensors()
            hidden, head = tensors["hidden"], tensors["head"]
            kind = str(hidden.dtype).removeprefix("torch.")
            parts.append(
                f"states of {len(self._drift):,} texts ({hidden.shape[0]:,} tokens x {hidden.shape[1]:,}, {kind})"
            )
            parts.append(f"head {head.shape[0]:,} x {head.shape[1]:,}")
        else:
            parts.append("no states, so no KL")
        size = self.path.stat().st_size / 1e6
        return f"holds {', '.join(parts)}; {size:.1f} MB, schema {schema_of(self.topk)}, verified"

    def _read_tensors(self) -> dict[str, torch.Tensor]:
        if self._tensors is None:
            try:
                self._tensors = _load_tensors(self.path, self._drift, self.topk)
            except Exception as error:  # the safetensors parser has an exception class of its own
                raise _damaged(self.path, error) from None
        return self._tensors


def schema_of(topk: int) -> int:
    return SCHEMA if topk else 1


def hash_of_head(head: Head) -> str:
    """Hash of a head: its weights and bias in float32, soft cap and scale."""
    import hashlib

    import torch

    found = hashlib.sha256(digest(tuple(head.weight.shape), head.soft_cap, head.scale).encode())
    for start in range(0, head.vocabulary, 4096):  # a float32 copy of the whole head could be too large
        found.update(head.weight[start : start + 4096].to(torch.float32).contiguous().cpu().numpy().tobytes())
    if head.bias is not None:
        found.update(head.bias.float().cpu().numpy().tobytes())
    return found.hexdigest()


def read_recording(path: Path, *, label: str = "") -> Recording:
    """Read a recording, except its tensors.

    Raises:
        InvalidRecording: no such file, not a recording, damaged, or written by a newer version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            raw = _entry_bytes(archive, MANIFEST, _MANIFEST_LIMIT)
            checks = [(info.filename, info.CRC, info.file_size) for info in archive.infolist()]
        manifest = json.loads(raw)
        if manifest.get("format") != FORMAT:
            raise ValueError("not a recording")
        schema = manifest["schema"]
        if isinstance(schema, int) and schema > SCHEMA:
            raise InvalidRecording(
                f"{path}: written by a newer pytest-trust (schema {schema}, this one knows {SCHEMA}): update it"
            )
        identity = ModelIdentity.from_dict(manifest["identity"])
        _check_manifest(manifest)
    except InvalidRecording:
        raise
    except FileNotFoundError:
        raise InvalidRecording(f"{path}: no such file: expected a recording written by --trust-record") from None
    except _DAMAGE as error:
        raise _damaged(path, error) from None
    return Recording(
        path,
        replace(identity, text=str(path), label=label or path.name, kind="recording", device="recording"),
        manifest["vocabulary"],
        digest(checks),
        manifest["responses"],
        manifest["options"],
        manifest["drift"],
        manifest["head"],
        tags=tuple(map(tuple, manifest.get("tags", ()))),
        decoding=manifest.get("decoding", {}),
        topk=manifest.get("topk", 0),
        read_format=ReadFormat(*manifest["trace"]) if "trace" in manifest else UNKNOWN_FORMAT,
    )


def _damaged(path: Path, error: Exception) -> InvalidRecording:
    from pytest_trust.models.files import first_line

    return InvalidRecording(
        f"{path}: not a recording, or damaged ({first_line(error)}): "
        "expected a file written by --trust-record; make it again"
    )


def _entry_bytes(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    if archive.getinfo(name).file_size > limit:
        raise ValueError(f"{name} is larger than {limit >> 20} MiB")
    with archive.open(name) as file:
        content = file.read(limit + 1)
    if len(content) > limit:  # a hostile file may announce a smaller size
        raise ValueError(f"{name} is larger than {limit >> 20} MiB")
    return content


def _check_manifest(manifest: Mapping[str, Any]) -> None:
    """Check the types of all values that are used later, so that a hostile file fails here."""
    tags = manifest.get("tags", [])
    if not isinstance(tags, list) or not all(_are(pair, str) and len(pair) in (2, 4) for pair in tags):
        raise ValueError("tags are not as expected")
    trace = manifest.get("trace", ["", ""])
    if not _are(trace, str) or len(trace) != 2:
        raise ValueError("trace is not as expected")
    checks: dict[str, Callable[[dict[str, Any]], bool]] = {
        "responses": _is_response,
        "options": _is_scores,
        "drift": _is_drift,
    }
    for part, check in checks.items():
        if not isinstance(manifest[part], dict) or not all(
            isinstance(value, dict) and check(value) for value in manifest[part].values()
        ):
            raise ValueError(f"{part} are not as expected")
    if manifest.get("decoding"):
        checked(manifest["decoding"], "decoding")
    if not _is_count(manifest.get("topk", 0)):
        raise ValueError("topk is not as expected")
    head = manifest["head"]
    numbers = not head or (isinstance(head["scale"], float | int) and isinstance(head["soft_cap"], float | int | None))
    fine = numbers and isinstance(head.get("hash", ""), str)
    if not isinstance(manifest["vocabulary"], str) or not isinstance(head, dict) or not fine:
        raise ValueError("vocabulary or head are not as expected")


def _is_response(value: dict[str, Any]) -> bool:
    texts = (
        isinstance(value["text"], str)
        and isinstance(value["tail"], str)
        and value["finish"] in ("stop", "length", "answered", "loop", "error")
        and isinstance(value.get("failure", ""), str)
    )
    spelled = value.get("spelled", [])
    pairs = isinstance(spelled, list) and all(_are(pair, int) and len(pair) == 2 for pair in spelled)
    return texts and _are(value["ids"], int) and _is_count(value["prompt_tokens"]) and pairs


def _is_scores(value: dict[str, Any]) -> bool:
    columns = (value["log_likelihoods"], value["tokens"], value["bytes"])
    first = value.get("first", [])
    if not isinstance(first, list) or not all(
        isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], float)
        for one in first
    ):
        return False
    lead_in = value.get("lead_in")
    led = lead_in is None or (isinstance(lead_in, dict) and _is_response(lead_in))
    return led and all(_are(column, int, float) for column in columns) and len({len(column) for column in columns}) == 1


def _is_drift(value: dict[str, Any]) -> bool:
    rows = isinstance(value["text"], list) and all(
        _are(row, int) and all(0 <= token < 1 << 31 for token in row) for row in value["text"]
    )
    counts = all(_is_count(value[name]) for name in ("answer_start", "offset", "tokens"))
    masked = value.get("masked", [])
    inside = _are(masked, int) and all(0 <= place < value["tokens"] for place in masked)
    return rows and counts and inside and sum(map(len, value["text"])) == value["tokens"]


def _are(values: object, *kinds: type) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, kinds) and not isinstance(value, bool) for value in values
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _load_tensors(path: Path, drift: Mapping[str, dict[str, Any]], topk: int) -> dict[str, torch.Tensor]:
    import torch
    from safetensors.torch import load

    with zipfile.ZipFile(path) as archive:
        tensors = load(_entry_bytes(archive, TENSORS, _TENSORS_LIMIT))
    if topk:
        tokens = tensors["ids"].shape[0]
        shapes = {
            "ids": (tokens, topk),
            "log_p": (tokens, topk),
            "tail": (tokens,),
            "label": (tokens,),
            "entropy": (tokens,),
        }
        for name, shape in shapes.items():
            kind = torch.int32 if name == "ids" else torch.float32
            if tensors[name].shape != shape or tensors[name].dtype != kind or bool(tensors[name].isnan().any()):
                raise ValueError("its tensors do not fit together")
        if bool((tensors["ids"] < 0).any()) or any(
            entry["offset"] + entry["tokens"] > tokens for entry in drift.values()
        ):
            raise ValueError("its tokens are cut short")
        return dict(tensors)
    hidden, head = tensors["hidden"], tensors["head"]
    if (
        hidden.ndim != 2
        or head.ndim != 2
        or hidden.shape[1] != head.shape[1]
        or not (hidden.is_floating_point() and head.is_floating_point())
    ):
        raise ValueError("its tensors do not fit together")
    if any(entry["offset"] + entry["tokens"] > hidden.shape[0] for entry in drift.values()):
        raise ValueError("its hidden states are cut short")
    return dict(tensors)
