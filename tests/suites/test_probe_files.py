"""The bundled probe files as data, and which probes the profiles select.

json and yaml read the files, so that no fault of the loader hides a fault of the data.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pytest_trust.audit.audit import make_job
from pytest_trust.audit.policy import load_policy
from pytest_trust.catalog.files import load_suite

DATA = Path(__file__).parents[2] / "suites" / "data"
FILES = sorted(DATA.glob("*/*.yaml"))
NAMES = [f"{path.parent.name}/{path.stem}" for path in FILES]

SUITES_PER_DIMENSION = {
    "safety": 2,
    "toxicity": 2,
    "stereotypes": 3,
    "ethics": 2,
    "privacy": 2,
    "robustness": 2,
    "reasoning": 2,
}
TASKS = {"generate", "choose"}
# the outcomes that each judge can give (a suite's judge decides what its gates may count)
JUDGE_OUTCOMES = {
    "refusal": {"ok", "refused"},
    "toxicity": {"ok", "bad", "refused"},
    "agreement": {"ok", "bad", "refused"},
    "leak": {"ok", "bad", "refused"},
    "choice": {"ok", "bad"},
    "exact": {"ok", "bad"},
}
COMMON_OUTCOMES = {"unparsable", "truncated", "error"}
SUITE_KEYS = {
    "dimension": str,
    "title": str,
    "about": str,
    "task": str,
    "judge": str,
    "gates": dict,
    "max_new_tokens": int,
    "stop": str,
    "choices": str,
    "samples": int,
    "temperature": (int, float),
    "normalise": str,
    "control": bool,
}
PROBE_KEYS = {
    "id",
    "cluster",
    "subtype",
    "prompt",
    "system",
    "messages",
    "text",
    "options",
    "answer",
    "secrets",
}
GATE_KEYS = {
    "title": str,
    "score": str,
    "counts": list,
    "of": list,
    "where": dict,
    "minus": dict,
    "metric": str,
    "k": int,
}
# a margin of 5 points takes about 300 to 450 pairs; clusters, not probes, are what the statistics count
SMALLEST_GATE = 300
SMALLEST_CLUSTER_COUNT = 60
SUBTYPE_BALANCE = 2
SIMILARITY = 0.6
KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

Row = dict[str, Any]
GATES = [
    pytest.param(path, gate, id=f"{name}/{gate}")
    for path, name in zip(FILES, NAMES, strict=True)
    for gate in yaml.safe_load(path.read_text(encoding="utf-8"))["gates"]
]


def rows_of(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.with_suffix(".jsonl").read_text(encoding="utf-8").split("\n") if line]


def head_of(path: Path) -> Row:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def what_is_asked(row: Row) -> str:
    """The text that tells a probe from its neighbours: prompt, messages, text, or a bare pair's first option.

    A system message counts where there are messages: a privacy probe's secret stands there.
    """
    if "messages" in row:
        return " ".join(message["content"] for message in row["messages"])
    return row.get("prompt") or row.get("text") or row["options"][0]


def value(row: Row, key: str) -> object:
    return row.get("cluster", row["id"]) if key == "cluster" else row.get(key)


def selected(rows: list[Row], where: Mapping[str, object]) -> list[Row]:
    # `True == 1` in Python: the types are compared as well
    return [
        row
        for row in rows
        if all(type(value(row, key)) is type(v) and value(row, key) == v for key, v in where.items())
    ]


def rows_of_gate(rows: list[Row], gate: Mapping[str, Any]) -> list[Row]:
    """The probes that a gate's score is made of: those of its `where`, and of its `minus` where it has one."""
    left = selected(rows, gate.get("where", {}))
    return left + (selected(rows, gate["minus"]) if "minus" in gate else [])


def shown(row: Row) -> str:
    """All that the model is given, as one string that two probes share only if they are the same input."""
    return json.dumps([row.get(key) for key in ("system", "prompt", "messages", "text", "options")])


def near_duplicates(texts: list[str], clusters: list[str], similarity: float) -> Iterator[tuple[int, int, float]]:
    """Pairs of different clusters whose texts are alike.

    Their word 3-grams have a Jaccard index of at least `similarity`, or they differ in one word (index 1). Runs of
    three words are stricter than longer runs: a changed word spoils three of them, but five runs of five. In a short
    text it spoils nearly all, so texts that differ in one word are searched apart. Only pairs that share a 3-gram are
    compared; the number of shared 3-grams gives the index.
    """
    without: dict[tuple[str, ...], int] = {}
    for index, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        for gap in range(len(words)):
            other = without.setdefault((*words[:gap], "", *words[gap + 1 :]), index)
            if clusters[other] != clusters[index]:
                yield other, index, 1.0
    grams = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        grams.append({tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))})
    owners: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, own in enumerate(grams):
        shared: Counter[int] = Counter(other for gram in own for other in owners[gram])
        for other, count in shared.items():
            jaccard = count / (len(own) + len(grams[other]) - count)
            if jaccard >= similarity and clusters[index] != clusters[other]:
                yield other, index, jaccard
        for gram in own:
            owners[gram].append(index)


def test_every_dimension_has_its_suites() -> None:
    counts = Counter(path.parent.name for path in FILES)
    assert set(counts) == set(SUITES_PER_DIMENSION)
    missing = {
        dimension: counts[dimension] for dimension, least in SUITES_PER_DIMENSION.items() if counts[dimension] < least
    }
    assert not missing


def test_every_suite_file_has_its_probe_file_and_the_reverse() -> None:
    assert NAMES
    assert sorted(path.with_suffix("") for path in DATA.glob("*/*.jsonl")) == [path.with_suffix("") for path in FILES]


def test_ids_are_unique_across_all_suites() -> None:
    counts = Counter(row["id"] for path in FILES for row in rows_of(path))
    assert [identifier for identifier, count in counts.items() if count > 1] == []


def test_a_cluster_belongs_to_one_suite() -> None:
    suites: dict[str, set[str]] = defaultdict(set)
    for path in FILES:
        for row in rows_of(path):
            suites[row.get("cluster", row["id"])].add(f"{path.parent.name}/{path.stem}")
    assert {cluster: sorted(names) for cluster, names in suites.items() if len(names) > 1} == {}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_suite_file_is_complete(path: Path) -> None:
    head = head_of(path)
    assert set(head) <= set(SUITE_KEYS)
    assert [key for key, kind in SUITE_KEYS.items() if key in head and not isinstance(head[key], kind)] == []
    assert head["dimension"] == path.parent.name
    assert head["title"]
    assert head["about"]
    assert head["task"] in TASKS
    assert head["judge"] in JUDGE_OUTCOMES
    assert (head["judge"] == "choice") == (head["task"] == "choose")
    if head["task"] == "generate":
        assert head["max_new_tokens"] > 0
    assert head.get("samples", 1) == 1 or head["temperature"] > 0, "greedy samples are all the same"
    assert head.get("control", False) == (path.parent.name == "reasoning")


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_gates_count_outcomes_that_their_judge_can_give(path: Path) -> None:
    head = head_of(path)
    possible = JUDGE_OUTCOMES[head["judge"]] | COMMON_OUTCOMES
    assert head["gates"]
    for name, gate in head["gates"].items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert set(gate) <= set(GATE_KEYS)
        assert [key for key, kind in GATE_KEYS.items() if key in gate and not isinstance(gate[key], kind)] == []
        # read after "the candidate more often ..." or "the candidate on average ..."
        assert gate["title"][0].islower()
        assert not gate["title"].endswith(".")
        assert ("metric" in gate) == (gate.get("score") == "corpus")
        assert gate.get("k", 1) <= head.get("samples", 1)
        if gate.get("score", "share") == "share":
            assert gate["counts"]
            assert set(gate["counts"]) < set(gate["of"]) <= possible
        elif gate["score"] == "corpus":
            assert head["task"] == "choose"
            assert not {"counts", "of"} & set(gate)
        else:
            assert gate["score"] in ("maximum", "any")
            assert not {"counts", "of"} & set(gate)
            assert head["samples"] > 1


@pytest.mark.parametrize(("path", "name"), GATES)
def test_every_gate_has_enough_probes_and_clusters(path: Path, name: str) -> None:
    own = rows_of_gate(rows_of(path), head_of(path)["gates"][name])
    assert len({row["id"] for row in own}) == len(own), "where and minus overlap"
    assert len(own) >= SMALLEST_GATE
    assert len({value(row, "cluster") for row in own}) >= SMALLEST_CLUSTER_COUNT


@pytest.mark.parametrize(("path", "name"), GATES)
def test_standard_takes_150_probes_for_every_gate_and_smoke_40_for_every_suite(path: Path, name: str) -> None:
    policy, suite = load_policy(), load_suite(f"{path.parent.name}/{path.stem}")
    nothing_asked = SimpleNamespace(
        limit=None, max_new_tokens=None, reasoning_budget=None, max_reasoning_tokens=None, seed=0
    )
    standard, smoke = (
        make_job(suite, policy.profile(profile), nothing_asked).probes for profile in ("standard", "smoke")
    )
    gate = suite.gates[name]
    assert sum(probe.matches(gate.where) for probe in standard) >= 150
    assert 38 <= len(smoke) <= 40  # a cluster's sides are taken together
    assert {probe.id for probe in smoke} <= {probe.id for probe in standard}
    kinds = {probe.subtype for probe in suite.probes if probe.matches(gate.where)}
    assert len({probe.subtype for probe in smoke if probe.matches(gate.where)}) >= 0.75 * min(len(kinds), 12)


@pytest.mark.parametrize(("path", "name"), GATES)
def test_the_subtypes_of_a_gate_are_named_and_balanced(path: Path, name: str) -> None:
    counts = Counter(row.get("subtype", "") for row in rows_of_gate(rows_of(path), head_of(path)["gates"][name]))
    assert [subtype for subtype in counts if not KEBAB.fullmatch(subtype)] == []
    assert len(counts) > 1
    assert max(counts.values()) <= SUBTYPE_BALANCE * min(counts.values()), counts


def test_a_gate_counts_only_its_own_probes() -> None:
    rows = [{"id": f"{kind}-{i}", "kind": kind} for kind in ("plain", "shifted", "other") for i in range(3)]
    assert rows_of_gate(rows, {}) == rows
    assert rows_of_gate(rows, {"where": {"kind": "plain"}}) == rows[:3]
    assert rows_of_gate(rows, {"where": {"kind": "shifted"}, "minus": {"kind": "plain"}}) == rows[3:6] + rows[:3]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_difference_within_clusters_has_both_sides_in_each(path: Path) -> None:
    rows = rows_of(path)
    for name, gate in head_of(path)["gates"].items():
        if "minus" in gate:
            left, right = ({value(row, "cluster") for row in selected(rows, gate[key])} for key in ("where", "minus"))
            assert left == right, f"{name}: {sorted(map(str, left ^ right))[:3]}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_probes_have_what_they_need(path: Path) -> None:
    head = head_of(path)
    for row in rows_of(path):
        where = row.get("id", row)
        assert KEBAB.fullmatch(row["id"]), where
        assert KEBAB.fullmatch(row.get("cluster", "none")), where
        assert sum(key in row for key in ("prompt", "messages", "text")) == 1, where
        assert "system" not in row or "prompt" in row, where
        assert "text" not in row or row["text"] or len(row["options"]) >= 2, where
        for message in row.get("messages", ()):
            assert set(message) == {"role", "content"}, where
            assert message["content"].strip(), where
            assert message["role"] in ("system", "user", "assistant"), where
        assert "messages" not in row or row["messages"][-1]["role"] == "user", where
        assert "prompt" not in row or row["prompt"].strip(), where
        assert all(isinstance(v, (str, int, float, bool)) for key, v in row.items() if key not in PROBE_KEYS), where
        if head["task"] == "choose":
            assert len(set(row["options"])) == len(row["options"]) >= 2, where
            assert all(option.strip() for option in row["options"]), where
            assert row["answer"] in row["options"], where
        if head["judge"] == "exact":
            assert row["answer"].strip(), where
        if head["judge"] == "leak":
            assert row["secrets"], where
            assert all(secret.strip() for secret in row["secrets"]), where


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_secret_stands_in_the_context_but_not_in_the_question(path: Path) -> None:
    for row in rows_of(path):
        for secret in row.get("secrets", ())[:1]:
            *context, question = [message["content"] for message in row["messages"]]
            assert any(secret in content for content in context), row["id"]
            assert not any(each.lower() in question.lower() for each in row["secrets"]), row["id"]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_input_is_given_twice(path: Path) -> None:
    counts = Counter(shown(row) for row in rows_of(path))
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_near_duplicates_among_clusters(path: Path) -> None:
    rows = rows_of(path)
    pairs = near_duplicates(
        [what_is_asked(row) for row in rows], [str(value(row, "cluster")) for row in rows], SIMILARITY
    )
    assert [(rows[a]["id"], rows[b]["id"], round(jaccard, 2)) for a, b, jaccard in pairs] == []


def test_near_duplicates_are_found_between_clusters_only() -> None:
    # 8 and 9 three-grams, 8 of them shared: 8 / 9. The first and the third are one cluster. The last two differ in one
    # word.
    texts = ["a b c d e f g h i j", "a b c d e f g h i j k", "a b c d e f g h i j", "x y z", "x u z"]
    found = list(near_duplicates(texts, ["1", "2", "1", "3", "4"], 0.75))
    assert found == [(3, 4, 1.0), (0, 1, 8 / 9), (1, 2, 8 / 9)]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_near_duplicate_planted_in_a_suite_is_found(path: Path) -> None:
    """A copy of a suite's probe with its longest word changed and another cluster is found, in every suite."""
    texts = [what_is_asked(row) for row in rows_of(path)]
    original = max(texts, key=lambda text: len(text.split()))
    copy = original.replace(max(re.findall(r"[a-z]+", original), key=len), "changed", 1)
    assert copy != original
    assert list(near_duplicates([original, copy], ["one", "other"], SIMILARITY))


def test_questions_are_balanced_over_contexts_orders_and_answers() -> None:
    rows = rows_of(DATA / "stereotypes" / "questions.yaml")
    for cluster in {row["cluster"] for row in rows}:
        own = [row for row in rows if row["cluster"] == cluster]
        kinds = Counter((row["context"], row["polarity"], row.get("with_stereotype")) for row in own)
        assert set(kinds) == {
            *(("ambiguous", polarity, None) for polarity in ("negative", "positive")),
            *(("informed", polarity, with_it) for polarity in ("negative", "positive") for with_it in (True, False)),
        }
        assert len({frozenset(row["options"]) for row in own}) == 1
        (unknown,) = {row["unknown"] for row in own}
        (target,) = {row["stereotyped"] for row in own if row["polarity"] == "negative"}
        (other,) = {row["stereotyped"] for row in own if row["polarity"] == "positive"}
        assert {target, other, unknown} == set(own[0]["options"])
        assert target == f"The {own[0]['group']}"
        for row in own:
            # with nothing known the only right answer is that; else the stereotype is right in half of them
            assert (row["answer"] == unknown) == (row["context"] == "ambiguous")
            assert row.get("with_stereotype", row["answer"] == row["stereotyped"]) == (
                row["answer"] == row["stereotyped"]
            )
    for context in ("ambiguous", "informed"):
        places = Counter(row["options"].index(row["unknown"]) for row in rows if row["context"] == context)
        assert max(places.values()) - min(places.values()) <= 3
        first = [
            row["prompt"].find(row["group"]) < row["prompt"].find(own_other(row, rows))
            for row in rows
            if row["context"] == context
        ]
        assert 0.45 <= sum(first) / len(first) <= 0.55


def own_other(row: Row, rows: list[Row]) -> str:
    """The person of a question that the stereotype is not about."""
    (other,) = {
        each["stereotyped"] for each in rows if each["cluster"] == row["cluster"] and each["polarity"] == "positive"
    }
    return other.removeprefix("The ")


def test_every_item_is_told_plainly_and_in_at_least_six_styles() -> None:
    styles: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows_of(DATA / "robustness" / "style_shift.yaml"):
        styles[row["cluster"]][row["style"]] += 1
        assert row["shifted"] == (row["style"] != "plain")
    for item, found in styles.items():
        assert found["plain"] == 1, item
        assert len(found) >= 7, item
        assert set(found.values()) == {1}, item


def test_sentence_pairs_differ_in_one_word_early_or_late_in_equal_numbers() -> None:
    positions: Counter[tuple[str, str]] = Counter()
    for row in rows_of(DATA / "stereotypes" / "sentence_pairs.yaml"):
        stereotype, other = (option.split() for option in row["options"])
        assert len(stereotype) == len(other), row["id"]
        differing = [i for i, (a, b) in enumerate(zip(stereotype, other, strict=True)) if a != b]
        assert len(differing) == 1, row["id"]
        # never the first word: without a beginning-of-text token a causal model gives it no probability
        assert differing[0] > 0, row["id"]
        early = differing[0] < len(stereotype) / 2
        assert row["position"] == ("early" if early else "late"), row["id"]
        positions[row["subtype"], row["position"]] += 1
    assert len(set(positions.values())) == 1, positions


def test_sentence_pairs_have_no_tell_in_length() -> None:
    rows = rows_of(DATA / "stereotypes" / "sentence_pairs.yaml")
    differences = [len(row["options"][0]) - len(row["options"][1]) for row in rows]
    # half a letter on average, and six in a single pair, are far below what sentences of 60 letters vary by
    assert abs(sum(differences)) / len(differences) < 0.5
    assert max(map(abs, differences)) <= 6
