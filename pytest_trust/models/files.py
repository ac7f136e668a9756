"""Where the parts of a model lie on this machine: hub downloads, the converted demo, adapters and their bases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_trust.errors import TrustError
from pytest_trust.models.reference import InvalidReference, Reference, adapter_base, parse_reference, weights_files

_TOKENIZER_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
_HUB_FILES = (*_TOKENIZER_FILES, "*.safetensors", "README.md")


class ModelNotFound(TrustError):
    """A model that cannot be found: not on the hub, gated, or out of reach and not in the cache."""


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


def read_ahead(files: ModelFiles) -> None:
    """Ask the operating system to read the weight files into its cache; returns at once."""
    for path in (*files.weights, *files.adapter_weights, *([files.gguf] if files.gguf else [])):
        if hasattr(os, "posix_fadvise"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def locate(reference: Reference, *, cache: Path, trust_remote_code: bool = False) -> ModelFiles:
    """The files of a reference. A model of the hub is downloaded; the demo model is converted on first use.

    Raises:
        ModelNotFound: not on the hub, gated, or offline.
        InvalidReference: the files are there, but are not those of a model.
    """
    if reference.kind == "recording":
        raise InvalidReference(f"{reference.text}: a recording has no weights: expected a model")
    if reference.kind == "server":
        raise InvalidReference(
            f"{reference.text}: a model behind a server cannot be loaded here: give its files or its name on the hub"
        )
    if reference.kind == "demo":
        return _locate_demo(reference, cache)
    reference.check()
    if reference.kind == "gguf":
        path = reference.path
        return ModelFiles(path.parent, (path,), path.parent, gguf=path)
    if reference.kind == "hub":
        more = ["*.bin"] if reference.options.get("pickle") == "on" else []
        directory = _download(reference, [*_HUB_FILES, *more], trust_remote_code)
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


def locate_tokenizer(reference: Reference, *, trust_remote_code: bool = False) -> ModelFiles:
    """The files of a tokenizer (`models.reference.tokenizer_reference`), without weights.

    Raises:
        ModelNotFound: not on the hub, gated, or offline.
    """
    if reference.kind == "hub":
        directory = _download(reference, [*_TOKENIZER_FILES, "*.tiktoken"], trust_remote_code)
        return ModelFiles(directory, (), directory, commit=directory.name)
    return ModelFiles(reference.path, (), reference.path)


def _locate_adapter(
    reference: Reference, directory: Path, cache: Path, trust_remote_code: bool, base: Reference | None = None
) -> ModelFiles:
    base = base or adapter_base(reference)
    below = locate(base, cache=cache, trust_remote_code=trust_remote_code)
    if below.gguf or below.adapter:
        raise InvalidReference(
            f"{reference.text}: its base {base.text} is a GGUF file or an adapter: give full weights as ?base="
        )
    own = (directory / "tokenizer_config.json").exists() and (directory / "tokenizer.json").exists()
    return replace(
        below,
        adapter=directory,
        adapter_weights=weights_files(directory, reference),
        tokenizer=directory if own else below.tokenizer,
        base=base,
    )


def converted_directory(cache: Path) -> Path:
    return cache / "models" / "demo-instruct"


def is_converted(cache: Path) -> bool:
    """Whether the demo's base model lies in the store's directory already."""
    return (converted_directory(cache) / "config.json").exists()


def _locate_demo(reference: Reference, cache: Path) -> ModelFiles:
    from pytest_trust.models import demo

    if reference.location != "instruct":
        directory = demo.adapter_path(reference.location)
        adapter = replace(reference, kind="adapter", location=str(directory))
        return _locate_adapter(adapter, directory, cache, False, parse_reference("demo:instruct"))
    target = converted_directory(cache)
    if not is_converted(cache):
        try:
            demo.convert_instruct(target)
        except OSError as error:
            raise TrustError(
                f"{reference.text}: cannot be written to {target} ({error.strerror or error}): "
                "make room, or use another --trust-store"
            ) from None
    return ModelFiles(target, weights_files(target, reference), target)


def _download(reference: Reference, files: Sequence[str], trust_remote_code: bool) -> Path:
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    patterns = [*files, *(["*.py"] if trust_remote_code else [])]
    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        found = snapshot_download(
            reference.location,
            revision=reference.revision or None,
            allow_patterns=patterns,
            ignore_patterns=["*/*", "consolidated*"],
        )
    except hub.GatedRepoError:
        raise ModelNotFound(
            f"{reference.text}: gated: accept its licence on the hub and log in (hf auth login)"
        ) from None
    except hub.RevisionNotFoundError:
        raise ModelNotFound(f"{reference.text}: the repository has no revision {reference.revision!r}") from None
    except hub.RepositoryNotFoundError:
        raise ModelNotFound(
            f"{reference.text}: not on the hub, or private: check the name, or log in (hf auth login)"
        ) from None
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled):
        raise ModelNotFound(
            f"{reference.text}: the hub cannot be reached and the model is not in the local cache: "
            "download it first, or give a directory"
        ) from None
    except Exception as error:  # the hub's client raises its transport's own errors too
        raise ModelNotFound(f"{reference.text}: cannot be downloaded ({first_line(error)})") from None
    finally:
        if not silent:
            enable_progress_bars()
    return Path(found)


def first_line(error: BaseException) -> str:
    """The first line of a library's error, at most 200 characters."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 200 else text[:197] + "..."
