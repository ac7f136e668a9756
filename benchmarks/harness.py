"""lm-evaluation-harness in a venv of its own, for the scripts beside this file that compare with it."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pytest_trust.models.demo import adapter_path, convert_instruct

HARNESS = "lm-eval[hf]==0.4.13"

# The harness's Python runs this: its own command line, but the first argument names a file for the seconds of its
# requests.
_TIMED = """
import json, sys, time
from lm_eval.models.huggingface import HFLM
target, seconds = sys.argv.pop(1), {}
def timed(name):
    inner = getattr(HFLM, name)
    def outer(self, requests, *args, **kwargs):
        start = time.perf_counter()
        try:
            return inner(self, requests, *args, **kwargs)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
            json.dump(seconds, open(target, "w"))
    setattr(HFLM, name, outer)
timed("loglikelihood"), timed("generate_until")
from lm_eval.__main__ import cli_evaluate
cli_evaluate()
"""


@dataclass(frozen=True)
class Item:
    """One logged item: the requests' strings, the harness's results for them, and its document."""

    context: str
    continuations: tuple[str, ...]
    results: tuple[Any, ...]  # log-likelihoods, or the one text
    document: Mapping[str, Any]
    target: Any


def harness(work: Path) -> Path:
    """The Python of the harness's venv, which is made if there is none."""
    python = work / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(work / "venv", with_pip=True)
        pins = [
            f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "transformers", "accelerate", "peft")
        ]
        subprocess.run([python, "-m", "pip", "install", "--quiet", HARNESS, *pins], check=True)
    return python


def arguments_of(model: str) -> str:
    """The harness's `--model_args`: a directory, or demo:instruct with the adapter of another demo model."""
    if not model.startswith("demo:"):
        return f"pretrained={Path(model).resolve()},dtype=float32"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    base = f"pretrained={convert_instruct(cache / 'pytest-trust' / 'demo-instruct')},dtype=float32"
    name = model.removeprefix("demo:")
    return base if name == "instruct" else f"{base},peft={adapter_path(name)}"


def run_tasks(
    python: Path, model: str, tasks: Mapping[str, str], work: Path, *, batch: str = "32"
) -> tuple[dict[str, list[Item]], dict[str, Any], dict[str, float]]:
    """Run tasks given as YAML.

    Returns the logged items by task, the aggregates, and the seconds of `loglikelihood` and `generate_until`.
    """
    folder, output = work / "tasks", work / "output"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in tasks.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{text}", encoding="utf-8")
    timing = work / "seconds.json"
    if not timing.exists() or not list(output.rglob("results_*.json")):
        subprocess.run(
            [python, "-c", _TIMED, timing, "run", "--model", "hf", "--model_args", model, "--device", "cpu",
             "--tasks", ",".join(tasks), "--include_path", folder, "--batch_size", batch, "--log_samples",
             "--output_path", output],
            check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    results = json.loads(max(output.rglob("results_*.json")).read_text())["results"]
    logged = {}
    for name in tasks:
        lines = max(output.rglob(f"samples_{name}_*.jsonl")).read_text().splitlines()
        samples = {sample["doc_id"]: sample for sample in map(json.loads, lines)}  # gsm8k is logged once per filter
        logged[name] = [item_of(samples[index]) for index in sorted(samples)]
    return logged, results, json.loads(timing.read_text())


def own_task(python: Path, name: str) -> str:
    """The path of one of the harness's own tasks."""
    located = subprocess.run(
        [python, "-c", "import lm_eval; print(lm_eval.__path__[0])"], check=True, capture_output=True, text=True
    )
    return f"{located.stdout.strip()}/tasks/{name}.yaml"


def item_of(sample: Mapping[str, Any]) -> Item:
    requests = list(sample["arguments"].values()) if isinstance(sample["arguments"], dict) else sample["arguments"]
    pairs = [tuple(request.values()) if isinstance(request, dict) else tuple(request) for request in requests]
    if isinstance(pairs[0][1], str):
        results = tuple(float(response[0][0]) for response in sample["resps"])
        return Item(pairs[0][0], tuple(pair[1] for pair in pairs), results, sample["doc"], sample["target"])
    return Item(pairs[0][0], (), (sample["resps"][0][0],), sample["doc"], sample["target"])


def best(values: Sequence[float]) -> int:
    """Index of the highest value."""
    return max(range(len(values)), key=values.__getitem__)
