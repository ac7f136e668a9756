"""Sampled replies of a model in training, by the library's own generation: one prefill for all samples of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peft import PeftModel

from pytest_trust.models.generation import Generated, Row
from pytest_trust.models.generation import generate as generate_rows
from pytest_trust.models.runner import Runner
from pytest_trust.responses import Generation


@dataclass(frozen=True)
class InTraining:
    """The attributes of a loaded model that `Runner` reads."""

    model: Any
    tokenizer: Any
    eos_ids: frozenset[int]
    device: str = "cpu"


def sampler(model: PeftModel, tokenizer: Any) -> Runner:
    """A runner of the base model with the adapter's layers in it. Samples follow what the adapter learns at once."""
    loaded = InTraining(model.get_base_model(), tokenizer, frozenset([tokenizer.eos_token_id]))
    return Runner(loaded)  # type: ignore[arg-type]


def sample(
    runner: Runner, questions: Sequence[str], count: int, *, seed: int, temperature: float, max_new_tokens: int
) -> list[list[Generated]]:
    """`count` samples of the reply to each question, in order. The same seed gives the same samples."""
    tokenizer: Any = runner.loaded.tokenizer
    rows = []
    for index, question in enumerate(questions):
        chat = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        rows += [Row(ids, seed=hash((seed, index, repeat)) & 0x7FFFFFFF) for repeat in range(count)]
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].prompt))
    settings = Generation(max_new_tokens=max_new_tokens, temperature=temperature, top_p=1.0, top_k=0)
    found: dict[int, Generated] = {}
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        replies = generate_rows(runner, [rows[place] for place in chosen], settings)
        found |= dict(zip(chosen, replies, strict=True))
    return [[found[index * count + repeat] for repeat in range(count)] for index in range(len(questions))]
