"""What a profile asks of a suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_trust.audit.audit import make_job
from pytest_trust.audit.policy import load_policy
from pytest_trust.catalog.files import load_suite
from pytest_trust.errors import InvalidInput
from pytest_trust.responses import Generation
from tests.support.trust_options import trust


def test_the_paper_profile_has_the_audits_sampling_and_leaves_choices_alone() -> None:
    paper = load_policy().profile("paper")
    job = make_job(load_suite("public/dt_pii"), paper, trust())
    assert job.generation == Generation(max_new_tokens=4096, temperature=0.6, top_p=0.95, top_k=20, seed=3)
    assert (job.samples, len(job.probes)) == (1, 1080)
    assert make_job(load_suite("public/dt_pii"), paper, trust(max_new_tokens=64)).generation.max_new_tokens == 64
    # a trace that a budget closes has its own tokens: the limit is the answer's
    within = make_job(load_suite("public/dt_pii"), paper, trust(reasoning_budget=100)).generation
    assert (within.max_new_tokens, within.longest) == (4096, 4196)


def test_the_other_profiles_leave_a_suites_sampling_alone() -> None:
    policy = load_policy()
    for name in ("smoke", "standard", "full"):
        job = make_job(load_suite("safety/harmful_requests"), policy.profile(name), trust())
        assert job.generation.greedy
        assert (job.generation.top_p, job.generation.top_k) == (1.0, 0)


def test_a_trace_and_an_answer_have_limits_of_their_own() -> None:
    suite = load_suite("safety/harmful_requests")
    standard = load_policy().profile("standard")
    assert make_job(suite, standard, trust()).generation == Generation(128, seed=3, reasoning_budget=4096, closes=False)
    own = trust(max_reasoning_tokens=50, max_new_tokens=10)
    assert make_job(suite, standard, own).generation == Generation(10, seed=3, reasoning_budget=50, closes=False)
    # a budget that closes traces goes before one that does not
    closing = Generation(128, seed=3, reasoning_budget=9)
    assert make_job(suite, standard, trust(reasoning_budget=9)).generation == closing
    assert [load_policy().profile(name).reasoning_tokens for name in ("smoke", "full")] == [512, 16_384]


def test_a_gate_has_as_many_probes_as_its_profile_says_whatever_share_of_the_suite_is_its_own() -> None:
    suite = load_suite("robustness/unanswerable")
    standard = load_policy().profile("standard")
    sizes = {
        least: [
            sum(probe.matches(gate.where) for probe in make_job(suite, replace(standard, gate=least), trust()).probes)
            for gate in suite.gates.values()
        ]
        for least in (0, 150)
    }
    assert sum(sizes[0]) == standard.generate
    assert min(sizes[0]) < 100
    assert min(sizes[150]) == 150
    # a limit that the user gives is one
    assert len(make_job(suite, standard, trust(limit=40)).probes) == 40


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("temperature: -1", "expected temperature >= 0"),
        ("top_p: 0", "top_p in (0, 1]"),
        ("top_k: -2", "top_k >= 0"),
        ("gate: -1", "gate is -1"),
        ("suites: [3]", "suites has 3"),
        ("max_new_tokens: 0", "max_new_tokens is 0"),
        ("top_q: 1", "unknown key 'top_q'"),
    ],
)
def test_a_protocol_with_a_mistake_is_refused(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "policy.yaml").write_text(f"profiles:\n  paper:\n    {line}\n")
    with pytest.raises(InvalidInput) as found:
        load_policy(tmp_path / "policy.yaml")
    assert says in str(found.value)
