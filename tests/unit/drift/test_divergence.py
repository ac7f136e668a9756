"""Divergences against float64 evaluations of their definitions, and the laws they must obey."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_trust.drift.kernels import c_rows as native
from pytest_trust.drift.kernels import torch_blocks as blocks
from pytest_trust.drift.kernels.divergence import TokenDivergences, kl_divergence, token_divergences
from pytest_trust.errors import InvalidInput

TOLERANCE = 1e-5  # nats: the accuracy that is promised
VOCABULARIES = (2, 1271, 49152)


def definition(p_logits, q_logits):
    """Every divergence in float64, term by term."""
    log_p, log_q = (torch.log_softmax(x.double(), -1) for x in (p_logits, q_logits))
    p, q = log_p.exp(), log_q.exp()
    mixture = torch.logaddexp(log_p, log_q) - math.log(2)

    def relative(left, right):
        terms = torch.where(left.exp() == 0, 0.0, left.exp() * (left - right))
        return terms.sum(-1)

    return {
        "kl_pq": relative(log_p, log_q),
        "kl_qp": relative(log_q, log_p),
        "js": (relative(log_p, mixture) + relative(log_q, mixture)) / 2,
        "total_variation": (p - q).abs().sum(-1) / 2,
        "entropy_p": -torch.where(p == 0, 0.0, p * log_p).sum(-1),
        "entropy_q": -torch.where(q == 0, 0.0, q * log_q).sum(-1),
    }


def logits(kind, vocabulary, rows=6, seed=0):
    random = torch.Generator().manual_seed(seed)
    p = torch.randn(rows, vocabulary, generator=random) * 3
    q = p + torch.randn(rows, vocabulary, generator=random)
    if kind == "peaked":  # the first token has 1 - 1e-6 of the mass under p
        p = p.clamp(max=5.0)
        p[:, 0] = torch.logsumexp(p[:, 1:].double(), -1).float() + math.log(1e6)
    elif kind == "flat":
        p, q = p * 1e-3, torch.zeros_like(q)
    elif kind == "extreme":
        p, q = torch.sign(p) * 80, torch.sign(q.flip(0)) * 80
    elif kind == "shifted":
        p, q = p + 500.0, q - 500.0
    return p, q


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("kind", ["random", "peaked", "flat", "extreme", "shifted"])
def test_agrees_with_float64(kind, vocabulary):
    p, q = logits(kind, vocabulary)
    expected = definition(p, q)
    found = token_divergences(p, q)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(found, name).double(), value, atol=TOLERANCE, rtol=0, msg=name)
    torch.testing.assert_close(kl_divergence(p, q).double(), expected["kl_pq"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", ["random", "peaked", "flat", "extreme", "shifted"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_is_widened_before_it_is_reduced(dtype, kind):
    p, q = (x.to(dtype) for x in logits(kind, 1271))
    found = kl_divergence(p, q)
    assert found.dtype == torch.float32
    # Against float64 of the same rounded values: the dtype may cost nothing beyond its own rounding of the inputs.
    expected = definition(p, q)
    torch.testing.assert_close(found.double(), expected["kl_pq"], atol=TOLERANCE, rtol=0)
    whole = token_divergences(p, q)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(whole, name).double(), value, atol=TOLERANCE, rtol=0, msg=name)


@pytest.mark.parametrize("vocabulary", [1271, 49_152])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_excluded_tokens_in_strided_rows_of_every_dtype(dtype, vocabulary):
    """-inf where both, p alone or q alone exclude a token, in slices of wider rows and in columns with a stride."""
    p, q = (x.to(dtype) for x in logits("random", 2 * vocabulary + 3))
    p[:, ::7] = q[:, ::7] = -math.inf
    p[1, 5 : vocabulary // 2 : 3] = -math.inf  # allowed by q
    q[2, 8] = -math.inf  # allowed by p
    for cut in (slice(3, 3 + vocabulary), slice(0, 2 * vocabulary, 2)):
        ours, theirs = p[:, cut], q[:, cut]
        assert not ours.is_contiguous()
        log_p, log_q = (x.double().log_softmax(-1) for x in (ours, theirs))
        terms = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q))
        back = torch.where(log_q.isneginf(), 0.0, log_q.exp() * (log_q - log_p))
        found = token_divergences(ours, theirs)
        torch.testing.assert_close(found.kl_pq.double(), terms.sum(-1), atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(found.kl_qp.double(), back.sum(-1), atol=TOLERANCE, rtol=0)
        assert found.kl_qp[1] == math.inf
        torch.testing.assert_close(kl_divergence(ours, theirs), found.kl_pq, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("vocabulary", [151_936, 262_144])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *(("random", dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
        *((kind, torch.float32) for kind in ("peaked", "flat", "extreme", "shifted")),
    ],
)
def test_large_vocabularies(kind, dtype, vocabulary):
    p, q = (x.to(dtype) for x in logits(kind, vocabulary, rows=2))
    expected = definition(p.float(), q.float())
    found = token_divergences(p, q)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(found, name).double(), value, atol=TOLERANCE, rtol=0, msg=name)


def test_direction_on_two_tokens_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): KL(p || q) = 3/4 log 3/2 + 1/4 log 1/2, KL(q || p) = 1/2 log 2/3 + 1/2 log 2
    p, q = torch.tensor([0.75, 0.25]).log(), torch.tensor([0.5, 0.5]).log()
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    backward = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert abs(forward - backward) > 0.01
    assert kl_divergence(p, q).item() == pytest.approx(forward, abs=1e-6)
    assert kl_divergence(q, p).item() == pytest.approx(backward, abs=1e-6)
    both = token_divergences(p, q)
    assert (both.kl_pq.item(), both.kl_qp.item()) == pytest.approx((forward, backward), abs=1e-6)


@pytest.mark.parametrize("kind", ["random", "peaked", "flat", "extreme"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identical_logits_give_exactly_zero(kind, dtype):
    p = logits(kind, 1271)[0].to(dtype)
    found = token_divergences(p, p.clone())
    for column in (found.kl_pq, found.kl_qp, found.js, found.total_variation, kl_divergence(p, p.clone())):
        assert column.eq(0).all()
    assert found.same_top.all()


def test_excluded_tokens():
    inf = math.inf
    p = torch.tensor([[0.0, 1.0, -inf], [0.0, 1.0, -inf], [0.0, 1.0, 2.0], [0.0, 1.0, -500.0]])
    q = torch.tensor([[1.0, 0.0, -inf], [1.0, 0.0, 3.0], [1.0, 0.0, -inf], [1.0, 0.0, -inf]])
    found = token_divergences(p, q, labels=torch.tensor([0, 1, 2, 1]))
    expected = definition(p[:, :2], q[:, :2])
    # Excluded by both: as if the token did not exist.
    for name in ("kl_pq", "kl_qp", "js", "entropy_p", "total_variation"):
        assert getattr(found, name)[0].item() == pytest.approx(expected[name][0].item(), abs=1e-6)
    # Excluded by p alone: no contribution to KL(p || q), and KL(q || p) is infinite. By q alone: the other way round.
    log_p, log_q = torch.log_softmax(p[1], -1), torch.log_softmax(q[1], -1)
    assert found.kl_pq[1].item() == pytest.approx((log_p.exp() * (log_p - log_q))[:2].sum().item(), abs=1e-6)
    assert found.kl_qp[1] == inf
    assert found.kl_pq[2] == inf
    assert found.kl_pq[3] == inf  # however small p's mass there
    assert found.js[1] < math.log(2)
    assert found.q_label[2] == 0
    assert torch.equal(kl_divergence(p, q), found.kl_pq)


def test_labels_give_probability_rank_and_change():
    p, q = logits("random", 1271)
    labels = torch.arange(6) * 200
    found = token_divergences(p, q, labels=labels)
    for side, logit in (("p", p), ("q", q)):
        picked = logit.double().softmax(-1).gather(-1, labels[:, None]).view(-1)
        torch.testing.assert_close(getattr(found, f"{side}_label").double(), picked, atol=1e-7, rtol=1e-5)
        better = (logit > logit.gather(-1, labels[:, None])).sum(-1)
        assert torch.equal(getattr(found, f"rank_{side}").long(), better + 1)
    assert torch.equal(found.delta_p, found.p_label - found.q_label)
    assert torch.equal(found.same_top, p.argmax(-1) == q.argmax(-1))
    assert token_divergences(p, q).p_label is None


def test_jensen_shannon_is_left_out_unless_asked():
    p, q = logits("random", 1271)
    assert token_divergences(p, q, jensen_shannon=False).js is None
    # Disjoint supports: the largest value there is.
    assert token_divergences(torch.tensor([80.0, -80.0]), torch.tensor([-80.0, 80.0])).js.item() == pytest.approx(
        math.log(2)
    )


def test_temperature_divides_both_sides():
    p, q = logits("random", 1271)
    torch.testing.assert_close(kl_divergence(p, q, temperature=2.5), kl_divergence(p / 2.5, q / 2.5), atol=1e-6, rtol=0)
    assert not torch.allclose(kl_divergence(p, q, temperature=2.5), kl_divergence(p, q))


def test_any_leading_shape_without_a_copy_of_strided_rows(monkeypatch):
    random = torch.Generator().manual_seed(1)
    p, q = torch.randn(3, 5, 2 * 1271, generator=random), torch.randn(3, 5, 2 * 1271, generator=random)
    p, q = p[:, 1:, ::2], q[:, 1:, ::2]  # no axis can be flattened, and the vocabulary is strided
    assert not p.is_contiguous()
    expected = kl_divergence(p.contiguous(), q.contiguous())
    monkeypatch.setattr(torch.Tensor, "contiguous", None)
    monkeypatch.setattr(torch.Tensor, "reshape", lambda *_: pytest.fail("logits were reshaped"))
    found = kl_divergence(p, q)
    monkeypatch.undo()
    # A strided vocabulary takes another loop, which sums in another order.
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert expected.shape == (3, 4)
    assert kl_divergence(p[0, 0], q[0, 0]).shape == ()
    assert kl_divergence(p[:0], q[:0]).shape == (0, 4)


def test_token_divergences_keep_the_leading_shape():
    p, q = (x.view(2, 3, 1271) for x in logits("random", 1271))
    found = token_divergences(p[:, 1:], q[:, 1:], labels=torch.full((2, 2), 7))
    assert found.rank_p.shape == found.kl_pq.shape == (2, 2)
    assert len(found) == 4
    assert torch.equal(found.kl_pq, kl_divergence(p, q)[:, 1:])


def test_masked_tokens_are_not_read():
    p, q = logits("random", 1271)
    mask = torch.tensor([True, False, True, True, False, True])
    dirty = p.clone()
    dirty[1] = math.nan
    found = kl_divergence(dirty, q, mask=mask)
    assert torch.equal(found, torch.where(mask, kl_divergence(p, q), 0.0))


def test_numpy_in_numpy_out():
    p, q = logits("random", 1271)
    found = kl_divergence(p.numpy(), q.numpy(), mask=numpy.ones(6, dtype=bool))
    assert isinstance(found, numpy.ndarray)
    assert found.dtype == numpy.float32
    assert numpy.array_equal(found, kl_divergence(p, q).numpy())


def test_gradients_are_not_needed_and_inputs_are_left_alone():
    p, q = logits("random", 1271)
    before = p.clone()
    found = kl_divergence(p.requires_grad_(), q)
    assert not found.requires_grad
    assert torch.equal(p.detach(), before)


@pytest.mark.parametrize(
    ("p", "q", "options", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), {}, r"shape \(2, 3\) and q_logits \(2, 4\); .*slice"),
        (torch.zeros(2, 3), torch.zeros(2, 3, device="meta"), {}, "on cpu and q_logits on meta; move"),
        (
            torch.zeros(2, 3, dtype=torch.long),
            torch.zeros(2, 3),
            {},
            "p_logits is torch.int64; expected floating",
        ),
        (torch.zeros(2, 0), torch.zeros(2, 0), {}, "expected at least one vocabulary entry"),
        (torch.zeros(2, 3), torch.zeros(2, 3), {"temperature": 0.0}, "temperature is 0.0; expected"),
        (torch.zeros(2, 3), torch.zeros(2, 3), {"mask": torch.ones(2)}, "mask is torch.float32 of shape"),
        (torch.tensor([[0.0, 1], [math.nan, 1]]), torch.zeros(2, 2), {}, "p_logits: NaN or .inf at token 1;"),
        (torch.zeros(2, 2), torch.tensor([[math.inf, 1], [0.0, 1]]), {}, "q_logits: NaN or .inf at token 0;"),
        (torch.zeros(2, 2), torch.full((2, 2), -math.inf), {}, "q_logits: nothing but -inf at token 0;"),
    ],
)
def test_bad_input_is_one_line(p, q, options, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        kl_divergence(p, q, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 3], [-1, 0], [0.0, 1.0]])
def test_bad_labels(labels):
    with pytest.raises(InvalidInput, match="labels"):
        token_divergences(torch.zeros(2, 3), torch.ones(2, 3), labels=torch.tensor(labels))


def test_the_error_names_the_token_of_the_whole_input():
    p = torch.zeros(2, 3, 4)
    p[1, 2, 0] = math.nan
    with pytest.raises(InvalidInput, match="at token 5"):
        kl_divergence(p, torch.zeros(2, 3, 4))
    with pytest.raises(InvalidInput, match="at token 3"):
        kl_divergence(p[:, 1:], torch.zeros(2, 2, 4))


def test_parts_put_together_are_the_whole():
    p, q = logits("random", 1271)
    labels = torch.arange(6)
    whole = token_divergences(p, q, labels=labels)
    parts = [token_divergences(p[at], q[at], labels=labels[at]) for at in (slice(0, 2), slice(2, 6))]
    joined = TokenDivergences.concatenate(parts)
    assert torch.equal(joined.kl_qp, whole.kl_qp)
    assert torch.equal(joined.tokens(2, 6).rank_p, parts[1].rank_p)
    assert joined.masked_p is None


# Properties. Logits are drawn as hundredths, so that two draws are equal or clearly different.
numbers = st.integers(-2000, 2000).map(lambda x: x / 100)


@st.composite
def pairs(draw, least=2):
    vocabulary = draw(st.integers(least, 40))
    row = st.lists(numbers, min_size=vocabulary, max_size=vocabulary)
    return torch.tensor(draw(row)), torch.tensor(draw(row))


@settings(deadline=None, max_examples=60)
@given(pairs())
def test_never_negative_and_bounded(pair):
    p, q = pair
    found = token_divergences(p, q)
    assert found.kl_pq >= 0
    assert found.kl_qp >= 0
    assert 0 <= found.total_variation <= 1 + 1e-6
    assert 0 <= found.js <= math.log(2)
    # Pinsker's inequality; 1e-5 is the accuracy of the two sides.
    assert found.total_variation <= math.sqrt(found.kl_pq.item() / 2) + math.sqrt(TOLERANCE)


@settings(deadline=None, max_examples=60)
@given(pairs())
def test_zero_exactly_when_the_distributions_are_equal(pair):
    p, q = pair
    assert kl_divergence(p, p.clone()) == 0
    distance = 0.5 * (p.double().softmax(-1) - q.double().softmax(-1)).abs().sum()
    if distance > 0.01:  # Pinsker: KL is at least twice the square, 2e-4, well above the accuracy
        assert kl_divergence(p, q) > 1e-4


@settings(deadline=None, max_examples=60)
@given(pairs(), numbers, numbers)
def test_a_shift_of_the_logits_changes_nothing(pair, shift_p, shift_q):
    p, q = pair
    # The shifted logits are rounded to float32: at 40, by 2e-6 each.
    torch.testing.assert_close(kl_divergence(p + shift_p, q + shift_q), kl_divergence(p, q), atol=2e-5, rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_the_vocabulary_changes_nothing(pair, random):
    p, q = pair
    order = list(range(len(p)))
    random.shuffle(order)
    torch.testing.assert_close(kl_divergence(p[order], q[order]), kl_divergence(p, q), atol=TOLERANCE, rtol=0)


@settings(deadline=None, max_examples=60)
@given(pairs(least=4), st.integers(1, 3))
def test_at_least_the_lower_bound_of_top_k(pair, k):
    p, q = pair
    probabilities = [x.double().softmax(-1) for x in (p, q)]
    top = probabilities[0].topk(k).indices
    # What a server's top-k gives: k probabilities and the tail in one bin.
    lumped = [torch.cat([x[top], (1 - x[top].sum()).clamp(min=1e-300)[None]]) for x in probabilities]
    bound = (lumped[0] * (lumped[0] / lumped[1]).log()).sum()
    assert kl_divergence(p, q) >= bound - TOLERANCE


@settings(deadline=None, max_examples=60)
@given(pairs(least=4), st.data())
def test_merging_tokens_never_adds_divergence(pair, data):
    p, q = pair
    groups = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=len(p), max_size=len(p))))
    present = groups.unique()
    merged = [torch.stack([x[groups == group].logsumexp(-1) for group in present]) for x in (p, q)]
    whole, less = token_divergences(p, q), token_divergences(*merged)
    for name in ("kl_pq", "kl_qp", "js", "total_variation"):
        assert getattr(less, name) <= getattr(whole, name) + 2 * TOLERANCE


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 9))
def test_the_size_of_a_block_changes_nothing(rows):
    p, q = logits("random", 301, rows=9)
    labels = torch.arange(9)
    whole = token_divergences(p, q, labels=labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "load", lambda: None)
        patch.setattr(blocks, "_CPU_BLOCK_BYTES", rows * 301 * 4)
        parts = token_divergences(p, q, labels=labels)
        assert torch.equal(kl_divergence(p, q), parts.kl_pq)
    for name in ("kl_pq", "kl_qp", "js", "entropy_p", "p_label"):
        # The sum over a row may be cut differently when a block has one row: rounding only.
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-6, rtol=1e-6)
