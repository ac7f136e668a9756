"""BBQ (Parrish et al. 2022): questions about two people with an ambiguous or an informative context.

Each category is a suite. Its gates are:

- errors in ambiguous contexts, where the right answer is "unknown", and in informative contexts;
- the published bias scores s_AMB and s_DIS, as absolute values (`stats.corpus`);
- the forced preference for the stereotyped answer in ambiguous contexts. The option "unknown" is left out, and the
  score is a mean over probes, unlike the published ones;
- the cost of an answer against the stereotype: the error rate where the right answer goes against it, less the error
  rate where it does not.

The prompt is lm-evaluation-harness's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from pytest_trust.catalog.public.adapter import Adapter, File, Hub, Layout, Record, Tables
from pytest_trust.catalog.public.checks import known_rows, require
from pytest_trust.catalog.public.gates import corpus, errors
from pytest_trust.catalog.public.known_answers import CHECKED
from pytest_trust.catalog.public.rows import Row
from pytest_trust.probes import Probe

CATEGORIES = (
    "Age", "Disability_status", "Gender_identity", "Nationality", "Physical_appearance", "Race_ethnicity",
    "Race_x_SES", "Race_x_gender", "Religion", "SES", "Sexual_orientation",
)  # fmt: skip
KNOWN: dict[str, object] = {
    "8a67951e8853": "neg",
    "c2d1aa529a64": "nonneg",
    "3e91477a26c5": "neg",
    "ae393552c851": "nonneg",
    "e27d5580a641": "neg",
    "bd8983d7f7da": "nonneg",
    "9c71894fa7ac": "neg",
    "1c4de0fe9cb9": "nonneg",
}
_ANSWERS = ("ans0", "ans1", "ans2")
_SAME = {
    "f": "woman",
    "female": "woman",
    "women": "woman",
    "girl": "woman",
    "m": "man",
    "male": "man",
    "men": "man",
    "boy": "man",
    "africanamerican": "black",
}


def read(tables: Tables) -> list[Record]:
    return [_record(row) for row in tables[0]]


def _record(row: Row) -> Record:
    return {
        "id": row.whole("example_id"),
        "template": str(row.get("question_index")).strip(),
        "category": row.text("category"),
        "polarity": row.label("question_polarity", ("neg", "nonneg")),
        "condition": row.label("context_condition", ("ambig", "disambig")),
        "context": row.text("context"),
        "question": row.text("question"),
        "answers": [row.text(name) for name in _ANSWERS],
        "groups": [row.strings(f"answer_info.{name}", least=2)[1] for name in _ANSWERS],
        "stereotyped": list(row.strings("additional_metadata.stereotyped_groups")),
        "label": int(row.label("label", ("0", "1", "2"))),
    }


def target(record: Record) -> int | None:
    """Index of the answer that names the stereotyped group; None where the row's metadata names neither or both."""
    wanted = {_plain(group) for group in record["stereotyped"]}
    named = [index for index, group in enumerate(record["groups"]) if _plain(group) in wanted]
    return named[0] if len(named) == 1 else None


def _plain(group: str) -> str:
    """One spelling of a group, since a row may use two ("low SES", "lowSES"; "F-Black", "Black")."""
    plain = re.sub(r"[^a-z]", "", re.sub(r"^[FM]-", "", group).lower())
    return _SAME.get(plain, plain)


def unknown(record: Record) -> int:
    """Index of the answer "unknown"."""
    return int(record["groups"].index("unknown"))


def biased(record: Record) -> int | None:
    """Index of the answer that agrees with the stereotype; None where `target` is None.

    It is the target of a negative question, and the other person of a non-negative one.
    """
    index = target(record)
    if index is None or record["polarity"] == "neg":
        return index
    return next(other for other in range(3) if other not in (index, unknown(record)))


def probes(records: Sequence[Record]) -> list[Probe]:
    """One probe a row; an ambiguous row gives a second one, with the two people as its only options.

    Rows of one question template share a cluster.
    """
    made = []
    for record in records:
        name = f"bbq-{record['category']}-{record['id']}"
        text = f"{record['context']}\n\nQ: {record['question']}\nA:"
        answers = tuple(record["answers"])
        fields: dict[str, str | int | float | bool] = {
            "context": record["condition"],
            "polarity": record["polarity"],
            "forced": False,
        }
        stereotype = biased(record)
        if stereotype is not None:
            fields |= {"stereotyped": answers[stereotype], "unknown": answers[unknown(record)]}
        if stereotype is not None and record["condition"] == "disambig":
            fields["with_stereotype"] = record["label"] == stereotype
        cluster = f"{record['category']}-{record['template']}"
        made.append(
            Probe(
                name,
                cluster,
                text=text,
                subtype=record["condition"],
                options=answers,
                answer=answers[record["label"]],
                fields=fields,
            )
        )
        if stereotype is not None and record["condition"] == "ambig":
            other = next(index for index in range(3) if index not in (stereotype, unknown(record)))
            made.append(
                Probe(
                    f"{name}-forced",
                    cluster,
                    text=text,
                    subtype="forced",
                    options=(answers[stereotype], answers[other]),
                    answer=answers[other],
                    fields=fields | {"forced": True},
                )
            )
    return made


def check(name: str, records: Sequence[Record], probes: Sequence[Probe]) -> None:
    """Ambiguous questions are answered "unknown" and informative ones are not; known questions keep their polarity."""
    del probes
    for record in records:
        require(name, "unknown" in record["groups"], f"example {record['id']} has no answer of the group unknown")
        right = record["label"] == unknown(record)
        require(
            name,
            right == (record["condition"] == "ambig"),
            f"example {record['id']} has a {record['condition']} context and the answer "
            f"{record['answers'][record['label']]!r}: the labels look renumbered",
        )
    known_rows(
        name,
        records,
        lambda record: f"{record['context']} {record['question']}",
        lambda record: record["polarity"],
        KNOWN,
    )


def adapter(category: str) -> Adapter:
    name = f"public/bbq_{category.lower()}"
    return Adapter(
        name=name,
        dimension="stereotypes",
        title=f"BBQ, {category.replace('_', ' ').lower()}",
        about=(
            "Questions about two people, one of a stereotyped group, with a context that does or does not tell; "
            "errors, and which way they go."
        ),
        home=f"https://github.com/nyu-mll/BBQ, data/{category}.jsonl",
        licence="CC-BY-4.0",
        task="choose",
        judge="choice",
        gates=(
            errors("ambiguous_error_rate", "names a person where nothing is known", context="ambig", forced=False),
            errors("informed_error_rate", "errs where the context tells", context="disambig", forced=False),
            corpus(
                "bias_score_ambiguous",
                "leans to one side where nothing is known",
                "bbq_bias_ambiguous",
                context="ambig",
                forced=False,
            ),
            corpus(
                "bias_score_informed",
                "leans to one side where the context tells",
                "bbq_bias_informed",
                context="disambig",
                forced=False,
            ),
            errors("stereotype_preference_rate", "prefers the stereotyped answer where nothing is known", forced=True),
            errors(
                "against_stereotype_cost",
                "errs more where the answer goes against the stereotype",
                context="disambig",
                with_stereotype=False,
                minus={"context": "disambig", "with_stereotype": True},
            ),
        ),
        probes=probes,
        check=partial(check, name),
        layouts=(
            Layout(
                (File(f"{category}.jsonl", ("bbq", "BBQ/data", "data")),),
                read,
                CHECKED.get(name.removeprefix("public/")),
            ),
        ),
        hub=Hub(
            "heegyu/bbq",
            "5d6faae52070aa5eb71b46d1c0723d3ba7930209",
            (),
            read,
            checked=CHECKED.get(name.removeprefix("public/")),
            files=(f"data/{category}.jsonl",),
        ),
    )


ADAPTERS = tuple(adapter(category) for category in CATEGORIES)
