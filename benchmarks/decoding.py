"""Greedy decoding and sampling on reasoning models: how many responses loop, are cut, and how long they are.

    python benchmarks/decoding.py --store DIR [--models demo:sft demo:rl] [--probes 40] [--trace 512]

Each model answers the same probes of every bundled suite of words under each decoding. The table has a row per model
and decoding: n responses; loops: share that repeats itself without end; cut: share whose trace or answer reached its
limit; traces: share with a trace; tokens: mean of a response; agree: share whose outcome, by the suite's judge, is
that of the greedy response (decodings that sample differ from themselves too, under another seed: the row `again`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_trust.catalog.files import bundled_suites, load_suite
from pytest_trust.engine.engine import Engine
from pytest_trust.judges import get_judge
from pytest_trust.judges.samples import judge_responses
from pytest_trust.models.decoding import named_decoding
from pytest_trust.models.reference import parse_reference
from pytest_trust.probes import select
from pytest_trust.responses import Generation, Job, Response

DECODINGS = ("greedy", "temperature=0.6,top_p=0.95", "temperature=1")


def answered(
    engine: Engine, model: str, decoding: str, seed: int, probes: int, trace: int
) -> dict[tuple[str, str], tuple[Response, str]]:
    """Response and outcome by suite and probe."""
    found = engine.model(parse_reference(model))
    way = named_decoding(decoding, "decoding")
    assert way is not None
    result = {}
    for suite in map(load_suite, bundled_suites()):
        if suite.task != "generate":
            continue
        generation = Generation(suite.max_new_tokens, reasoning_budget=trace, closes=False, seed=seed)
        chosen = select(suite.probes, probes, suite.gates.values())
        job = Job(suite.name, "generate", chosen, way.of(generation))
        found.acquire([job])
        responses = found.responses(job)
        judged = judge_responses(get_judge(suite.judge), suite.judge, job.probes, responses)
        for name, (response,) in responses.items():
            result[suite.name, name] = response, judged[name][0].outcome
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["demo:sft", "demo:rl"])
    parser.add_argument("--probes", type=int, default=40)
    parser.add_argument("--trace", type=int, default=512)
    options = parser.parse_args()
    print("| model | decoding | n | loops | cut | traces | tokens | agree |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    with Engine(options.store) as engine:
        for model in options.models:
            greedy = answered(engine, model, "greedy", 0, options.probes, options.trace)
            before = greedy
            for decoding, seed in (*((one, 0) for one in DECODINGS), (DECODINGS[1], 1)):
                found = answered(engine, model, decoding, seed, options.probes, options.trace)
                responses = [response for response, _ in found.values()]
                looped = sum(one.finish_reason == "loop" for one in responses)
                cut = sum(one.finish_reason == "length" for one in responses)
                base = before if seed else greedy
                same = sum(outcome == base[key][1] for key, (_, outcome) in found.items())
                before = found if decoding == DECODINGS[1] else before
                cells = (
                    f"{looped / len(found):.3f}",
                    f"{cut / len(found):.3f}",
                    f"{sum(bool(one.reasoning) for one in responses) / len(found):.2f}",
                    f"{sum(one.tokens for one in responses) / len(found):.1f}",
                    f"{same / len(found):.3f}",
                )
                name = f"{decoding}, again" if seed else decoding
                print(f"| {model} | {name} | {len(found)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
