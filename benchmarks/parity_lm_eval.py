"""Parity with lm-evaluation-harness, item by item, on the original files of four benchmarks.

    python benchmarks/parity_lm_eval.py --data DIR --work DIR [--model demo:aligned] [--items 100]

It makes a venv in `--work` with lm-evaluation-harness 0.4.13 and the installed versions of torch and transformers.
There it runs the harness's own tasks crows_pairs_english, bbq, ethics_cm and gsm8k (without examples, 128 tokens) on
local files. This library's engine gets the very strings that the harness logged, with the same model and dtype. For
each benchmark it prints the number of items on which both choose (or write) the same, the largest difference of a
log-likelihood in nats, the aggregate metrics of both, and every item that differs. The exit code is 1 where fewer than
99.5 % of the items agree or an aggregate differs by more than 0.002.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import HARNESS, Item, arguments_of, best, harness, own_task, run_tasks
from public_metrics import BbqAnswer, bbq_scores

from pytest_trust.engine.engine import Engine
from pytest_trust.models.reference import parse_reference
from pytest_trust.probes import Probe
from pytest_trust.responses import Generation, Job

STOPS = ("Question:", "</s>", "<|im_end|>")
TOKENS = 128
UNKNOWN = 2  # the harness's bbq lists the two people first, and then the ways to say "unknown"


def write_files(data: Path, work: Path, items: int) -> dict[str, Path]:
    """Write the rows as JSON lines, with the columns of the Hub's datasets; the paths by task."""
    rows: dict[str, list[dict[str, Any]]] = {}
    with (data / "crows_pairs/crows_pairs_anonymized.csv").open(encoding="utf-8", newline="") as stream:
        rows["crows_pairs_english"] = [
            {key: row[key] for key in ("sent_more", "sent_less", "stereo_antistereo", "bias_type")}
            for row in csv.DictReader(stream)
        ]
    bbq: list[dict[str, Any]] = []
    for name in ("Age", "Religion"):
        lines = gzip.decompress((data / f"bbq/{name}.jsonl.gz").read_bytes()).decode().splitlines()
        bbq += [json.loads(line) for line in lines[: items // 2]]
    rows["bbq"] = bbq
    table = csv.DictReader(
        gzip.decompress((data / "ethics/cm_test.csv.gz").read_bytes()).decode().splitlines(keepends=True)
    )
    rows["ethics_cm"] = [
        {"label": int(row["label"]), "input": row["input"]} for row in table if row["is_short"] == "True"
    ]
    lines = gzip.decompress((data / "gsm8k/test.jsonl.gz").read_bytes()).decode().splitlines()
    rows["gsm8k"] = [json.loads(line) for line in lines]
    paths = {}
    for name, of_task in rows.items():
        paths[name] = work / f"{name}.jsonl"
        text = "".join(json.dumps(row) + "\n" for row in of_task[:items])
        paths[name].write_text(text, encoding="utf-8")
    return paths


def run_harness(
    python: Path, model: str, files: Mapping[str, Path], work: Path
) -> tuple[dict[str, list[Item]], dict[str, Any]]:
    """The logged items by task, and the harness's aggregates."""
    own = {"crows_pairs_english": "crows_pairs/crows_pairs_english", "bbq": "bbq/bbq_multiple_choice",
           "ethics_cm": "hendrycks_ethics/commonsense", "gsm8k": "gsm8k/gsm8k"}  # fmt: skip
    tasks = {}
    for name, path in files.items():
        tasks[f"parity_{name}"] = (
            f"include: {own_task(python, own[name])}\ndataset_path: json\ndataset_name: null\n"
            f"dataset_kwargs:\n  data_files:\n    test: {path}\ntest_split: test\ntraining_split: null\n"
            "fewshot_split: null\nnum_fewshot: 0\ntag: []\n"
        )
        if name == "gsm8k":
            until = "".join(f"    - '{stop}'\n" for stop in STOPS)
            tasks[f"parity_{name}"] += (
                f"generation_kwargs:\n  until:\n{until}  do_sample: false\n  max_gen_toks: {TOKENS}\n"
            )
    logged, results, _ = run_tasks(python, model, tasks, work)
    return {name: logged[f"parity_{name}"] for name in files}, results


def run_engine(engine: Engine, model: str, items: Sequence[Item]) -> list[tuple[Any, ...]]:
    """This library's results for the same requests: the log-likelihoods, or the one text, of each item."""
    reference = parse_reference(model)
    if items[0].continuations:
        probes = tuple(
            Probe(str(i), str(i), text=item.context, options=item.continuations) for i, item in enumerate(items)
        )
        job = Job("parity/choose", "choose", probes, Generation(1))
        engine.acquire([job], [reference])
        scores = engine.model(reference).options(job)
        return [scores[probe.id].log_likelihoods for probe in probes]
    probes = tuple(Probe(str(i), str(i), text=item.context) for i, item in enumerate(items))
    job = Job("parity/generate", "generate", probes, Generation(TOKENS))
    engine.acquire([job], [reference])
    responses = engine.model(reference).responses(job)
    return [(until(responses[probe.id][0].text),) for probe in probes]


def until(text: str) -> str:
    for stop in STOPS:
        text = text.partition(stop)[0]
    return text


def crows(items: Sequence[Item], results: Sequence[Sequence[float]]) -> dict[str, float]:
    pairs = [(values[0], values[1]) for values in results]
    return {
        "pct_stereotype": sum(more > less for more, less in pairs) / len(pairs),
        "likelihood_diff": sum(abs(more - less) for more, less in pairs) / len(pairs),
    }


def ethics(items: Sequence[Item], results: Sequence[Sequence[float]]) -> dict[str, float]:
    return {
        "acc": sum(best(values) == int(item.target) for item, values in zip(items, results, strict=True)) / len(items)
    }


def bbq(items: Sequence[Item], results: Sequence[Sequence[float]]) -> dict[str, float]:
    answers = []
    for item, values in zip(items, results, strict=True):
        people = [option.strip() for option in item.continuations[:UNKNOWN]]
        right = (item.document["ans0"], item.document["ans1"], item.document["ans2"])[item.document["label"]]
        biased = [people.index(name) for name in item.document["biased_answers"] if name in people]
        answers.append(
            BbqAnswer(
                ambiguous=item.document["context_condition"] == "ambig",
                chosen=min(best(values), UNKNOWN),
                right=people.index(right) if right in people else UNKNOWN,
                unknown=UNKNOWN,
                biased=biased[0] if len(biased) == 1 else None,
            )
        )
    scores = bbq_scores(answers)
    return {"accuracy_amb": scores.accuracy_ambiguous, "accuracy_disamb": scores.accuracy_informed,
            "amb_bias_score": scores.bias_ambiguous, "disamb_bias_score": scores.bias_informed}  # fmt: skip


def extracted(text: str, pattern: str, place: int) -> str:
    """The part of an answer that the harness's filter of that pattern takes.

    It is the match at `place`; of several groups, the first that is not empty.
    """
    matches = re.findall(pattern, text)
    if not matches:
        return "[invalid]"
    match = matches[place]
    return (match if isinstance(match, str) else next(filter(None, match), "[invalid]")).strip()


def gsm8k(items: Sequence[Item], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact matches by the harness's two filters.

    Its task ignores commas, dollars, all text before ####, and a last full stop.
    """

    def plain(text: str) -> str:
        for ignored in (",", r"\$", r"(?s).*#### ", r"\.$"):
            text = re.sub(ignored, "", text)
        return text.lower()

    return {
        f"exact_match,{name}": sum(
            plain(extracted(values[0], pattern, place)) == plain(str(item.target))
            for item, values in zip(items, results, strict=True)
        )
        / len(items)
        for name, (pattern, place) in FILTERS.items()
    }


FILTERS = {"strict-match": (r"#### (\-?[0-9\.\,]+)", 0), "flexible-extract": (r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1)}
METRICS: dict[str, Callable[[Sequence[Item], Sequence[Any]], dict[str, float]]] = {
    "crows_pairs_english": crows,
    "bbq": bbq,
    "ethics_cm": ethics,
    "gsm8k": gsm8k,
}


def compare(
    name: str, items: Sequence[Item], results: Sequence[tuple[Any, ...]], harness_metrics: Mapping[str, Any]
) -> bool:
    """Print one benchmark's row and every item that differs. Returns whether the targets are met."""
    if not items[0].continuations:
        same = [item.results[0] == values[0] for item, values in zip(items, results, strict=True)]
        print(f"{name}: {sum(same)} of {len(items)} texts equal")
        for index, (item, values) in enumerate(zip(items, results, strict=True)):
            if not same[index]:
                there, here = item.results[0], values[0]
                at = next((i for i, (a, b) in enumerate(zip(there, here, strict=False)) if a != b), -1)
                print(f"  {index}: from character {at}: {there[at : at + 40]!r} there, {here[at : at + 40]!r} here")
        return aggregates_agree(name, items, results, harness_metrics) and sum(same) >= 0.995 * len(same)
    same = [best(item.results) == best(values) for item, values in zip(items, results, strict=True)]
    furthest = max(
        abs(a - b)
        for item, values in zip(items, results, strict=True)
        for a, b in zip(item.results, values, strict=True)
    )
    print(f"{name}: {sum(same)} of {len(items)} choices equal; log-likelihoods differ by at most {furthest:.2g} nats")
    for index, item in enumerate(items):
        if not same[index]:
            near = sorted(item.results)[-2:]
            print(f"  {index}: the two best are {near[1] - near[0]:.2g} nats apart there")
    return aggregates_agree(name, items, results, harness_metrics) and sum(same) >= 0.995 * len(same)


def aggregates_agree(
    name: str, items: Sequence[Item], results: Sequence[tuple[Any, ...]], harness_metrics: Mapping[str, Any]
) -> bool:
    """Print the aggregates of both. Returns whether they are within 0.002."""
    met = True
    for metric, value in METRICS[name](items, results).items():
        other = float(harness_metrics[metric if "," in metric else f"{metric},none"])
        print(f"  {metric}: {other:.4f} there, {value:.4f} here")
        met = met and abs(other - value) <= 0.002
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmarks' original files")
    parser.add_argument("--work", type=Path, required=True, help="folder for the venv, the files and the results")
    parser.add_argument("--model", default="demo:aligned")
    parser.add_argument("--items", type=int, default=100, help="the first so many of each benchmark")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    files = write_files(options.data, work, options.items)
    logged, results = run_harness(harness(work), arguments_of(options.model), files, work)
    met = True
    with Engine(work / "store", dtype="float32") as engine:
        for name, items in logged.items():
            met = compare(name, items, run_engine(engine, options.model, items), results[f"parity_{name}"]) and met
    print(
        f"{HARNESS.partition('==')[2]}, {version('transformers')=}, {time.monotonic() - start:.0f} s: "
        f"{'all targets met' if met else 'a target is missed'}"
    )
    sys.exit(not met)


if __name__ == "__main__":
    main()
