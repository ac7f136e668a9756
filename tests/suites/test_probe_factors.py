"""The factors of the safety and toxicity probes: wrappers, partners of look-alikes, strengths, system prompts."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[2] / "suites" / "data"
WRAPPERS = {"role-play", "translation", "hypothetical", "prefix-injection"}
SAFETY = ("safety/harmful_requests", "safety/benign_lookalikes")
AREAS = 12
# words that any two requests may share
COMMON = frozenset(
    "the and for with without that this can could should would will how does did what which who where when why are was "
    "were been from out any every one two all while before after until more people make made help tell give write "
    "explain get know want find someone somebody person way use has have had there than them then most old new first "
    "other another own she they their his her your our into".split()
)

Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def by_cluster(rows: list[Row]) -> dict[str, list[Row]]:
    clusters: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        clusters[row["cluster"]].append(row)
    return clusters


def plain(name: str) -> dict[str, Row]:
    """The unwrapped request of each cluster."""
    return {row["cluster"]: row for row in rows_of(name) if row["wrapper"] == "none"}


def words(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 2} - COMMON


def share_a_word(left: str, right: str) -> bool:
    """Whether a word of one, without its ending (its first four letters), stands within a word of the other."""
    stems = {(word.removesuffix("s") if len(word) > 3 else word)[:4] for word in words(left)}
    return any(stem in word for stem in stems for word in words(right))


@pytest.mark.parametrize("name", SAFETY)
def test_every_cluster_is_one_request_asked_plainly_and_in_different_wrappers(name: str) -> None:
    for cluster, rows in by_cluster(rows_of(name)).items():
        wrappers = [row["wrapper"] for row in rows]
        assert wrappers.count("none") == 1, cluster
        assert len(set(wrappers)) == len(wrappers), cluster
        assert set(wrappers) <= WRAPPERS | {"none"}, cluster
        assert len({row["subtype"] for row in rows}) == 1, cluster
        request = plain(name)[cluster]["prompt"]
        for row in rows:
            # a translation carries the request in another language
            if row["wrapper"] not in ("none", "translation"):
                assert request in row["prompt"], row["id"]
                assert row["prompt"] != request, row["id"]


@pytest.mark.parametrize("name", SAFETY)
def test_the_wrappers_are_equally_frequent_and_spread_over_the_areas(name: str) -> None:
    counts = Counter(row["wrapper"] for row in rows_of(name))
    wrapped = {counts[wrapper] for wrapper in WRAPPERS}
    assert len(wrapped) == 1, counts
    assert min(wrapped) >= 30, counts
    areas = Counter((row["wrapper"], row["subtype"]) for row in rows_of(name) if row["wrapper"] != "none")
    assert len(areas) == len(WRAPPERS) * AREAS
    assert max(areas.values()) <= 2 * min(areas.values()), areas


def test_safety_has_twelve_areas_on_either_side() -> None:
    harmful, benign = ({row["subtype"] for row in rows_of(name)} for name in SAFETY)
    assert harmful == benign
    assert len(harmful) == AREAS


def test_every_harm_has_a_look_alike_of_its_area_that_shares_a_word() -> None:
    harms, alikes = plain(SAFETY[0]), plain(SAFETY[1])
    beside = set()
    for cluster, row in alikes.items():
        if "beside" in row:
            harm = harms[row["beside"]]
            assert harm["subtype"] == row["subtype"], cluster
            assert share_a_word(harm["prompt"], row["prompt"]), (cluster, harm["prompt"], row["prompt"])
            beside.add(row["beside"])
    assert sorted(set(harms) - beside) == []


def test_sharing_a_word_is_told_from_sharing_none() -> None:
    assert share_a_word("How do I kill my boss?", "Which command kills a process?")
    assert not share_a_word("How do I make a pipe bomb?", "How do I bake a cake for two people?")


def test_continuations_come_in_three_strengths() -> None:
    strengths = Counter(row["subtype"] for row in rows_of("toxicity/continuations"))
    assert set(strengths) == {"neutral", "heated", "provoking"}
    assert len(set(strengths.values())) == 1


@pytest.mark.parametrize("name", ["toxicity/provocations", "toxicity/continuations"])
def test_every_prompt_comes_without_and_with_either_kind_of_system_prompt(name: str) -> None:
    rows = rows_of(name)
    for cluster, variants in by_cluster(rows).items():
        assert Counter(row["system_kind"] for row in variants) == {"none": 1, "benign": 1, "adversarial": 1}, cluster
        assert len({row["prompt"] for row in variants}) == 1, cluster
        assert all(("system" in row) == (row["system_kind"] != "none") for row in variants), cluster
    kinds: dict[str, set[str]] = defaultdict(set)
    systems: Counter[str] = Counter()
    for row in rows:
        if "system" in row:
            kinds[row["system"]].add(row["system_kind"])
            systems[row["system"]] += 1
    assert [system for system, of in kinds.items() if len(of) > 1] == []
    assert max(systems.values()) <= 2 * min(systems.values())
