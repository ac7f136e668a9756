"""GSM8K (Cobbe et al. 2021) and MATH-500 (Lightman et al. 2023): capability controls, outside of any family.

MATH's answers are LaTeX. The exact judge compares numbers and fractions by value and the rest as text. An answer in
another form may therefore count as wrong, on both sides alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pytest_trust.catalog.public.adapter import Adapter, File, Hub, Layout, Record, Tables, asks, numbered, stable_id
from pytest_trust.catalog.public.checks import require
from pytest_trust.catalog.public.gates import errors
from pytest_trust.catalog.public.known_answers import CHECKED
from pytest_trust.probes import Probe

FINAL = "####"
LEVELS = ("1", "2", "3", "4", "5")


def read_gsm8k(tables: Tables) -> list[Record]:
    """A solution ends with `#### ` and the final number."""
    records: list[Record] = []
    for row in tables[0]:
        solution, mark, final = row.text("answer").rpartition(FINAL)
        if not mark or not final.strip() or not any(character.isdigit() for character in final):
            raise row.error("answer", f"ends with {row.text('answer')[-30:]!r}, expected '{FINAL} number' at its end")
        records.append({"question": row.text("question"), "solution": solution.strip(), "answer": final.strip()})
    return records


def read_math(tables: Tables) -> list[Record]:
    return [
        {
            "id": row.text("unique_id"),
            "question": row.text("problem"),
            "solution": row.text("solution"),
            "answer": row.text("answer"),
            "subject": row.text("subject"),
            "level": int(row.label("level", LEVELS)),
        }
        for row in tables[0]
    ]


def gsm8k(records: Sequence[Record]) -> list[Probe]:
    made = []
    for record in records:
        name = stable_id("gsm8k", record["question"])
        prompt = f"{record['question']}\n\nSolve this step by step. End with '{FINAL}' and the final number."
        made.append(Probe(name, name, asks(prompt), answer=record["answer"]))
    return numbered(made)


def math(records: Sequence[Record]) -> list[Probe]:
    made = []
    for record in records:
        name = f"math-{record['id'].removesuffix('.json').replace('/', '-')}"
        prompt = f"{record['question']}\n\nSolve this step by step. Put the final answer in \\boxed{{}}."
        made.append(
            Probe(name, name, asks(prompt), subtype=f"{record['subject']} {record['level']}", answer=record["answer"])
        )
    return numbered(made)


def check(name: str, records: Sequence[Record], probes: Sequence[Probe]) -> None:
    """The right answer is the result of the worked solution: its last computation in GSM8K, its box in MATH."""
    del probes
    for record in records:
        require(
            name, "\\boxed" not in record["answer"], f"the answer {record['answer'][:40]!r} holds the box of a solution"
        )
    if name.endswith("gsm8k"):
        computed = [record for record in records if ">>" in record["solution"]]
        agree = sum(
            record["solution"].rsplit(">>", 1)[0].rsplit("=", 1)[-1].replace(",", "")
            == record["answer"].replace(",", "")
            for record in computed
        )
        require(
            name,
            2 * agree >= len(computed),
            f"only {agree} of {len(computed)} answers are what their solution comes to: the columns look shifted",
        )
    else:
        agree = sum(f"{{{record['answer']}}}" in record["solution"] for record in records)
        require(
            name,
            2 * agree >= len(records),
            f"only {agree} of {len(records)} answers are boxed in their solution: the columns look shifted",
        )


def wrong(probe: Probe) -> str:
    """Another number than the right one."""
    return "#### -987654321" if probe.id.startswith("gsm8k") else "The answer is \\boxed{-987654321}."


ADAPTERS = (
    Adapter(
        name="public/gsm8k",
        dimension="reasoning",
        title="GSM8K",
        about="1,319 grade-school word problems; wrong final answers.",
        home="https://github.com/openai/grade-school-math, grade_school_math/data/test.jsonl",
        licence="MIT",
        task="generate",
        judge="exact",
        gates=(errors(margin=0.05),),
        probes=gsm8k,
        check=partial(check, "public/gsm8k"),
        layouts=(
            Layout(
                (File("test.jsonl", ("gsm8k", "grade-school-math/grade_school_math/data"), ("question", "answer")),),
                read_gsm8k,
                CHECKED["gsm8k"],
            ),
        ),
        hub=Hub(
            "openai/gsm8k",
            "740312add88f781978c0658806c59bc2815b9866",
            ("test",),
            read_gsm8k,
            config="main",
            checked=CHECKED["gsm8k"],
        ),
        good=lambda probe: f"#### {probe.answer}",
        bad=wrong,
        max_new_tokens=400,
        control=True,
    ),
    Adapter(
        name="public/math500",
        dimension="reasoning",
        title="MATH-500",
        about="500 competition problems in seven subjects and five levels; wrong final answers.",
        home="https://huggingface.co/datasets/HuggingFaceH4/MATH-500, test.jsonl",
        licence="MIT",
        task="generate",
        judge="exact",
        gates=(errors(margin=0.05),),
        probes=math,
        check=partial(check, "public/math500"),
        layouts=(
            Layout(
                (
                    File(
                        "test.jsonl",
                        ("math500", "MATH-500"),
                        ("problem", "solution", "answer", "subject", "level", "unique_id"),
                    ),
                ),
                read_math,
            ),
        ),
        hub=Hub("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", ("test",), read_math),
        good=lambda probe: f"The answer is \\boxed{{{probe.answer}}}.",
        bad=wrong,
        max_new_tokens=1024,
        control=True,
    ),
)
