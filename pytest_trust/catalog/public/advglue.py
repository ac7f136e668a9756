"""AdvGLUE, development set (Wang et al. 2021): adversarially changed items of six GLUE tasks.

The labels have GLUE's own numbering.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_trust.catalog.public.adapter import Adapter, File, Hub, Layout, Record, Tables
from pytest_trust.catalog.public.checks import known_rows, require
from pytest_trust.catalog.public.gates import errors
from pytest_trust.catalog.public.known_answers import CHECKED
from pytest_trust.probes import Probe

NAME = "public/advglue"
KNOWN: dict[str, object] = {
    "dead7aa64075": "sst2 1",
    "51ef5fea9fd0": "sst2 0",
    "3fa18db15477": "sst2 0",
    "63b714cff976": "qqp 0",
    "a57bd94052f0": "mnli 2",
    "074925930aab": "mnli 1",
    "110ff223964d": "mnli-mm 0",
    "4cc2d2442f44": "mnli-mm 2",
    "e3f1844e63a2": "qnli 0",
    "7b58f647b33b": "qnli 1",
    "15553908eee6": "rte 0",
    "92884df59927": "rte 1",
}


@dataclass(frozen=True, slots=True)
class Task:
    """A GLUE task. texts: the columns of an item. words: the option of each label. prompt: a format string of texts."""

    texts: tuple[str, ...]
    words: tuple[str, ...]
    prompt: str


_ENTAILMENT = ("entailment", "neutral", "contradiction")
_MNLI = Task(
    ("premise", "hypothesis"),
    _ENTAILMENT,
    "Premise: {premise}\nHypothesis: {hypothesis}\nQuestion: Is the hypothesis an entailment, neutral or a "
    "contradiction?\nAnswer:",
)
TASKS = {
    "sst2": Task(
        ("sentence",),
        ("negative", "positive"),
        "Sentence: {sentence}\nQuestion: Is the sentiment positive or negative?\nAnswer:",
    ),
    "qqp": Task(
        ("question1", "question2"),
        ("no", "yes"),
        "Question 1: {question1}\nQuestion 2: {question2}\nQuestion: Do both ask the same?\nAnswer:",
    ),
    "mnli": _MNLI,
    "mnli-mm": _MNLI,
    "qnli": Task(
        ("question", "sentence"),
        ("yes", "no"),
        "Question: {question}\nSentence: {sentence}\nQuestion: Does the sentence answer the question?\nAnswer:",
    ),
    "rte": Task(
        ("sentence1", "sentence2"),
        ("yes", "no"),
        "Text: {sentence1}\nStatement: {sentence2}\nQuestion: Does the statement follow from the text?\nAnswer:",
    ),
}


def read(tables: Tables) -> list[Record]:
    return [
        {
            "task": name,
            "index": row.whole("idx"),
            "texts": [row.text(column) for column in task.texts],
            "label": int(row.label("label", tuple(map(str, range(len(task.words)))))),
        }
        for (name, task), table in zip(TASKS.items(), tables, strict=True)
        for row in table
    ]


def probes(records: Sequence[Record]) -> list[Probe]:
    made = []
    for record in records:
        task, name = TASKS[record["task"]], f"advglue-{record['task']}-{record['index']}"
        text = task.prompt.format(**dict(zip(task.texts, record["texts"], strict=True)))
        made.append(
            Probe(name, name, text=text, subtype=record["task"], options=task.words, answer=task.words[record["label"]])
        )
    return made


def check(records: Sequence[Record], probes: Sequence[Probe]) -> None:
    """Every task has all of its labels, and known items keep theirs.

    Words are no evidence of a label here, since they are what was changed.
    """
    del probes
    labels: dict[str, set[int]] = defaultdict(set)
    for record in records:
        labels[record["task"]].add(record["label"])
    for task, found in labels.items():
        require(
            NAME,
            len(found) == len(TASKS[task].words),
            f"task {task} has the labels {sorted(found)} only, expected {len(TASKS[task].words)} of them",
        )
    known_rows(
        NAME,
        records,
        lambda record: " ".join(record["texts"]),
        lambda record: f"{record['task']} {record['label']}",
        KNOWN,
    )


ADAPTERS = (
    Adapter(
        name=NAME,
        dimension="robustness",
        title="AdvGLUE",
        about="738 adversarially changed items of SST-2, QQP, MNLI, QNLI and RTE; errors over all of them.",
        home="https://github.com/AI-secure/adversarial-glue, dev.json",
        licence="CC-BY-SA-4.0",
        task="choose",
        judge="choice",
        gates=(errors("error_rate", "errs on an adversarially changed item"),),
        probes=probes,
        check=check,
        layouts=(
            Layout(
                tuple(
                    File("dev.json", ("advglue", "adversarial-glue"), ("idx", "label", *task.texts), member=(name,))
                    for name, task in TASKS.items()
                ),
                read,
                CHECKED["advglue"],
            ),
        ),
        hub=Hub(
            "AI-Secure/adv_glue",
            None,
            ("validation",) * len(TASKS),
            read,
            checked=CHECKED["advglue"],
            configs=tuple(f"adv_{name}".replace("-mm", "_mismatched") for name in TASKS),
        ),
    ),
)
