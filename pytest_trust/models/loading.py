"""Loading models with transformers' own classes: adapters are merged, and errors are one line."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import TrustError
from pytest_trust.models.files import ModelFiles, first_line, locate
from pytest_trust.models.identity import (
    BALANCED,
    ComputedHashes,
    FileHashes,
    ModelIdentity,
    choose_device,
    identify_model,
)
from pytest_trust.models.loaded import LoadedModel
from pytest_trust.models.reference import Reference, check_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# End-of-turn tokens that chat templates write. A model's generation_config does not always list them. <|end|> is not
# among them, because in the harmony format it ends the reasoning and the answer follows.
_TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<|return|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
)


class CannotLoad(TrustError):
    """A model that cannot be loaded although its files are there."""


def load_model(
    reference: Reference,
    *,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    cache: Path,
    identity: ModelIdentity | None = None,
    hashes: FileHashes | None = None,
    offload: bool = False,
) -> LoadedModel:
    """Load the weights and the tokenizer of a reference.

    Adapters are merged into their base in float32 and then converted to the dtype. A merged model is as fast as its
    base. GGUF files are dequantised.

    Args:
        device: the device's name; an option of the reference overrides it.
        dtype: the dtype's name; an option of the reference overrides it.
        trust_remote_code: allow the model to run its own code.
        cache: the store's directory, into which the demo model is converted.
        identity: the model's identity, if it is known; computed otherwise.
        hashes: keeps the hashes of files that the identity needs.
        offload: leave the decoder layers in their files (`models.layer_offload`).

    Raises:
        TrustError: one line with the reference, what is wrong and what to do.
    """
    chosen = available_device(choose_device(reference, device), reference.text)
    files = locate(reference, cache=cache, trust_remote_code=trust_remote_code)
    if identity is None:
        identity = identify_model(reference, files, device=chosen, dtype=dtype, hashes=hashes or ComputedHashes())
    tokenizer = load_tokenizer(reference, files, trust_remote_code=trust_remote_code)
    if offload:
        if chosen == BALANCED:
            raise CannotLoad(
                f"{reference.text}: device=balanced and --trust-offload=layers exclude each other: leave one out"
            )
        from pytest_trust.models.layer_offload import offloaded

        with _in_words(reference), quiet():
            split, layers = offloaded(reference, files, identity.dtype, chosen, trust_remote_code)
        return LoadedModel(split.eval(), tokenizer, identity, chosen, _take_end_ids(split, tokenizer), layers)
    with _in_words(reference), quiet():
        model: Any = _load_weights(reference, files, identity.dtype, tokenizer, trust_remote_code)
        model.eval().requires_grad_(False)
        model, chosen = spread(model) if chosen == BALANCED else (model.to(chosen), chosen)
        if reference.mutant is not None:
            from pytest_trust.models.damage import apply_mutant

            apply_mutant(model, tokenizer, reference.mutant, label=reference.label)
    return LoadedModel(model, tokenizer, identity, chosen, _take_end_ids(model, tokenizer))


def load_tokenizer(
    reference: Reference, files: ModelFiles, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a located model: the adapter's if it has one, else its base's."""
    with _in_words(reference), quiet():
        from transformers import AutoTokenizer

        gguf = {"gguf_file": files.gguf.name} if files.gguf else {}
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(files.tokenizer), local_files_only=True, trust_remote_code=trust_remote_code, **gguf
        )
    return tokenizer


def available_device(device: str, given: str) -> str:
    """The device, if this machine has it.

    Raises:
        TrustError: the name is wrong, or this machine has no such device.
    """
    check_device(device, given)
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return device
    import torch

    if kind == BALANCED:
        there = torch.cuda.is_available()
    elif kind == "mps":
        there = torch.backends.mps.is_available()
    else:
        module = getattr(torch, kind, None)
        there = module is not None and module.is_available() and int(number or 0) < module.device_count()
    if not there:
        raise CannotLoad(
            f"{given}: the device {device} was asked for and is not available here: use device=cpu or leave it out"
        )
    return device


@contextmanager
def quiet() -> Iterator[None]:
    """Silence libraries: no progress bars, no warnings, nothing on stderr. Their settings are restored afterwards."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers import utils

    logging: Any = utils.logging
    verbosity, bars, hub_bars = (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        not are_progress_bars_disabled(),
    )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        # GGUF's progress bar has no switch. Compiled libraries still write to the real stderr, as they should.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()


@contextmanager
def _in_words(reference: Reference) -> Iterator[None]:
    try:
        yield
    except TrustError:
        raise
    except ImportError as error:
        raise CannotLoad(f"{reference.text}: needs a package that is not installed ({first_line(error)})") from error
    except Exception as error:  # each format's loader raises its own errors
        text = first_line(error)
        if "trust_remote_code" in str(error):
            text = "it needs its own code: read that code, then allow it with trust_remote_code"
        elif "out of memory" in text.lower() or isinstance(error, MemoryError):
            text = "not enough memory: use a smaller dtype, another device, or device=balanced over several GPUs"
        elif "Unrecognized configuration class" in str(error):
            text = "not a causal language model"
        raise CannotLoad(f"{reference.text}: cannot be loaded: {text}") from error


def _load_weights(
    reference: Reference, files: ModelFiles, dtype: str, tokenizer: PreTrainedTokenizerBase, trust_remote_code: bool
) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    wanted: torch.dtype = getattr(torch, dtype)
    settings: dict[str, Any] = {
        "dtype": torch.float32 if files.adapter else wanted,
        "trust_remote_code": trust_remote_code,
    }
    settings["local_files_only"] = True
    if files.gguf:
        from transformers import GgufConfig

        settings |= {"gguf_file": files.gguf.name, "quantization_config": GgufConfig(dequantize=True)}
    else:
        settings["use_safetensors"] = files.weights[0].suffix == ".safetensors"
    loader: Any = AutoModelForCausalLM
    model, info = loader.from_pretrained(str(files.directory), output_loading_info=True, **settings)
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        # transformers would fill the missing weights with random numbers.
        raise CannotLoad(
            f"{reference.text}: the weights of {len(missing)} parts are missing ({missing[0]}, ...): "
            "the files are incomplete or of another architecture"
        )
    if files.adapter:
        model = _merge(model, files.adapter, reference, len(tokenizer)).to(wanted)
    result: PreTrainedModel = model
    return result


def spread(model: Any, memory: Mapping[int | str, int] | None = None) -> tuple[Any, str]:
    """Spread a model's layers evenly over the GPUs that this process sees.

    Gives the model and the device of its inputs. `memory` limits the bytes by device; None uses what the devices have.

    Raises:
        MemoryError: the model does not fit.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(model._no_split_modules or ())
    limits = get_balanced_memory(
        model, max_memory=None if memory is None else dict(memory), no_split_module_classes=whole
    )
    places = infer_auto_device_map(model, max_memory=limits, no_split_module_classes=whole)
    if "disk" in places.values():
        raise MemoryError("out of memory")
    model = dispatch_model(model, places, skip_keys=model._skip_keys_device_placement, force_hooks=True)
    return model, str(model.get_input_embeddings().weight.device)


def _merge(model: Any, adapter: Path, reference: Reference, tokens: int) -> Any:
    from peft import PeftModel

    if tokens > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(tokens)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        merged = PeftModel.from_pretrained(model, str(adapter), is_trainable=False).merge_and_unload()
    if any("missing adapter keys" in str(warning.message) for warning in caught):
        raise CannotLoad(
            f"{reference.text}: the adapter does not fit its base model, parts of it are missing: "
            "give the right base as ?base="
        )
    return merged


def _take_end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that end a response. The rest of the model's generation_config is thrown away.

    transformers' `generate` would take from it whatever its caller leaves open: a repetition penalty, beams, suppressed
    tokens. `models.decoding` reads the file where its settings are asked for.
    """
    from transformers import GenerationConfig

    ends = _end_ids(model, tokenizer)
    neutral: Any = GenerationConfig
    model.generation_config = neutral()
    return ends


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that end a response: generation_config's, the tokenizer's, and the chat template's end of turn."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = {int(i) for i in (configured if isinstance(configured, (list, tuple)) else [configured]) if i is not None}
    if isinstance(tokenizer.eos_token_id, int):
        ends.add(tokenizer.eos_token_id)
    template = str(tokenizer.chat_template or "")
    added = tokenizer.get_added_vocab()
    ends |= {added[name] for name in _TURN_ENDS if name in added and name in template}
    return frozenset(ends)
