"""A/A on real weights: a model against itself, sampled with other seeds. Every `regressed` is a false alarm.

    python benchmarks/demo_against_itself.py --store DIR [--model demo:aligned] [--seeds 20] [--temperature 0.8]

The model answers every bundled suite whose answers are words, once per seed at the given temperature. Each ordered pair
of seeds is then a comparison of two equal models, judged and decided as in a run of the profile (default: smoke).
Suites of options have no randomness and are left out. The store keeps the samples; a second call computes nothing.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import permutations
from pathlib import Path

from scipy import stats

from pytest_trust.audit.gate import gate_record
from pytest_trust.audit.policy import Policy, load_policy
from pytest_trust.catalog.files import bundled_suites, load_suite
from pytest_trust.engine.engine import Engine
from pytest_trust.judges import get_judge
from pytest_trust.judges.samples import Side, judge_responses
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Suite, select
from pytest_trust.responses import Generation, Job


def verdicts(
    engine: Engine, reference: Reference, suite: Suite, policy: Policy, profile: str, seeds: int, temperature: float
) -> dict[str, Counter[str]]:
    """Verdicts by gate over all ordered pairs of seeds."""
    sizes = policy.profile(profile)
    samples = min(suite.samples, sizes.samples) if suite.temperature > 0 else 1
    job = Job(
        suite.name,
        "generate",
        select(suite.probes, sizes.generate, suite.gates.values()),
        Generation(suite.max_new_tokens, temperature, reasoning_budget=sizes.reasoning_tokens, closes=False),
        samples=samples * seeds,
    )
    engine.acquire([job], [reference])
    judged = judge_responses(get_judge(suite.judge), suite.judge, job.probes, engine.model(reference).responses(job))
    sides = [
        Side(
            str(seed), {name: judgements[seed * samples : (seed + 1) * samples] for name, judgements in judged.items()}
        )
        for seed in range(seeds)
    ]
    by_gate: dict[str, Counter[str]] = {}
    for gate in suite.gates.values():
        threshold = policy.threshold(f"{suite.name}/{gate.name}")
        assert threshold is not None
        by_gate[f"{suite.name}/{gate.name}"] = Counter(
            gate_record(
                suite, gate, job.probes, before, after,
                policy=policy, threshold=threshold, judge=suite.judge, accuracy=policy.judges.get(suite.judge),
            ).verdict
            for before, after in permutations(sides, 2)
        )  # fmt: skip
    return by_gate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--model", default="demo:aligned")
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=0.8)
    options = parser.parse_args()
    policy = load_policy()
    total: Counter[str] = Counter()
    with Engine(options.store) as engine:
        for name in bundled_suites():
            suite = load_suite(name)
            if suite.task != "generate":
                continue
            by_gate = verdicts(
                engine,
                parse_reference(options.model),
                suite,
                policy,
                options.profile,
                options.seeds,
                options.temperature,
            )
            for gate, counted in by_gate.items():
                print(
                    f"{gate:60}",
                    ", ".join(f"{count} {verdict}" for verdict, count in counted.most_common()),
                    flush=True,
                )
                total += Counter() if suite.control else counted
    compared = sum(total.values())
    alarms = total["regressed"]
    # A comparison decides at alpha / family: all gates together raise a false alarm in at most alpha of the runs.
    nominal = policy.alpha / policy.family
    limit = stats.binomtest(alarms, compared).proportion_ci(0.95, "exact").high if compared else float("nan")
    print(
        f"{alarms} of {compared} comparisons of {options.model} with itself regressed ({alarms / compared:.2%}; "
        f"nominal at most {nominal:.2%} each;"
    )
    print(f"95 % limit if they were independent, which pairs of {options.seeds} seeds are not: {limit:.2%})")


if __name__ == "__main__":
    main()
