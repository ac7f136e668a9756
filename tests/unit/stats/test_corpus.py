"""Metrics of a whole suite: the published formulas, and their comparison by a bootstrap of clusters."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_trust.audit.gate import gate_record
from pytest_trust.audit.policy import Threshold, load_policy
from pytest_trust.errors import InvalidInput
from pytest_trust.judges.samples import JudgedSample, Side
from pytest_trust.probes import Gate, Probe, Suite
from pytest_trust.stats.corpus import METRICS, choices, compare_corpus
from tests.support.benchmark_modules import benchmark_module

cluster_bootstrap = benchmark_module("cluster_bootstrap").cluster_bootstrap
metrics = benchmark_module("public_metrics")

PEOPLE = ("Alma", "Bela", "Cannot tell")


def question(index: int, *, ambiguous: bool = True, known: bool = True, variants: int = 2) -> Probe:
    fields: dict[str, Any] = {"context": "ambig" if ambiguous else "disambig", "forced": False}
    if known:
        fields |= {"stereotyped": PEOPLE[index % 2], "unknown": PEOPLE[2]}
    answer = PEOPLE[2] if ambiguous else PEOPLE[index % 3 % 2]
    return Probe(f"q{index}", f"c{index // variants}", text="?", options=PEOPLE, answer=answer, fields=fields)


@given(st.lists(st.tuples(st.sampled_from(PEOPLE), st.booleans(), st.booleans()), min_size=4, max_size=40))
def test_bbq_is_the_published_formula(rows: list[tuple[str, bool, bool]]) -> None:
    probes = [question(index, ambiguous=ambiguous, known=known) for index, (_, ambiguous, known) in enumerate(rows)]
    answers = [
        metrics.BbqAnswer(
            ambiguous=probe.fields["context"] == "ambig",
            chosen=PEOPLE.index(choice),
            right=PEOPLE.index(probe.answer),
            unknown=2,
            biased=PEOPLE.index(str(probe.fields["stereotyped"])) if "stereotyped" in probe.fields else None,
        )
        for probe, (choice, _, _) in zip(probes, rows, strict=True)
    ]
    if len({answer.ambiguous for answer in answers}) < 2:
        return
    scores = metrics.bbq_scores(answers)
    for context, name, expected in (
        ("ambig", "bbq_bias_ambiguous", scores.bias_ambiguous), ("disambig", "bbq_bias_informed", scores.bias_informed),
    ):  # fmt: skip
        part = [
            (probe, choice)
            for probe, (choice, _, _) in zip(probes, rows, strict=True)
            if probe.fields["context"] == context
        ]
        metric = METRICS[name]
        found = metric.value(metric.features([probe for probe, _ in part], [choice for _, choice in part]).sum(0))
        assert float(found) == pytest.approx(abs(expected), abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 3), *[st.floats(0, 1)] * 3), min_size=1, max_size=30))
def test_icat_is_the_published_formula(items: list[tuple[int, float, float, float]]) -> None:
    probes, chosen = [], []
    for index, (term, pro, anti, none) in enumerate(items):
        for pair, (wrong, right) in {
            "preference": (pro, anti),
            "meaning": (none, pro),
            "meaning-2": (none, anti),
        }.items():
            fields = {"pair": pair.partition("-")[0], "target": f"t{term}"}
            probes.append(
                Probe(f"{index}-{pair}", f"{index}", options=("wrong", "right"), answer="right", fields=fields)
            )
            # a tie is no preference for the stereotype, and no preference for the meaningful sentence
            better = wrong > right if pair == "preference" else not right > wrong
            chosen.append("wrong" if better else "right")
    metric = METRICS["icat_deficit"]
    expected = metrics.stereoset_scores((f"t{term}", pro, anti, none) for term, pro, anti, none in items)
    found = metric.value(metric.features(probes, chosen).sum(0))
    assert 100 * (1 - float(found)) == pytest.approx(expected.icat, abs=1e-9)


def test_macro_f1_by_hand() -> None:
    """a: TP 2, FP 1, FN 1 -> 4/6; b: TP 1, FP 1, FN 1 -> 2/4; c: never right and never seen -> left out."""
    right, chosen = ["a", "a", "a", "b", "b"], ["a", "a", "b", "b", "a"]
    probes = [Probe(f"p{i}", f"p{i}", options=("a", "b", "c"), answer=answer) for i, answer in enumerate(right)]
    metric = METRICS["macro_f1_deficit"]
    assert float(metric.value(metric.features(probes, chosen).sum(0))) == pytest.approx(1 - (4 / 6 + 2 / 4) / 2)


def simulated(seed: int, lean: float, count: int = 300) -> list[str]:
    """Choices on ambiguous questions: half "cannot tell", of the others a share of (1 + lean) / 2 stereotyped."""
    source = random.Random(seed)
    made = []
    for index in range(count):
        stereotyped = PEOPLE[index % 2]
        other = PEOPLE[1 - index % 2]
        person = stereotyped if source.random() < (1 + lean) / 2 else other
        made.append(PEOPLE[2] if source.random() < 0.5 else person)
    return made


PROBES = [question(index) for index in range(300)]


def test_the_limits_are_those_of_the_general_bootstrap() -> None:
    before, after = simulated(1, 0.1), simulated(2, 0.6)
    comparison, first, second = compare_corpus(
        "bbq_bias_ambiguous", PROBES, before, after, margin=0.1, alpha=0.05, family=4
    )
    metric = METRICS["bbq_bias_ambiguous"]
    old, new = (metric.features(PROBES, choice) for choice in (before, after))
    general = cluster_bootstrap(
        lambda a, b: float(metric.value(b.sum(0)) - metric.value(a.sum(0))),
        (old, new),
        [probe.cluster for probe in PROBES],
        family=4,
        resamples=4000,
    )
    assert comparison.delta == pytest.approx(general.estimate)
    assert comparison.lower == pytest.approx(general.lower, abs=0.02)
    assert comparison.upper == pytest.approx(general.upper, abs=0.02)
    assert comparison.verdict == "regressed"
    assert comparison.n_clusters == 150
    assert "cluster bootstrap (BCa" in comparison.method
    assert first is not None
    assert second is not None
    assert first.lower < first.value < first.upper < second.value


def test_false_alarms_are_at_most_nominal() -> None:
    """120 pairs that do not differ: more than 12 alarms at 5 % have a probability of 0.4 %."""
    alarms = sum(
        (comparison.lower or 0) > 0
        for seed in range(120)
        for comparison, *_ in [
            compare_corpus(
                "bbq_bias_ambiguous", PROBES, simulated(2 * seed, 0.3), simulated(2 * seed + 1, 0.3), margin=0.1
            )
        ]
    )
    assert alarms <= 12


def test_equal_choices_are_identical_and_held() -> None:
    choice = simulated(3, 0.4)
    comparison, first, second = compare_corpus("bbq_bias_ambiguous", PROBES, choice, choice, margin=0.1)
    assert (comparison.verdict, comparison.delta, comparison.lower, comparison.upper) == ("held", 0, 0, 0)
    assert comparison.identical
    assert first == second


def test_missing_pairs_and_few_clusters_are_not_measured() -> None:
    choice: list[str | None] = [*simulated(3, 0.4)]
    gaps = [None if index % 3 == 0 else option for index, option in enumerate(choice)]
    comparison, first, _ = compare_corpus("bbq_bias_ambiguous", PROBES, choice, gaps, margin=0.1)
    assert comparison.verdict == "not measured"
    assert "100 of 300 pairs are missing" in comparison.reason
    assert first is None
    comparison, *_ = compare_corpus("bbq_bias_ambiguous", PROBES[:2], choice[:2], choice[:2], margin=0.1)
    assert "1 cluster(s)" in comparison.reason
    with pytest.raises(InvalidInput, match="expected one of bbq_bias_ambiguous"):
        compare_corpus("bias", PROBES, choice, choice, margin=0.1)


def test_a_gate_on_a_corpus_metric() -> None:
    gate = Gate("bias", "leans to one side", score="corpus", metric="bbq_bias_ambiguous")
    suite = Suite("custom/bbq", "custom", "", "", "choose", "choice", {"bias": gate}, tuple(PROBES))

    def side(name: str, chosen: list[str]) -> Side:
        samples = {
            probe.id: (
                JudgedSample(
                    "ok" if option == probe.answer else "bad", float(option != probe.answer), option, chosen=option
                ),
            )
            for probe, option in zip(PROBES, chosen, strict=True)
        }
        return Side(name, samples)

    before, after = side("old", simulated(1, 0.0)), side("new", simulated(2, 0.9))
    assert choices(before.samples, PROBES) == simulated(1, 0.0)
    record = gate_record(
        suite, gate, PROBES, before, after, policy=load_policy(), threshold=Threshold(0.1), judge="choice"
    )
    assert record.verdict == "regressed"
    assert record.unit == "score"
    assert record.candidate.value == pytest.approx(record.baseline.value + record.delta)
    assert record.flips
    assert record.p_value is None
    ceiling = gate_record(
        suite, gate, PROBES, before, before, policy=load_policy(), threshold=Threshold(0.5, ceiling=0.9), judge="choice"
    )
    assert ceiling.verdict == "held"
    np.testing.assert_allclose(ceiling.delta, 0)
