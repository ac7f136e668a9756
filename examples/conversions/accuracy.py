"""The accuracy of a conversion on the reasoning control: held-out problems before and after it, paired."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from lora import ADAPTERS, generate, load_adapter, load_base
from reasoning_traces import chat, held_out, is_right
from scipy.stats import binomtest

COUNT = 120
MAX_NEW_TOKENS = 80


def measure(name: str, model: Any, tokenizer: Any) -> list[bool]:
    """Whether each held-out problem is solved, greedily.

    Prints accuracy, and how many traces were opened and closed.
    """
    asked = held_out(COUNT)
    replies = generate(model, tokenizer, [chat(problem)[:-1] for problem in asked], max_new_tokens=MAX_NEW_TOKENS)
    right = [is_right(problem, reply) for problem, reply in zip(asked, replies, strict=True)]
    solved = Counter(problem.kind for problem, solves in zip(asked, right, strict=True) if solves)
    total = Counter(problem.kind for problem in asked)
    opened = sum("<think>" in reply for reply in replies)
    closed = sum(reply.count("<think>") == reply.count("</think>") == 1 for reply in replies)
    cut = sum(reply.endswith("…") for reply in replies)
    kinds = ", ".join(f"{kind} {solved[kind]}/{total[kind]}" for kind in sorted(total))
    print(
        f"{name}: {sum(right)}/{COUNT} right ({kinds}); traces opened {opened}, closed {closed}; replies cut {cut}",
        flush=True,
    )
    for problem, reply in list(zip(asked, replies, strict=True))[:8]:
        print(f"  {problem.question}\n    {reply!r}  (right: {problem.answer})", flush=True)
    return right


def compare(name: str, base: Path, adapter: Path) -> None:
    """Prints the accuracy of demo:aligned and of an adapter made from it, and the exact McNemar test of the pair."""
    before, after = (
        measure(label, load_adapter(model, directory, trainable=False), tokenizer)
        for label, directory in (("aligned", ADAPTERS / "aligned"), (name, adapter))
        for model, tokenizer in [load_base(base)]
    )
    gained = sum(new and not old for old, new in zip(before, after, strict=True))
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    print(f"gained {gained}, lost {lost}: two-sided exact McNemar p = {p_value:.2g}", flush=True)
