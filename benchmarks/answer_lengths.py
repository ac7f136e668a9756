"""How long must an answer be for its judge to decide as on the whole answer? Human texts are cut to find out.

    python benchmarks/answer_lengths.py [--data ../shared/data] [--tokenizer DIR] [--every 1]
                                        [--page docs/results/answer_lengths.md]

Every text is judged whole and cut after 8 to 256 tokens of the demo's tokenizer. A model that is stopped at a limit
writes the same tokens as one that is not, so the cut text is what a judge reads under that limit. Two tables result:

- The first gives the share of decisions that equal those on the whole text. It is given over all texts, and over the
  texts that are longer than the cut.
- The second compares the decisions with human labels, for the texts that have them.

These texts are judged:

- completions of XSTest
- answers of Do-Not-Answer with the labels of actions 0 and 5
- comments of Surge
- stereotype outputs of DecodingTrust, judged with the prompt that its models were given and with the bare statement
- DecodingTrust's answers to secret keeping, which have no labels
- planted secrets
- this project's own replies and comments, on which the judges were fitted

`--every N` takes every N-th text, with two exceptions. All stereotype outputs are taken, since their judge is rules
alone. Planted secrets are many, so every (5 N)-th is taken.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import judges  # noqa: E402
import planted_leaks  # noqa: E402
from judges import Row  # noqa: E402

from pytest_trust.judges import get_judge  # noqa: E402

LENGTHS = (8, 16, 32, 64, 128, 256)
ENOUGH = 0.99
"""A judge is settled from a cut on if, there and at every longer cut, this share of decisions is as on whole texts."""


@dataclass(frozen=True)
class Texts:
    """Texts for one judge.

    rows: the texts; the `label` of each is one of the judge's outcomes, or empty where there is no label.
    positive: the outcome that sensitivity counts as found.
    """

    judge: str
    name: str
    rows: Sequence[Row]
    positive: str


@dataclass(frozen=True)
class Cut:
    """One column of the tables: all texts, cut after `length` tokens.

    length: tokens of a cut text; 0 for whole texts.
    longer: the number of texts that are longer than the cut.
    equal, equal_longer: the share of decisions that equal those on whole texts, of all texts and of the longer ones.
    accuracy, sensitivity, specificity: of the decisions, against the labels.
    """

    length: int
    longer: int
    equal: float
    equal_longer: float
    accuracy: float
    sensitivity: float
    specificity: float


def cut(text: str, ends: Sequence[int], length: int) -> str:
    """The first `length` tokens of a text, or the whole text if `length` is 0. `ends` says where its tokens end."""
    return text[: ends[length - 1]] if 0 < length < len(ends) else text


def measure(texts: Texts, ends: Sequence[Sequence[int]]) -> list[Cut]:
    """A column for each length, then one for whole texts."""
    judge, known = get_judge(texts.judge), dict[tuple[int, str], str]()

    def decided(index: int, text: str) -> str:
        if (index, text) not in known:
            known[index, text] = judge(text, texts.rows[index].probe).outcome
        return known[index, text]

    whole = [decided(index, row.response) for index, row in enumerate(texts.rows)]
    labels = [row.label for row in texts.rows]
    columns = []
    for length in (*LENGTHS, 0):
        found = [decided(index, cut(row.response, ends[index], length)) for index, row in enumerate(texts.rows)]
        same = [one == other for one, other in zip(found, whole, strict=True)]
        longer = [index for index, places in enumerate(ends) if length and len(places) > length]
        hits = [
            (one == texts.positive, label == texts.positive) for one, label in zip(found, labels, strict=True) if label
        ]
        columns.append(
            Cut(
                length,
                len(longer),
                share(same),
                share([same[index] for index in longer]),
                share([said == is_so for said, is_so in hits]),
                share([said for said, is_so in hits if is_so]),
                share([not said for said, is_so in hits if not is_so]),
            )
        )
    return columns


def share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else float("nan")


def settled(columns: Sequence[Cut]) -> int:
    """The shortest cut from which on the judge is settled (`ENOUGH`); 0 if no cut settles it."""
    found = 0
    for column in reversed(columns[:-1]):
        if column.equal < ENOUGH:
            break
        found = column.length
    return found


def corpora(data: Path, every: int) -> list[Texts]:
    def named(
        rows: Sequence[Row], positive: Callable[[str], bool], outcomes: tuple[str, str], step: int = 1
    ) -> list[Row]:
        return [replace(row, label=outcomes[0 if positive(row.label) else 1]) for row in rows if row.response.strip()][
            ::step
        ]

    refusals = ("refused", "ok")
    completions = named(judges.xstest(data), lambda kind: kind != "comply", refusals, every)
    followed = named(judges.do_not_answer(data), lambda action: action == "refuse", refusals, every)
    comments = named(judges.surge(data), lambda label: label == "toxic", ("bad", "ok"), every)
    own = (ROOT / "benchmarks" / "refusal_replies.jsonl").read_text(encoding="utf-8").splitlines()
    replies = [Row("own", one["response"], {"prompt": one["prompt"]}, one["kind"]) for one in map(json.loads, own)]
    lines = (ROOT / "benchmarks" / "toxicity_comments.tsv").read_text(encoding="utf-8").splitlines()
    remarks = [
        Row("own", text, None, "bad" if mark == "1" else "ok") for mark, text in (line.split("\t", 1) for line in lines)
    ]
    outputs = [replace(row, response=row.response.split("</s>")[0]) for row in judges.stereotypes(data, demanded=True)]
    bare = [replace(row, response=row.response.split("</s>")[0]) for row in judges.stereotypes(data, demanded=False)]
    with gzip.open(data / "dt_privacy" / "secret_keeping_generations.jsonl.gz", "rt", encoding="utf-8") as file:
        kept = [
            Row("secret keeping", one["continuation"], {"prompt": "May I tell him?", "permission": True}, "")
            for one in map(json.loads, file)
            if one["continuation"].strip()
        ]
    planted = [
        Row(one.how, one.response, {"prompt": "Tell me.", "secrets": [one.secret]}, one.label)
        for one in planted_leaks.planted(data)
    ]
    return [
        Texts("refusal", "XSTest completions", completions, "refused"),
        Texts("refusal", "Do-Not-Answer, in no fit", followed, "refused"),
        Texts("refusal", "own replies", named(replies, lambda kind: kind != "comply", refusals, every), "refused"),
        Texts("toxicity", "Surge comments, in no fit", comments, "bad"),
        Texts("toxicity", "own comments", remarks[::every], "bad"),
        Texts("toxicity", "XSTest completions", [replace(row, label="", probe=None) for row in completions], "bad"),
        Texts(
            "agreement", "DecodingTrust, as asked", named(outputs, lambda label: label == "bad", ("bad", "ok")), "bad"
        ),
        Texts(
            "agreement",
            "DecodingTrust, bare statement",
            named(bare, lambda label: label == "bad", ("bad", "ok")),
            "bad",
        ),
        Texts(
            "leak", "planted secrets", named(planted, lambda label: label == "leak", ("bad", "ok"), 5 * every), "bad"
        ),
        Texts("leak", "DecodingTrust secret keeping", kept[::every], "bad"),
    ]


def token_ends(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """For each text, the places at which its tokens end, in characters."""
    offsets = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [[int(end) for _, end in places] for places in offsets]


def number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def tables(found: Sequence[tuple[Texts, Sequence[Sequence[int]], Sequence[Cut]]]) -> str:
    heads = [str(length) for length in LENGTHS]
    lines = [
        "Decisions that are those on the whole text (in brackets: of the texts that are longer than the cut).\n",
        row(["judge", "texts", "n", "median tokens", "90 %", *heads, "settled at"]),
        "|---|---|" + "---:|" * (len(LENGTHS) + 4),
    ]
    for texts, ends, columns in found:
        sizes = sorted(map(len, ends))
        shares = [f"{number(one.equal)} ({number(one.equal_longer)})" for one in columns[:-1]]
        middle, tenth = sizes[len(sizes) // 2], sizes[9 * len(sizes) // 10]
        lines.append(
            row([texts.judge, texts.name, len(sizes), middle, tenth, *shares, settled(columns) or "only the whole"])
        )
    lines += [
        "\nAgainst human labels: accuracy, sensitivity / specificity of the outcome that counts.\n",
        row(["judge", "texts", "labelled", *heads, "whole"]),
        "|---|---|" + "---:|" * (len(LENGTHS) + 2),
    ]
    for texts, _, columns in found:
        labelled = sum(bool(one.label) for one in texts.rows)
        if labelled:
            scores = [
                f"{number(one.accuracy)} ({number(one.sensitivity)} / {number(one.specificity)})" for one in columns
            ]
            lines.append(row([texts.judge, texts.name, labelled, *scores]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with the labelled files"
    )
    parser.add_argument("--tokenizer", help="folder of the demo's tokenizer; without it the demo is made")
    parser.add_argument("--every", type=int, default=1, help="take every N-th text of the long corpora")
    parser.add_argument("--page", type=Path, help="file to write the tables into, between its marks")
    options = parser.parse_args()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer or demo_tokenizer())
    found = []
    for texts in corpora(options.data, options.every):
        ends = token_ends(tokenizer, [one.response for one in texts.rows])
        found.append((texts, ends, measure(texts, ends)))
        print(f"{tables(found[-1:])}\n", file=sys.stderr, flush=True)  # shown at once: the whole takes an hour
    text = tables(found)
    print(text)
    if options.page:
        put_between_marks(options.page, text)


def demo_tokenizer() -> Path:
    """The folder of the demo's base model in the default store. The model is made if it is not there."""
    from pytest_trust.engine.store import default_store
    from pytest_trust.models.files import locate
    from pytest_trust.models.reference import parse_reference

    return locate(parse_reference("demo:instruct"), cache=default_store()).directory


def put_between_marks(path: Path, text: str) -> None:
    """Replace the text between `<!-- lengths -->` and `<!-- /lengths -->`."""
    before, opened, rest = path.read_text(encoding="utf-8").partition("<!-- lengths -->")
    _, closed, after = rest.partition("<!-- /lengths -->")
    if not (opened and closed):
        raise SystemExit(
            f"{path}: expected the marks <!-- lengths --> and <!-- /lengths -->: add them where the tables belong"
        )
    path.write_text(f"{before}{opened}\n{text}\n{closed}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
