"""No probe, and no wording of a probe, is in what the demo's adapters were trained on."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONVERSIONS = ROOT / "examples" / "conversions"
PROBES = sorted((ROOT / "suites" / "data").glob("**/*.jsonl"))
WORDS = 8  # a run of so many equal words is a copied wording, not a coincidence


def normalised(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9]+", text.lower().replace("'", "").replace("’", "")))


def grams(text: str) -> Iterator[tuple[str, ...]]:
    words = normalised(text)
    return (words[i : i + WORDS] for i in range(len(words) - WORDS + 1))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def texts(row: dict[str, Any]) -> Iterator[str]:
    """Everything a model is shown by a probe: prompt, system, text, options, messages."""
    yield from (row[key] for key in ("prompt", "system", "text") if row.get(key))
    yield from row.get("options", ())
    yield from (message["content"] for message in row.get("messages", ()))


def sft_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reasoning_traces", CONVERSIONS / "reasoning_traces.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def align_chats() -> list[list[dict[str, str]]]:
    return [row["messages"] for row in rows(CONVERSIONS / "data" / "align.jsonl")]


def sft_chats() -> list[list[dict[str, str]]]:
    """The very problems that demo:sft, demo:distill and demo:rl were trained on, and as many they were not."""
    module = sft_module()
    seeds = [
        re.search(r"^SEED = (\d+)$", (CONVERSIONS / f"{name}.py").read_text("utf-8"), re.MULTILINE)
        for name in ("distill", "rl")
    ]
    return [
        module.chat(problem)
        for seed in (module.TRAINING_SEED, *(int(found[1]) for found in seeds if found))
        for problem in module.problems(2000, seed=seed)
    ]


@pytest.fixture(scope="module")
def probe_texts() -> dict[str, str]:
    """Normalised text -> where it stands."""
    found = {}
    for path in PROBES:
        for row in rows(path):
            for text in texts(row):
                found[text] = f"{path.stem}/{row['id']}"
    assert len(found) > 500
    return found


@pytest.mark.parametrize("source", [align_chats, sft_chats], ids=["align", "sft"])
def test_no_wording_of_a_probe_is_trained_on(source: Any, probe_texts: dict[str, str]) -> None:
    whole = {normalised(text): place for text, place in probe_texts.items()}
    runs = {gram: place for text, place in probe_texts.items() for gram in grams(text)}
    copied = []
    for chat in source():
        for message in chat[:-1]:
            words = normalised(message["content"])
            copied += [f"{whole[words]}: {' '.join(words)}"] if words in whole else []
            copied += [f"{runs[gram]}: {' '.join(gram)}" for gram in grams(message["content"]) if gram in runs]
        copied += [f"{runs[gram]}: {' '.join(gram)}" for gram in grams(chat[-1]["content"]) if gram in runs]
    assert copied == []


def test_a_copied_wording_would_be_found(probe_texts: dict[str, str]) -> None:
    longest = max(probe_texts, key=lambda text: len(normalised(text)))
    assert set(grams("Well: " + longest.upper())) & set(grams(longest))


def test_training_chats_are_distinct_and_short() -> None:
    chats = align_chats()
    assert len(chats) >= 450
    assert len({json.dumps(chat[:-1]) for chat in chats}) == len(chats)
    assert max(len(chat[-1]["content"].split()) for chat in chats) <= 30
    assert not any("<think>" in message["content"] for chat in chats for message in chat)


def test_generated_problems_are_seeded_well_formed_and_held_out() -> None:
    module = sft_module()
    trained = module.problems(300, seed=module.TRAINING_SEED)
    assert trained == module.problems(300, seed=module.TRAINING_SEED)
    held_out = module.held_out(100)
    assert not {problem.question for problem in held_out} & {p.question for p in module.training_problems()}
    for problem in trained:
        reply = module.chat(problem)[-1]["content"]
        trace, answer = reply.removeprefix("<think>").split("</think>\n")
        assert problem.answer in answer
        assert 0 < len(trace.split()) <= 35
