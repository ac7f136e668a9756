"""Statistics of drift, and what the store keeps of a response."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_trust.drift.kernels.divergence import token_divergences
from pytest_trust.drift.summary import BASELINE_CANDIDATE, CANDIDATE_BASELINE, Drift, TokenDrift, summarise
from pytest_trust.errors import InvalidInput
from pytest_trust.records import DriftSummary, from_json, to_json
from pytest_trust.stats.estimates import Sample, Statistic
from tests.support.token_drifts import token_drift


def responses():
    """Five responses of different lengths in three clusters."""
    return [token_drift(f"probe-{i}", 3 + 4 * i, seed=i, cluster=f"cluster-{i % 3}") for i in range(5)]


def test_micro_mean_and_clustered_error_agree_with_statsmodels():
    from statsmodels.regression.linear_model import OLS

    drifts = responses()
    found = summarise(drifts)
    values = numpy.concatenate([x.kl_pq for x in drifts]).astype(float)
    groups = numpy.concatenate([[int(x.cluster[-1])] * len(x) for x in drifts])
    # Mean as a regression on a constant, cluster-robust: the same estimator and the same small-sample factor.
    fit = OLS(values, numpy.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "df_correction": True}, use_t=True
    )
    assert found.mean == pytest.approx(fit.params[0], rel=1e-12)
    assert found.error == pytest.approx(fit.bse[0], rel=1e-9)
    lower, upper = fit.conf_int()[0]
    assert (found.lower, found.upper) == pytest.approx((max(0.0, lower), upper), rel=1e-9)
    assert (found.tokens, found.responses, found.clusters) == (len(values), 5, 3)


def test_each_statistic_is_what_it_says():
    drifts = responses()
    found = summarise(drifts)
    values = numpy.concatenate([x.kl_pq for x in drifts]).astype(float)
    assert found.macro_mean == pytest.approx(numpy.mean([x.kl_pq.mean(dtype=float) for x in drifts]))
    assert found.per_sequence == pytest.approx(values.sum() / 5)
    assert abs(found.macro_mean - found.mean) > 1e-3  # lengths differ, so the two means must
    expected = numpy.quantile(values, [0.5, 0.9, 0.99, 0.999])
    assert [found.median, found.p90, found.p99, found.p999] == pytest.approx(list(expected))
    assert found.maximum == values.max()
    change = numpy.concatenate([x.p_label - x.q_label for x in drifts]).astype(float)
    assert found.delta_p == pytest.approx(change.mean())
    assert found.rms_delta_p == pytest.approx(math.sqrt((change**2).mean()))
    assert found.same_top == pytest.approx(numpy.concatenate([x.same_top for x in drifts]).mean())
    assert found.js == pytest.approx(numpy.concatenate([x.js for x in drifts]).mean())
    assert found.first[1] == pytest.approx(numpy.mean([x.kl_pq[0] for x in drifts]))
    assert found.first[20] == pytest.approx(numpy.concatenate([x.kl_pq[:20] for x in drifts]).mean())
    assert found.masked_mass == {"baseline": 0.0, "candidate": 0.0}
    assert math.isnan(found.reasoning_mean)
    assert found.answer_mean == pytest.approx(found.mean)


def test_drift_by_the_baselines_confidence():
    drift = token_drift(tokens=6)
    entropies = numpy.array([0.0, 0.05, 0.1, 0.99, 1.0, 4.0])
    ours = replace(drift, p="candidate", q="baseline", entropy_p=numpy.full(6, 9.0), entropy_q=entropies)
    theirs = replace(drift, p="baseline", q="candidate", entropy_p=entropies, entropy_q=numpy.full(6, 9.0))
    for made, direction in ((ours, "KL(candidate || baseline)"), (theirs, "KL(baseline || candidate)")):
        found = summarise([made], direction=direction).by_confidence
        assert [float(value) for value in found.values()] == pytest.approx(
            [drift.kl_pq[i : i + 2].mean() for i in (0, 2, 4)]
        )
    sure = summarise([replace(ours, entropy_q=numpy.zeros(6))]).by_confidence
    assert sure["sure"] == pytest.approx(drift.kl_pq.mean())
    assert math.isnan(sure["open"])


def test_reasoning_and_answer_are_split():
    drift = token_drift(tokens=10, answer_start=7, masked_tokens=2)
    found = summarise([drift])
    assert found.reasoning_mean == pytest.approx(drift.kl_pq[:7].mean())
    assert found.answer_mean == pytest.approx(drift.kl_pq[7:].mean())
    assert found.first[1] == pytest.approx(drift.kl_pq[7])
    assert found.masked_tokens == 2
    without = summarise([token_drift(tokens=4, answer_start=4)])
    assert math.isnan(without.answer_mean)
    assert math.isnan(without.first[5])


def test_the_direction_names_the_column():
    drift = token_drift()
    swapped = token_drift(p="baseline", q="candidate")
    assert summarise([drift], direction=CANDIDATE_BASELINE).mean == pytest.approx(drift.kl_pq.mean())
    assert summarise([drift], direction=BASELINE_CANDIDATE).mean == pytest.approx(drift.kl_qp.mean())
    assert summarise([swapped], direction=BASELINE_CANDIDATE).mean == pytest.approx(drift.kl_pq.mean())
    assert abs(drift.kl_pq.mean() - drift.kl_qp.mean()) > 1e-3
    # The change of probability is candidate minus baseline whichever is p.
    assert summarise([swapped], direction=BASELINE_CANDIDATE).delta_p == -summarise([drift]).delta_p
    with pytest.raises(InvalidInput, match=r"expected KL\(candidate \|\| baseline\) or"):
        summarise([drift], direction="KL(a || b)")
    with pytest.raises(InvalidInput, match="direction is 'forward'"):
        summarise([drift], direction="forward")


def test_one_cluster_has_no_error():
    found = summarise([token_drift("one"), token_drift("two", cluster="one")])
    assert math.isnan(found.error)
    assert found.as_record().error is None


def test_no_tokens_is_an_error():
    with pytest.raises(InvalidInput, match="no tokens to measure drift on"):
        summarise([])


def test_an_infinite_token_is_counted():
    p, q = torch.zeros(3, 4), torch.zeros(3, 4)
    q[1, 2] = -math.inf
    drift = TokenDrift.of(token_divergences(p, q, labels=torch.zeros(3, dtype=torch.long)), probe="x", cluster="x")
    found = summarise([drift])
    assert (found.mean, found.maximum, found.median, found.infinite) == (math.inf, math.inf, 0.0, 1)
    assert found.as_record().mean is None
    json.dumps(to_json(found.as_record()), allow_nan=False)


def test_truth_of_a_drift_is_refused_and_its_numbers_compare():
    found = summarise(responses())
    with pytest.raises(TypeError, match=r"drift.mean <= 0.05"):
        bool(found)
    with pytest.raises(TypeError):
        assert found <= 0.05
    assert found.mean > 0.05


def test_the_record_holds_built_in_types_and_the_agreed_keys():
    made = summarise(responses(), on="candidate responses").as_record()
    record = to_json(made)
    agreed = {
        "direction",
        "on",
        "tokens",
        "responses",
        "mean",
        "error",
        "per_sequence",
        "median",
        "p90",
        "p99",
        "maximum",
    }
    assert agreed | {"same_top", "js", "delta_p", "rms_delta_p"} <= set(record)
    assert set(record) == {field.name for field in fields(Drift)}
    for value in record.values():
        assert type(value) in (str, int, float, dict, type(None))
    assert all(type(key) is str and type(value) is float for key, value in record["first"].items())
    assert record["mean"] == float(f"{summarise(responses()).mean:.9g}")
    assert from_json(DriftSummary, json.loads(json.dumps(record))) == made


def test_bytes_keep_every_bit():
    drift = token_drift(tokens=13, sample=3, answer_start=5, masked_tokens=1)
    data = drift.to_bytes()
    back = TokenDrift.from_bytes(data)
    for field in fields(TokenDrift):
        before, after = getattr(drift, field.name), getattr(back, field.name)
        if isinstance(before, numpy.ndarray):
            assert numpy.array_equal(before, after)
            assert before.dtype == after.dtype
        else:
            assert before == after
    assert len(token_drift(tokens=1000).to_bytes()) < 42 * 1000
    assert len(TokenDrift.from_bytes(token_drift(tokens=0).to_bytes())) == 0


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_damaged_bytes_are_refused(data):
    good = token_drift(tokens=20).to_bytes()
    if data.draw(st.booleans()):
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    else:
        at = data.draw(st.integers(0, len(good) - 1))
        bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    try:
        back = TokenDrift.from_bytes(bad)
    except InvalidInput:
        return
    # One byte of a name or number in the header was changed: readable, and still whole.
    assert len(back) == 20


def test_a_small_file_cannot_inflate_beyond_its_announced_size():
    import zlib

    good = token_drift(tokens=20).to_bytes()
    bomb = good[: good.index(b"}") + 1] + zlib.compress(bytes(50_000_000))
    with pytest.raises(InvalidInput, match="wrong size"):
        TokenDrift.from_bytes(bomb)


def test_joined_pieces_are_one_response():
    one, two = token_drift("a", 3), token_drift("a", 5, seed=1)
    both = TokenDrift.joined([one, two], cluster="c", masked_tokens=4)
    assert numpy.array_equal(both.kl_pq, numpy.concatenate([one.kl_pq, two.kl_pq]))
    assert (both.probe, both.cluster, both.masked_tokens, len(both)) == ("a", "c", 4, 8)


def test_divergences_without_labels_cannot_be_kept():
    with pytest.raises(InvalidInput, match="without p_label; expected them computed with labels"):
        TokenDrift.of(token_divergences(torch.zeros(2, 3), torch.ones(2, 3)), probe="x", cluster="x")


def test_a_statistic_is_compared_by_its_limits():
    mean = Statistic(0.04, "nats per token", error=0.01, lower_limit=0.02, upper_limit=0.06)
    assert mean <= 0.06
    assert not mean <= 0.05  # the value is below, the limit is not
    assert not mean < 0.06
    assert mean >= 0.02
    assert not mean > 0.03
    assert float(mean) <= 0.05
    assert mean <= 0.06
    assert not mean < 0.05
    assert mean == 0.04
    # Two statistics compare by their values, so that sorting works.
    assert mean < Statistic(0.05, lower_limit=0.0, upper_limit=9.0)
    assert type(mean * 2) is float
    assert f"{mean:.1f} {mean}" == "0.0 0.04"
    assert repr(mean) == "0.04 nats per token (95 % limits, one-sided: at least 0.02, at most 0.06)"


def test_without_limits_no_comparison_holds_and_the_reason_is_shown():
    mean = summarise([token_drift()]).mean
    assert not mean <= 1e9
    assert not mean >= 0
    assert repr(mean).endswith("nats per token (no confidence limit: fewer than two clusters)")


def test_limits_are_the_policy_s_one_sided_ones():
    from scipy.stats import t

    found, strict = summarise(responses(), alpha=0.05), summarise(responses(), alpha=0.01)
    for drift, share in ((found, 0.95), (strict, 0.99)):
        assert drift.mean.upper_limit == pytest.approx(drift.mean + t.ppf(share, 2) * drift.error)
        assert drift.mean.level == share
    assert (found.lower, found.upper) == (strict.lower, strict.upper)  # the reported interval is always 95 %
    assert found.upper > found.mean.upper_limit
    for alpha in (0.0, 0.5, math.nan):
        with pytest.raises(InvalidInput, match="alpha is"):
            summarise(responses(), alpha=alpha)


def test_every_statistic_has_unit_and_limits_around_its_value():
    found = summarise([*responses(), token_drift("long", 40, cluster="cluster-0", answer_start=5)])
    statistics = {name: getattr(found, name) for name in Drift.__slots__ if isinstance(getattr(found, name), Statistic)}
    statistics |= {f"first {count}": value for count, value in found.first.items()}
    assert {"mean", "macro_mean", "per_sequence", "p99", "same_top", "rms_delta_p", "rest", "first 20"} <= set(
        statistics
    )
    for name, value in statistics.items():
        assert value.unit, name
        if name not in ("rest", "reasoning_mean", "tail_mass"):
            assert value.lower_limit <= float(value) <= value.upper_limit, name
    assert found.rest == pytest.approx(token_drift("long", 40).kl_pq[25:].mean())
    assert found.same_top.upper_limit <= 1
    assert found.maximum.upper_limit == found.maximum


def test_limits_of_a_quantile_cover_as_often_as_they_say():
    # Independent tokens in many clusters: the one-sided 90 % limits of the median must hold in about 90 % of the draws.
    random = numpy.random.default_rng(0)
    held = 0
    for _ in range(300):
        columns = list(random.exponential(size=(40, 10)))
        sample = Sample([str(index) for index in range(40)], alpha=0.1)
        held += sample.quantile(columns, 0.5, "").upper_limit >= math.log(2)
    assert 0.85 <= held / 300 <= 0.95  # binomial standard error 0.017


def test_the_table_has_the_names_people_know():
    found = summarise(responses())
    lines = str(found).splitlines()
    assert lines[0] == (
        f"KL(candidate || baseline) on candidate responses: {found.tokens} tokens of 5 responses, KLD in nats per token"
    )
    names = [line.split("  ")[0] for line in lines[1:]]
    assert names == [
        *("Mean KLD", "Maximum KLD", "99.9% KLD", "99.0% KLD", "90.0% KLD", "Median KLD"),
        *("Mean Δp", "RMS Δp", "Same top p"),
    ]
    assert f"{found.mean:.6f} ± {found.error:.6f}" in lines[1]
    assert lines[-1].endswith(" %")
    assert f"{100 * found.same_top:.3f} ±" in lines[-1]
