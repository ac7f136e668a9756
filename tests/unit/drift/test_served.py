"""Drift of a served model from a loaded one.

It has the numbers of a recording that keeps as many tokens, or the reason why there are none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.audit.executor import LocalExecutor
from pytest_trust.audit.record_file import write_recording
from pytest_trust.drift.pair_drift import PairDrift
from pytest_trust.engine.engine import Engine
from pytest_trust.engine.recorded import SERVED_RECORDING
from pytest_trust.engine.server.logprobs import places_of, reading_of, tops_of, unpack
from pytest_trust.engine.server.model import NO_WEIGHTS_HERE, NOT_READ, NOT_RUN_TWICE, NOT_SPELT
from pytest_trust.engine.server.stored_answers import ITS_WORD, NO_LOGPROBS
from pytest_trust.errors import TrustError
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.responses import Generation, Job
from tests.support.pairs import acquire
from tests.support.pairs import drift as drift_of
from tests.support.served_model import ServedModel
from tests.support.serving import MODEL, plain, serving
from tests.support.tiny_models import save_model

pytest.importorskip("openai", reason="the openai package is not installed")

PROBES = tuple(
    Probe(id=f"p{number}", cluster=f"c{number}", messages=(Message("user", text),))
    for number, text in enumerate(["Is it wrong to keep what you found?", "Please answer the question.", "The nurse"])
)
JOB = Job("s", "generate", PROBES, Generation(6), drift=frozenset(probe.id for probe in PROBES))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    # flat heads, so that some mass is beyond the tokens that are known
    folder = tmp_path_factory.mktemp("models")
    return save_model(folder / "a", seed=0, scale=1.0), save_model(folder / "b", seed=3, scale=1.0)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path) as found:
        yield found


def measured(engine: Engine, baseline: Reference, candidate: Reference) -> PairDrift:
    acquire(engine, [JOB], baseline, candidate)
    return drift_of(engine, JOB, baseline, candidate)


def at(url: str) -> Reference:
    return parse_reference(f"{url}?retries=0#{MODEL}")


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Models whose tokens are words: each is told by its text."""
    from tests.support.scripted_models import scripted_model

    folder = tmp_path_factory.mktemp("worded")
    return (
        scripted_model(folder / "a", "Sure here is how", sharpness=3.0),
        scripted_model(folder / "b", "I cannot do that", sharpness=2.0),
    )


@pytest.mark.parametrize("told_by", ["ids", "text"])
def test_a_served_candidate_drifts_as_its_recording_does(
    engine: Engine, tmp_path: Path, models: tuple[Path, Path], worded: tuple[Path, Path], told_by: str
) -> None:
    pair, gives = (models, ("logprobs", "ids")) if told_by == "ids" else (worded, ("logprobs",))
    candidate, baseline = (parse_reference(str(model)) for model in pair)
    file = tmp_path / "candidate.trust"
    write_recording(file, LocalExecutor(engine), candidate, [JOB], topk=20)
    expected = measured(engine, baseline, parse_reference(str(file)))
    with serving(ServedModel(pair[0], *gives)) as server:
        found = measured(engine, baseline, at(server.url))
        asked = len(server.requests)
        again = measured(engine, baseline, at(server.url))
    assert len(server.requests) == asked
    assert found.candidate_baseline.keys() == expected.candidate_baseline.keys() == JOB.drift
    for name, theirs in expected.candidate_baseline.items():
        ours = found.candidate_baseline[name]
        # float32 in another order of sums
        assert ours.kl_pq == pytest.approx(theirs.kl_pq, abs=1e-4)
        assert ours.p_label == pytest.approx(theirs.p_label, abs=1e-4)
        assert ours.tail == pytest.approx(theirs.tail, abs=1e-4)
        assert ours.tail is not None
        assert float(ours.tail.max()) > 0.01
        assert again.candidate_baseline[name].kl_pq.tolist() == ours.kl_pq.tolist()
        # of the entropy a lower bound is known: what is beyond the tail's one token is not
        assert (ours.entropy_p <= theirs.entropy_p + 1e-4).all()
    assert not found.baseline_candidate
    assert found.baseline_candidate_reason == NOT_READ.format(writer="baseline")
    assert found.floor


def test_a_served_baseline_drifts_the_other_way(engine: Engine, models: tuple[Path, Path]) -> None:
    with serving(ServedModel(models[0], "logprobs", "ids")) as server:
        found = measured(engine, at(server.url), parse_reference(str(models[1])))
    assert found.baseline_candidate.keys() == JOB.drift
    assert not found.candidate_baseline
    assert found.candidate_baseline_reason == NOT_READ.format(writer="candidate")
    assert (found.floor, found.floor_reason) == ({}, NOT_RUN_TWICE)


@pytest.mark.parametrize("served_side", ["candidate", "baseline"])
def test_a_server_that_reads_a_given_text_is_measured_both_ways(
    engine: Engine, models: tuple[Path, Path], served_side: str
) -> None:
    """On the loaded model's text, where the tokens that the server does not name are merged in both distributions."""
    here, behind, loaded = (
        parse_reference(str(models[1])),
        ServedModel(models[0], "logprobs", "ids", "prompt_logprobs"),
        ServedModel(models[1]),
    )
    with serving(behind) as server:
        pair = (here, at(server.url)) if served_side == "candidate" else (at(server.url), here)
        found = measured(engine, *pair)
        asked = len(server.requests)
        again = measured(engine, *pair)
    assert len(server.requests) == asked
    on_ours, on_theirs = (
        ("baseline_candidate", "candidate_baseline")
        if served_side == "candidate"
        else ("candidate_baseline", "baseline_candidate")
    )
    assert (found.candidate_baseline_reason, found.baseline_candidate_reason) == ("", "")
    assert (
        getattr(found, on_theirs).keys()
        == getattr(found, on_ours).keys()
        == getattr(again, on_ours).keys()
        == JOB.drift
    )
    prompts, responses = engine.local(here).prompts(PROBES), engine.model(here).responses(JOB)
    for name, drift in getattr(found, on_ours).items():
        ids = [*prompts[name].ids, *responses[name][0].token_ids]
        ours, theirs = (model._rows(ids, len(prompts[name].ids)) for model in (loaded, behind))
        bounds = []
        for (label, p), (_, q) in zip(ours, theirs, strict=True):
            known = sorted({label, *q.topk(20).indices.tolist()})
            beyond = [1 - float(one[known].exp().sum()) for one in (p, q)]
            bounds.append(
                float((p[known].exp() * (p[known] - q[known])).sum()) + beyond[0] * math.log(beyond[0] / beyond[1])
            )
        assert drift.kl_pq.tolist() == pytest.approx(bounds, abs=1e-4)
        assert drift.p_label.tolist() == pytest.approx([float(p[label].exp()) for label, p in ours], abs=1e-5)
        assert drift.q_label.tolist() == pytest.approx([float(q[label].exp()) for label, q in theirs], abs=1e-5)


def test_a_server_that_tells_its_prompts_and_ignores_prompt_logprobs(engine: Engine, models: tuple[Path, Path]) -> None:
    with serving(ServedModel(models[0], "logprobs", "ids")) as server:
        found = measured(engine, parse_reference(str(models[1])), at(server.url))
        assert any("prompt_logprobs" in body for body in server.asked("/completions"))
    assert found.candidate_baseline.keys() == JOB.drift
    assert (found.baseline_candidate, found.baseline_candidate_reason) == ({}, NOT_READ.format(writer="baseline"))


def test_the_same_model_served_and_loaded_does_not_drift(engine: Engine, models: tuple[Path, Path]) -> None:
    with serving(ServedModel(models[0], "logprobs", "ids")) as server:
        found = measured(engine, parse_reference(str(models[0])), at(server.url))
    assert all(float(drift.kl_pq.max()) < 1e-5 for drift in found.candidate_baseline.values())
    assert found.candidate_baseline.keys() == JOB.drift


def test_a_server_that_takes_logprobs_and_ignores_them(engine: Engine, models: tuple[Path, Path]) -> None:
    with serving(ServedModel(models[0])) as server:
        found = measured(engine, parse_reference(str(models[1])), at(server.url))
        assert server.asked("/chat/completions")[0]["logprobs"] is True
    assert (found.candidate_baseline, found.baseline_candidate) == ({}, {})
    assert found.candidate_baseline_reason == NO_LOGPROBS


def test_other_tokens_claim_no_drift(engine: Engine, tmp_path: Path, models: tuple[Path, Path]) -> None:
    from tests.support.scripted_models import scripted_model

    other = scripted_model(tmp_path / "other", "Sure here is how you do it .")
    with serving(ServedModel(models[0], "logprobs", "ids")) as server:
        found = measured(engine, parse_reference(str(other)), at(server.url))
    assert found.candidate_baseline == {}
    assert found.candidate_baseline_reason == NOT_SPELT


def test_two_models_that_are_not_here(engine: Engine) -> None:
    with serving(plain) as one:
        found = measured(engine, at(one.url), parse_reference(f"{one.url}?thinking=off#{MODEL}"))
    assert found.candidate_baseline_reason == NO_WEIGHTS_HERE


def test_a_recording_of_a_served_model_stands_for_its_answers(
    engine: Engine, tmp_path: Path, models: tuple[Path, Path]
) -> None:
    choices = Job(
        "o", "choose", (Probe(id="o", cluster="o", text="The nurse said", options=("yes", "no")),), Generation(1)
    )
    file = tmp_path / "served.trust"
    with serving(ServedModel(models[0], "logprobs", "echo")) as server:
        write_recording(file, LocalExecutor(engine), at(server.url), [JOB, choices])
        with pytest.raises(TrustError, match=r"leave out \?topk"):
            write_recording(file, LocalExecutor(engine), at(server.url), [JOB], topk=5)
        responses, options = engine.model(at(server.url)).responses(JOB), engine.model(at(server.url)).options(choices)
    recorded = parse_reference(str(file))
    assert engine.model(recorded).responses(JOB) == responses
    assert engine.model(recorded).options(choices) == options
    assert engine.identify(recorded).warnings == (ITS_WORD,)
    found = measured(engine, parse_reference(str(models[1])), recorded)
    assert found.candidate_baseline_reason == SERVED_RECORDING


def entry(log_p: float = -0.5, **more: Any) -> dict[str, Any]:
    return {
        "token": "a",
        "logprob": log_p,
        "top_logprobs": [{"token": "a", "logprob": log_p}, {"token": "b", "logprob": -2.0}],
        **more,
    }


def test_log_probabilities_are_packed_and_unpacked() -> None:
    places = places_of({"content": [entry(bytes=[0xE2, 0x82]), entry(-0.25, id=7)]})
    assert unpack(tops_of({"content": [entry(bytes=[0xE2, 0x82]), entry(-0.25, id=7)]})) == places
    assert (places[0].label.id, places[1].label.id) == (-1, 7)
    assert places[0].label.text.encode("utf-8", "surrogateescape") == b"\xe2\x82"
    lists = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -2.0, "a": -0.5}]}
    assert places_of(lists) == places_of({"content": [entry()]})
    assert [token.text for token in places_of(lists)[0].known] == ["a", "b"]


@pytest.mark.parametrize(
    "logprobs",
    [
        None, [], {}, {"content": None}, {"content": []}, {"content": [{}]}, {"content": [{"token": "a"}]},
        {"content": [entry(), entry(0.5)]},
        {"content": [
            entry(-0.01), {**entry(), "top_logprobs": [{"token": str(n), "logprob": -0.1} for n in range(3)]},
        ]},
        {"content": [{**entry(), "top_logprobs": []}]}, {"content": [entry(math.nan)]},
        {"content": [{**entry(), "token": 5}]},
        {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": None},
        {"tokens": ["a", "b"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}]},
    ],
)  # fmt: skip
def test_what_is_no_distribution_is_not_taken(logprobs: object) -> None:
    assert tops_of(logprobs) == b""


def test_a_reading_has_every_token_of_the_text() -> None:
    rows = [{"5": {"logprob": -1.0}, "7": {"logprob": -0.5}}, {"9": {"logprob": -0.1}}]
    first, second = reading_of(rows, (5, 9))
    assert (first.label.id, [token.id for token in first.known], second.label.log_p) == (5, [7, 5], -0.1)
    for wrong in (
        None,
        rows[:1],
        [None, rows[1]],
        [rows[0], {"8": {"logprob": -0.1}}],
        [rows[0], {"9": {"logprob": 2.0}}],
        [rows[0], {"9": {}}],
    ):
        assert reading_of(wrong, (5, 9)) == []
