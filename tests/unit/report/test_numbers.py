from __future__ import annotations

import math

import pytest

from pytest_trust.report.numbers import (
    Numbers,
    count,
    duration,
    magnitude,
    measured,
    memory,
    parameters,
    percent,
    probability,
)

FEW = Numbers.sized("share", 19)
SHARE = Numbers.sized("share", 20)


def test_shares_have_whole_points_below_20_probes_and_one_decimal_from_there_on() -> None:
    assert (FEW.value(0.05), FEW.change(0.31), FEW.size(0.16)) == ("5 %", "+31 pts", "16 pts")
    assert (SHARE.value(0.05), SHARE.change(-0.31), SHARE.size(0.16)) == ("5.0 %", "-31.0 pts", "16.0 pts")


@pytest.mark.parametrize(
    ("lower", "upper", "margin", "shown"),
    [
        (0.12, 0.44, 0.05, "[+12, +44]"),
        (0.003, 0.44, 0.05, "[+0.3, +44]"),  # regressed: the lower limit must not look like zero
        (-0.04, 0.0497, 0.05, "[-4, +4.97]"),  # held: the upper limit must not look like the margin
        (-0.04, 0.05, 0.05, "[-4, +5]"),  # it is the margin
        (0.0, 0.2, 0.05, "[0, +20]"),
        (None, 0.2, 0.05, "[-, +20]"),
        (None, None, 0.05, "-"),
        (math.nan, math.inf, 0.05, "-"),
    ],
)
def test_limits_never_contradict_the_verdict(
    lower: float | None, upper: float | None, margin: float, shown: str
) -> None:
    assert FEW.limits(lower, upper, margin) == shown


@pytest.mark.parametrize(
    ("lower", "upper", "shown"),
    [
        (0.06, 0.24, "+0.15"),  # half the interval is 0.09: one digit
        (0.14, 0.16, "+0.152"),  # 0.01: two digits
        (0.1520, 0.1526, "+0.15230"),  # 0.0003: two digits
        (-40.0, 60.0, "0"),  # 50: the change itself has no digit that is supported
    ],
)
def test_scores_have_the_digits_of_their_interval(lower: float, upper: float, shown: str) -> None:
    numbers = Numbers.sized("score", 40, lower, upper)
    assert numbers.signed(0.1523) == shown


def test_units_of_their_own() -> None:
    nats = Numbers.sized("nats", 40)
    assert (nats.value(1.234), nats.change(0.5)) == ("1.23 nats", "+0.50 nats")


def test_settings_are_written_in_full() -> None:
    assert (SHARE.setting(0.05), SHARE.setting(0.025), SHARE.setting(None)) == ("5", "2.5", "-")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_not_known_is_a_dash(value: float | None) -> None:
    assert {SHARE.value(value), SHARE.change(value), SHARE.size(value), magnitude(value), percent(value)} == {"-"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (17.31, "17.3"),
        (0.0082, "0.00820"),
        (1e-9, "1e-9"),
        (-1.234e-7, "-1.23e-7"),
        (123456.0, "123456"),
        (2.5e8, "2.5e8"),
    ],
)
def test_magnitude(value: float, shown: str) -> None:
    assert magnitude(value) == shown


@pytest.mark.parametrize(
    ("mean", "error", "shown"),
    [
        (0.41234, 0.0312, "0.412 ± 0.031"),
        (0.6, 0.052, "0.60 ± 0.05"),
        (12.3, 2.1, "12.3 ± 2.1"),
        (1.2e-9, 3e-10, "1.2e-9 ± 3e-10"),
        (0.41234, None, "0.412"),
        (0.0, 0.0, "0"),
        (math.nan, 0.1, "-"),
    ],
)
def test_measured(mean: float, error: float | None, shown: str) -> None:
    assert measured(mean, error) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (1.0, "100 %"),
        (0.0, "0 %"),
        (0.99999, "99.9 %"),
        (0.00001, "0.1 %"),
        (0.8123, "81.2 %"),
        (-0.0312, "-3.1 %"),
    ],
)
def test_percent_keeps_100_and_0_for_all_and_none(share: float, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("p", "shown"),
    [(0.00042, "= 0.0004"), (0.0213, "= 0.021"), (1.0, "= 1"), (1e-7, "< 0.0001"), (None, "not known")],
)
def test_probability(p: float | None, shown: str) -> None:
    assert probability(p) == shown


def test_sizes() -> None:
    assert [count(52000), count(None)] == ["52,000", "-"]
    assert [parameters(134515008), parameters(7_000_000_000), parameters(512)] == ["134.5M", "7B", "512"]
    assert [memory(1.25e9), memory(512), memory(None)] == [
        "1.2 GB",
        "512 bytes",
        "an unknown amount of memory",
    ]
    assert [duration(48.4), duration(250), duration(120), duration(4325), duration(None)] == [
        "48 s",
        "4 min 10 s",
        "2 min",
        "1 h 12 min",
        "an unknown time",
    ]
