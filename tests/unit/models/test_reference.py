"""Model references: what is understood, and what is refused before anything is loaded."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_trust.errors import InvalidInput
from pytest_trust.models.reference import Setting, parse_reference, setting_of, tokenizer_reference


def model_directory(path: Path, *, weights: str = "model.safetensors") -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / weights).write_bytes(b"x")
    return path


@pytest.mark.parametrize(
    ("text", "kind", "location", "revision"),
    [
        ("org/name", "hub", "org/name", ""),
        ("org/name@v1.2", "hub", "org/name", "v1.2"),
        ("org/name?revision=abc&thinking=off", "hub", "org/name", "abc"),
        ("demo:aligned", "demo", "aligned", ""),
    ],
)
def test_understands(text: str, kind: str, location: str, revision: str) -> None:
    reference = parse_reference(text)
    assert (reference.kind, reference.location, reference.revision) == (kind, location, revision)


def test_options_and_label_make_two_settings_of_one_model_a_pair() -> None:
    on, off = parse_reference("Qwen/Qwen3-4B?thinking=on"), parse_reference("Qwen/Qwen3-4B?thinking=off")
    assert on.options == {"thinking": "on"}
    assert (on.label, off.label) == ("Qwen/Qwen3-4B?thinking=on", "Qwen/Qwen3-4B?thinking=off")
    assert on != off
    assert hash(on) != hash(off)
    assert parse_reference("org/name?label=ours").label == "ours"


def test_a_server_may_name_its_tokenizer(tmp_path: Path) -> None:
    given = parse_reference("http://host/v1?tokenizer=org/name@main#m")
    assert given.options == {"tokenizer": "org/name@main"}
    named = tokenizer_reference("org/name@main")
    assert (named.kind, named.location, named.revision) == ("hub", "org/name", "main")
    (tmp_path / "adapter_config.json").touch()  # a tokenizer is all that is looked for in a directory
    named = tokenizer_reference(str(tmp_path))
    assert (named.kind, named.path) == ("directory", tmp_path)


def test_variables_of_the_template_are_options_of_their_own() -> None:
    given = parse_reference("org/name?template.persona=a%20judge&template.level=2&date=2025-03-31")
    assert given.template_options == {"persona": "a judge", "level": "2"}
    assert given.label == "org/name?template.persona=a judge&template.level=2&date=2025-03-31"
    assert given.prompt_settings == "date=2025-03-31&template.level=2&template.persona=a+judge"
    assert pickle.loads(pickle.dumps(given)) == given
    other = parse_reference("org/name?template.level=2")
    assert other != given and other.prompt_settings == "template.level=2"
    assert parse_reference("org/name?dtype=float32&thinking=off").prompt_settings == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("False", False), ("null", None), ("7", 7), ("-7", -7), ("0.5", 0.5), ("1e3", 1000.0),
        ("none", "none"), ("1.2.3", "1.2.3"), ("2024-12-24", "2024-12-24"), ("nan", "nan"), ("0x1", "0x1"),
        ("a judge", "a judge"),
    ],
)  # fmt: skip
def test_a_value_of_a_variable_has_the_type_that_it_is_written_as(text: str, value: Setting) -> None:
    found = setting_of(text)
    assert (found, type(found)) == (value, type(value))


def test_a_server_is_its_address_and_a_model() -> None:
    given = parse_reference("mine=https://host:8000/v1/?concurrency=4&thinking=off#org/name")
    assert (given.kind, given.served, given.label) == ("server", ("https://host:8000/v1", "org/name"), "mine")
    assert given.options == {"concurrency": "4", "thinking": "off"}
    assert not given.has_weights
    assert parse_reference("http://host/v1#org/name").label == "org/name"
    assert parse_reference("http://host/v1#/models/a/tuned").label == "tuned"
    given.check()


@pytest.mark.parametrize(
    "text",
    [
        "https://me:s3cret@host/v1#m",
        "https://s3cret@host/v1#m",
        "https://host/v1?api_key=s3cret#m",
        "https://host/v1?s3cret#m",
        "https://host/v1?key_env=s3cret-1#m",
    ],
)
def test_a_key_in_a_reference_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_reference(text)
    assert "s3cret" not in str(error.value)


def test_a_reference_crosses_processes() -> None:
    reference = parse_reference("org/name@main?dtype=float32")
    assert pickle.loads(pickle.dumps(reference)) == reference


def test_directories_adapters_and_files_are_told_apart(tmp_path: Path) -> None:
    base = model_directory(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    (tmp_path / "m.gguf").write_bytes(b"GGUF....")
    (tmp_path / "r.trust").write_bytes(b"PK\x03\x04")
    kinds = {}
    for path in (base, adapter, tmp_path / "m.gguf", tmp_path / "r.trust"):
        reference = parse_reference(str(path))
        reference.check()
        kinds[path.name] = reference.kind
    assert kinds == {"base": "directory", "adapter": "adapter", "m.gguf": "gguf", "r.trust": "recording"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no model reference"),
        ("gpt2", "neither an existing path nor org/name"),
        ("./nowhere", "no such file or directory"),
        ("/nowhere/at/all", "no such file or directory"),
        ("a/b/c", "no such file or directory"),
        ("demo:other", "known are demo:instruct, demo:aligned, demo:sft, demo:distill, demo:rl"),
        ("http://localhost:8000/v1", "ends in #model"),
        ("http://localhost:8000/v1#m?label=x", "with options before it"),
        ("http:///v1#m", "not the address of a server"),
        ("http://localhost:8000/v1?device=cpu#m", "not for a server"),
        ("http://localhost:8000/v1?thinking=100#m", "give on or off"),
        ("http://localhost:8000/v1?concurrency=0#m", "expected a number of requests at once"),
        ("http://localhost:8000/v1?timeout=soon#m", "seconds for one answer"),
        ("http://localhost:8000/v1?tokenizer=./nowhere#m", "tokenizer=./nowhere: no such file or directory"),
        ("http://localhost:8000/v1?tokenizer=gpt2#m", "tokenizer=gpt2: neither an existing path nor org/name"),
        ("http://localhost:8000/v1?tokenizer=demo:sft#m", "expected org/name or a directory"),
        ("org/name?timeout=3", "is for a server"),
        ("org/name?tokenizer=org/other", "is for a server"),
        ("org/name?temperature=0.5", "unknown option 'temperature'; known options are base, concurrency, date"),
        ("http://host/v1?top_p=1#m", "unknown option 'top_p'; known options are"),
        ("org/name?template.x=1&template.x=2", "the option 'template.x' is given twice"),
        ("org/name?template.=1", "'' is no name of a template's variable"),
        ("org/name?template.a-b=1", "'a-b' is no name of a template's variable"),
        ("org/name?template.a=", "template.a='' is not possible, expected a value"),
        ("org/name?template.messages=x", "messages is given to every chat template by pytest-trust itself"),
        ("org/name?template.strftime_now=x", "give ?date=YYYY-MM-DD"),
        ("org/name?date=tomorrow", "date='tomorrow' is not possible, expected a date such as 2025-03-31"),
        ("org/name?date=20250331", "expected a date such as 2025-03-31"),
        ("a.trust?template.x=1", "`template.x` cannot change the prompts of a recording"),
        ("a.trust?date=2025-03-31", "`date` cannot change the prompts of a recording"),
        ("a.trust?thinking=off", "`thinking` cannot change the prompts of a recording"),
        ("http://host/v1?date=2025-03-31#m", "`date` is not for a server"),
        ("http://host/v1?thinking=on&template.thinking=true#m", "sets the template's thinking too"),
        ("org/name@", "neither an existing path nor org/name"),
        ("org/name?thinkin=on", "known options are base, concurrency, date, decoding, device, dtype"),
        ("org/name?thinking=maybe", "expected on, off, low, medium, high, or the number of tokens"),
        ("org/name?dtype=int3", "expected auto or float32"),
        ("org/name?device=gpu", "expected auto, cpu, cuda"),
        ("org/name?dtype", "options are written ?key=value"),
        ("org/name?dtype=float32&dtype=auto", "given twice"),
        ("org/name@a?revision=b", "given twice"),
        ("org/name?base=org/other", "for a PEFT adapter"),
        ("demo:sft?revision=b", "for models of the hub"),
        ("org/na\nme", "no model reference"),
    ],
)
def test_refuses_in_one_line(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_reference(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def broken(tmp_path: Path, what: str) -> Path:
    path = tmp_path / what
    if what == "missing.gguf":
        return path
    if what in ("empty.gguf", "empty.trust"):
        path.touch()
    elif what in ("text.gguf", "text.trust") or what == "file":
        path.write_text("hello")
    elif what == "bare":
        path.mkdir()
    elif what == "pickled":
        model_directory(path, weights="pytorch_model.bin")
    elif what == "weightless":
        path.mkdir()
        (path / "config.json").write_text("{}")
    elif what == "hollow":
        model_directory(path)
        (path / "model.safetensors").write_bytes(b"")
    elif what == "garbled":
        model_directory(path)
        (path / "config.json").write_text("{")
    elif what == "baseless":
        path.mkdir()
        (path / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere/model"}')
        (path / "adapter_model.safetensors").write_bytes(b"x")
    return path


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("missing.gguf", "no such file"),
        ("empty.gguf", "the file is empty"),
        ("text.gguf", "not a GGUF file"),
        ("empty.trust", "the file is empty"),
        ("text.trust", "not a recording"),
        ("file", "expected a model directory"),
        ("bare", "neither config.json nor adapter_config.json"),
        ("pickled", "add ?pickle=on"),
        ("weightless", "no weights"),
        ("hollow", "is empty"),
        ("garbled", "not JSON"),
        ("baseless", "its base model cannot be used"),
    ],
)
def test_check_refuses_what_cannot_work(tmp_path: Path, what: str, said: str) -> None:
    reference = parse_reference(str(broken(tmp_path, what)))
    with pytest.raises(InvalidInput) as error:
        reference.check()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_pickled_weights_are_allowed_by_their_own_option(tmp_path: Path) -> None:
    path = model_directory(tmp_path / "pickled", weights="pytorch_model.bin")
    parse_reference(f"{path}?pickle=on").check()


def test_checking_imports_nothing_heavy(tmp_path: Path) -> None:
    path = model_directory(tmp_path / "m")
    code = (
        "import sys; from pytest_trust.models.reference import parse_reference; "
        f"parse_reference({str(path)!r}).check(); "
        "print([m for m in ('torch', 'transformers', 'numpy', 'yaml', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
