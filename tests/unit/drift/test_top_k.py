"""Drift against distributions of which only the most likely tokens are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_trust.audit.executor import LocalExecutor
from pytest_trust.audit.record_file import write_recording
from pytest_trust.drift.kernels.divergence import token_divergences
from pytest_trust.drift.summary import BASELINE_CANDIDATE, summarise
from pytest_trust.drift.top_k import divergences_from_top_k, swapped, top_k
from pytest_trust.engine.recording import InvalidRecording, read_recording
from pytest_trust.engine.top_k import TopK
from pytest_trust.errors import InvalidInput
from pytest_trust.models.heads import Head
from pytest_trust.models.reference import parse_reference
from tests.support.pairs import acquire
from tests.support.pairs import drift as drift_of
from tests.support.recordings import JOBS, engine, rewritten
from tests.support.tiny_models import save_adapter, save_model

VOCABULARY, HIDDEN, TOKENS = 97, 8, 40


def heads(seed: int, scale: float = 1.0) -> tuple[torch.Tensor, Head, torch.Tensor, Head, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    states = [torch.randn(TOKENS, HIDDEN, generator=generator) for _ in range(2)]
    weights = [scale * torch.randn(VOCABULARY, HIDDEN, generator=generator) for _ in range(2)]
    labels = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    return states[0], Head(weights[0], None, None, 1.0), states[1], Head(weights[1], None, None, 1.0), labels


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.01, 1.0, 6.0]), st.sampled_from([1, 5, 64, VOCABULARY - 1]))
def test_they_are_lower_bounds_and_the_formula_of_the_merged_tail(seed: int, scale: float, k: int) -> None:
    p_states, p_head, q_states, q_head, labels = heads(seed, scale)
    kept = top_k(p_states, p_head, labels, k)
    found = divergences_from_top_k(kept, q_states, q_head, labels)
    exact = token_divergences(p_head.logits(p_states), q_head.logits(q_states), labels=labels)
    assert found.js is not None
    assert exact.js is not None
    for ours, true in (
        (found.kl_pq, exact.kl_pq),
        (found.kl_qp, exact.kl_qp),
        (found.js, exact.js),
        (found.total_variation, exact.total_variation),
    ):
        assert bool((ours <= true * (1 + 1e-4) + 1e-5).all())
        if k == VOCABULARY - 1:  # a tail of one token is no merging
            assert torch.allclose(ours, true, rtol=1e-3, atol=1e-5)
    p, q = (head.logits(states).double().log_softmax(-1) for head, states in ((p_head, p_states), (q_head, q_states)))
    ids = kept.ids.long()  # of equally likely tokens, any may be kept
    assert torch.allclose(p.gather(-1, ids).sum(-1), p.topk(k).values.sum(-1), rtol=1e-6)
    tails = [torch.log1p(-side.gather(-1, ids).exp().sum(-1).clamp(max=1 - 1e-16)) for side in (p, q)]
    merged = (p.gather(-1, ids).exp() * (p.gather(-1, ids) - q.gather(-1, ids))).sum(-1) + tails[0].exp() * (
        tails[0] - tails[1]
    )
    sure = tails[0].exp() > 1e-6  # else 1 minus the sum is rounding
    assert torch.allclose(found.kl_pq.double()[sure], merged[sure], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("k", [1, 5])
def test_what_is_exact_is_exact(k: int) -> None:
    p_states, p_head, q_states, q_head, labels = heads(3)
    labels[0] = p_head.logits(p_states)[0].argmax()
    found = divergences_from_top_k(top_k(p_states, p_head, labels, k), q_states, q_head, labels)
    exact = token_divergences(p_head.logits(p_states), q_head.logits(q_states), labels=labels)
    for name in ("entropy_p", "entropy_q", "p_label", "q_label", "delta_p"):
        assert torch.allclose(getattr(found, name), getattr(exact, name), atol=1e-5), name
    assert torch.equal(found.same_top, exact.same_top)
    assert torch.equal(found.rank_q, exact.rank_q)  # type: ignore[arg-type]
    assert exact.rank_p is not None
    assert torch.equal(found.rank_p, exact.rank_p.clamp(max=k + 1))  # type: ignore[arg-type]
    other_way = swapped(found)
    assert torch.equal(other_way.kl_pq, found.kl_qp)
    assert torch.allclose(other_way.delta_p, -exact.delta_p, atol=1e-5)  # type: ignore[arg-type, operator]


def test_nothing_is_known_of_the_same_distribution_but_that_it_may_be_it() -> None:
    states, head, *_, labels = heads(4)
    found = divergences_from_top_k(top_k(states, head, labels, 3), states, head, labels)
    assert found.kl_pq.max() < 1e-6
    assert bool(found.same_top.all())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("topk")
    base = save_model(directory / "base")
    baseline, candidate = parse_reference(str(base)), parse_reference(str(save_adapter(directory / "adapter", base)))
    with engine(directory / "store") as found:
        acquire(found, JOBS, baseline, candidate)
        write_recording(directory / "top.trust", LocalExecutor(found), baseline, JOBS, topk=4)
        with pytest.raises(InvalidInput, match="topk=100000: expected less than the vocabulary"):
            write_recording(directory / "no.trust", LocalExecutor(found), baseline, JOBS, topk=100_000)
    assert not (directory / "no.trust").exists()
    return directory / "top.trust", baseline, candidate, directory / "store"


def test_a_recording_of_the_most_likely_tokens_gives_a_lower_bound_that_passes_no_upper_limit(
    made: Any, tmp_path: Path
) -> None:
    path, baseline, candidate, store = made
    recorded = parse_reference(str(path))
    with engine(store) as live, engine(tmp_path) as other:
        acquire(other, JOBS, recorded, candidate)
        exact, found = drift_of(live, JOBS[0], baseline, candidate), drift_of(other, JOBS[0], recorded, candidate)
        assert set(found.baseline_candidate) == {"ask-0", "ask-3"}
        for name, drift in found.baseline_candidate.items():
            true = exact.baseline_candidate[name]
            assert (drift.kl_pq <= true.kl_pq + 1e-5).all()
            assert drift.p_label == pytest.approx(true.p_label, abs=1e-5)
            assert drift.tail is not None
            assert ((drift.tail > 0) & (drift.tail < 1)).all()
        options, expected = drift_of(other, JOBS[1], recorded, candidate), drift_of(live, JOBS[1], baseline, candidate)
        for way in ("candidate_baseline", "baseline_candidate"):
            for name, drift in getattr(options, way).items():
                assert (drift.kl_pq <= getattr(expected, way)[name].kl_pq + 1e-5).all()
        statistics = summarise(found.baseline_candidate.values(), direction=BASELINE_CANDIDATE)
    assert statistics.mean.upper_limit == math.inf
    assert not statistics.mean <= 1e9
    assert statistics.mean >= 0
    assert 0 < float(statistics.tail_mass) < 1
    assert statistics.same_top.upper_limit <= 1
    assert statistics.as_record().upper is None


def test_two_recordings_cannot_be_compared_when_one_is_short(made: Any, tmp_path: Path) -> None:
    path, _, candidate, store = made
    with engine(store) as found:
        write_recording(tmp_path / "whole.trust", LocalExecutor(found), candidate, JOBS)
    with engine(tmp_path / "store") as found:
        both = parse_reference(str(path)), parse_reference(str(tmp_path / "whole.trust"))
        acquire(found, JOBS, *both)
        assert "only the most likely tokens were kept" in drift_of(found, JOBS[0], *both).candidate_baseline_reason


def test_it_says_what_it_holds(made: Any) -> None:
    words = read_recording(made[0]).verify()
    assert "the 4 most likely of" in words
    assert words.endswith("schema 2, verified")


@pytest.mark.parametrize("change", [{"topk": 5}, {"topk": -1}, {"topk": "4"}, {"schema": 3}])
def test_a_hostile_manifest_is_one_line(made: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    path = rewritten(made[0], tmp_path / "r.trust", lambda manifest: manifest.update(change))
    with pytest.raises(InvalidRecording, match=r"damaged|newer pytest-trust"):
        read_recording(path).tops([])


def test_an_empty_top_k_joins_nothing() -> None:
    parts = [
        TopK(torch.zeros(2, 3).int(), *(torch.zeros(2, 3), torch.zeros(2), torch.zeros(2), torch.zeros(2)))
        for _ in range(2)
    ]
    assert len(TopK.joined(parts)) == 4
    assert len(TopK.joined(parts).at(torch.tensor([0]))) == 1
