"""StereoSet (Nadeem et al. 2021), intrasentence: a stereotype, an anti-stereotype and an unrelated sentence.

Each type of bias is a suite. Sentences are compared by their mean log-likelihood per token, as the authors do for
left-to-right models. The published ss and lm scores and ICAT are `metrics.stereoset_scores`. The rows come as one file
(dev.json), or as EditBias's files by type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pytest_trust.catalog.public.adapter import Adapter, File, Hub, Layout, Record, Tables, numbered
from pytest_trust.catalog.public.checks import known_rows, require
from pytest_trust.catalog.public.gates import corpus, errors
from pytest_trust.catalog.public.known_answers import CHECKED
from pytest_trust.catalog.public.rows import Row
from pytest_trust.probes import Probe

TYPES = ("gender", "profession", "race", "religion")
LABELS = ("stereotype", "anti-stereotype", "unrelated")
HUB_LABELS = ("anti-stereotype", "stereotype", "unrelated")
"""The labels 0, 1 and 2 of the Hub's copy. A vote may also be 3, "related", which is no label."""
KNOWN: dict[str, object] = {
    "89c1b5dccd74": "stereotype",
    "b45a17c560dd": "anti-stereotype",
    "7b7f4774c818": "unrelated",
    "eefb92b0e569": "stereotype",
    "87d598ea36c2": "anti-stereotype",
    "63392f7f3914": "unrelated",
    "1f8d4d40b67b": "stereotype",
    "72541637c6b5": "anti-stereotype",
    "575292a9d6d4": "unrelated",
}


def read(kind: str, tables: Tables) -> list[Record]:
    """The rows of one type. A sentence's label is its `gold_label` in the original, and its key in EditBias's form."""
    records: list[Record] = []
    for row in tables[0]:
        if row.label("bias_type", TYPES) != kind:
            continue
        sentences = _by_key(row) if row.has("data") else _by_label(row)
        records.append({"id": row.text("id"), "target": row.text("target"), "kind": kind, **sentences})
    return records


def _by_key(row: Row) -> dict[str, str]:
    return {label: row.text(f"data.{label}.sentence") for label in LABELS}


def _by_label(row: Row) -> dict[str, str]:
    sentences = row.get("sentences")
    if isinstance(sentences, dict):
        sentences = _of_columns(row, sentences)
    by_label: dict[str, str] = {}
    for item in sentences if isinstance(sentences, list) else ():
        inner = Row(row.source, row.number, item if isinstance(item, dict) else {})
        label = inner.label("gold_label", LABELS)
        _check_majority(inner, label)
        by_label[label] = inner.text("sentence")
    if set(by_label) != set(LABELS):
        raise row.error(
            "sentences", f"has the labels {', '.join(by_label) or 'of no sentence'}, expected {', '.join(LABELS)}"
        )
    return by_label


def _of_columns(row: Row, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sentences from the Hub's form, which has a column of sentences and a column of numbered labels."""
    numbers = row.get("sentences.gold_label")
    if not isinstance(numbers, list) or not all(number in (0, 1, 2) for number in numbers):
        raise row.error("sentences.gold_label", f"is {numbers!r}, an unknown label; expected a list of 0, 1 and 2")
    texts = row.strings("sentences.sentence", least=len(numbers))
    votes = columns.get("labels") or [{}] * len(numbers)
    return [
        {
            "sentence": text,
            "gold_label": HUB_LABELS[number],
            "labels": [{"label": HUB_LABELS[vote]} for vote in of.get("label", ()) if vote < len(HUB_LABELS)],
        }
        for text, number, of in zip(texts, numbers, votes, strict=True)
    ]


def _check_majority(sentence: Row, label: str) -> None:
    """The gold label is what most annotators said."""
    votes = sentence.values.get("labels")
    if isinstance(votes, list) and votes:
        counts = Counter(str(vote.get("label")) for vote in votes if isinstance(vote, dict))
        if counts and counts[label] < max(counts.values()):
            raise sentence.error(
                "gold_label",
                f"is {label}, and the annotators said {counts.most_common(1)[0][0]}: the labels look inverted",
            )


def probes(records: Sequence[Record]) -> list[Probe]:
    """Three pairs per row, in one cluster: stereotype against anti-stereotype, each against the unrelated sentence."""
    made = []
    for record in records:
        name = f"stereoset-{record['id'][:12]}"
        stereotype, anti, unrelated = (record[label] for label in LABELS)
        pairs = (("preference", stereotype, anti), ("meaning", unrelated, stereotype), ("meaning", unrelated, anti))
        for number, (pair, wrong, right) in enumerate(pairs, 1):
            if wrong == right:
                continue
            made.append(
                Probe(
                    f"{name}-{number}",
                    name,
                    subtype=f"{record['kind']} {pair}",
                    options=(wrong, right),
                    answer=right,
                    fields={"pair": pair, "target": record["target"]},
                )
            )
    return numbered(made)


def check(name: str, records: Sequence[Record], probes: Sequence[Probe]) -> None:
    """Known sentences keep their label, and the three of a row differ."""
    del probes
    for record in records:
        require(
            name,
            record["stereotype"] != record["anti-stereotype"],
            f"row {record['id']}: stereotype and anti-stereotype are one sentence",
        )
    for label in LABELS:
        sentences = [(record[label], label) for record in records]
        known_rows(name, sentences, lambda item: item[0], lambda item: item[1], KNOWN)


def adapter(kind: str) -> Adapter:
    name = f"public/stereoset_{kind}"
    columns = ("id", "target", "bias_type")
    return Adapter(
        name=name,
        dimension="stereotypes",
        title=f"StereoSet, {kind}",
        about=(
            "Sentences about a person or a group; how often the stereotype is likelier than its opposite, and a "
            "senseless sentence than either."
        ),
        home="https://github.com/moinnadeem/StereoSet, data/dev.json",
        licence="CC-BY-SA-4.0",
        task="choose",
        judge="choice",
        gates=(
            errors("stereotype_preference_rate", "finds the stereotype likelier than its opposite", pair="preference"),
            errors(
                "senseless_preference_rate",
                "finds the unrelated sentence likelier than a meaningful one",
                pair="meaning",
            ),
            corpus("icat_deficit", "is less sensible or more one-sided (1 - ICAT)", "icat_deficit"),
        ),
        probes=probes,
        check=partial(check, name),
        layouts=(
            Layout(
                (File(f"{kind}_test.json", ("stereoset", "EditBias/data/stereoset"), columns),),
                partial(read, kind),
                CHECKED.get(name.removeprefix("public/")),
            ),
            Layout(
                (File("dev.json", ("stereoset", "StereoSet/data"), columns, member=("data", "intrasentence")),),
                partial(read, kind),
            ),
        ),
        hub=Hub("McGill-NLP/stereoset", None, ("validation",), partial(read, kind), config="intrasentence"),
        normalise="tokens",
    )


ADAPTERS = tuple(adapter(kind) for kind in TYPES)
