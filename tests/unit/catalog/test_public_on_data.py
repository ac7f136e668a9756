"""The adapters and formulas on the benchmarks' own files, where the folder with them lies beside the project."""

from __future__ import annotations

import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_trust import load_suite
from pytest_trust.catalog.public import adapters, bbq, build_suite, get_adapter
from pytest_trust.catalog.public.adapter import NotFound
from pytest_trust.catalog.public.known_answers import ANSWERS, CHECKED
from pytest_trust.catalog.public.source import find_records
from pytest_trust.errors import InvalidInput
from pytest_trust.probes import Probe
from tests.support.benchmark_modules import benchmark_module

metrics = benchmark_module("public_metrics")

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not (DATA / "xstest").is_dir(), reason="no folder with the benchmarks' files beside the project (../shared/data)"
)

ROWS = {
    "xstest": 450, "simplesafetytests": 100, "jailbreakbench": 100, "realtoxicityprompts": 2396,
    "realtoxicityprompts_systems": 1196, "ethics_commonsense_pressured": 3885, "crows_pairs": 1508, "bbq_age": 3680,
    "bbq_disability_status": 1556, "bbq_religion": 1200, "bbq_sexual_orientation": 864, "stereoset_gender": 253,
    "stereoset_religion": 79,
    "winogender": 720, "dt_stereotype": 1152, "ethics_commonsense": 3885, "ethics_justice": 2704, "ethics_virtue": 4975,
    "moral_stories": 1000,
    "confaide_tier1": 10, "confaide_tier2a": 98, "confaide_tier2b": 98, "confaide_tier3": 270,
    "confaide_tier3_control": 270, "privacylens": 493,
    "advglue": 738, "dt_styles": 9592, "realtimeqa_2020": 855, "gsm8k": 1319,
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_those_that_the_adapter_was_checked_with(name: str) -> None:
    found = find_records(get_adapter(f"public/{name}"), data=DATA)
    assert (len(found.records), found.sha256) == (CHECKED[name].rows, CHECKED[name].sha256)
    assert len(found.records) == ROWS[name]
    assert found.notes == ()


def test_every_benchmark_is_loaded_or_says_how_to_get_it() -> None:
    missing = []
    for name, adapter in adapters().items():
        if adapter.hub and name.removeprefix("public/") not in CHECKED:
            continue  # would ask the network
        try:
            load_suite(name, data=DATA)
        except NotFound:
            missing.append(name.removeprefix("public/"))
    assert not set(missing) & set(ROWS)


def inverted(column: str, *values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Every value becomes the next one."""
    return lambda record: (
        record | {column: values[(values.index(record[column]) + 1) % len(values)]}
        if record[column] in values
        else record
    )


def exchanged(first: str, second: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda record: record | {first: record[second], second: record[first]}


INVERTED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "xstest": inverted("label", "safe", "unsafe"),
    "realtoxicityprompts": inverted("sample", "toxic", "nontoxic"),
    "crows_pairs": exchanged("more", "less"),
    "bbq_age": inverted("label", 0, 1, 2),
    "bbq_religion": inverted("polarity", "neg", "nonneg"),
    "bbq_disability_status": inverted("polarity", "neg", "nonneg"),
    "bbq_sexual_orientation": inverted("condition", "ambig", "disambig"),
    "stereoset_gender": exchanged("stereotype", "anti-stereotype"),
    "stereoset_religion": exchanged("stereotype", "unrelated"),
    "winogender": inverted("means", 0, 1),
    "ethics_commonsense": inverted("label", 0, 1),
    "ethics_justice": inverted("label", 0, 1),
    "ethics_virtue": inverted("label", 0, 1),
    "moral_stories": exchanged("moral_action", "immoral_action"),
    "confaide_tier1": lambda record: record | {"people": 5 - record["people"]},
    "confaide_tier2a": lambda record: record | {"people": -record["people"]},
    "confaide_tier3": exchanged("about", "aware"),
    "advglue": inverted("label", 0, 1),
    "dt_styles": inverted("label", 0, 1),
    "realtimeqa_2020": inverted("label", 0, 1, 2, 3),
}


@pytest.mark.parametrize("name", INVERTED)
def test_the_self_check_notices_inverted_real_rows(name: str) -> None:
    adapter = get_adapter(f"public/{name}")
    records = [INVERTED[name](dict(record)) for record in find_records(adapter, data=DATA).records]
    with pytest.raises(InvalidInput):
        build_suite(adapter, records)


def test_the_self_check_notices_answers_inverted_by_the_adapter() -> None:
    """The rows are right, and the adapter takes 1 for "not wrong"."""
    adapter = get_adapter("public/ethics_commonsense")
    wrong = replace(
        adapter,
        probes=lambda records: [
            replace(probe, answer={"yes": "no", "no": "yes"}[probe.answer]) for probe in adapter.probes(records)
        ],
    )
    with pytest.raises(InvalidInput, match="labels look inverted"):
        build_suite(wrong, find_records(adapter, data=DATA).records)


WITH_ANSWERS = sorted(name for name in ANSWERS if name.removeprefix("public/") in ROWS)


@pytest.mark.parametrize("name", WITH_ANSWERS)
def test_known_answers_notice_an_adapter_that_inverts_its_own_labels(name: str) -> None:
    adapter = get_adapter(name)

    def another(probe: Probe) -> str:
        return next((option for option in probe.options if option != probe.answer), f"not {probe.answer}")

    records = find_records(adapter, data=DATA).records
    wrong = replace(
        adapter, probes=lambda rows: [replace(probe, answer=another(probe)) for probe in adapter.probes(rows)]
    )
    build_suite(adapter, records)
    with pytest.raises(InvalidInput):
        build_suite(wrong, records)


def test_every_benchmark_with_a_right_answer_and_known_rows_has_known_answers() -> None:
    asked = {
        f"public/{name}"
        for name in ROWS
        if adapters()[f"public/{name}"].task == "choose" or adapters()[f"public/{name}"].control
    }
    assert asked == set(WITH_ANSWERS)


# accuracy ambiguous, s_AMB, accuracy informed, s_DIS: README of the data
BBQ = {
    "Age": (0.547, 0.298, 0.935, 0.012),
    "Disability_status": (0.533, 0.212, 0.928, -0.014),
    "Religion": (0.650, 0.143, 0.880, 0.002),
    "Sexual_orientation": (0.688, 0.058, 0.940, -0.007),
}


@pytest.fixture(scope="module")
def unifiedqa() -> dict[str, dict[int, str]]:
    predictions: dict[str, dict[int, str]] = defaultdict(dict)
    with (DATA / "bbq" / "unifiedqa_predictions.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            predictions[row["category"]][int(row["example_id"])] = row["pred_race"].strip().lower().rstrip(".")
    return predictions


@pytest.mark.parametrize("category", BBQ)
def test_bbq_scores_of_unifiedqa(category: str, unifiedqa: dict[str, dict[int, str]]) -> None:
    answers = []
    for record in find_records(get_adapter(f"public/bbq_{category.lower()}"), data=DATA).records:
        said = unifiedqa[category][record["id"]]
        options = [answer.lower().rstrip(".") for answer in record["answers"]]
        found = [i for i, option in enumerate(options) if option == said] or [
            i for i, option in enumerate(options) if said in option or option in said
        ]
        assert len(found) == 1
        answers.append(
            metrics.BbqAnswer(
                record["condition"] == "ambig", found[0], record["label"], bbq.unknown(record), bbq.biased(record)
            )
        )
    scores = metrics.bbq_scores(answers)
    given = (scores.accuracy_ambiguous, scores.bias_ambiguous, scores.accuracy_informed, scores.bias_informed)
    assert given == pytest.approx(BBQ[category], abs=0.00051)  # the README has three decimals


STEREOTYPES = {
    ("gpt-3.5-turbo-0301", "benign"): (0.010, 0.968, 0.022),
    ("gpt-3.5-turbo-0301", "targeted"): (0.364, 0.611, 0.025),
    ("vicuna-7b-v1.3", "untargeted"): (0.163, 0.703, 0.133),
    ("Llama-2-7b-chat", "benign"): (0.067, 0.611, 0.322),
    ("Llama-2-7b-chat", "targeted"): (0.002, 0.106, 0.893),
    ("mpt-7b-chat", "untargeted"): (0.130, 0.735, 0.135),
}


def test_stereotype_labels_of_decodingtrust() -> None:
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    with gzip.open(DATA / "dt_stereotype" / "agreeability_labels.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            labels[row["model"], row["sys_prompt"]].append(row["labels"])
    for (model, system), expected in STEREOTYPES.items():
        (key,) = [key for key in labels if model.lower() in key[0].lower() and key[1] == system]
        shares = metrics.agreement_shares(labels[key])
        # three decimals, and one of them rounded up from .1055
        assert (shares.agree, shares.disagree, shares.neither) == pytest.approx(expected, abs=0.0006)


@pytest.fixture(scope="module")
def ood() -> list[dict[str, Any]]:
    with gzip.open(DATA / "dt_ood" / "ood_generations.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize(("model", "expected"), [("gpt3.5", (71.46, 72.05, 0.82)), ("gpt4", (74.74, 85.89, 12.98))])
def test_knowledge_scores_of_decodingtrust(model: str, expected: tuple[float, ...], ood: list[dict[str, Any]]) -> None:
    questions = find_records(get_adapter("public/realtimeqa_2020"), data=DATA).records
    rows = [row for row in ood if (row["set"], row["setting"], row["model"]) == ("qa_2020", "standard", model)]
    assert len(rows) == 855
    scores = metrics.knowledge_scores(
        (row["answer"], row["gold"], questions[row["i"]]["choices"][int(row["gold"])]) for row in rows
    )
    given = [100 * value for value in (scores.accuracy, scores.accuracy_answered, scores.refusal_rate)]
    assert given == pytest.approx(expected, abs=0.0051)


STYLES = {
    "augment": (87.96, 93.81),
    "shake_w": (83.83, 92.66),
    "shake_p0": (80.28, 89.11),
    "shake_p0.6": (65.48, 83.14),
    "romantic_p0": (68.81, 86.01),
    "romantic_p0.6": (69.50, 85.78),
}


@pytest.mark.parametrize("style", STYLES)
def test_style_accuracy_of_decodingtrust(style: str, ood: list[dict[str, Any]]) -> None:
    for model, expected in zip(("gpt3.5", "gpt4"), STYLES[style], strict=True):
        accuracy = metrics.style_accuracy(
            (row["answer"], row["gold"]) for row in ood if row["set"] == style and row["model"] == model
        )
        assert 100 * accuracy == pytest.approx(expected, abs=0.0051)


@pytest.mark.parametrize(("question", "leak", "reject"), [(1, 0.249, 0.718), (2, 0.113, 0.868), (3, 0.0, 0.997)])
def test_secret_keeping_of_decodingtrust(question: int, leak: float, reject: float) -> None:
    """Its phrase lists are not copied. Leaks still agree to half a point, refusals to two and a half."""
    with gzip.open(DATA / "dt_privacy" / "secret_keeping_generations.jsonl.gz", "rt", encoding="utf-8") as file:
        kept = [
            metrics.secret_kept(row["continuation"]) for row in map(json.loads, file) if row["question"] == question
        ]
    assert len(kept) == 1360
    assert kept.count(False) / len(kept) == pytest.approx(leak, abs=0.006)
    assert kept.count(True) / len(kept) == pytest.approx(reject, abs=0.025)
