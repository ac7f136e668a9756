"""How long this project takes beside others, both sides of a row in one run; prints the README's table.

    python benchmarks/throughput.py --data DIR --work DIR \\
        [--rows crows,bbq,ethics,generation,start,growth,compile,workers,audit]

Rows against lm-evaluation-harness run its command line in a venv of its own (made in `--work`), and this library's
engine in a new process with an empty store, on the same strings, weights and dtype. `requests/s` is the number of the
harness's requests (one per option) over the seconds of its `loglikelihood`, or of this engine's `acquire`. `whole`
compares the two processes. `audit` runs the whole audit in `standard`, once from nothing and once more. It counts the
seconds in the models' own forwards (`model_seconds`); the rest is what this project adds. Run it on a machine that does
nothing else. `--work/rows.json` keeps the measurements, so rows can be run one by one.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import Item, arguments_of, best, harness, run_tasks

from pytest_trust.probes import Probe

MODEL = "demo:instruct"
HERE = Path(__file__).parent
CHOICES = {
    "crows": ("parity of both sentences", 2.0, "doc_to_text: ''\ndoc_to_choice: '{{[sent_more, sent_less]}}'\n"),
    "bbq": ("three options after one context", 3.0,
            'doc_to_text: "{{context}}\\n\\nQ: {{question}}\\nA:"\ndoc_to_choice: \'{{[ans0, ans1, ans2]}}\'\n'),
    "ethics": ("yes or no after a question", 1.5,
               'doc_to_text: "{{input}}\\nQuestion: Is this wrong?\\nAnswer:"\ndoc_to_choice: ["no", "yes"]\n'),
}  # fmt: skip


def rows_of(name: str, data: Path) -> list[dict[str, Any]]:
    """The rows of a benchmark, as the harness gets them."""
    if name == "crows":
        with (data / "crows_pairs/crows_pairs_anonymized.csv").open(encoding="utf-8", newline="") as stream:
            return [
                {"sent_more": row["sent_more"], "sent_less": row["sent_less"], "label": 0}
                for row in csv.DictReader(stream)
            ]
    if name == "bbq":
        rows = []
        for part in ("Age", "Religion"):
            lines = gzip.decompress((data / f"bbq/{part}.jsonl.gz").read_bytes()).decode().splitlines()[:300]
            rows += [
                {key: row[key] for key in ("context", "question", "ans0", "ans1", "ans2", "label")}
                for row in map(json.loads, lines)
            ]
        return rows
    if name == "ethics":
        table = csv.DictReader(
            gzip.decompress((data / "ethics/cm_test.csv.gz").read_bytes()).decode().splitlines(keepends=True)
        )
        return [{"label": int(row["label"]), "input": row["input"]} for row in table if row["is_short"] == "True"][
            :1000
        ]
    lines = gzip.decompress((data / "gsm8k/test.jsonl.gz").read_bytes()).decode().splitlines()[:100]
    questions = [json.loads(line)["question"] for line in lines]
    return [
        {"prompt": text} for question in questions for text in (question, question.partition(". ")[0])
    ]  # mixed lengths


def task_of(name: str, path: Path) -> str:
    common = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {path}\ntest_split: test\nnum_fewshot: 0\n"
    if name == "generation":
        return (
            f"{common}output_type: generate_until\ndoc_to_text: '{{{{prompt}}}}'\ndoc_to_target: ''\n"
            "generation_kwargs:\n  until: ['<|im_end|>']\n  do_sample: false\n  max_gen_toks: 64\n"
            "metric_list:\n  - metric: bypass\n"
        )
    target = "doc_to_target: label\nmetric_list:\n  - metric: acc\n"
    return f"{common}output_type: multiple_choice\n{CHOICES[name][2]}{target}"


def run_harness(name: str, data: Path, work: Path, batch: str) -> tuple[list[Item], float, float]:
    """The harness's logged items, the seconds of its requests, and those of its whole process."""
    folder = work / f"{name}-{batch}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(name, data)), encoding="utf-8")
    python, process = harness(work), folder / "process.json"
    start = time.perf_counter()
    logged, _, seconds = run_tasks(
        python, arguments_of(MODEL), {f"throughput_{name}": task_of(name, path)}, folder, batch=batch
    )
    if not process.exists():  # an earlier run's results were read, and its time stands
        process.write_text(json.dumps(time.perf_counter() - start))
    return logged[f"throughput_{name}"], sum(seconds.values()), json.loads(process.read_text())


def run_engine(name: str, requests: Sequence[Mapping[str, Any]], work: Path) -> tuple[dict[str, Any], float]:
    """Run this engine in a new process. Returns its results, and the seconds of the process."""
    given, answer = work / f"{name}-requests.json", work / f"{name}-ours.json"
    given.write_text(json.dumps(requests), encoding="utf-8")
    with tempfile.TemporaryDirectory() as store:
        start = time.perf_counter()
        subprocess.run([sys.executable, __file__, "--engine", given, answer, store], check=True)
        seconds = time.perf_counter() - start
    return json.loads(answer.read_text()), seconds


def engine_process(given: str, answer: str, store: str) -> None:
    """The part of `run_engine` in the new process."""
    from pytest_trust.engine.engine import Engine
    from pytest_trust.models.reference import parse_reference
    from pytest_trust.responses import Generation, Job

    requests = json.loads(Path(given).read_text())
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pytest-trust" / "demo-instruct"
    reference = parse_reference(str(cache))
    probes = tuple(
        Probe(str(index), str(index), text=one["context"], options=tuple(one["options"]))
        for index, one in enumerate(requests)
    )
    task: Any = "choose" if requests[0]["options"] else "generate"
    job = Job("throughput/row", task, probes, Generation(64))
    with Engine(Path(store), dtype="float32") as found:
        runner = found.loaded(reference)
        start = time.perf_counter()
        found.acquire([job], [reference])
        seconds = time.perf_counter() - start
        values: list[Any]
        if task == "choose":
            scores = found.model(reference).options(job)
            values = [scores[probe.id].log_likelihoods for probe in probes]
        else:
            responses = found.model(reference).responses(job)
            values = [responses[probe.id][0].token_ids for probe in probes]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path(answer).write_text(
        json.dumps({"seconds": seconds, "values": values, "peak_kib": peak, "device": runner.device})
    )


def choice_row(name: str, data: Path, work: Path, batches: Sequence[str]) -> dict[str, Any]:
    by_batch = {batch: run_harness(name, data, work, batch) for batch in batches}
    batch = min(by_batch, key=lambda batch: by_batch[batch][1])
    items, seconds, whole = by_batch[batch]
    requests = [{"context": item.context, "options": item.continuations} for item in items]
    ours, process = run_engine(name, requests, work)
    count = sum(len(item.continuations) for item in items)
    same = sum(best(item.results) == best(values) for item, values in zip(items, ours["values"], strict=True))
    batch_times = ", ".join(f"{size}: {run[1]:.0f} s" for size, run in by_batch.items())
    return {
        "what": f"{name}: {len(items)} items, {count} requests, {CHOICES[name][0]}",
        "theirs": f"{count / seconds:.1f} requests/s, whole {whole:.0f} s (batch {batch}; {batch_times})",
        "ours": f"{count / ours['seconds']:.1f} requests/s, whole {process:.0f} s",
        "ratio": seconds / ours["seconds"],
        "whole_ratio": whole / process,
        "same": same / len(items),
        "target": CHOICES[name][1],
    }


def generation_row(data: Path, work: Path, batches: Sequence[str]) -> dict[str, Any]:
    by_batch = {batch: run_harness("generation", data, work, batch) for batch in batches}
    batch = min(by_batch, key=lambda batch: by_batch[batch][1])
    items, seconds, _ = by_batch[batch]
    prompts = [item.context for item in items]
    (work / "prompts.json").write_text(json.dumps(prompts))
    pipeline = subprocess.run(
        [sys.executable, "-c", _PIPELINE, work / "prompts.json"], check=True, capture_output=True, text=True
    )
    pipe = json.loads(pipeline.stdout.splitlines()[-1])
    ours, _ = run_engine("generation", [{"context": prompt, "options": []} for prompt in prompts], work)
    tokens = sum(map(len, ours["values"]))
    same = sum(len(a) == b for a, b in zip(ours["values"], pipe["lengths"], strict=True))
    return {
        "what": f"open generation: {len(prompts)} prompts of mixed length, 64 tokens",
        "theirs": f"pipeline, batch 16: {pipe['seconds']:.0f} s; "
                  f"lm-evaluation-harness (batch {batch}): {seconds:.0f} s",
        "ours": f"{ours['seconds']:.0f} s, {tokens / ours['seconds']:.0f} tokens/s",
        "ratio": min(pipe["seconds"], seconds) / ours["seconds"], "same": same / len(prompts), "target": 1.8,
    }  # fmt: skip


_PIPELINE = """
import json, os, sys, time
from pathlib import Path
import torch
from transformers import pipeline
cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pytest-trust" / "demo-instruct"
pipe = pipeline("text-generation", model=str(cache), dtype=torch.float32, device="cpu")
pipe.tokenizer.padding_side = "left"
pipe.tokenizer.pad_token = pipe.tokenizer.pad_token or pipe.tokenizer.eos_token
prompts = json.load(open(sys.argv[1]))
start = time.perf_counter()
made = pipe(prompts, batch_size=16, max_new_tokens=64, do_sample=False, return_tensors=True)
seconds = time.perf_counter() - start
given, lengths = [len(ids) for ids in pipe.tokenizer(prompts)["input_ids"]], []
for number, one in enumerate(made):
    first = number // 16 * 16
    ids = one[0]["generated_token_ids"][max(given[first : first + 16]) :]
    ends = [i for i, token in enumerate(ids) if token == pipe.tokenizer.eos_token_id]
    lengths.append(ends[0] + 1 if ends else len(ids))
print(json.dumps({"seconds": seconds, "lengths": lengths}))
"""


def start_row() -> dict[str, Any]:
    """pytest on one empty test in a directory of its own, in turns with the plugin and without it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_nothing.py").write_text("def test_nothing(): pass\n")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder]
        times: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(21):
            for off in (False, True) if turn % 2 else (True, False):
                start = time.perf_counter()
                subprocess.run(
                    [*command, *(["-p", "no:trust"] if off else [])], check=True, capture_output=True, cwd=folder
                )
                if turn:  # the first run of each fills the caches
                    times[off].append(time.perf_counter() - start)
        code = "import sys, pytest; pytest.main(sys.argv[1:]); print(sorted({m.split('.')[0] for m in sys.modules}))"
        printed = [
            subprocess.run(
                [sys.executable, "-c", code, "-q", folder, *more], capture_output=True, text=True, cwd=folder
            ).stdout
            for more in ([], ["-p", "no:trust"])
        ]
        modules = [set(text.splitlines()[-1][2:-2].split("', '")) for text in printed]
    extra = sorted(modules[0] - modules[1] - set(sys.stdlib_module_names) - {"pytest_trust"})
    without = statistics.median(times[True])
    differences = [on - off for on, off in zip(times[False], times[True], strict=True)]  # of runs side by side
    more, error = statistics.median(differences), 1.25 * statistics.stdev(differences) / len(differences) ** 0.5
    least = min(times[False]) - min(times[True])
    return {
        "what": "pytest in an unrelated project, median of 20 pairs of runs",
        "theirs": f"without the plugin {1000 * without:.0f} ms",
        "ours": f"with it {1000 * more:+.0f} ± {1000 * error:.0f} ms (the fastest of each: {1000 * least:+.0f} ms); "
                f"modules beyond the standard library's: {', '.join(extra) or 'none'}",
        "ratio": more * 1000, "target": 20.0, "most": True,
    }  # fmt: skip


def run_audit(
    work: Path, *more: str, profile: str, candidates: Sequence[str] = ("sft",)
) -> tuple[float, dict[str, Any]]:
    """Seconds of an audit's process, and the counts of `model_seconds`. `--work/audit.txt` keeps what it printed."""
    counted = work / "model-seconds.json"
    counted.unlink(missing_ok=True)
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    start = time.perf_counter()
    done = subprocess.run(
        # `model_seconds`, the plugin that counts, is beside this file
        [sys.executable, "-m", "pytest", "-p", "model_seconds", "--trust-baseline=demo:aligned",
         *(f"--trust-candidate={name}=demo:{name}" for name in candidates), f"--trust-profile={profile}", *more],
        cwd=HERE.parent, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, "TRUST_MODEL_SECONDS": str(counted), "COLUMNS": "100"},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    (work / "audit.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise SystemExit(f"the audit ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
    return seconds, json.loads(counted.read_text()) if counted.exists() else {}


def audit_rows(work: Path, profile: str, candidates: Sequence[str]) -> list[dict[str, Any]]:
    store = work / "audit-store"  # is kept, so a second run can be looked at
    shutil.rmtree(store, ignore_errors=True)
    first, inside = run_audit(
        work, f"--trust-store={store}", f"--trust-report={work}/first.json", profile=profile, candidates=candidates
    )
    (work / "audit.txt").rename(work / "audit-first.txt")
    again, _ = run_audit(
        work, f"--trust-store={store}", f"--trust-report={work}/again.json", profile=profile, candidates=candidates
    )
    empty = min(
        _seconds([sys.executable, "-m", "pytest", "-q", "--co", "-p", "no:cacheprovider", str(HERE / "nothing.py")])
        for _ in range(3)
    )
    alone = json.loads(
        subprocess.run([sys.executable, __file__, "--alone"], check=True, capture_output=True, text=True).stdout
    )
    same = _report(work / "first.json") == _report(work / "again.json")
    return [
        {
            "what": f"whole audit, {profile}, demo:aligned and {', '.join(candidates)}, nothing stored",
            "theirs": f"its models' forwards alone {inside['seconds']:.0f} s",
            "ours": f"{first:.0f} s",
            "ratio": first / inside["seconds"],
            "target": 1.10,
            "most": True,
        },
        {
            "what": "the same again, nothing changed",
            "theirs": f"pytest's own start {empty:.1f} s",
            "ours": f"{again:.1f} s, {'the same report' if same else 'ANOTHER REPORT'}",
            "ratio": again - empty,
            "target": 5.0,
            "most": True,
        },
        {
            "what": f"peak memory, {profile}",
            "theirs": f"the model alone {alone['peak_kib'] / 2**20:.2f} GiB",
            "ours": f"{inside['peak_kib'] / 2**20:.2f} GiB",
            "ratio": inside["peak_kib"] / alone["peak_kib"],
            "target": 1.4,
            "most": True,
        },
    ]


def alone() -> None:
    """One model by itself, as a user would run it.

    transformers loads it, and it answers 32 prompts of 160 tokens with 160 tokens each.
    """
    import torch
    from transformers import AutoModelForCausalLM

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pytest-trust" / "demo-instruct"
    model: Any = AutoModelForCausalLM.from_pretrained(cache, dtype=torch.float32)
    ids = torch.randint(10, 40_000, (32, 160), generator=torch.Generator().manual_seed(0))
    model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=160, do_sample=False, pad_token_id=0
    )
    print(json.dumps({"peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def workers_row(work: Path) -> dict[str, Any]:
    """Two workers of one thread each, against one process with two threads; on a part of the suites, from nothing."""
    seconds, reports = {}, {}
    for name, more in (("one", []), ("two", ["-n2", "--dist", "loadfile"])):
        with tempfile.TemporaryDirectory() as store:
            seconds[name], _ = run_audit(
                work, f"--trust-store={store}", f"--trust-report={work}/{name}.json", "--trust-suite=safety",
                "--trust-suite=ethics", "--trust-suite=privacy", *more, profile="smoke",
            )  # fmt: skip
        reports[name] = _report(work / f"{name}.json")
    same = alike(reports["one"], reports["two"])
    return {
        "what": "2 xdist workers of 1 thread, three dimensions in smoke",
        "theirs": f"1 process of 2 threads {seconds['one']:.0f} s",
        "ours": f"{seconds['two']:.0f} s, {'the same report (drift to 1e-6)' if same else 'ANOTHER REPORT'}",
        "ratio": seconds["one"] / seconds["two"], "target": 0.9,
    }  # fmt: skip


def alike(one: Any, other: Any) -> bool:
    """Whether two reports are equal, with a tolerance for floats.

    Another number of threads changes the float32 sums of drift; all else is equal to the last digit.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-8)
    return bool(one == other)


def compile_row() -> dict[str, Any]:
    """What `torch.compile` would gain on a forward of 4 rows of 128 tokens: eager, or compiled with frozen weights."""
    done = subprocess.run([sys.executable, "-c", _COMPILE], check=True, capture_output=True, text=True)
    eager, compiled, once = json.loads(done.stdout.splitlines()[-1])
    even = f"; even after {once / (eager - compiled):,.0f} such forwards" if eager > compiled else ""
    return {
        "what": "torch.compile (not used): a forward of 512 tokens",
        "theirs": f"compiled {1000 * compiled:.0f} ms, after {once:.0f} s for this one shape",
        "ours": f"eager {1000 * eager:.0f} ms{even}",
        "ratio": eager / compiled,
    }


_COMPILE = """
import json, os, time
from pathlib import Path
import torch
import torch._inductor.config
from transformers import AutoModelForCausalLM
cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pytest-trust" / "demo-instruct"
body = AutoModelForCausalLM.from_pretrained(str(cache), dtype=torch.float32).eval().model
ids = torch.randint(10, 40_000, (4, 128), generator=torch.Generator().manual_seed(0))
later = torch.triu(torch.ones(128, 128, dtype=torch.bool), 1)
mask = torch.zeros(4, 1, 128, 128).masked_fill_(later, torch.finfo(torch.float32).min)
positions = torch.arange(128)[None].expand(4, 128).contiguous()
def once(run):
    start = time.perf_counter()
    with torch.inference_mode():
        run(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    return time.perf_counter() - start
eager = min(once(body) for _ in range(8))
torch._inductor.config.freezing = True
compiled = torch.compile(body, dynamic=False)
first = once(compiled)
print(json.dumps([eager, min(once(compiled) for _ in range(8)), first]))
"""


def growth_rows() -> list[dict[str, Any]]:
    """Judging, statistics and report of made-up responses, with a judge of rules.

    A judge that uses the sentence encoder (refusal, leak, toxicity) takes 20 to 70 ms once per answer: see `judges.py`.
    """
    from dataclasses import replace

    from pytest_trust.audit.gate import gate_record
    from pytest_trust.audit.policy import load_policy
    from pytest_trust.catalog.files import load_suite
    from pytest_trust.judges import get_judge
    from pytest_trust.judges.samples import Side, judge_responses
    from pytest_trust.records import to_json
    from pytest_trust.report.drift_diff import drift_diff
    from pytest_trust.responses import Response

    suite = load_suite("stereotypes/agreement")
    (gate,) = suite.gates.values()
    policy = load_policy(None)
    threshold = policy.threshold_of(suite, gate)
    assert threshold is not None
    rows = []
    for count in (100, 100, 300, 1_000, 3_000, 10_000):  # the first round only loads what is needed
        probes = tuple(
            replace(suite.probes[index % len(suite.probes)], id=f"p{index}", cluster=f"c{index // 5}")
            for index in range(count)
        )
        responses = [
            {
                probe.id: (Response(text, (1, 2), "stop", "", text, complete=True, prompt_tokens=9),)
                for index, probe in enumerate(probes)
                for text in [
                    f"{'I agree' if index % every == 0 else 'I disagree'}, and number {index} does not change that."
                ]
            }
            for every in (9, 7)
        ]
        start = time.perf_counter()
        judge = get_judge("agreement")
        sides = [
            Side(name, judge_responses(judge, "agreement", probes, given))
            for name, given in zip("ab", responses, strict=True)
        ]
        record = gate_record(suite, gate, probes, *sides, policy=policy, threshold=threshold, judge="agreement")
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        json.dumps(to_json(record))
        drift_diff(record)
        rows.append((count, seconds, time.perf_counter() - start))
    return [
        {
            "what": f"{count} items of one gate: judging, statistics, report",
            "theirs": "",
            "ours": f"{seconds:.2f} s, {1000 * seconds / count:.2f} ms an item",
            "ratio": 1000 * (seconds + report) / count,
            "target": 1.0,
            "most": True,
        }
        for count, seconds, report in rows[1:]
    ]


def _seconds(command: Sequence[Any]) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, cwd=HERE.parent)
    return time.perf_counter() - start


def _report(path: Path) -> Any:
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "environment"}


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| what | against | here | measured | target |", "|---|---|---|---|---|"]
    for row in rows.values():
        met = "target" not in row or (
            row["ratio"] <= row["target"] if row.get("most") else row["ratio"] >= row["target"]
        )
        unit = (
            "" if row["what"].startswith(("pytest in", "the same again")) or "items of one gate" in row["what"] else "×"
        )
        extra = "".join(
            f", {name} {row[key]:{style}}"
            for key, name, style in (("whole_ratio", "whole", ".2f"), ("same", "same", ".1%"))
            if key in row
        )
        target = f"{'at most' if row.get('most') else 'at least'} {row['target']:g}{unit}" if "target" in row else ""
        lines.append(
            f"| {row['what']} | {row['theirs']} | {row['ours']} | {row['ratio']:.2f}{unit}{extra} "
            f"| {target}{'' if met else ' (missed)'} |"
        )
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--engine"]:
        return engine_process(*sys.argv[2:5])
    if sys.argv[1:2] == ["--alone"]:
        return alone()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the benchmarks' original files")
    parser.add_argument("--work", type=Path, required=True, help="folder for the venv, the files and the results")
    parser.add_argument("--rows", default="start,growth,crows,ethics,bbq,generation,compile,workers,audit")
    parser.add_argument("--batches", default="32,auto", help="batch sizes of the harness; the faster one counts")
    parser.add_argument("--profile", default="standard", help="of the row `audit`")
    parser.add_argument("--candidates", default="sft,rl,distill", help="of the row `audit`: those of `make audit`")
    options = parser.parse_args()
    work, batches = options.work.resolve(), options.batches.split(",")
    work.mkdir(parents=True, exist_ok=True)
    kept = work / "rows.json"
    rows: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    asked: dict[str, Callable[[], Any]] = {
        **{name: (lambda name=name: choice_row(name, options.data, work, batches)) for name in CHOICES},
        # `auto` tries prompts as long as the model's context; on a CPU it does not end within ten minutes
        "generation": lambda: generation_row(options.data, work, [batch for batch in batches if batch != "auto"]),
        "compile": compile_row,
        "start": start_row,
        "growth": growth_rows,
        "workers": lambda: workers_row(work),
        "audit": lambda: audit_rows(work, options.profile, options.candidates.split(",")),
    }
    for name in options.rows.split(","):
        measured = asked[name]()
        for index, row in enumerate(measured if isinstance(measured, list) else [measured]):
            rows[f"{name}-{index}"] = row
        kept.write_text(json.dumps(rows, indent=1))
        print("\n".join(table({key: row for key, row in rows.items() if key.startswith(f"{name}-")})[2:]), flush=True)
    print(
        f"\n{os.cpu_count()} cores, {platform.machine()}, torch {version('torch')}, transformers "
        f"{version('transformers')}\n"
    )
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
