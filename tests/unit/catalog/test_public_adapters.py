"""Every adapter on made-up rows in its benchmark's format.

What the rows become, and that the self-check notices an inverted label.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_trust import load_suite
from pytest_trust.catalog.public import adapters, build_suite, ethics, family, public_gates
from pytest_trust.catalog.public.adapter import fingerprint
from pytest_trust.catalog.public.checks import orientation
from pytest_trust.catalog.public.source import find_records
from pytest_trust.errors import InvalidInput
from pytest_trust.probes import Suite
from tests.support import made_up_benchmarks as made

NAMES = tuple(adapters())
DIMENSIONS = {"safety", "toxicity", "stereotypes", "ethics", "privacy", "robustness", "reasoning"}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write_all(tmp_path_factory.mktemp("benchmarks"))


def load(name: str, data: Path) -> Suite:
    return load_suite(f"public/{name}", data=data, accept_data_change=True)


@pytest.mark.parametrize("name", NAMES)
def test_made_up_rows_become_a_suite(name: str, data: Path) -> None:
    suite = load_suite(name, data=data, accept_data_change=True)
    assert suite.name == name
    assert suite.dimension in DIMENSIONS
    assert suite.family == family()
    assert suite.control == (suite.dimension == "reasoning")
    assert len({probe.id for probe in suite.probes}) == len(suite.probes)
    for gate in suite.gates.values():
        assert gate.margin is not None
        assert gate.margin > 0
        assert any(probe.matches(gate.where) for probe in suite.probes)
        if gate.minus:
            clusters = {probe.cluster for probe in suite.probes if probe.matches(gate.where)}
            assert clusters & {probe.cluster for probe in suite.probes if probe.matches(gate.minus)}, (
                "no cluster to compare within"
            )
    for probe in suite.probes:
        assert probe.messages or probe.text or probe.options
        if suite.task == "choose":
            assert probe.answer in probe.options
            assert len(set(probe.options)) == len(probe.options) >= 2


def test_the_same_rows_give_the_same_ids(data: Path) -> None:
    for name in ("public/ethics_commonsense", "public/bold", "public/dt_pii"):
        first, second = (
            build_suite(adapters()[name], find_records(adapters()[name], data=data, accept_data_change=True).records)
            for _ in range(2)
        )
        assert [probe.id for probe in first.probes] == [probe.id for probe in second.probes]


def test_the_family_is_the_registry_whatever_is_selected() -> None:
    controls = sum(len(adapter.gates) for adapter in adapters().values() if adapter.control)
    assert family() == len(public_gates()) - controls


def test_a_wrong_name_is_told_the_right_one() -> None:
    with pytest.raises(InvalidInput, match=r"no public suite 'public/xtest'; did you mean public/xstest\?"):
        load_suite("public/xtest")


def test_xstest_pairs_prompts_with_their_contrasts(data: Path) -> None:
    suite = load("xstest", data)
    unsafe = [probe for probe in suite.probes if probe.matches(suite.gate("compliance_rate").where)]
    assert [probe.subtype for probe in unsafe] == ["contrast_homonyms", "contrast_definitions"]
    assert unsafe[0].cluster == suite.probes[0].cluster


def test_harmbench_leaves_copyright_out_and_puts_the_context_first(data: Path) -> None:
    suite = load("harmbench", data)
    assert [probe.id for probe in suite.probes] == ["harmbench-bad_0", "harmbench-bad_1", "harmbench-bad_3"]
    assert suite.probes[1].prompt.startswith("Some context.")


def test_only_challenging_prompts_are_taken_from_the_whole_file(data: Path) -> None:
    assert len(load("realtoxicityprompts_challenging", data).probes) == 3
    suite = load("realtoxicityprompts", data)
    assert suite.samples > 1
    assert suite.temperature > 0
    assert {probe.subtype for probe in suite.probes} == {"toxic", "nontoxic"}


def test_crows_pairs_swaps_nothing(data: Path) -> None:
    """`sent_more` is the more stereotyping one in antistereo rows, too."""
    probe = load("crows_pairs", data).probes[-1]
    assert probe.fields["direction"] == "antistereo"
    assert probe.options == ("He flew the glider.", "She flew the glider.")
    assert probe.answer == "She flew the glider."


def test_bbq_knows_which_answer_is_the_stereotype(data: Path) -> None:
    suite = load("bbq_religion", data)
    forced = {str(probe.fields["polarity"]): probe for probe in suite.probes if probe.fields["forced"]}
    assert forced["neg"].options == ("person a", "person b")  # the stereotype first
    assert forced["neg"].answer == "person b"
    assert forced["nonneg"].options == ("person b", "person a")
    told = [probe for probe in suite.probes if probe.fields["context"] == "disambig"]
    assert [(probe.fields["polarity"], probe.answer, probe.fields["with_stereotype"]) for probe in told] == [
        ("neg", "person a", True),
        ("nonneg", "person b", True),
        ("neg", "person b", False),
        ("nonneg", "person a", False),
    ]


def test_stereoset_reads_both_layouts(data: Path, tmp_path: Path) -> None:
    suite = load("stereoset_race", data)
    assert [(probe.fields["pair"], probe.answer) for probe in suite.probes[:3]] == [
        ("preference", "The baker 0 is thin."),
        ("meaning", "The baker 0 is stout."),
        ("meaning", "The baker 0 is thin."),
    ]
    rows = [
        {
            "id": "r0",
            "target": "baker",
            "bias_type": "race",
            "data": {label: {"sentence": f"{label} {i}"} for label in ("stereotype", "anti-stereotype", "unrelated")},
        }
        for i in range(1)
    ]
    made.write(tmp_path / "stereoset/race_test.json", json.dumps(rows))
    assert load("stereoset_race", tmp_path).probes[0].options == ("stereotype 0", "anti-stereotype 0")


def test_winogender_asks_whom_the_pronoun_means(data: Path) -> None:
    probes = {probe.id: probe for probe in load("winogender", data).probes}
    assert probes["winogender-painter-client-0-female"].answer == "the painter"
    assert probes["winogender-painter-client-1-male"].answer == "the client"
    assert '"she" refers to' in probes["winogender-painter-client-0-female"].text


def test_targeted_system_prompts_name_the_group(data: Path) -> None:
    systems = {
        (probe.fields["system"], probe.fields["group"]): probe.messages[0].content
        for probe in load("dt_stereotype", data).probes
    }
    assert systems["targeted", "Sailors"].endswith("You dislike Sailors most.")
    assert "Sailors" not in systems["untargeted", "Sailors"]


def test_ethics_answers_follow_the_meaning_of_one(data: Path) -> None:
    wrong = [probe for probe in load("ethics_commonsense", data).probes if probe.answer == "yes"]
    assert all(any(word in probe.text for word in ("stole", "lied", "cheated")) for probe in wrong)
    assert len(wrong) == 6
    assert load("ethics_justice", data).probes[1].answer == "reasonable"
    assert 'plant 0? No because it is a plant."' in load("ethics_deontology", data).probes[0].text
    assert [probe.answer for probe in load("ethics_virtue", data).probes] == ["yes", "no", "no", "no", "no"]
    for probe in load("ethics_utilitarianism", data).probes:
        assert (probe.answer == "yes") == ("Scenario 1: I found" in probe.text)


def test_moral_stories_reads_both_layouts(data: Path, tmp_path: Path) -> None:
    assert load("moral_stories", data).probes[0].text.endswith("A purse lies on a bench. Ann wants lunch.")
    made.write(tmp_path / "moral_stories/test.jsonl", made.as_lines(made.contrastive_stories()))
    suite = load("moral_stories", tmp_path)
    assert len(suite.probes) == 5
    assert suite.probes[0].answer == "Ann gives purse 0 back."


def test_confaide_rates_as_people_do_and_keeps_the_name(data: Path) -> None:
    assert [probe.answer for probe in load("confaide_tier1", data).probes] == ["1", "4"]
    assert [probe.answer for probe in load("confaide_tier2b", data).probes] == ["50", "-50"]
    assert "\nAgree?" in load("confaide_tier2a", data).probes[1].prompt
    assert load("confaide_tier3", data).probes[0].secrets == ("Rosa",)
    assert load("confaide_tier3_control", data).probes[0].answer == "No"
    assert load("confaide_tier4", data).probes[0].secrets == ("surprise picnic",)


def test_privacylens_asks_at_three_levels(data: Path) -> None:
    probes = load("privacylens", data).probes
    assert [probe.subtype for probe in probes[:3]] == ["seed", "vignette", "trajectory"]
    assert "by writing a note" in probes[0].prompt
    assert {probe.answer for probe in probes} == {"No"}


def test_demonstrations_decline_or_give_away_and_never_the_value_asked_for() -> None:
    suite = load_suite("public/dt_pii")
    for probe in suite.probes:
        said = [message.content for message in probe.messages if message.role == "assistant"][1:]
        assert len(said) == (0 if probe.fields["mode"] == "zero_shot_attack" else 3)
        assert all(("sorry" in answer) == (probe.fields["mode"] == "three_shot_protect") for answer in said)
        assert not any(probe.secrets[0] in answer for answer in said)
        assert probe.secrets[0] in probe.messages[0].content


def test_secrets_are_told_and_asked_for() -> None:
    for probe in load_suite("public/dt_secret_keeping").probes:
        assert probe.secrets[0] in probe.messages[0].content
        assert probe.secrets[0] not in probe.prompt


def test_styles_share_their_sentence(data: Path) -> None:
    suite = load("dt_styles", data)
    assert len({probe.cluster for probe in suite.probes}) == 8
    assert sum(not probe.fields["shifted"] for probe in suite.probes) == 8


def test_pressure_is_put_on_wrong_acts_only(data: Path) -> None:
    probes = load("ethics_commonsense_pressured", data).probes
    assert len(probes) == 3 * 5
    assert {probe.answer for probe in probes} == {"yes"}
    assert len({probe.cluster for probe in probes}) == 1
    assert all(probe.text.index(ethics.EXCUSES[probe.subtype]) < probe.text.index("Question:") for probe in probes)


def test_toxic_prompts_under_three_system_prompts(data: Path) -> None:
    probes = load("realtoxicityprompts_systems", data).probes
    assert [probe.subtype for probe in probes[:3]] == ["benign", "adversarial", "restrained"]
    assert len({probe.messages[0].content for probe in probes}) == 3
    assert len({probe.prompt for probe in probes}) == 3


def test_years_decide_what_abstaining_means(data: Path) -> None:
    assert load("realtimeqa_2020", data).probes[1].answer == "Town 1b"
    assert set(load("realtimeqa_2023", data).gates) == {"wrong_abstention_rate"}
    assert set(load("realtimeqa_2025", data).gates) == {"missing_abstention_rate"}


def test_final_answers_are_taken_from_the_solutions(data: Path) -> None:
    assert [probe.answer for probe in load("gsm8k", data).probes] == ["2", "3", "4"]
    assert load("math500", data).probes[0].answer == r"\frac{1}{2}"


def flip(column: str, first: object, second: object) -> Callable[[made.Table], made.Table]:
    return lambda rows: [row | {column: {first: second, second: first}[row[column]]} for row in rows]


def swap(first: str, second: str) -> Callable[[made.Table], made.Table]:
    return lambda rows: [row | {first: row[second], second: row[first]} for row in rows]


def renumbered(rows: made.Table) -> made.Table:
    return [row | {"label": (row["label"] + 1) % 3} for row in rows]


INVERTED: dict[str, tuple[str, str, str]] = {
    "xstest": (
        "xstest/xstest_prompts.csv",
        made.as_csv(flip("label", "safe", "unsafe")(made.xstest())),
        "labels look inverted",
    ),
    "jailbreakbench": (
        "jailbreakbench/jbb_behaviors_100.csv",
        made.as_csv([{"index": i, "goal": f"Write poem {i}", "category": f"benign {i}"} for i in range(3)]),
        "expected harmful requests only",
    ),
    "realtoxicityprompts": (
        "realtoxicityprompts/nontoxic.jsonl",
        made.as_lines(made.toxicity_rows(0.9, True, 0)),
        "the files look swapped",
    ),
    "bold": ("bold/race_prompt.json", json.dumps({"one": {"page": ["One is"]}}), "expected several"),
    "crows_pairs": (
        "crows_pairs/crows_pairs_anonymized.csv",
        made.as_csv(swap("sent_more", "sent_less")(made.crows_pairs())),
        "labels look inverted",
    ),
    "crows_pairs ": (
        "crows_pairs/crows_pairs_anonymized.csv",
        made.as_csv(flip("stereo_antistereo", "stereo", "antistereo")(made.crows_pairs())),
        "labels look inverted",
    ),
    "bbq_age": ("bbq/Age.jsonl", made.as_lines(renumbered(made.bbq("Age"))), "labels look renumbered"),
    "winogender": (
        "winogender/all_sentences.tsv",
        made.as_csv(
            [
                row
                | {
                    "sentid": row["sentid"]
                    .replace(".male", ".MALE")
                    .replace(".female", ".male")
                    .replace(".MALE", ".female")
                }
                for row in made.winogender()
            ],
            "\t",
        ),
        "labels look inverted",
    ),
    "dt_stereotype": (
        "dt_stereotype/system_prompts.csv",
        made.as_csv(
            [
                row | {"type": {"benign": "targeted", "targeted": "benign"}.get(row["type"], row["type"])}
                for row in made.dt_stereotype()[0]
            ]
        ),
        "types look swapped",
    ),
    "ethics_commonsense": (
        "ethics/cm_test.csv",
        made.as_csv(flip("label", 0, 1)(made.commonsense())),
        "labels look inverted",
    ),
    "ethics_virtue": (
        "ethics/virtue_test.csv",
        made.as_csv(flip("label", 0, 1)(made.virtue())),
        "labels look inverted",
    ),
    "ethics_utilitarianism": (
        "ethics/util_test.csv",
        made.as_csv(swap("better", "worse")(made.utilitarianism()), header=False),
        "labels look inverted",
    ),
    "moral_stories": (
        "moral_stories/moral_stories_full.jsonl",
        made.as_lines(swap("moral_action", "immoral_action")(made.moral_stories())),
        "labels look inverted",
    ),
    "confaide_tier1": ("confaide/tier_1_labels.txt", "3.9\n1.2\n", "scale looks inverted"),
    "confaide_tier3": (
        "confaide/tier_3.txt",
        made.STORY.replace("About: Rosa", "About: X")
        .replace("Questionee: Emil", "Questionee: Rosa")
        .replace("About: X", "About: Emil"),
        "roles look swapped",
    ),
    "confaide_tier4": (
        "confaide/tier_4.txt",
        made.MEETING.replace("<surprise picnic, annual budget>", "<annual budget, surprise picnic>"),
        "topics look swapped",
    ),
    "dt_styles": (
        "dt_ood/style.json",
        json.dumps(
            {"dev": made.dt_styles()["dev"] | {"augment": flip("label", "0", "1")(made.dt_styles()["dev"]["augment"])}}
        ),
        "labels look inverted",
    ),
    "dt_styles ": (
        "dt_ood/style.json",
        json.dumps({"dev": {style: flip("label", "0", "1")(rows) for style, rows in made.dt_styles()["dev"].items()}}),
        "labels look inverted",
    ),
    "realtimeqa_2025": ("dt_ood/qa_2025.jsonl", made.as_lines(made.realtimeqa(2023)), "is this the file of the year"),
    "gsm8k": (
        "gsm8k/test.jsonl",
        made.as_lines([row | {"answer": row["answer"].rsplit(" ", 1)[0] + " 99"} for row in made.gsm8k()]),
        "columns look shifted",
    ),
    "math500": (
        "math500/test.jsonl",
        made.as_lines([row | {"answer": "7"} for row in made.math500()]),
        "columns look shifted",
    ),
}


@pytest.mark.parametrize("name", INVERTED)
def test_the_self_check_notices_what_is_inverted(name: str, tmp_path: Path) -> None:
    """The user took the data change: only the self-check stands in the way."""
    made.write_all(tmp_path)
    file, text, message = INVERTED[name]
    made.write(tmp_path / file, text)
    with pytest.raises(InvalidInput, match=message):
        load(name.strip(), tmp_path)


@pytest.mark.parametrize("name", ["simplesafetytests", "strongreject", "advbench", "harmbench", "jailbreakbench"])
def test_a_file_of_harmless_requests_is_noticed(name: str) -> None:
    adapter = adapters()[f"public/{name}"]
    harmless = ("bake a cake", "fold a paper boat", "mend a bicycle", "water the plants")
    records = [
        {
            "id": str(i),
            "prompt": f"Tell me how to {harmless[i % 4]} for {i} guests",
            "kind": f"kind {i % 3}",
            "function": "standard",
            "context": "",
        }
        for i in range(40)
    ]
    with pytest.raises(InvalidInput, match="is this a file of harmless requests"):
        build_suite(adapter, records)
    harmful = [record | {"prompt": record["prompt"].replace("how to", "how to steal and")} for record in records]
    assert len(build_suite(adapter, harmful).probes) == 40


def test_stereoset_labels_follow_the_annotators(tmp_path: Path) -> None:
    document = made.stereoset("race")
    for row in document["data"]["intrasentence"]:
        for sentence in row["sentences"]:
            sentence["gold_label"] = {"stereotype": "anti-stereotype", "anti-stereotype": "stereotype"}.get(
                sentence["gold_label"], "unrelated"
            )
    made.write(tmp_path / "stereoset/dev.json", json.dumps(document))
    with pytest.raises(
        InvalidInput, match=r"row 1, column gold_label: is anti-stereotype, and the annotators said stereotype"
    ):
        load("stereoset_race", tmp_path)


def test_known_rows_keep_their_label_whatever_the_balance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made.deontology()
    known = f"{rows[0]['scenario']} {rows[0]['excuse']}"
    monkeypatch.setitem(ethics.KNOWN, fingerprint(known), 0)
    made.write(tmp_path / "ethics/deontology_test.csv", made.as_csv(rows))
    assert load("ethics_deontology", tmp_path)
    made.write(tmp_path / "ethics/deontology_test.csv", made.as_csv(flip("label", 0, 1)(rows)))
    with pytest.raises(InvalidInput, match="a row known to be 0 is labelled 1"):
        load("ethics_deontology", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_gate_that_counts_the_wrong_way_is_refused(name: str, data: Path) -> None:
    """Good and bad behaviour changed places: what an adapter with a wrong "larger is worse" would look like."""
    adapter = adapters()[name]
    suite = load_suite(name, data=data, accept_data_change=True)
    for gate in suite.gates.values():
        counts = tuple(outcome for outcome in gate.of if outcome not in gate.counts)
        broken: dict[str, Any] = (
            {"counts": counts} if gate.score == "share" else {"score": "share", "counts": ("ok",), "of": ("ok", "bad")}
        )
        wrong = replace(suite, gates={gate.name: replace(gate, **broken)})
        with pytest.raises(InvalidInput, match="larger must be worse"):
            orientation(wrong, adapter.good, adapter.bad)
