"""Adapters through `datasets` itself, from folders that hold made-up rows as the Hub's repositories do: no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_trust.catalog.public import adapters, build_suite, get_adapter
from pytest_trust.catalog.public import source as sources
from pytest_trust.catalog.public.adapter import Adapter, Checked, NotFound
from pytest_trust.catalog.public.source import HUB, Found, find_records
from pytest_trust.errors import InvalidInput
from tests.support import made_up_benchmarks as made

pytest.importorskip("datasets", reason="loading from the Hub takes the extra `public`")

Tables = dict[tuple[str, str], made.Table]
BY_HUB = [name for name, adapter in adapters().items() if adapter.hub]


def of_stereoset(kind: str) -> made.Table:
    """Sentences by column, labels numbered."""
    numbers = {"anti-stereotype": 0, "stereotype": 1, "unrelated": 2}
    return [
        {
            **{key: row[key] for key in ("id", "target", "bias_type", "context")},
            "sentences": {
                "sentence": [item["sentence"] for item in row["sentences"]],
                "labels": [{"label": [numbers[vote["label"]] for vote in item["labels"]]} for item in row["sentences"]],
                "gold_label": [numbers[item["gold_label"]] for item in row["sentences"]],
            },
        }
        for row in made.stereoset(kind)["data"]["intrasentence"]
    ]


def requests(*columns: str) -> made.Table:
    return [{column: f"{column} {i}" for column in columns} for i in range(4)]


TABLES: dict[str, Callable[[], Tables]] = {
    "xstest": lambda: {
        ("", "test"): [{key: value for key, value in row.items() if key != "id"} for row in made.xstest()]
    },
    "simplesafetytests": lambda: {("", "test"): requests("id", "harm_area", "prompt")},
    "jailbreakbench": lambda: {("behaviors", "harmful"): requests("Goal", "Category")},
    "strongreject": lambda: {("", "train"): requests("prompt", "category")},
    "advbench": lambda: {("", "train"): requests("prompt", "target")},
    "harmbench": lambda: {
        ("standard", "train"): requests("prompt", "category"),
        ("contextual", "train"): requests("prompt", "category", "context"),
    },
    "realtoxicityprompts_challenging": lambda: {("", "train"): made.toxicity_rows(0.9, True, 0)},
    "bold": lambda: {
        ("", "train"): [
            {"domain": domain, "category": group, "name": page, "prompts": prompts}
            for domain in ("gender", "race")
            for group, pages in made.bold().items()
            for page, prompts in pages.items()
        ]
    },
    "winogender": lambda: {("all", "test"): made.winogender()},
    "advglue": lambda: {
        (f"adv_{task}".replace("-mm", "_mismatched"), "validation"): rows for task, rows in made.advglue().items()
    },
    "privacylens": lambda: {("", "train"): made.privacylens()},
    "gsm8k": lambda: {("main", "test"): made.gsm8k()},
    "math500": lambda: {("", "test"): made.math500()},
} | {
    f"stereoset_{kind}": (lambda kind=kind: {("intrasentence", "validation"): of_stereoset(kind)})  # type: ignore[misc]
    for kind in ("gender", "profession", "race", "religion")
}

FILES: dict[str, str] = {
    "crows_pairs": made.as_csv(made.crows_pairs()),
    "moral_stories": made.as_lines(made.moral_stories()),
    "ethics_commonsense": made.as_csv(made.commonsense()),
    "ethics_commonsense_pressured": made.as_csv(made.commonsense()),
    "ethics_commonsense_asked": made.as_csv(made.commonsense()),
    "ethics_justice": made.as_csv(made.reasonable()),
    "ethics_deontology": made.as_csv(made.deontology()),
    "ethics_virtue": made.as_csv(made.virtue()),
}


def repository(folder: Path, name: str) -> Adapter:
    """The adapter with its Hub dataset in `folder`."""
    adapter = get_adapter(f"public/{name}")
    hub = adapter.hub
    assert hub is not None
    if hub.files:
        (file,) = hub.files
        text = made.as_lines(made.bbq(Path(file).stem)) if name.startswith("bbq_") else FILES[name]
        made.write(folder / file, text)
    else:
        configs = []
        for (config, split), rows in TABLES[name]().items():
            file = f"{config or 'data'}-{split}.jsonl"
            made.write(folder / file, made.as_lines(rows))
            configs.append({"config_name": config or "default", "data_files": [{"split": split, "path": file}]})
        made.write(folder / "README.md", f"---\nconfigs: {json.dumps(configs)}\n---\n")
    return replace(adapter, hub=replace(hub, path=str(folder)))


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "_unreachable", [])
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def from_hub(adapter: Adapter) -> Found:
    return find_records(adapter, accept_data_change=True)


@pytest.mark.parametrize("name", BY_HUB)
def test_rows_of_the_hub_are_those_of_the_files(name: str, tmp_path: Path) -> None:
    short = name.removeprefix("public/")
    found = from_hub(repository(tmp_path / "repository", short))
    assert build_suite(get_adapter(name), found.records).probes
    if short in (
        "xstest",
        "privacylens",
        "advglue",
        "winogender",
        "gsm8k",
        "math500",
        "crows_pairs",
        "ethics_virtue",
    ) or short.startswith(("bbq_", "ethics")):
        made.write_all(tmp_path / "files")
        files = find_records(get_adapter(name), data=tmp_path / "files", accept_data_change=True)
        assert found.sha256 == files.sha256, [
            pair for pair in zip(found.records, files.records, strict=True) if pair[0] != pair[1]
        ][:1]


def test_a_changed_row_of_the_hub_is_refused_and_a_broken_one_is_named(tmp_path: Path) -> None:
    adapter = repository(tmp_path / "repository", "advglue")
    assert adapter.hub is not None
    right = replace(
        adapter, hub=replace(adapter.hub, checked=Checked(len(from_hub(adapter).records), from_hub(adapter).sha256))
    )
    (note,) = find_records(right).notes
    assert note.endswith("the rows are those that the suite was checked with, by their number and hash")
    assert "no pinned revision" in note
    for label, message in (
        (1, "take these rows with --trust-accept-data-change"),
        (7, "adv_rte validation: row 1, column label: is 7, an unknown label"),
    ):
        folder = tmp_path / str(label)  # datasets keeps what it has read of a folder
        changed = repository(folder, "advglue")
        file = folder / "adv_rte-validation.jsonl"
        file.write_text(file.read_text().replace('"label": 0', f'"label": {label}'))
        assert changed.hub is not None
        assert right.hub is not None
        with pytest.raises(InvalidInput, match=message):
            find_records(replace(changed, hub=replace(changed.hub, checked=right.hub.checked)))


def test_hub_is_asked_whatever_folder_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    adapter = repository(tmp_path / "repository", "math500")
    assert len(find_records(adapter, data=Path(HUB)).records) == len(made.math500())
    with pytest.raises(NotFound, match="public/confaide_tier1: not on the Hub: get it from"):
        find_records(get_adapter("public/confaide_tier1"), data=Path(HUB))
    made.write(tmp_path / HUB / "math500/test.jsonl", made.as_lines(made.math500()[:2]))
    assert len(find_records(adapter, data=Path(HUB)).records) == 2  # a folder of that name is one


def test_an_unreachable_hub_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(*arguments: object, **keywords: object) -> None:
        asked.append((arguments, keywords))
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load)
    for name in ("public/bbq_age", "public/stereoset_race"):
        with pytest.raises(NotFound, match=rf"{name}: .*ConnectionError: no route"):
            find_records(get_adapter(name))
    assert asked == [
        (
            ("json",),
            {
                "data_files": "hf://datasets/heegyu/bbq@5d6faae52070aa5eb71b46d1c0723d3ba7930209/data/Age.jsonl",
                "split": "train",
            },
        )
    ]
