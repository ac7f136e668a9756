"""Model references: the text after `--trust-baseline=` and `--trust-candidate=`, parsed and checked without loading.

    org/name[@revision]      a model of the Hugging Face hub
    path/to/directory        a saved model, or a PEFT adapter (it is then put on its base)
    path/to/model.gguf       a GGUF file
    demo:NAME                a model of the demo
    path/to/file.trust       a recording
    http://host:port/v1#model   a model behind an OpenAI-compatible server

`NAME=` in front is the label that reports show: `rl=./checkpoint-300`. Options follow `?` as in a URL:
`Qwen/Qwen3-4B?thinking=off&dtype=float32`. A server's options stand before its `#`:
`http://host:port/v1?concurrency=4#model`. `?tokenizer=org/name` names the tokenizer whose chat template the server
uses. `?mutant=noise:0.1` damages the model after loading (`models.mutants`).
`?template.NAME=VALUE` sets a variable of the model's chat template, and `?date=2025-03-31` its clock
(`models.prompt_options`).

This module uses the standard library only, so that a wrong reference is refused before anything heavy is imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from pytest_trust.errors import InvalidInput
from pytest_trust.models.mutants import Dosed, parse_mutant

Kind = Literal["hub", "directory", "adapter", "gguf", "demo", "recording", "server"]

DEMO_NAMES = ("instruct", "aligned", "sft", "distill", "rl")
RECORDING_SUFFIX = ".trust"
DTYPES = ("auto", "float32", "bfloat16", "float16")

#: What may follow `?`, and the values each takes (None: any text).
OPTIONS: Mapping[str, tuple[str, ...] | None] = MappingProxyType(
    {
        "base": None,
        "concurrency": None,
        "date": None,
        "decoding": ("greedy", "own"),
        "device": None,
        "dtype": DTYPES,
        "key_env": None,
        "label": None,
        "mutant": None,
        "pickle": ("on", "off"),
        "retries": None,
        "revision": None,
        "thinking": None,
        "timeout": None,
        "tokenizer": None,
    }
)
#: `?template.NAME=VALUE` sets the variable NAME of the chat template.
TEMPLATE_OPTION = "template."
Setting = bool | int | float | str | None
"""A value of a template's variable."""

_OF_A_SERVER = ("concurrency", "key_env", "retries", "timeout", "tokenizer")
_OF_ANY_MODEL = ("decoding", "label", "thinking")
_OF_A_PROMPT = ("date", "thinking")
# Arguments of a template that pytest-trust gives itself, or leaves out.
_NOT_ITS_VARIABLES = (
    "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "messages",
    "strftime_now", "tokenize", "tools",
)  # fmt: skip
# What a chat template may know beside a number of tokens; `models.thinking_switches` asks the template itself.
_THINKING = ("on", "off", "low", "medium", "high")

_LABELLED = re.compile(r"([A-Za-z0-9][\w.-]*)=(.*)", re.DOTALL)
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_DEVICE = re.compile(r"auto|cpu|mps|balanced|(cuda|xpu|npu)(:\d+)?")
_SCHEMES = ("http://", "https://")


class InvalidReference(InvalidInput):
    """A model reference that cannot be used as given."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed model reference."""

    text: str
    """The reference as given."""
    kind: Kind
    location: str
    """The repository id, the absolute path, the demo name, or a server's `URL#model`."""
    revision: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    """The short name that reports show."""

    def __hash__(self) -> int:
        return hash((self.kind, self.location, self.revision, tuple(sorted(self.options.items()))))

    def __reduce__(self) -> tuple[object, ...]:
        return parse_reference, (self.text,)

    @property
    def unlabelled(self) -> str:
        """The reference as given, without a label in front."""
        return self.text.removeprefix(f"{self.label}=")

    @property
    def path(self) -> Path:
        """The file or directory; only for kinds that have one."""
        return Path(self.location)

    @property
    def has_weights(self) -> bool:
        """Whether there is a model to load here: a recording and a server only answer."""
        return self.kind not in ("recording", "server")

    @property
    def on_disk(self) -> bool:
        """Whether the reference names the user's own files, which another machine may lack."""
        return self.kind in ("directory", "adapter", "gguf")

    @property
    def behind_server(self) -> bool:
        """Whether the model runs behind a server."""
        return self.kind == "server"

    @property
    def model_name(self) -> str:
        """The model's name at its source: a repository id, a path, a demo name, or a server's name for it."""
        return self.served[1] if self.behind_server else self.location

    @property
    def served(self) -> tuple[str, str]:
        """URL and model name of a server's reference."""
        url, _, model = self.location.partition("#")
        return url, model

    @property
    def thinking_budget(self) -> int | None:
        """Tokens after which a trace is closed (`?thinking=N`); None where no number is given."""
        value = self.options.get("thinking", "")
        return int(value) if value.isdecimal() else None

    @property
    def template_options(self) -> dict[str, str]:
        """The values of `?template.NAME=VALUE` by name, as they were given."""
        return {
            key.removeprefix(TEMPLATE_OPTION): value
            for key, value in self.options.items()
            if key.startswith(TEMPLATE_OPTION)
        }

    @property
    def prompt_settings(self) -> str:
        """What `?template.NAME=` and `?date=` set in the prompts, in one text; empty where neither is given."""
        return urlencode(
            {key: value for key, value in self.options.items() if key == "date" or key.startswith(TEMPLATE_OPTION)}
        )

    @property
    def mutant(self) -> Dosed | None:
        """The mutant that the model is turned into after loading (`?mutant=NAME:DOSE`); None where there is none."""
        return parse_mutant(self.options["mutant"]) if "mutant" in self.options else None

    def check(self) -> None:
        """Refuse a reference that cannot work. This reads file names, first bytes and JSON files only.

        Raises:
            InvalidReference: one line that says what is wrong.
        """
        if self.kind in ("directory", "adapter"):
            _check_directory(self)
        elif self.kind == "gguf":
            _check_magic(self, b"GGUF", "a GGUF file")
        elif self.kind == "recording":
            _check_magic(self, b"PK\x03\x04", "a recording written by --trust-record")


@dataclass(frozen=True, slots=True)
class Pair:
    """A baseline and a candidate."""

    baseline: Reference
    candidate: Reference


def parse_reference(text: str) -> Reference:
    """Parse a model reference.

    Raises:
        InvalidReference: the text is no reference, names an unknown option, or gives an option a wrong value.
    """
    given = text.strip()
    if not given or any(ord(character) < 32 for character in given):
        raise InvalidReference(
            f"{given!r} is no model reference: "
            "give org/name, a directory, a .gguf or .trust file, http://host:port/v1#model, or demo:NAME"
        )
    named = None if Path(given).expanduser().exists() else _LABELLED.fullmatch(given)
    label, rest = named.groups() if named else ("", given)
    if not rest:
        raise InvalidReference(f"{given}: a label without a model: write NAME=MODEL")
    if rest.startswith(_SCHEMES):
        return _parse_server(given, label, rest)
    name, _, query = (rest, "", "") if Path(rest).expanduser().exists() else rest.partition("?")
    options = _parse_options(given, query)
    if label and "label" in options:
        raise InvalidReference(f"{given}: the label is given twice, in front and as an option: keep one")
    kind, location, revision = _kind_of(given, name)
    if "revision" in options:
        if revision:
            raise InvalidReference(f"{given}: the revision is given twice, after @ and as an option: keep one")
        if kind != "hub":
            raise InvalidReference(f"{given}: `revision` is for models of the hub (org/name): remove it")
        revision = options.pop("revision")
    for option in _OF_A_SERVER:
        if option in options:
            raise InvalidReference(f"{given}: `{option}` is for a server (http://host:port/v1#model): remove it")
    if "base" in options and kind != "adapter":
        raise InvalidReference(
            f"{given}: `base` is for a PEFT adapter directory, this is a {kind} reference: remove it"
        )
    for option in options:
        if kind == "recording" and (option in _OF_A_PROMPT or option.startswith(TEMPLATE_OPTION)):
            raise InvalidReference(
                f"{given}: `{option}` cannot change the prompts of a recording, which are rendered already: "
                "give it to the model that is recorded"
            )
    if "mutant" in options and kind == "recording":
        raise InvalidReference(f"{given}: a recording has no weights to mutate: give the model")
    label = label or options.pop("label", "") or _label(kind, name, location, options)
    return Reference(given, kind, location, revision, MappingProxyType(dict(sorted(options.items()))), label)


def _parse_server(given: str, label: str, rest: str) -> Reference:
    """Parse `URL[?options]#model`.

    Errors do not repeat a URL's user and key or unknown options, which may be secrets.
    """
    url, _, model = rest.partition("#")
    url, _, query = url.partition("?")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise InvalidReference(f"{url}: not the address of a server: write http://host:port/v1#model")
    if parts.username or parts.password:
        raise InvalidReference(
            f"{host}: a user or key in the address would stand in every report: "
            "put it in an environment variable and name that, ?key_env=NAME"
        )
    if not model or "?" in model:
        raise InvalidReference(
            f"{url}: a server's reference ends in #model, with options before it: {url}?label=x#model"
        )
    if query and not all("=" in part for part in query.split("&")):
        raise InvalidReference(f"{url}#{model}: options are written ?key=value&key=value before the #")
    options = _parse_options(url, query)
    for option in options:
        if option not in _OF_A_SERVER and option not in _OF_ANY_MODEL and not option.startswith(TEMPLATE_OPTION):
            known = ", ".join(sorted((*_OF_A_SERVER, *_OF_ANY_MODEL, f"{TEMPLATE_OPTION}NAME")))
            raise InvalidReference(
                f"{url}#{model}: `{option}` is not for a server, which is loaded as it is; its options are {known}"
            )
    if options.get("thinking", "on") not in ("on", "off"):
        raise InvalidReference(
            f"{url}#{model}: thinking={options['thinking']}: "
            "a server's trace cannot be closed from here: give on or off"
        )
    for name in ("enable_thinking", "thinking"):
        if "thinking" in options and f"{TEMPLATE_OPTION}{name}" in options:
            raise InvalidReference(
                f"{url}#{model}: ?thinking= sets the template's {name} too: keep it or {TEMPLATE_OPTION}{name}"
            )
    if label and "label" in options:
        raise InvalidReference(f"{url}#{model}: the label is given twice, in front and as an option: keep one")
    label = label or options.pop("label", "") or _label("server", model, model, options)
    return Reference(
        given, "server", f"{url.rstrip('/')}#{model}", "", MappingProxyType(dict(sorted(options.items()))), label
    )


def _parse_options(given: str, query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise InvalidReference(f"{given}: options are written ?key=value&key=value, not {query!r}") from None
    options: dict[str, str] = {}
    for key, value in pairs:
        if key.startswith(TEMPLATE_OPTION):
            _check_variable(given, key.removeprefix(TEMPLATE_OPTION))
        elif key not in OPTIONS:
            known = ", ".join(sorted((*OPTIONS, f"{TEMPLATE_OPTION}NAME")))
            raise InvalidReference(f"{given}: unknown option {key!r}; known options are {known}")
        if key in options:
            raise InvalidReference(f"{given}: the option {key!r} is given twice: keep one")
        allowed = OPTIONS.get(key)
        if not value or (allowed is not None and value not in allowed):
            expected = " or ".join(allowed) if allowed else "a value"
            raise InvalidReference(f"{given}: {key}={value!r} is not possible, expected {expected}")
        if key == "device":
            check_device(value, given)
        if key in ("concurrency", "retries", "timeout"):
            _check_number(given, key, value)
        if key == "key_env" and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise InvalidReference(f"{given}: key_env takes the NAME of an environment variable, never the key itself")
        if key == "thinking" and value not in _THINKING and not (value.isdecimal() and int(value)):
            raise InvalidReference(
                f"{given}: thinking={value!r} is not possible, "
                f"expected {', '.join(_THINKING)}, or the number of tokens that a trace may take"
            )
        if key == "date":
            _check_date(given, value)
        if key == "mutant":
            value = _canonical_mutant(value, given)
        if key == "tokenizer":
            tokenizer_reference(value, given)
        options[key] = value
    return options


def _check_number(given: str, key: str, value: str) -> None:
    least, what = {
        "concurrency": (1, "requests at once"),
        "retries": (0, "further attempts of one request"),
        "timeout": (0.001, "seconds for one answer"),
    }[key]
    try:
        number = float(value) if key == "timeout" else int(value)
    except ValueError:
        number = -1
    if not least <= number < 1e6:
        raise InvalidReference(
            f"{given}: {key}={value!r} is not possible, expected a number of {what}, at least {least}"
        )


def tokenizer_reference(value: str, given: str = "") -> Reference:
    """The reference of a tokenizer: org/name[@revision], or a directory, which needs no weights.

    Raises:
        InvalidReference: the text is neither.
    """
    where = f"{given}: " if given else ""
    try:
        kind, location, revision = _kind_of(value, value)
    except InvalidReference as error:
        raise InvalidReference(f"{where}tokenizer={error}") from None
    if kind == "adapter" or (kind == "directory" and Path(location).is_dir()):
        kind = "directory"
    elif kind != "hub":
        raise InvalidReference(f"{where}tokenizer={value} is not possible, expected org/name or a directory")
    return Reference(value, kind, location, revision, label=value)


def _check_variable(given: str, name: str) -> None:
    """Refuse a name that cannot be a variable of the template's own."""
    if not name.isidentifier():
        raise InvalidReference(
            f"{given}: {name!r} is no name of a template's variable: write ?{TEMPLATE_OPTION}NAME=VALUE"
        )
    if name in _NOT_ITS_VARIABLES:
        instead = "give ?date=YYYY-MM-DD" if name == "strftime_now" else "leave it out"
        raise InvalidReference(f"{given}: {name} is given to every chat template by pytest-trust itself: {instead}")


def _check_date(given: str, value: str) -> None:
    try:
        fits = date.fromisoformat(value).isoformat() == value
    except ValueError:
        fits = False
    if not fits:
        raise InvalidReference(f"{given}: date={value!r} is not possible, expected a date such as 2025-03-31")


def setting_of(text: str) -> Setting:
    """The value of a template's variable: true, false, null or a number if it is written like one, else the text."""
    words: dict[str, Setting] = {"true": True, "false": False, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    if re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", text) else text


def _canonical_mutant(value: str, given: str) -> str:
    try:
        return str(parse_mutant(value))
    except InvalidInput as error:
        raise InvalidReference(f"{given}: {error}") from None


def check_device(device: str, given: str = "") -> None:
    """Refuse a wrong device name. Loading a model checks whether the device exists.

    Raises:
        InvalidReference: the text is no device name.
    """
    if not _DEVICE.fullmatch(device):
        where = f"{given}: " if given else ""
        raise InvalidReference(
            f"{where}device {device!r} is no device: expected auto, cpu, cuda, cuda:N, balanced (over all GPUs) or mps"
        )


def _kind_of(given: str, name: str) -> tuple[Kind, str, str]:
    if name.startswith("demo:"):
        demo = name.removeprefix("demo:")
        if demo not in DEMO_NAMES:
            raise InvalidReference(
                f"{given}: unknown demo model {demo!r}; known are {', '.join('demo:' + n for n in DEMO_NAMES)}"
            )
        return "demo", demo, ""
    path = Path(name).expanduser()
    if path.suffix == RECORDING_SUFFIX:
        return "recording", str(path.resolve()), ""
    if path.suffix == ".gguf":
        return "gguf", str(path.resolve()), ""
    if path.exists():
        adapter = (path / "adapter_config.json").exists()
        return "adapter" if adapter else "directory", str(path.resolve()), ""
    repository, at, revision = name.partition("@")
    looks_like_path = name.startswith((".", "/", "~", "\\")) or name.count("/") > 1 or "\\" in name
    if looks_like_path:
        raise InvalidReference(f"{given}: no such file or directory: give an existing path, org/name or demo:NAME")
    if not _HUB.fullmatch(repository) or (at and not revision):
        raise InvalidReference(
            f"{given}: neither an existing path nor org/name[@revision] "
            "(models without an organisation need its name too)"
        )
    return "hub", repository, revision


def _label(kind: Kind, name: str, location: str, options: Mapping[str, str]) -> str:
    path = kind in ("directory", "adapter", "gguf", "recording") or (kind == "server" and name.startswith("/"))
    short = Path(location).name if path else name
    shown = "&".join(f"{key}={value}" for key, value in options.items() if _shown(key))
    return f"{short}?{shown}" if shown else short


def _shown(option: str) -> bool:
    """Whether a label shows an option: one that changes what the model answers."""
    return option in ("decoding", "dtype", "mutant", *_OF_A_PROMPT) or option.startswith(TEMPLATE_OPTION)


def _check_magic(reference: Reference, magic: bytes, what: str) -> None:
    path = reference.path
    try:
        with path.open("rb") as file:
            first = file.read(len(magic))
    except OSError as error:
        reason = (
            "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or "cannot be read").lower()
        )
        raise InvalidReference(f"{reference.text}: {reason}: expected {what}") from None
    if not first:
        raise InvalidReference(f"{reference.text}: the file is empty: expected {what}")
    if first != magic:
        raise InvalidReference(f"{reference.text}: not {what} (it begins with {first!r}): give another file")


def _check_directory(reference: Reference) -> None:
    path = reference.path
    if not path.is_dir():
        raise InvalidReference(
            f"{reference.text}: a file, expected a model directory, a .gguf file or a {RECORDING_SUFFIX} recording"
        )
    name = "adapter_config.json" if reference.kind == "adapter" else "config.json"
    if not (path / name).is_file():
        raise InvalidReference(
            f"{reference.text}: not a model: the directory has neither config.json nor adapter_config.json; "
            "give a directory written by save_pretrained"
        )
    config = read_json(path / name, reference.text)
    weights_files(path, reference)
    if reference.kind == "adapter":
        base = adapter_base(reference, config)
        if base.kind == "adapter":
            raise InvalidReference(
                f"{reference.text}: its base {base.text} is an adapter too: "
                "merge that one first, or give the base as ?base="
            )
        base.check()


def adapter_base(reference: Reference, config: Mapping[str, object] | None = None) -> Reference:
    """The reference of an adapter's base model: `?base=`, else the one that adapter_config.json names."""
    if config is None:
        config = read_json(reference.path / "adapter_config.json", reference.text)
    named = reference.options.get("base") or config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise InvalidReference(
            f"{reference.text}: adapter_config.json names no base model: give it as ?base=org/name or ?base=PATH"
        )
    try:
        return parse_reference(named)
    except InvalidReference as error:
        raise InvalidReference(
            f"{reference.text}: its base model cannot be used ({error}); give another as ?base="
        ) from None


def portable_options(reference: Reference) -> dict[str, str]:
    """The reference's options, with the full path of an adapter's base.

    A base may be named relative to this process's directory. Other processes may have another.
    """
    options = dict(reference.options)
    if reference.kind == "adapter":
        base = adapter_base(reference)
        if base.on_disk:
            options["base"] = base.location + (f"?{urlencode(base.options)}" if base.options else "")
    return options


def weights_files(directory: Path, reference: Reference) -> tuple[Path, ...]:
    """The weight files of a local model or adapter, safetensors first.

    Unpickling weights can run code of their author, so pickled weights are refused unless the reference says
    `?pickle=on`.

    Raises:
        InvalidReference: no weights, an empty file, or pickled weights without `?pickle=on`.
    """
    adapter = reference.kind == "adapter"
    safe, pickled = ("adapter_model*.safetensors", "adapter_model*.bin") if adapter else ("*.safetensors", "*.bin")
    found = sorted(
        file for file in directory.glob(safe) if adapter or not file.name.startswith(("adapter_", "consolidated"))
    )
    if not found:
        bins = sorted(
            file
            for file in directory.glob(pickled)
            if not file.name.startswith(("training_args", "optimizer", "scheduler"))
        )
        if bins and reference.options.get("pickle") != "on":
            raise InvalidReference(
                f"{reference.text}: has only pickled weights ({bins[0].name}), which are not loaded by default: "
                "convert them to safetensors, or add ?pickle=on"
            )
        found = bins
    if not found:
        raise InvalidReference(f"{reference.text}: no weights: expected {safe.replace('*', '')} in {directory}")
    for file in found:
        if file.stat().st_size == 0:
            raise InvalidReference(f"{reference.text}: {file.name} is empty: copy or download it again")
    return tuple(found)


def read_json(path: Path, given: str) -> dict[str, object]:
    """A JSON object from a model directory.

    Raises:
        InvalidReference: the file cannot be read, or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidReference(f"{given}: {path.name} cannot be read ({error.strerror or error})") from None
    except ValueError:
        raise InvalidReference(f"{given}: {path.name} is not JSON: the directory is damaged, copy it again") from None
    if not isinstance(value, dict):
        raise InvalidReference(f"{given}: {path.name} is not a JSON object: the directory is damaged, copy it again")
    return value
