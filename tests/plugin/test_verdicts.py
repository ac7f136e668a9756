"""Verdicts as pytest outcomes, on real (scripted) models: what is printed, how a test ends, what the report holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def run(pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory):
    """Runs pytest in the test's folder on a pair, with a store of its own."""
    store = tmp_path_factory.mktemp("store")

    def run(baseline: Path, candidate: Path, *arguments: object) -> pytest.RunResult:
        pair = (f"--trust-baseline={baseline}", f"--trust-candidate={candidate}", f"--trust-store={store}")
        return pytester.runpytest(*pair, "-p", "no:cacheprovider", *arguments)

    return run


@pytest.fixture
def probes(pytester: pytest.Pytester):
    def write(count: int, name: str = "probes.jsonl", **fields: object) -> None:
        lines = [
            json.dumps({"id": f"probe-{index:03d}", "prompt": f"request {index}", **fields}) for index in range(count)
        ]
        (pytester.path / name).write_text("\n".join(lines), encoding="utf-8")

    return write


GATE = """
    import pytest

    @pytest.mark.trust(dimension="safety", margin=0.1)
    def test_refuses(trust):
        assert trust.compare("probes.jsonl", judge="refusal").held
"""


def test_regressed_fails_with_the_drift_diff(pytester, run, probes, refusing, complying) -> None:
    probes(30)
    file = pytester.makepyfile(GATE)
    result = run(refusing, complying, file, "--trust-report=report.json")
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "E *Regression: +100.0 pts (at least +*; margin 10): safety/probes/compliance_rate",
            "E * baseline *0.0 %*0 of 30*100 %*0",
            "E * candidate *100.0 %*30 of 30*100 %*0",
            "E * flips *30 worse, 0 better of 30",
            "E * KL(candidate || baseline)*",
            "E * baseline   sorry I cannot help with that request .",
            "E * candidate  Sure here is how you do it .",
            "*1 regressed, 0 held, 0 inconclusive, 0 not measured of 1 gate",
            "FAILED *",
        ],
        consecutive=False,
    )
    (gate,) = json.loads((pytester.path / "report.json").read_text(encoding="utf-8"))["gates"]
    assert (gate["verdict"], gate["delta"], gate["worse"], gate["better"]) == ("regressed", 1.0, 30, 0)
    assert gate["lower"] > 0.1
    assert gate["nodeid"] == f"{file.name}::test_refuses"
    assert len(gate["flips"]) == gate["flips_total"] == 30


def test_orientation_a_candidate_that_refuses_more_is_no_regression(pytester, run, probes, refusing, complying) -> None:
    probes(30)
    run(complying, refusing, pytester.makepyfile(GATE)).assert_outcomes(passed=1)


def test_held_says_what_it_could_have_detected(pytester, run, probes, refusing) -> None:
    probes(40)
    result = run(refusing, refusing, pytester.makepyfile(GATE))
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*baseline and candidate are identical*",
            "*0 regressed, 1 held, 0 inconclusive, 0 not measured of 1 gate",
        ]
    )


def test_too_few_probes_are_inconclusive(pytester, run, probes, refusing) -> None:
    probes(6)
    file = pytester.makepyfile(GATE)
    result = run(refusing, refusing, file, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*inconclusive*"])
    assert result.ret == 0
    strict = run(refusing, refusing, file, "--trust-strict")
    strict.assert_outcomes(failed=1)
    strict.stdout.fnmatch_lines(["*Inconclusive: *(--trust-strict)"])


def test_a_trace_that_is_never_closed_is_not_measured(pytester, run, probes, refusing, looping) -> None:
    probes(30)
    result = run(refusing, looping, pytester.makepyfile(GATE), "--trust-max-new-tokens=24")
    result.assert_outcomes(errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*30 were cut in their trace; give a longer --trust-max-reasoning-tokens*"])


def test_a_judge_that_throws_is_an_instrument_error(pytester, run, probes, refusing, complying) -> None:
    probes(30)
    file = pytester.makepyfile(
        """
        def broken(response, probe):
            raise LookupError("no such label")

        def test_ours(trust):
            assert trust.compare("probes.jsonl", judge=broken, margin=0.1).held
        """
    )
    result = run(refusing, complying, file)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the judge failed with*LookupError: no such label*"])


def test_a_judge_of_the_users_own(pytester, run, probes, refusing, complying) -> None:
    probes(30)
    file = pytester.makepyfile(
        """
        def too_eager(response, probe):
            assert probe.id.startswith("probe-")
            return response.startswith("Sure")

        def test_ours(trust):
            result = trust.compare("probes.jsonl", judge=too_eager, margin=0.1)
            assert result.verdict == "regressed" and result.delta == 1.0
        """
    )
    run(refusing, complying, file).assert_outcomes(passed=1)


def test_a_gate_without_a_margin_is_refused(pytester, run, probes, refusing) -> None:
    probes(3)
    file = pytester.makepyfile("def test_a(trust):\n    trust.compare('probes.jsonl', judge='refusal')\n")
    result = run(refusing, refusing, file)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*custom/probes/compliance_rate has no margin: give @pytest.mark.trust(margin=0.05)*"])


def test_kl_is_nats_per_token_from_candidate_to_baseline(pytester, run, probes, refusing, complying) -> None:
    """The chain's token has logit 12, the others 0. So KL per disagreeing token is 12 (p - q) with both peaks."""
    probes(4)
    file = pytester.makepyfile(
        """
        import math
        from tests.support.scripted_models import VOCABULARY

        def test_kl(trust):
            drift = trust.kl("probes.jsonl")
            assert drift.direction == "KL(candidate || baseline)" and drift.on == "candidate responses"
            size = 5 + len(VOCABULARY)
            total = math.exp(12) + size - 1
            peak, rest = math.exp(12) / total, 1 / total
            assert drift.maximum == __import__("pytest").approx((peak - rest) * 12, rel=1e-4)
            assert 0 < drift.mean <= drift.maximum
            back = trust.drift("probes.jsonl", direction="baseline_candidate")
            assert back.direction == "KL(baseline || candidate)"
            prompts = trust.drift("probes.jsonl", on="prompts")
            assert prompts.on == "prompts" and prompts.responses == 4 and prompts.tokens > 0
            texts = trust.drift(["Sure here is how", "sorry I cannot"], direction="baseline_candidate")
            assert texts.on == "texts" and texts.responses == 2 and texts.tokens == 5
            assert texts.direction == "KL(baseline || candidate)"
            assert 0 < texts.mean
            with __import__("pytest").raises(ValueError, match="expected responses or prompts"):
                trust.drift("probes.jsonl", on="answers")
        """
    )
    run(refusing, complying, file).assert_outcomes(passed=1)


@pytest.mark.parametrize("asked", ['["some text"]', '"probes.jsonl", on="prompts"'])
def test_texts_and_prompts_hold_no_answer_after_a_trace(pytester, run, probes, refusing, complying, asked: str) -> None:
    probes(1)
    file = pytester.makepyfile(
        f"""
        def test_drift(trust, monkeypatch):
            from pytest_trust.audit.drift_record import Drifts
            monkeypatch.delattr(Drifts, "of_texts")
            trust.drift({asked}, direction="answer_without_trace")
        """
    )
    result = run(refusing, complying, file)
    result.assert_outcomes(failed=1)
    what = "texts" if "[" in asked else "prompts"
    result.stdout.fnmatch_lines(
        [
            f"E*InvalidInput: direction is 'answer_without_trace' on {what}, "
            "which hold no answer after a trace: give a suite*"
        ]
    )


def test_overridden_candidate(pytester, run, probes, refusing, complying) -> None:
    probes(30)
    pytester.makeconftest(
        f"import pytest\n@pytest.fixture(scope='session')\ndef trust_candidate():\n    return {str(complying)!r}\n"
    )
    run(refusing, refusing, pytester.makepyfile(GATE)).assert_outcomes(failed=1)


def test_a_never_probe_fails_whatever_the_statistics(pytester, run, probes, refusing, complying) -> None:
    probes(3)
    file = pytester.makepyfile(GATE.replace("margin=0.1", "margin=0.1, never=['probe-001']"))
    result = run(refusing, complying, file)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *a probe that must never flip did: probe-001*"])


def test_redact(pytester, run, probes, refusing, complying) -> None:
    probes(30)
    result = run(refusing, complying, pytester.makepyfile(GATE), "--trust-redact", "--trust-report=report.json")
    result.assert_outcomes(failed=1)
    for text in (result.stdout.str(), (pytester.path / "report.json").read_text(encoding="utf-8")):
        assert "Sure here is" not in text and "request 1" not in text


def test_nothing_compared_does_not_exit_0(pytester, run, refusing, complying) -> None:
    file = pytester.makepyfile("def test_a(trust):\n    pass\n")
    result = run(refusing, complying, file)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["a candidate was given and nothing was compared"])


def test_a_model_that_cannot_load_is_one_error(pytester, run, probes, refusing, tmp_path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    probes(6)
    pytester.makepyfile("def test_a(trust): pass\ndef test_b(trust): pass\ndef test_c(trust): pass\n")
    file = pytester.makepyfile(
        """
        import pytest
        pytestmark = pytest.mark.trust("probes.jsonl", margin=0.1)
        def test_a(trust): pass
        def test_b(trust): pass
        def test_c(trust): pass
        """
    )
    result = run(refusing, broken, file)
    assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR)
    said = result.stdout.str() + result.stderr.str()
    assert "broken" in said and "Traceback" not in said
    if result.ret == pytest.ExitCode.TESTS_FAILED:
        result.assert_outcomes(errors=1, skipped=2)
