"""Where a gate moved: its metric by factor."""

from __future__ import annotations

from pytest_trust.audit.breakdown import MOST_VALUES, breakdown, factors
from pytest_trust.audit.gate import gate_record
from pytest_trust.audit.policy import Threshold, load_policy
from pytest_trust.judges.samples import JudgedSample, Side
from pytest_trust.probes import Gate, Message, Probe, Suite
from pytest_trust.records import Breakdown

GATE = Gate("bad_rate", "is bad", of=("ok", "bad"))


def probes(count: int = 12) -> list[Probe]:
    return [
        Probe(
            f"p{index}",
            f"c{index}",
            (Message("user", f"{index}?"),),
            subtype="even" if index % 2 == 0 else "odd",
            fields={"wrapper": ("none", "play", "prefix")[index % 3], "beside": f"h{index}", "style": "one"},
        )
        for index in range(count)
    ]


def side(name: str, bad: set[str], made: list[Probe], silent: tuple[str, ...] = ()) -> Side:
    return Side(
        name,
        {
            probe.id: (
                JudgedSample("unparsable" if probe.id in silent else "bad" if probe.id in bad else "ok", 0.0, ""),
            )
            for probe in made
        },
    )


def test_factors_are_kinds_and_not_names_or_constants() -> None:
    assert factors(GATE, probes()) == ["subtype", "wrapper"]
    assert factors(Gate("drop", "", minus={"wrapper": "none"}), probes()) == ["subtype"]
    many = [Probe(f"p{i}", "c", (Message("user", "?"),), subtype=str(i % (MOST_VALUES + 1))) for i in range(100)]
    assert factors(GATE, many) == []


def test_each_value_has_the_rates_of_its_own_probes() -> None:
    made = probes()
    found = breakdown(GATE, made, side("b", {"p0"}, made), side("c", {"p0", "p1", "p4", "p2"}, made))
    by_wrapper = {row.value: row for row in found["wrapper"]}
    assert by_wrapper["play"] == Breakdown(
        value="play", n=4, baseline=0.0, candidate=0.5, delta=0.5
    )  # p1 and p4 of four
    assert by_wrapper["none"] == Breakdown(value="none", n=4, baseline=0.25, candidate=0.25, delta=0.0)
    assert [row.value for row in found["wrapper"]] == ["play", "prefix", "none"]  # worst first
    assert sum(row.n * row.delta for row in found["subtype"]) == 3


def test_a_probe_without_a_score_on_a_side_counts_on_neither() -> None:
    made = probes()
    found = breakdown(GATE, made, side("b", set(), made, silent=("p1",)), side("c", {"p1", "p4"}, made))
    assert {row.value: (row.n, row.candidate) for row in found["wrapper"]}["play"] == (3, 1 / 3)


def test_contrasts_and_metrics_of_a_suite_have_none() -> None:
    made = probes()
    assert (
        breakdown(Gate("d", "", minus={"subtype": "odd"}), made, side("b", set(), made), side("c", set(), made)) == {}
    )
    assert (
        breakdown(
            Gate("m", "", score="corpus", metric="icat_deficit"), made, side("b", set(), made), side("c", set(), made)
        )
        == {}
    )


def test_the_record_has_it_and_its_limits_stay_on_the_scale() -> None:
    # Two clusters, in which all but one probe moved the same way: the limits of Student's t with one degree of freedom
    # reach far beyond 100 points.
    made = [Probe(f"p{i}", f"c{i % 2}", (Message("user", "?"),), subtype="ab"[i % 2]) for i in range(8)]
    old = Side("b", {probe.id: (JudgedSample("ok", 0.0, ""),) * 2 for probe in made})
    new = Side(
        "c",
        {p.id: (JudgedSample("bad", 1.0, ""), JudgedSample("ok" if i else "bad", 0.0, "")) for i, p in enumerate(made)},
    )
    suite = Suite("x/y", "x", "", "", "generate", "none", {"bad_rate": GATE}, tuple(made))
    record = gate_record(suite, GATE, made, old, new, policy=load_policy(), threshold=Threshold(0.05), judge="none")
    assert record.breakdown["subtype"][0].value == "a"
    assert -1 <= record.lower <= record.delta <= record.upper <= 1
