"""A model's identity, computed from its files.

No weights are loaded and transformers is not imported. torch is imported only where a GPU might be.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pytest_trust.errors import TrustError
from pytest_trust.keys import digest
from pytest_trust.models.files import ModelFiles
from pytest_trust.models.mutants import parse_mutant
from pytest_trust.models.reference import InvalidReference, Reference, read_json

Lineage = Literal["same", "weights", "parent", "child", "sibling", "unrelated", "unknown"]
BALANCED = "balanced"
"""The device that stands for all GPUs together: a model's layers are spread over them."""

# A model card's `base_model_relation`, in a report's words.
_RELATIONS = {"finetune": "fine-tuned", "adapter": "an adapter", "quantized": "quantised", "merge": "merged"}

# Parts of configuration files that do not change what the model computes.
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
_SAFETENSORS_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


class FileHashes(Protocol):
    """Keeps the hashes of files."""

    def file_hash(self, path: Path, compute: Callable[[Path], str]) -> str:
        """The file's hash, computed once and again when the file has changed."""
        ...


class ComputedHashes:
    """Computes every hash and keeps none."""

    def file_hash(self, path: Path, compute: Callable[[Path], str]) -> str:
        """The file's hash, computed on every call."""
        return compute(path)


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What a model is, in built-in types."""

    text: str
    """The reference as given."""
    label: str
    kind: str
    fingerprint: str
    """Changes with the weights, the adapter, the configuration and the dtype."""
    tokenizer: str
    """Hash of the tokenizer's files."""
    template: str
    """Hash of the chat template; empty where there is none."""
    weights: str
    """Hash of the weights, adapter included."""
    base_weights: str
    """Hash of the weights that an adapter or a mutant changes; empty for other models."""
    dtype: str
    device: str
    parameters: int
    """Number of parameters; 0 where the files do not tell."""
    parameter_bytes: int
    """Bytes of the loaded parameters; 0 where the files do not tell."""
    architecture: str
    chat_format: str
    thinking: str
    names: tuple[str, ...]
    """The model's names."""
    ancestors: tuple[str, ...]
    """Names of the models that it was made from."""
    commit: str = ""
    warnings: tuple[str, ...] = ()
    mutant: str = ""
    relation: str = ""
    """How it was made from its parent: `fine-tuned`, `an adapter`, `quantised` or `merged`; empty where unknown."""
    settings: str = ""
    """What `?template.NAME=` and `?date=` set in its prompts (`Reference.prompt_settings`)."""

    @property
    def rendering(self) -> str:
        """Hash of everything that decides the token ids of a prompt."""
        parts = (self.tokenizer, self.template, self.chat_format, self.thinking)
        mutated = [self.mutant] if self.mutant and parse_mutant(self.mutant).changes_prompt else []
        given = ["settings", self.settings] if self.settings else []
        return digest("rendering", 1, *parts, *mutated, *given)

    def as_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelIdentity:
        """Raises TypeError when a field is missing, unknown or of another type."""
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        identity = cls(**given)
        for name, value in given.items():
            if name in ("names", "ancestors", "warnings"):
                fits = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
            else:
                fits = isinstance(value, int if name.startswith("parameter") else str)
            if not fits:
                raise TypeError(f"{name} is {type(value).__name__}")
        return identity


def identify_model(
    reference: Reference, files: ModelFiles, *, device: str, dtype: str | None, hashes: FileHashes
) -> ModelIdentity:
    """The identity of a located model.

    `dtype` None or `auto` is float32 on a CPU and the checkpoint's dtype on another device.
    """
    config = {} if files.gguf else read_json(files.directory / "config.json", reference.text)
    text_config = config.get("text_config")
    nested = text_config if isinstance(text_config, dict) else {}
    kind = choose_dtype(reference, dtype, device, {**nested, **config})
    weights = digest([_sha256(file, hashes) for file in files.weights])
    adapter = _adapter_hash(reference, files, hashes)
    code = [_sha256(file, hashes) for file in sorted(files.directory.glob("*.py"))] if config.get("auto_map") else []
    generation = _json_or_empty(files.directory / "generation_config.json").get("eos_token_id")
    behaviour = {key: value for key, value in config.items() if key not in _CONFIG_NOISE}
    parameters, stored_bytes = (0, files.gguf.stat().st_size) if files.gguf else _parameters(files.weights)
    tokenizer, template = tokenizer_hashes(files, hashes)
    warnings = []
    if not template:
        warnings.append("no chat template; prompts are written as 'System: ...', 'User: ...', 'Assistant:' lines")
    named, ancestors = _lineage_names(reference, files, config)
    card = _card(files.directory if files.adapter is None else files.adapter) if not files.gguf else ""
    relation = _card_value(card, "base_model_relation") or (
        "adapter" if files.adapter and reference.kind != "demo" else ""
    )
    fingerprint, base_weights = (
        digest("model", 1, weights, adapter, behaviour, code, generation, kind),
        weights if adapter else "",
    )
    whole, mutant = digest(weights, adapter) if adapter else weights, reference.mutant
    if mutant is not None:
        # A mutant's results are stored apart from its model's, whatever the mutant changes.
        fingerprint, base_weights = digest("mutant", 1, fingerprint, mutant.code), whole
        whole = digest("mutant", 1, whole, mutant.code)
    return ModelIdentity(
        text=reference.text,
        label=reference.label,
        kind=reference.kind,
        fingerprint=fingerprint,
        tokenizer=tokenizer,
        template=template,
        weights=whole,
        base_weights=base_weights,
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
        mutant=str(mutant) if mutant is not None else "",
        relation=_RELATIONS.get(relation.casefold(), ""),
        settings=reference.prompt_settings,
    )


def choose_device(reference: Reference, device: str | None) -> str:
    """The name of a reference's device. This imports torch only where a GPU might be.

    Raises:
        TrustError: the device is a GPU and there is none.
    """
    wanted = reference.options.get("device") or device or "auto"
    if on_cuda(wanted) and not _gpu_nodes():
        raise TrustError(
            f"{reference.text}: the device {wanted} was asked for and is not available here: "
            "use device=cpu or leave it out"
        )
    if wanted != "auto":
        return wanted
    if not _gpu_nodes():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def on_cuda(device: str) -> bool:
    """Whether a device's name means one or several GPUs of CUDA, or of ROCm, which has the same names."""
    return device.startswith("cuda") or device == BALANCED


def _gpu_nodes() -> bool:
    """Whether a GPU might be here, without torch, which takes seconds to import."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    nodes = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/proc/driver/nvidia/version")
    return os.name != "posix" or any(os.path.exists(node) for node in nodes)


def choose_dtype(reference: Reference, dtype: str | None, device: str, config: Mapping[str, object]) -> str:
    """The dtype's name: the one asked for, else float32 on a CPU, else the checkpoint's.

    A response does not depend on its batch in float32.
    """
    wanted = reference.options.get("dtype") or dtype or "auto"
    if wanted != "auto":
        return wanted
    if device == "cpu":
        return "float32"
    named = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    return named if named in ("float32", "bfloat16", "float16") else "bfloat16"


def lineage(baseline: ModelIdentity, candidate: ModelIdentity) -> Lineage:
    """How the candidate is related to the baseline, by adapters, model cards and weights.

    `same`: the models are equal. `weights`: the same weights in another dtype, with another template, or with other
    options of the prompt. `parent`: the baseline is the candidate's parent. `child`: the candidate is the baseline's
    parent. `sibling`: both have a parent in common. `unrelated`: the architectures differ, or two models of the hub or
    the demo both name other ancestors. A local directory has no public name, so its models are never `unrelated` by
    ancestors. `unknown`: nothing of this is known.
    """
    baseline_names, candidate_names = _named(baseline.names), _named(candidate.names)
    baseline_ancestors, candidate_ancestors = _named(baseline.ancestors), _named(candidate.ancestors)
    if baseline.fingerprint == candidate.fingerprint:
        return "same" if baseline.rendering == candidate.rendering else "weights"
    if baseline.weights == candidate.weights:
        return "weights"
    if baseline.weights == candidate.base_weights or baseline_names & candidate_ancestors:
        return "parent"
    if candidate.weights == baseline.base_weights or candidate_names & baseline_ancestors:
        return "child"
    same_base = bool(baseline.base_weights) and baseline.base_weights == candidate.base_weights
    if same_base or baseline_names & candidate_names or baseline_ancestors & candidate_ancestors:
        return "sibling"
    if baseline.architecture and candidate.architecture and baseline.architecture != candidate.architecture:
        return "unrelated"
    public = all(one.kind in ("hub", "demo") for one in (baseline, candidate))
    return "unrelated" if public and baseline.ancestors and candidate.ancestors else "unknown"


def lineage_words(baseline: ModelIdentity, candidate: ModelIdentity) -> str:
    """The lineage in a report's words."""
    relation = lineage(baseline, candidate)
    how = f" ({candidate.relation})" if relation == "parent" and candidate.relation else ""
    return {
        "same": "the same as the baseline",
        "weights": "the same weights as the baseline",
        "parent": f"made from the baseline{how}",
        "child": "the baseline was made from it",
        "sibling": "made from the same parent as the baseline",
        "unrelated": "not made from the baseline",
        "unknown": "lineage unknown",
    }[relation]


def _named(names: tuple[str, ...]) -> set[str]:
    """Names in a form to compare: the hub ignores case."""
    return {name.casefold() for name in names}


def _sha256(path: Path, hashes: FileHashes) -> str:
    """Hash of a file's whole content: a sample would miss an edited layer. It takes 0.3 s for 500 MB."""
    target = path.resolve()
    if target.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name  # the hub's cache names large files by this hash
    return hashes.file_hash(target, _compute_sha256)


def _compute_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _adapter_hash(reference: Reference, files: ModelFiles, hashes: FileHashes) -> str:
    if not files.adapter:
        return ""
    config = read_json(files.adapter / "adapter_config.json", reference.text)
    behaviour = {key: value for key, value in config.items() if key not in _ADAPTER_NOISE}
    for name, value in behaviour.items():
        # PEFT writes sets in an arbitrary order.
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            behaviour[name] = sorted(value)
    return digest([_sha256(file, hashes) for file in files.adapter_weights], behaviour)


def _parameters(files: tuple[Path, ...]) -> tuple[int, int]:
    """Number of parameters and their bytes, from the headers of safetensors files.

    A header has 8 bytes for its length, then JSON. Other files give 0 parameters and their size.
    """
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


def tokenizer_hashes(files: ModelFiles, hashes: FileHashes) -> tuple[str, str]:
    """Hashes of the tokenizer and of its chat template, the latter empty where there is none."""
    if files.gguf:
        content = _sha256(files.gguf, hashes)
        return digest("gguf", content), digest("gguf template", content) if _gguf_has_template(files.gguf) else ""
    directory = files.tokenizer
    settings = _json_or_empty(directory / "tokenizer_config.json")
    parts = {name: _sha256(directory / name, hashes) for name in _TOKENIZER_FILES if (directory / name).exists()}
    kept = {key: value for key, value in settings.items() if key not in _TOKENIZER_NOISE}
    jinja, older = directory / "chat_template.jinja", directory / "chat_template.json"
    template: object = settings.get("chat_template")
    if older.exists():
        template = _json_or_empty(older).get("chat_template")
    if jinja.exists():
        template = jinja.read_text(encoding="utf-8", errors="replace")
    return digest("tokenizer", parts, kept), digest("template", template) if template else ""


def _gguf_has_template(path: Path) -> bool:
    # The metadata come first. Their longest part, the vocabulary, has some tens of megabytes at most.
    with path.open("rb") as file:
        return b"tokenizer.chat_template" in file.read(64 << 20)


def _lineage_names(
    reference: Reference, files: ModelFiles, config: Mapping[str, object]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The model's names, and the names of the models that its files say it was made from."""
    own = f"demo:{reference.location}" if reference.kind == "demo" else reference.location
    home = files.adapter or files.directory
    ancestors = [] if files.gguf else _card_bases(_card(home))
    if files.base is not None:
        ancestors.append(f"demo:{files.base.location}" if files.base.kind == "demo" else files.base.location)
        ancestors += _card_bases(_card(files.directory))
    elif not files.gguf and reference.kind != "demo":
        named = config.get("_name_or_path")
        if isinstance(named, str) and named and named != own:
            ancestors.append(named)
    return (own,), tuple(dict.fromkeys(name for name in ancestors if name != own))


def _card(directory: Path) -> str:
    """The front matter of a model card; empty where there is none."""
    try:
        text = (directory / "README.md").read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        return ""
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    return front.group(1) if front else ""


def _card_value(front: str, key: str) -> str:
    found = re.search(rf"^{key}:[ \t]*(.*)$", front, re.MULTILINE)
    return found.group(1).strip().strip("\"'") if found else ""


def _card_bases(front: str) -> list[str]:
    """`base_model` of a model card's front matter: a name or a list of names."""
    found = re.search(r"^base_model:[ \t]*(.*)\n?((?:[ \t]*-[ \t]+.*\n?)*)", front, re.MULTILINE)
    if not found:
        return []
    values = [found.group(1), *re.findall(r"-[ \t]+(.*)", found.group(2))]
    flat = [part for value in values for part in value.strip().strip("[]").split(",")]
    return [name for part in flat if (name := part.strip().strip("\"'"))]
