"""The lineage of a pair, from adapters, model cards and weights, and the words for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_trust.engine.engine import Engine
from pytest_trust.models.demo import adapter_path
from pytest_trust.models.identity import ModelIdentity, lineage, lineage_words
from pytest_trust.report.drift_diff import drift_diff
from tests.support.report_records import regressed
from tests.support.tiny_models import save_adapter, save_model


def card(directory: Path, front: str) -> Path:
    (directory / "README.md").write_text(
        f"---\nlicense: apache-2.0\n{front}\n---\n# A model\n\nbase_model: not/this\n", encoding="utf-8"
    )
    return directory


def of(tmp_path: Path, *references: object) -> list[ModelIdentity]:
    from pytest_trust.models.reference import parse_reference

    with Engine(tmp_path / "store") as engine:
        return [engine.identify(parse_reference(str(reference))) for reference in references]


def words(tmp_path: Path, baseline: object, candidate: object) -> str:
    return lineage_words(*of(tmp_path, baseline, candidate))


def test_an_adapter_is_made_from_its_base_and_not_the_other_way_round(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base)
    assert words(tmp_path, base, adapter) == "made from the baseline (an adapter)"
    assert words(tmp_path, adapter, base) == "the baseline was made from it"
    second = save_adapter(tmp_path / "second", base, seed=9)
    assert words(tmp_path, adapter, second) == "made from the same parent as the baseline"


@pytest.mark.parametrize(
    ("front", "relation", "said"),
    [
        ("base_model: {base}", "parent", "made from the baseline"),
        ("base_model: {base}\nbase_model_relation: finetune", "parent", "made from the baseline (fine-tuned)"),
        ('base_model: "{base}"\nbase_model_relation: "quantized"', "parent", "made from the baseline (quantised)"),
        ("base_model:\n- org/other\n- {base}\nbase_model_relation: merge", "parent", "made from the baseline (merged)"),
        ("base_model: [org/other, {base}]", "parent", "made from the baseline"),
        ("base_model_relation: finetune", "unknown", "lineage unknown"),
        ("base_model: {base}\nbase_model_relation: something new", "parent", "made from the baseline"),
        ("base_model: org/elsewhere\nbase_model_relation: finetune", "unknown", "lineage unknown"),
    ],
)
def test_a_model_cards_metadata(base: Path, tmp_path: Path, front: str, relation: str, said: str) -> None:
    tuned = card(save_model(tmp_path / "tuned", seed=4), front.format(base=base))
    ours, theirs = of(tmp_path, base, tuned)
    assert lineage(ours, theirs) == relation
    assert lineage_words(ours, theirs) == said


def test_cards_that_name_one_parent_make_siblings(tmp_path: Path) -> None:
    one, other = (
        card(save_model(tmp_path / name, seed=seed), f"base_model: {parent}")
        for seed, (name, parent) in enumerate((("a", "Org/Base"), ("b", "org/base")))
    )
    assert words(tmp_path, one, other) == "made from the same parent as the baseline"


def test_another_architecture_is_unrelated_and_two_directories_without_a_word_are_unknown(
    base: Path, tmp_path: Path
) -> None:
    other = save_model(tmp_path / "other", seed=7)
    assert words(tmp_path, base, other) == "lineage unknown"
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps({**config, "architectures": ["MistralForCausalLM"], "model_type": "mistral"})
    )
    assert words(tmp_path, base, other) == "not made from the baseline"


def test_names_on_the_hub_rule_a_descent_out_and_directories_do_not(base: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    (identity,) = of(tmp_path, base)
    one = replace(identity, fingerprint="1", weights="1", kind="hub", names=("org/one",), ancestors=("org/base-one",))
    two = replace(identity, fingerprint="2", weights="2", kind="hub", names=("org/two",), ancestors=("org/base-two",))
    assert lineage(one, two) == "unrelated"
    assert lineage(replace(one, kind="directory", names=("/models/one",)), two) == "unknown"
    assert lineage(one, replace(two, ancestors=())) == "unknown"
    assert lineage(one, replace(two, ancestors=("ORG/One",))) == "parent"


def test_the_same_weights_otherwise_loaded(base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    assert words(tmp_path, base, copy) == "the same as the baseline"
    assert words(tmp_path, base, f"{base}?dtype=bfloat16") == "the same weights as the baseline"
    assert words(tmp_path, base, f"{base}?thinking=on") == "the same weights as the baseline"


@pytest.mark.parametrize("name", ["sft", "rl", "distill"])
def test_the_demos_conversions_name_their_parent(name: str) -> None:
    front = (adapter_path(name) / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert "base_model: demo:aligned" in front.replace('"', ""), front


@pytest.mark.parametrize(
    "said",
    [
        "made from the baseline",
        "made from the same parent as the baseline",
        "not made from the baseline",
        "lineage unknown",
    ],
)
def test_the_failure_says_it(said: str) -> None:
    text = " ".join(drift_diff(regressed(), lineage=said).split())
    assert f"The candidate (demo:sft, {said}) more often complies" in text
