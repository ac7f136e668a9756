"""What a model is, computed from its files: no weights are loaded, neither torch nor transformers is imported."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pytest_trust.errors import TrustError
from pytest_trust.jobs import digest
from pytest_trust.references import InvalidReference, Reference, adapter_base, parse_reference, read_json, weights_files
from pytest_trust.store import Store

Lineage = Literal["same", "parent", "sibling", "unrelated", "unknown"]

# Parts of config.json that say nothing about what the model computes.
_CONFIG_NOISE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "_commit_hash")
_ADAPTER_NOISE = ("base_model_name_or_path", "inference_mode", "revision", "peft_version", "auto_mapping", "task_type")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
_TOKENIZER_NOISE = ("chat_template", "is_local", "local_files_only", "name_or_path", "processor_class")
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md")
_SAFETENSORS_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class ModelNotFound(TrustError):
    """A model reference names nothing that can be had: not on the hub, gated, or offline and not in the cache."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a reference's parts lie on this machine. For a GGUF file everything is in `gguf`."""

    directory: Path
    weights: tuple[Path, ...]
    tokenizer: Path
    adapter: Path | None = None
    adapter_weights: tuple[Path, ...] = ()
    gguf: Path | None = None
    commit: str = ""
    base: Reference | None = None


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Built-in types only. `fingerprint` changes with the weights, the adapter, the configuration and the dtype; `tokenizer` and
    `template` are hashes of their files. `parameters` and `parameter_bytes` (as loaded) are 0 when the files do not tell.
    """

    text: str
    label: str
    kind: str
    fingerprint: str
    tokenizer: str
    template: str
    weights: str
    base_weights: str
    dtype: str
    device: str
    parameters: int
    parameter_bytes: int
    architecture: str
    chat_format: str
    thinking: str
    names: tuple[str, ...]
    ancestors: tuple[str, ...]
    commit: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def rendering(self) -> str:
        """Changes with whatever decides the token ids of a prompt."""
        return digest("rendering", 1, self.tokenizer, self.template, self.chat_format, self.thinking)

    def as_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelIdentity:
        """Raises TypeError when a field is missing, unknown or of another type."""
        identity = cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
        for name, value in asdict(identity).items():
            expected = int if name.startswith("parameter") else tuple if name in ("names", "ancestors", "warnings") else str
            if not isinstance(value, expected) or (expected is tuple and not all(isinstance(item, str) for item in value)):
                raise TypeError(f"{name} is {type(value).__name__}")
        return identity


def locate(reference: Reference, *, cache: Path, trust_remote_code: bool = False) -> ModelFiles:
    """The files of a reference: downloads from the hub, converts the demo model on first use.

    Raises:
        ModelNotFound: not on the hub, gated, or offline.
        InvalidReference: the files are there and are no model.
    """
    if reference.kind == "recording":
        raise InvalidReference(f"{reference.text}: a recording has no weights: expected a model")
    if reference.kind == "demo":
        return _locate_demo(reference, cache)
    reference.check()
    if reference.kind == "gguf":
        path = reference.path
        return ModelFiles(path.parent, (path,), path.parent, gguf=path)
    if reference.kind == "hub":
        directory = _download(reference, trust_remote_code)
        if (directory / "adapter_config.json").exists() and not (directory / "config.json").exists():
            adapter = replace(reference, kind="adapter", location=str(directory))
            return replace(_locate_adapter(adapter, directory, cache, trust_remote_code), commit=directory.name)
        if not (directory / "config.json").exists():
            raise InvalidReference(f"{reference.text}: the repository has no config.json: not a transformers model")
        weights = weights_files(directory, reference)
        return ModelFiles(directory, weights, directory, commit=directory.name)
    if reference.kind == "adapter":
        return _locate_adapter(reference, reference.path, cache, trust_remote_code)
    return ModelFiles(reference.path, weights_files(reference.path, reference), reference.path)


def _locate_adapter(reference: Reference, directory: Path, cache: Path, trust_remote_code: bool, base: Reference | None = None) -> ModelFiles:
    base = base or adapter_base(reference)
    below = locate(base, cache=cache, trust_remote_code=trust_remote_code)
    if below.gguf or below.adapter:
        raise InvalidReference(f"{reference.text}: its base {base.text} is a GGUF file or an adapter: give full weights as ?base=")
    own = (directory / "tokenizer_config.json").exists() and (directory / "tokenizer.json").exists()
    return replace(
        below,
        adapter=directory,
        adapter_weights=weights_files(directory, reference),
        tokenizer=directory if own else below.tokenizer,
        base=base,
    )


def _locate_demo(reference: Reference, cache: Path) -> ModelFiles:
    from pytest_trust import demo

    if reference.location != "instruct":
        directory = demo.adapter_path(reference.location)
        adapter = replace(reference, kind="adapter", location=str(directory))
        return _locate_adapter(adapter, directory, cache, False, parse_reference("demo:instruct"))
    target = cache / "models" / "demo-instruct"
    if not (target / "config.json").exists():
        try:
            demo.convert_instruct(target)
        except OSError as error:
            raise TrustError(f"{reference.text}: cannot be written to {target} ({error.strerror or error}): make room, or use another --trust-store") from None
    return ModelFiles(target, weights_files(target, reference), target)


def _download(reference: Reference, trust_remote_code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub import errors as hub
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    patterns = [*_HUB_FILES, *(["*.py"] if trust_remote_code else []), *(["*.bin"] if reference.options.get("pickle") == "on" else [])]
    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        found = snapshot_download(
            reference.location, revision=reference.revision or None, allow_patterns=patterns, ignore_patterns=["*/*", "consolidated*"]
        )
    except hub.GatedRepoError:
        raise ModelNotFound(f"{reference.text}: gated: accept its licence on the hub and log in (hf auth login)") from None
    except hub.RevisionNotFoundError:
        raise ModelNotFound(f"{reference.text}: the repository has no revision {reference.revision!r}") from None
    except hub.RepositoryNotFoundError:
        raise ModelNotFound(f"{reference.text}: not on the hub, or private: check the name, or log in (hf auth login)") from None
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled):
        raise ModelNotFound(f"{reference.text}: the hub cannot be reached and the model is not in the local cache: download it first, or give a directory") from None
    except Exception as error:  # the hub's client raises its transport's own errors too
        raise ModelNotFound(f"{reference.text}: cannot be downloaded ({first_line(error)})") from None
    finally:
        if not silent:
            enable_progress_bars()
    return Path(found)


def first_line(error: BaseException) -> str:
    """A library's error, cut to what fits into our one line."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 200 else text[:197] + "..."


def identify_model(reference: Reference, files: ModelFiles, *, device: str, dtype: str | None, store: Store) -> ModelIdentity:
    """The identity of a located model. `dtype` None or `auto`: float32 on a CPU, the checkpoint's on another device."""
    config = {} if files.gguf else read_json(files.directory / "config.json", reference.text)
    text_config = config.get("text_config")
    nested = text_config if isinstance(text_config, dict) else {}
    kind = choose_dtype(reference, dtype, device, {**nested, **config})
    weights = digest([_sha256(file, store) for file in files.weights])
    adapter = _adapter_hash(reference, files, store)
    code = [_sha256(file, store) for file in sorted(files.directory.glob("*.py"))] if config.get("auto_map") else []
    generation = _json_or_empty(files.directory / "generation_config.json").get("eos_token_id")
    behaviour = {key: value for key, value in config.items() if key not in _CONFIG_NOISE}
    parameters, stored_bytes = (0, files.gguf.stat().st_size) if files.gguf else _parameters(files.weights)
    tokenizer, template = _tokenizer_hashes(files, store)
    warnings = []
    if not template:
        warnings.append("no chat template; prompts are written as 'System: ...', 'User: ...', 'Assistant:' lines")
    named, ancestors = _lineage_names(reference, files, config)
    return ModelIdentity(
        text=reference.text,
        label=reference.label,
        kind=reference.kind,
        fingerprint=digest("model", 1, weights, adapter, behaviour, code, generation, kind),
        tokenizer=tokenizer,
        template=template,
        weights=digest(weights, adapter) if adapter else weights,
        base_weights=weights if adapter else "",
        dtype=kind,
        device=device,
        parameters=parameters,
        parameter_bytes=parameters * (4 if kind == "float32" else 2) if parameters else stored_bytes * 8,
        architecture=str((config.get("architectures") or [config.get("model_type") or ""])[0]),  # type: ignore[index]
        chat_format="template" if template else "plain",
        thinking=reference.options.get("thinking", ""),
        names=named,
        ancestors=ancestors,
        commit=files.commit,
        warnings=tuple(warnings),
    )


def choose_device(reference: Reference, device: str | None) -> str:
    """The device by name. Imports torch only where a GPU might be."""
    wanted = reference.options.get("device") or device or "auto"
    if wanted != "auto":
        return wanted
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    nodes = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/proc/driver/nvidia/version")
    if hidden or (os.name == "posix" and not any(os.path.exists(node) for node in nodes)):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_dtype(reference: Reference, dtype: str | None, device: str, config: Mapping[str, object]) -> str:
    """The dtype by name: what was asked for, else float32 on a CPU (batched and single answers are then equal), else the checkpoint's."""
    wanted = reference.options.get("dtype") or dtype or "auto"
    if wanted != "auto":
        return wanted
    if device == "cpu":
        return "float32"
    named = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    return named if named in ("float32", "bfloat16", "float16") else "bfloat16"


def lineage(baseline: ModelIdentity, candidate: ModelIdentity) -> Lineage:
    """How the candidate descends from the baseline, from adapters, model cards and weights; `unknown` when nothing says."""
    if baseline.fingerprint == candidate.fingerprint:
        return "same"
    if baseline.weights == candidate.base_weights or set(baseline.names) & set(candidate.ancestors):
        return "parent"
    if candidate.weights == baseline.base_weights or set(candidate.names) & set(baseline.ancestors):
        return "parent"
    if set(baseline.names) & set(candidate.names):
        return "sibling"
    if (baseline.base_weights and baseline.base_weights == candidate.base_weights) or set(baseline.ancestors) & set(candidate.ancestors):
        return "sibling"
    if baseline.architecture and candidate.architecture and baseline.architecture != candidate.architecture:
        return "unrelated"
    return "unrelated" if baseline.ancestors and candidate.ancestors else "unknown"


def _sha256(path: Path, store: Store) -> str:
    """Of the whole content: a sample would miss an edited layer. 0.3 s for 500 MB, and remembered by size and time of change."""
    target = path.resolve()
    if target.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name  # the hub's cache names large files by this very hash
    return store.file_hash(target, _compute_sha256)


def _compute_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _adapter_hash(reference: Reference, files: ModelFiles, store: Store) -> str:
    if not files.adapter:
        return ""
    config = read_json(files.adapter / "adapter_config.json", reference.text)
    behaviour = {key: value for key, value in config.items() if key not in _ADAPTER_NOISE}
    for name, value in behaviour.items():
        # PEFT writes sets in any order.
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            behaviour[name] = sorted(value)
    return digest([_sha256(file, store) for file in files.adapter_weights], behaviour)


def _parameters(files: tuple[Path, ...]) -> tuple[int, int]:
    """Number of parameters and their bytes, from the headers of safetensors files (8 bytes of length, then JSON)."""
    parameters = size = 0
    for file in files:
        if file.suffix != ".safetensors":
            return 0, sum(file.stat().st_size for file in files)
        try:
            with file.open("rb") as handle:
                (length,) = struct.unpack("<Q", handle.read(8))
                header = json.loads(handle.read(min(length, 100_000_000)))
            for name, tensor in header.items():
                if name != "__metadata__":
                    count = math.prod(tensor["shape"])
                    parameters += count
                    size += count * _SAFETENSORS_BYTES.get(tensor["dtype"], 1)
        except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError):
            raise InvalidReference(f"{file}: not a safetensors file or cut short: copy or download it again") from None
    return parameters, size


def _json_or_empty(path: Path) -> dict[str, Any]:
    return read_json(path, str(path.parent)) if path.exists() else {}


def _tokenizer_hashes(files: ModelFiles, store: Store) -> tuple[str, str]:
    """Hashes of the tokenizer and of its chat template (empty when there is none)."""
    if files.gguf:
        content = _sha256(files.gguf, store)
        return digest("gguf", content), digest("gguf template", content) if _gguf_has_template(files.gguf) else ""
    directory = files.tokenizer
    settings = _json_or_empty(directory / "tokenizer_config.json")
    parts = {name: _sha256(directory / name, store) for name in _TOKENIZER_FILES if (directory / name).exists()}
    kept = {key: value for key, value in settings.items() if key not in _TOKENIZER_NOISE}
    jinja, older = directory / "chat_template.jinja", directory / "chat_template.json"
    template: object = settings.get("chat_template")
    if older.exists():
        template = _json_or_empty(older).get("chat_template")
    if jinja.exists():
        template = jinja.read_text(encoding="utf-8", errors="replace")
    return digest("tokenizer", parts, kept), digest("template", template) if template else ""


def _gguf_has_template(path: Path) -> bool:
    # The metadata come first; the longest of them, the vocabulary, is at most some tens of megabytes.
    with path.open("rb") as file:
        return b"tokenizer.chat_template" in file.read(64 << 20)


def _lineage_names(reference: Reference, files: ModelFiles, config: Mapping[str, object]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the model is called, and what it says it was made from."""
    own = f"demo:{reference.location}" if reference.kind == "demo" else reference.location
    home = files.adapter or files.directory
    ancestors = [] if files.gguf else _card_bases(home / "README.md")
    if files.base is not None:
        ancestors.append(f"demo:{files.base.location}" if files.base.kind == "demo" else files.base.location)
        ancestors += _card_bases(files.directory / "README.md")
    elif not files.gguf and reference.kind != "demo":
        named = config.get("_name_or_path")
        if isinstance(named, str) and named and named != own:
            ancestors.append(named)
    return (own,), tuple(dict.fromkeys(name for name in ancestors if name != own))


def _card_bases(card: Path) -> list[str]:
    """`base_model` of a model card's front matter: a name or a list of names."""
    try:
        text = card.read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        return []
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^base_model:[ \t]*(.*)\n?((?:[ \t]*-[ \t]+.*\n?)*)", front.group(1), re.MULTILINE) if front else None
    if not found:
        return []
    values = [found.group(1), *re.findall(r"-[ \t]+(.*)", found.group(2))]
    flat = [part for value in values for part in value.strip().strip("[]").split(",")]
    return [name for part in flat if (name := part.strip().strip("\"'"))]
