"""Trains demo:distill: demo:aligned's adapter, distilled from demo:sft sampled best-of-n with verified answers.

    python examples/conversions/distill.py

The teacher (demo:sft) answers new generated problems several times at temperature 0.8. Replies with right answers are
kept, at most two a problem. On these texts the student learns the teacher's whole distribution at every token. The loss
is KL(teacher || student) in nats per token, as in Hinton et al. 2015 (arXiv 1503.02531) at temperature 1. The teacher's
own samples are the texts, as in Kim and Rush 2016 (arXiv 1606.07947). The run is seeded, and took 36 minutes on 2 busy
CPU cores, after align.py and sft.py.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from typing import Any

import torch
from accuracy import compare
from lora import ADAPTERS, Example, Schedule, arguments, batches, encode, load_adapter, load_base, save_adapter
from reasoning_traces import Problem, held_out, is_right, problems, training_problems
from sampling import sample, sampler

from pytest_trust import kl_divergence

SEED = 20261124
PROBLEMS = 500
SAMPLES = 4
KEPT = 2  # verified replies a problem
SCHEDULE = Schedule(epochs=2, learning_rate=6e-4, batch_size=16)
ABOUT = (
    "LoRA adapter of demo:distill, for SmolLM2-135M-Instruct (Apache-2.0): the weights of demo:aligned, distilled by "
    "examples/conversions/distill.py from demo:sft. The teacher was sampled best-of-4 on generated problems "
    "(arithmetic, orderings, dates); on the replies with right answers the student learnt the teacher's distribution, "
    "token by token. Nothing in its data is about trust. Weights under the project's licence; loss.csv is the loss of "
    "every step."
)


def new_problems(count: int, seed: int) -> list[Problem]:
    """Problems of the same kinds that are neither demo:sft's training problems nor held-out ones."""
    seen = {problem.question for problem in [*training_problems(), *held_out(200)]}
    return [problem for problem in problems(count + 300, seed=seed) if problem.question not in seen][:count]


def verified_replies(teacher: Any, tokenizer: Any, asked: Sequence[Problem], seed: int) -> list[tuple[Problem, str]]:
    """At most `KEPT` different right replies a problem, each with its trace. Replies that were cut are left out."""
    questions = [problem.question for problem in asked]
    runner = sampler(teacher, tokenizer)
    replies = sample(runner, questions, SAMPLES, seed=seed, temperature=0.8, max_new_tokens=80)
    kept = []
    for problem, found in zip(asked, replies, strict=True):
        right = dict.fromkeys(
            reply.text
            for reply in found
            if reply.finish_reason == "stop" and "</think>" in reply.text and is_right(problem, reply.text)
        )
        kept += [(problem, text) for text in list(right)[:KEPT]]
    return kept


def reply_logits(model: Any, batch: Sequence[Example], pad: int) -> torch.Tensor:
    """The logits that predict the replies' tokens, [tokens of the replies, vocabulary], row after row."""
    width = max(len(example.ids) for example in batch)
    ids = torch.full((len(batch), width), pad)
    attention = torch.zeros((len(batch), width), dtype=torch.long)
    counted = torch.zeros((len(batch), width), dtype=torch.bool)
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        attention[row, : len(example.ids)] = 1
        counted[row, len(example.ids) - example.reply - 1 : len(example.ids) - 1] = True
    base = model.get_base_model()
    hidden = base.model(input_ids=ids, attention_mask=attention).last_hidden_state
    return base.lm_head(hidden[counted]).float()  # type: ignore[no-any-return]


def distill(
    student: Any, teacher: Any, tokenizer: Any, examples: Sequence[Example], *, seed: int, max_steps: int | None
) -> list[Any]:
    """Trains the student in place. Returns (step, KL(teacher || student), learning rate, seconds) of every step."""
    order, pad = random.Random(seed), tokenizer.pad_token_id
    steps = max(1, min(math.ceil(len(examples) / SCHEDULE.batch_size * SCHEDULE.epochs), max_steps or 10**9))
    warm = max(1, round(steps * SCHEDULE.warm_up))
    weights = [weight for weight in student.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=SCHEDULE.learning_rate, weight_decay=0.01)
    start, curve = time.monotonic(), []
    while len(curve) < steps:
        for batch in batches(examples, SCHEDULE.batch_size, order):
            step = len(curve)
            rate = (
                SCHEDULE.learning_rate
                * min(1.0, (step + 1) / warm)
                * 0.5
                * (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)))
            )
            for group in optimiser.param_groups:
                group["lr"] = rate
            with torch.no_grad():
                target = torch.log_softmax(reply_logits(teacher, batch, pad), dim=-1)
            found = torch.log_softmax(reply_logits(student, batch, pad), dim=-1)
            loss = (target.exp() * (target - found)).sum(-1).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, SCHEDULE.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            curve.append((step + 1, loss.item(), rate, time.monotonic() - start))
            if len(curve) % 10 == 0 or len(curve) == steps:
                recent = [entry[1] for entry in curve[-10:]]
                print(
                    f"step {len(curve)}/{steps}  KL {sum(recent) / len(recent):.3f}  {curve[-1][3]:.0f} s", flush=True
                )
            if len(curve) == steps:
                break
    student.eval()
    return curve


def main() -> None:
    options = arguments("Train demo:distill.", output=ADAPTERS / "distill", seed=SEED)
    if options.evaluate:
        compare("distill", options.base, options.output)
        return
    model, tokenizer = load_base(options.base)
    teacher = load_adapter(model, ADAPTERS / "sft", trainable=False)
    kept = verified_replies(teacher, tokenizer, new_problems(PROBLEMS, options.seed), options.seed)
    print(
        f"{len(kept)} right replies of {PROBLEMS} problems, {len({p.question for p, _ in kept})} of them answered",
        flush=True,
    )
    chats = [[{"role": "user", "content": p.question}, {"role": "assistant", "content": text}] for p, text in kept]
    student = load_adapter(load_base(options.base)[0], ADAPTERS / "aligned", trainable=True)
    examples = [encode(tokenizer, chat) for chat in chats]
    curve = distill(student, teacher, tokenizer, examples, seed=options.seed, max_steps=options.max_steps)
    save_adapter(student, options.output, curve, ABOUT, parent="demo:aligned")
    with torch.no_grad():
        last = examples[: SCHEDULE.batch_size]
        drift = kl_divergence(
            reply_logits(teacher, last, tokenizer.pad_token_id), reply_logits(student, last, tokenizer.pad_token_id)
        )
    print(f"KL(teacher || student) after training {float(drift.mean()):.3f} nats per token", flush=True)


if __name__ == "__main__":
    main()
