"""Where rows come from, and that rows other than those checked are refused."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_trust import load_suite
from pytest_trust.audit.policy import load_policy
from pytest_trust.catalog.public import adapters, get_adapter, load_public, source
from pytest_trust.catalog.public.adapter import Checked, NotFound
from pytest_trust.catalog.public.source import find_records, row_hash
from pytest_trust.errors import InvalidInput
from tests.support import made_up_benchmarks as made


def test_other_rows_are_refused_naming_both_and_taken_when_the_user_says_so(tmp_path: Path) -> None:
    made.write(tmp_path / "xstest/xstest_prompts.csv", made.as_csv(made.xstest()))
    checked = get_adapter("public/xstest").layouts[0].checked
    assert checked is not None
    with pytest.raises(InvalidInput) as caught:
        load_suite("public/xstest", data=tmp_path)
    message = str(caught.value)
    found = find_records(get_adapter("public/xstest"), data=tmp_path, accept_data_change=True)
    assert f"xstest_prompts.csv gives 5 rows with hash {row_hash(found.records)[:12]}" in message
    assert f"checked with 450 rows with hash {checked.sha256[:12]}" in message
    assert "--trust-accept-data-change" in message
    suite = load_suite("public/xstest", data=tmp_path, accept_data_change=True)
    assert len(suite.probes) == 5
    assert suite.notes[0].startswith("public/xstest: data change accepted: xstest_prompts.csv gives 5 rows")


def test_rows_that_were_checked_need_no_word(tmp_path: Path) -> None:
    made.write(tmp_path / "xstest/xstest_prompts.csv", made.as_csv(made.xstest()))
    adapter = get_adapter("public/xstest")
    found = find_records(adapter, data=tmp_path, accept_data_change=True)
    layout = replace(adapter.layouts[0], checked=Checked(5, found.sha256))
    assert find_records(replace(adapter, layouts=(layout,)), data=tmp_path).notes == ()


def test_one_changed_character_changes_the_hash_and_the_order_does_not() -> None:
    rows = [{"a": "x", "b": 1}, {"a": "y", "b": 2}]
    assert row_hash(rows) == row_hash([{"b": 2, "a": "y"}, rows[0]])
    assert row_hash(rows) != row_hash([rows[0], {"a": "Y", "b": 2}])
    assert row_hash(rows) != row_hash([*rows, rows[0]])


def test_rows_that_nobody_checked_are_taken_and_the_report_says_so(tmp_path: Path) -> None:
    made.write_all(tmp_path)
    suite = load_suite("public/strongreject", data=tmp_path)
    assert "not checked with real rows" in suite.notes[0]
    assert suite.about.endswith("Not checked with real rows.")


def test_synthetic_rows_need_no_data() -> None:
    suite = load_suite("public/dt_pii")
    assert suite.notes == ()
    assert suite.about.endswith("Its rows are made by the adapter.")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = made.write(tmp_path / "advbench/harmful_behaviors.csv", "goal,target\nDo one bad thing,Sure\n")
    assert len(load_public("public/advbench", data=tmp_path).probes) == 1
    path.write_text("goal,target\nDo one bad thing,Sure\nDo two bad things,Sure\n", encoding="utf-8")
    assert len(load_public("public/advbench", data=tmp_path).probes) == 2


@pytest.mark.parametrize(
    "name", [name for name, adapter in adapters().items() if not adapter.generate and not adapter.hub]
)
def test_without_rows_the_message_says_how_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        load_suite(name, data=tmp_path)
    assert str(caught.value).startswith(f"{name}: not in {tmp_path}: get it from https://")
    assert "--trust-data=DIR as " in str(caught.value)
    with pytest.raises(NotFound, match="no --trust-data=DIR was given"):
        load_suite(name)


def test_some_of_the_files_are_not_a_benchmark(tmp_path: Path) -> None:
    made.write_all(tmp_path)
    (tmp_path / "bold/race_prompt.json").unlink()
    with pytest.raises(NotFound, match=r"public/bold: race_prompt\.json missing beside the other files"):
        load_suite("public/bold", data=tmp_path)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"--trust-data=.*no such folder"):
        load_suite("public/xstest", data=tmp_path / "absent")


def test_originals_are_found_where_their_repositories_have_them(tmp_path: Path) -> None:
    made.write(tmp_path / "llm-attacks/data/advbench/harmful_behaviors.csv", "goal,target\nDo one bad thing,Sure\n")
    assert len(load_suite("public/advbench", data=tmp_path).probes) == 1


def hub_of(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    monkeypatch.setattr(source, "_unreachable", [])
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_the_hub_is_asked_for_the_pinned_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network stands outside of this project: what is tested is what it is asked, and what becomes of the rows."""
    asked: list[Any] = []

    def load(path: str, config: str | None, **rest: Any) -> list[dict[str, Any]]:
        asked.append((path, config, rest))
        return made.math500()

    hub_of(monkeypatch, load)
    found = find_records(get_adapter("public/math500"))
    assert asked == [
        ("HuggingFaceH4/MATH-500", None, {"split": "test", "revision": "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"})
    ]
    assert len(found.records) == 3
    assert found.source == "HuggingFaceH4/MATH-500@6e4ed1a2a79a"


def test_the_hub_gives_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_of(monkeypatch, lambda *args, **rest: made.gsm8k())
    with pytest.raises(InvalidInput, match=r"openai/gsm8k@740312add88f gives 3 rows .* checked with 1319 rows"):
        find_records(get_adapter("public/gsm8k"))


def test_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **rest: Any) -> None:
        raise ConnectionError("no route\nto host")

    hub_of(monkeypatch, load)
    with pytest.raises(
        NotFound, match="from the Hub HuggingFaceH4/MATH-500@6e4ed1a2a79a: ConnectionError: no route to host"
    ):
        find_records(get_adapter("public/math500"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(NotFound, match="or install datasets, to load it from the Hub"):
        find_records(get_adapter("public/math500"))


@pytest.mark.parametrize("name", [name for name, adapter in adapters().items() if adapter.hub])
def test_hub_revisions_are_commits(name: str) -> None:
    """Or none is known, and then the source says so."""
    hub = adapters()[name].hub
    assert hub is not None
    if hub.revision is None:
        assert hub.source == f"{hub.path} (no pinned revision)"
        return
    assert len(hub.revision) == 40
    assert int(hub.revision, 16) >= 0


def test_margins_and_families_of_public_gates(tmp_path: Path) -> None:
    suite = load_suite("public/dt_pii")
    gate = suite.gate("three_shot_protect_leak_rate")
    policy = load_policy()
    threshold = policy.threshold_of(suite, gate)
    assert threshold is not None
    assert threshold.margin == gate.margin
    assert suite.family is not None
    assert policy.family_of(suite, gate) == suite.family > policy.family
    named = made.write(
        tmp_path / "policy.yaml", "gates:\n  public/dt_pii/three_shot_protect_leak_rate: {margin: 0.02}\n"
    )
    wider = load_policy(named)
    threshold = wider.threshold_of(suite, gate)
    assert threshold is not None
    assert threshold.margin == 0.02
    assert wider.family_of(suite, gate) == wider.family == policy.family + 1
    misspelt = made.write(tmp_path / "policy.yaml", "gates:\n  public/dt_pii/leaks: {margin: 0.02}\n")
    with pytest.raises(InvalidInput, match="public/dt_pii has the gates zero_shot_attack_leak_rate"):
        load_policy(misspelt)
