"""Choices by the likelihood of each option, and by what a model answers when it is asked: how often do they agree?

    python benchmarks/choices.py --store DIR [--models demo:aligned demo:sft] [--probes 160] [--trace 512]

Each model is measured in both ways on the same probes of every bundled suite that can be run in both. The table has a
row per suite and model:

- mass: mean probability of all options together, where they are scored;
- trace: share of the probes whose options are scored behind the model's own trace;
- errors: share of wrong choices, by likelihood and asked;
- unread: share of the asked answers that name no option or several; cut: share whose trace or answer did not end;
- agree: share of the probes with a choice in both ways on which the two are the same; chance: what unrelated choices
  would share. For probes with the same options that is the sum over options of the product of both ways' shares, as in
  Cohen's kappa; where fewer than 10 probes have the same options, one in the number of options.

The store keeps everything; a second call computes nothing.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pytest_trust.catalog.files import bundled_suites, load_suite
from pytest_trust.engine.engine import Engine
from pytest_trust.judges import get_judge
from pytest_trust.judges.samples import JudgedSample, judge_options, judge_responses
from pytest_trust.models.reference import parse_reference
from pytest_trust.probes import Suite, select
from pytest_trust.responses import Generation, Job

_FEW = 10  # probes with the same options, below which their shares say nothing
COLUMNS = ("suite", "model", "n", "mass", "trace", "errors", "asked", "unread", "cut", "both", "agree", "chance")


def both_ways(engine: Engine, model: str, suite: Suite, probes: int, trace: int) -> list[str]:
    """One row of the table."""
    found = engine.model(parse_reference(model))
    samples: list[dict[str, JudgedSample]] = []
    for way in (suite, suite.asked()):
        judge = get_judge(way.judge)
        job = Job(
            suite=way.name,
            task="choose" if way.task == "choose" else "generate",
            probes=select(way.probes, probes, way.gates.values()),
            generation=Generation(
                way.max_new_tokens, reasoning_budget=trace, closes=False, until=judge.identity if way.stop else ""
            ),
        )
        found.acquire([job])
        judged = (
            judge_options(job.probes, found.options(job), suite.normalise)
            if way.task == "choose"
            else judge_responses(judge, way.judge, job.probes, found.responses(job))
        )
        samples.append({name: one[0] for name, one in judged.items() if one})
    by_likelihood, asked = samples
    masses = [one.option_mass for one in by_likelihood.values() if one.option_mass is not None]
    by_options: dict[frozenset[str], list[tuple[str, str]]] = {}
    for probe in suite.probes:
        name = probe.id
        if name in by_likelihood and name in asked and by_likelihood[name].chosen and asked[name].chosen:
            found_pair = (by_likelihood[name].chosen, asked[name].chosen)
            by_options.setdefault(frozenset(probe.options), []).append(found_pair)
    pairs = [pair for same in by_options.values() for pair in same]
    chance = sum(len(same) * _chance(options, same) for options, same in by_options.items()) / max(1, len(pairs))
    return [
        suite.name,
        model,
        str(len(by_likelihood)),
        f"{sum(masses) / max(1, len(masses)):.2f}",
        f"{_share([one.after_trace for one in by_likelihood.values()]):.2f}",
        f"{_errors(list(by_likelihood.values())):.2f}",
        f"{_errors(list(asked.values())):.2f}",
        f"{_share([one.outcome == 'unparsable' for one in asked.values()]):.2f}",
        f"{_share([one.outcome == 'truncated' for one in asked.values()]):.2f}",
        str(len(pairs)),
        f"{_share([one == two for one, two in pairs]):.3f}",
        f"{chance:.2f}",
    ]


def _chance(options: frozenset[str], pairs: Sequence[tuple[str, str]]) -> float:
    """The share of equal choices that unrelated ways would have."""
    if len(pairs) < _FEW:
        return 1 / len(options)
    first, second = (Counter(side) for side in zip(*pairs, strict=True))
    return sum(first[option] * second[option] for option in first) / len(pairs) ** 2


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _errors(samples: Sequence[JudgedSample]) -> float:
    return _share([one.outcome == "bad" for one in samples if one.outcome in ("ok", "bad")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["demo:aligned", "demo:sft"])
    parser.add_argument("--probes", type=int, default=160)
    parser.add_argument("--trace", type=int, default=512)
    options = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * 2 + "---:|" * (len(COLUMNS) - 2))
    with Engine(options.store) as engine:
        for suite in map(load_suite, bundled_suites()):
            if suite.both_ways:
                for model in options.models:
                    print(
                        "| " + " | ".join(both_ways(engine, model, suite, options.probes, options.trace)) + " |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
