"""The comparison with lm-evaluation-harness: its aggregates of logged items, and what counts as a difference."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from tests.support.benchmark_modules import benchmark_module


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    return benchmark_module("parity_lm_eval")


def of_choice(
    parity: ModuleType,
    found: tuple[float, ...],
    target: int,
    document: dict[str, Any] | None = None,
    options: tuple[str, ...] = (" no", " yes"),
) -> Any:
    return parity.Item("context", options, found, document or {}, target)


def test_gsm8k_by_both_filters(parity: ModuleType) -> None:
    texts = ("So it is 1,200.\n#### 1,200", "She pays $18.", "It takes 7 days, then 9", "no idea")
    targets = ("6 + 1 = ...\n#### 1200", "#### 18", "#### 7", "#### 0")
    items = [parity.Item("", (), (text,), {}, target) for text, target in zip(texts, targets, strict=True)]
    scores = parity.gsm8k(items, [(text,) for text in texts])
    assert scores == {"exact_match,strict-match": 0.25, "exact_match,flexible-extract": 0.5}


def test_an_aggregate_or_a_choice_that_differs_misses_the_target(
    parity: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [of_choice(parity, (-1.0, -2.0), 0) for _ in range(10)]
    same = [(-1.0, -2.0)] * 10
    assert parity.compare("ethics_cm", items, same, {"acc,none": 1.0})
    assert not parity.compare("ethics_cm", items, same, {"acc,none": 0.99})
    other = [*same[:9], (-2.5, -2.0)]
    assert not parity.compare("ethics_cm", items, other, {"acc,none": 0.9})
    assert "9 of 10 choices equal; log-likelihoods differ by at most 1.5 nats" in capsys.readouterr().out


def test_texts_are_cut_where_the_harness_stops(parity: ModuleType) -> None:
    assert parity.until(" 7.\nQuestion: How many?") == " 7.\n"
    assert parity.until(" 7.<|im_end|>\n") == " 7."
