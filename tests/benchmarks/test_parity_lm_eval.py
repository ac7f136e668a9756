"""The comparison with lm-evaluation-harness: the aggregates that it computes from logged items, and what it calls a difference."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "parity_lm_eval.py"
    specification = importlib.util.spec_from_file_location("parity_with_the_harness", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))  # for the script that stands beside it
        specification.loader.exec_module(module)
    return module


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
