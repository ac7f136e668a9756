"""The Triton kernels: on a GPU where there is one, else under Triton's interpreter on the CPU (TRITON_INTERPRET=1)."""

from __future__ import annotations

import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_trust.drift.kernels import reduction
from pytest_trust.drift.kernels import torch_blocks as blocks
from pytest_trust.errors import InvalidInput
from pytest_trust.models.heads import AS_THEY_ARE, LogitMap

TOLERANCE = 1e-5  # nats
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"

# The interpreter computes with NumPy, which warns of inf - inf where a GPU is silent.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow) encountered:RuntimeWarning")


pytest.importorskip("triton", reason="triton is not installed: pip install 'pytest-trust[gpu]'")
if not ON_GPU and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU: test_interpreted.py runs these under Triton's interpreter", allow_module_level=True)


@pytest.fixture(scope="module")
def kernels():
    """Imported late, as in use."""
    from pytest_trust.drift.kernels import triton_rows as kernels

    return kernels


@pytest.fixture
def reduce_rows(kernels, monkeypatch):
    """`reduction.reduce_rows` through the kernels, whatever the device."""
    monkeypatch.setattr(reduction, "_on_cuda", lambda p, q: p.dtype != torch.float64)
    monkeypatch.setattr(reduction, "_failed", {})

    def reduce(p, q, labels=None, temperature=1.0, jensen_shannon=True, maps=AS_THEY_ARE):
        found = reduction.reduce_rows(
            p.to(DEVICE),
            q.to(DEVICE),
            None if labels is None else labels.to(DEVICE),
            1 / temperature,
            jensen_shannon,
            maps=maps,
        )
        assert not reduction._failed
        return {name: column.cpu() for name, column in found.items()}

    return reduce


def logits(kind, vocabulary, rows=2, seed=0):
    random = torch.Generator().manual_seed(seed)
    p = torch.randn(rows, vocabulary, generator=random) * 3
    q = p + torch.randn(rows, vocabulary, generator=random)
    if kind == "peaked":  # the last token has 1 - 1e-6 of the mass under p
        p = p.clamp(max=5.0)
        p[:, -1] = torch.logsumexp(p[:, :-1].double(), -1).float() + math.log(1e6)
    elif kind == "flat":
        p, q = p * 1e-3, torch.zeros_like(q)
    elif kind == "extreme":
        p, q = torch.sign(p) * 80, torch.sign(q.flip(0)) * 80
    elif kind == "ascending":  # a new maximum in every block
        p, q = p.sort(-1).values, q.sort(-1).values
    return p, q, torch.randint(0, vocabulary, (rows,), generator=random)


def reference(p, q, labels, temperature=1.0):
    """Float64, by the definitions."""
    log_p, log_q = (torch.log_softmax(x.double() / temperature, -1) for x in (p, q))
    here, there = log_p.exp(), log_q.exp()
    mixture = torch.logaddexp(log_p, log_q) - math.log(2)
    relative = lambda a, b: torch.where(a.exp() == 0, 0.0, a.exp() * (a - b)).sum(-1)  # noqa: E731
    return {
        "kl_pq": relative(log_p, log_q),
        "kl_qp": relative(log_q, log_p),
        "js": (relative(log_p, mixture) + relative(log_q, mixture)) / 2,
        "total_variation": (here - there).abs().sum(-1) / 2,
        "entropy_p": -torch.where(here == 0, 0.0, here * log_p).sum(-1),
        "entropy_q": -torch.where(there == 0, 0.0, there * log_q).sum(-1),
        "p_label": here.gather(-1, labels[:, None]).view(-1),
        "q_label": there.gather(-1, labels[:, None]).view(-1),
        "rank_p": 1 + (p > p.gather(-1, labels[:, None])).sum(-1),
        "rank_q": 1 + (q > q.gather(-1, labels[:, None])).sum(-1),
        "same_top": ((p == p.amax(-1, keepdim=True)) & (q == q.amax(-1, keepdim=True))).any(-1),  # ties agree
    }


def assert_agrees(found, expected):
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value.double(), atol=TOLERANCE, rtol=0, msg=name)


@pytest.mark.parametrize("vocabulary", [2, 1271, 49_152])
@pytest.mark.parametrize("kind", ["random", "peaked", "flat", "extreme", "ascending"])
def test_agrees_with_float64(reduce_rows, kind, vocabulary):
    p, q, labels = logits(kind, vocabulary)
    assert_agrees(reduce_rows(p, q, labels), reference(p, q, labels))


@pytest.mark.parametrize("vocabulary", [151_936, 262_144])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_large_vocabularies_in_every_dtype(reduce_rows, dtype, vocabulary):
    p, q, labels = logits("random", vocabulary, rows=1)
    p, q = p.to(dtype), q.to(dtype)
    assert_agrees(reduce_rows(p, q, labels), reference(p.float(), q.float(), labels))


def test_temperature_scale_and_soft_cap_of_each_side(reduce_rows):
    p, q, labels = logits("random", 5000)
    found = reduce_rows(p, q, labels, temperature=0.8, maps=(LogitMap(scale=0.25), LogitMap(soft_cap=7.0)))
    assert_agrees(found, reference(p * 0.25, 7.0 * torch.tanh(q / 7.0), labels, 0.8))
    both = LogitMap(scale=2.0, soft_cap=30.0)
    found = reduce_rows(p, q, labels, maps=(both, LogitMap()))
    assert_agrees(found, reference(30.0 * torch.tanh(2.0 * p / 30.0), q, labels))


def test_rows_may_be_strided_and_vocabularies_padded(reduce_rows, monkeypatch):
    p, q, labels = logits("random", 6000)
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda *_: pytest.fail("logits were copied"))
    labels = labels % 2500
    expected = reference(p[:, :2500], q[:, 3000:5500], labels)
    assert_agrees(reduce_rows(p[:, :2500], q[:, 3000:5500], labels), expected)
    expected = reference(p[:, ::2], q[:, 1::2], labels)
    assert_agrees(reduce_rows(p[:, ::2], q[:, 1::2], labels), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identical_logits_give_exactly_zero(reduce_rows, dtype):
    p = logits("ascending", 5000)[0].to(dtype)
    found = reduce_rows(p, p.clone())
    for name in ("kl_pq", "kl_qp", "js", "total_variation"):
        assert found[name].eq(0).all(), name
    assert found["same_top"].all()


def test_ties_agree_where_they_share_a_token(reduce_rows):
    p, q = torch.zeros(3, 5000), torch.zeros(3, 5000)
    p[0, [10, 4000]] = 1.0
    q[0, 4000] = 1.0  # shared, in another block than p's first
    p[1, 10] = q[1, 4000] = 1.0
    p[2, 4999] = q[2, 4999] = 1.0
    assert reduce_rows(p, q)["same_top"].tolist() == [True, False, True]


def test_excluded_tokens(reduce_rows):
    p, q, labels = logits("random", 5000, rows=3)
    p[0, :2100] = q[0, :2100] = -math.inf  # by both: the first block holds nothing
    p[1, 4000:] = -math.inf  # by p alone
    q[2, 17] = -math.inf  # by q alone
    labels = torch.tensor([3000, 1, 17])
    found = reduce_rows(p, q, labels)
    expected = reference(p[:1, 2100:], q[:1, 2100:], labels[:1] - 2100)
    for name in ("kl_pq", "kl_qp", "js", "entropy_p", "p_label", "rank_q"):
        assert found[name][0].item() == pytest.approx(expected[name][0].item(), abs=TOLERANCE)
    assert found["kl_qp"][1] == math.inf
    assert math.isfinite(found["kl_pq"][1])
    assert found["kl_pq"][2] == math.inf
    assert found["q_label"][2] == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_logits_are_named(reduce_rows, bad):
    p, q, _ = logits("random", 3000)
    q[1, 2999] = bad
    with pytest.raises(InvalidInput, match=r"q_logits: NaN or .inf at token 1"):
        reduce_rows(p, q)
    with pytest.raises(InvalidInput, match="p_logits: nothing but -inf at token 0"):
        reduce_rows(torch.full((2, 3000), -math.inf), p)


def test_kl_alone_of_chosen_rows(kernels):
    p, q, labels = logits("random", 5000, rows=4)
    chosen = torch.tensor([3, 1])
    found = kernels.kl_of_rows(p.to(DEVICE), q.to(DEVICE), chosen.to(DEVICE), 1.0).cpu()
    torch.testing.assert_close(found, reference(p, q, labels)["kl_pq"][chosen], atol=TOLERANCE, rtol=0)


def test_nobody_pays_for_jensen_shannon_unasked(reduce_rows):
    p, q, _ = logits("random", 1271)
    assert "js" not in reduce_rows(p, q, jensen_shannon=False)


numbers = st.integers(-2000, 2000).map(lambda x: x / 100)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=40), numbers)
def test_laws(kernels, pairs, shift):
    p, q = (torch.tensor([side]).to(DEVICE) for side in zip(*pairs, strict=True))
    found = kernels.columns_of_rows(p, q, None, 1.0, True)
    assert found["kl_pq"] >= -1e-6  # rounding; the caller clamps it
    assert found["kl_qp"] >= -1e-6
    assert 0 <= found["total_variation"] <= 1 + 1e-6
    assert kernels.kl_of_rows(p, p.clone(), None, 1.0) == 0
    moved = kernels.kl_of_rows(p + shift, q, None, 1.0)
    torch.testing.assert_close(moved, found["kl_pq"], atol=2e-5, rtol=1e-6)  # p + shift is rounded to float32
    flipped = kernels.kl_of_rows(p.flip(-1), q.flip(-1), None, 1.0)
    torch.testing.assert_close(flipped, found["kl_pq"], atol=TOLERANCE, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="no GPU")
def test_on_a_gpu_the_kernels_are_the_path_and_agree_with_torch_compile(kernels):
    p, q, labels = (x.cuda() for x in logits("random", 151_936, rows=64))
    p, q = p.bfloat16(), q.bfloat16()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = reduction.reduce_rows(p, q, labels, 1.0, True)
    assert torch.cuda.max_memory_allocated() - before < 0.01 * 2 * p.numel() * p.element_size()
    assert reduction.path("cuda") == "Triton"
    expected = reference(p.float().cpu(), q.float().cpu(), labels.cpu())
    assert_agrees({name: column.cpu() for name, column in found.items()}, expected)
    compiled = blocks.compiled_columns(p, q, labels, 1.0, True)
    for name in ("kl_pq", "kl_qp", "js", "entropy_p", "p_label"):
        torch.testing.assert_close(compiled[name].double(), found[name].double(), atol=TOLERANCE, rtol=0, msg=name)
