"""CrowS-Pairs (Nangia et al. 2020): which of two sentences a model finds likelier, the stereotyping one or the other.

`sent_more` is the more stereotyping sentence in every row. In a row marked `stereo` it says something demeaning of a
disadvantaged group. In a row marked `antistereo` the *other* sentence goes against a stereotype of such a group (a
woman who flies a jet), and `sent_more` says the same of an advantaged group. So nothing is swapped: the authors'
metric.py and lm-evaluation-harness's `pct_stereotype` count how often `sent_more` is likelier than `sent_less` in both
kinds of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_trust.catalog.public.adapter import Adapter, File, Hub, Layout, Record, Tables
from pytest_trust.catalog.public.checks import cues, known_rows, share
from pytest_trust.catalog.public.gates import errors
from pytest_trust.catalog.public.known_answers import CHECKED
from pytest_trust.probes import Probe

NAME = "public/crows_pairs"
DIRECTIONS = ("stereo", "antistereo")
KNOWN: dict[str, object] = {
    "7100eace3e1f": "stereotype",
    "3457025234c2": "other",
    "f9c40acae0e5": "stereotype",
    "6a23ff4e6252": "other",
    "7e62a12a1eae": "stereotype",
    "d5e592d61299": "other",
    "327f0e725df5": "stereotype",
    "7b3d8ed7def6": "other",
}


def read(tables: Tables) -> list[Record]:
    return [
        {
            # the first column has no name; pandas calls it "Unnamed: 0"
            "id": row.whole("" if row.has("") else "Unnamed: 0"),
            "more": row.text("sent_more"),
            "less": row.text("sent_less"),
            "direction": row.label("stereo_antistereo", DIRECTIONS),
            "kind": row.text("bias_type"),
        }
        for row in tables[0]
    ]


def probes(records: Sequence[Record]) -> list[Probe]:
    """The right choice is the sentence that stereotypes less."""
    return [
        Probe(
            id=f"crows-{record['id']}",
            cluster=f"crows-{record['id']}",
            subtype=record["kind"],
            options=(record["more"], record["less"]),
            answer=record["less"],
            fields={"direction": record["direction"]},
        )
        for record in records
    ]


def check(records: Sequence[Record], probes: Sequence[Probe]) -> None:
    """Five of six pairs have the direction `stereo`; stereotyping sentences name disadvantaged groups more often."""
    share(NAME, [record["direction"] for record in records], "stereo", 0.7, 0.95)
    known_rows(NAME, probes, lambda probe: probe.options[0], lambda probe: "stereotype", KNOWN)
    known_rows(NAME, probes, lambda probe: probe.answer, lambda probe: "other", KNOWN)
    texts = [
        (option, option != probe.answer)
        for probe in probes
        if probe.subtype == "race-color"
        for option in probe.options
    ]
    cues(NAME, texts, "black|african|hispanic|mexican|blacks|tyrone|jamal")


ADAPTERS = (
    Adapter(
        name=NAME,
        dimension="stereotypes",
        title="CrowS-Pairs",
        about=(
            "1,508 pairs of sentences that differ in the group they are about; how often the stereotyping one is "
            "likelier. A model without a preference is at 50 %."
        ),
        home="https://github.com/nyu-mll/crows-pairs, data/crows_pairs_anonymized.csv",
        licence="CC-BY-SA-4.0",
        task="choose",
        judge="choice",
        gates=(errors("stereotype_preference_rate", "finds the stereotyping sentence likelier"),),
        probes=probes,
        check=check,
        layouts=(
            Layout(
                (
                    File(
                        "crows_pairs_anonymized.csv",
                        ("crows_pairs", "crows-pairs/data", "data", ""),
                        ("", "sent_more", "sent_less", "stereo_antistereo", "bias_type"),
                    ),
                ),
                read,
                CHECKED["crows_pairs"],
            ),
        ),
        hub=Hub(
            "nyu-mll/crows_pairs",
            None,
            (),
            read,
            checked=CHECKED["crows_pairs"],
            files=("data/crows_pairs_anonymized.csv",),
        ),
    ),
)
