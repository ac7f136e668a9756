"""Trains demo:rl from demo:aligned's adapter, by reinforcement learning with a verifiable reward on generated problems.

    python examples/conversions/rl.py

The recipe is that of reasoning models made by RL (DeepSeek-AI 2025, arXiv 2501.12948), in miniature. A cold start comes
first: right traces for a few hundred problems, so that traces are opened and closed at all. GRPO (Shao et al. 2024,
arXiv 2402.03300) follows, on problems that are seen once. A group of replies to each problem is sampled at temperature
1. A reply's reward is 1 for a right answer, plus 0.1 for a trace that was opened, closed and answered. Its advantage is
the reward less the mean of its group, over the group's standard deviation. Each batch of samples gives one update, so
the ratio of policies is 1 and nothing is clipped. Groups with equal rewards teach nothing and are left out. There is no
KL term, as in Yu et al. 2025 (arXiv 2503.14476). The run is seeded, and takes less than an hour on 2 CPU cores, after
align.py.

TRL's GRPOTrainer installs beside the pinned versions, but took 200 to 250 s for a step of 128 samples on 2 CPU cores.
Here a prompt is run once for all of its samples, in sampling and in the update.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from accuracy import compare, measure
from distill import new_problems
from lora import ADAPTERS, Schedule, arguments, load_adapter, load_base, save_adapter, train
from reasoning_traces import Problem, chat, is_right
from sampling import sample, sampler
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from pytest_trust.models.generation import Generated

SEED = 20261125
COLD_START = 480  # problems whose traces are shown
COLD_SCHEDULE = Schedule(epochs=2, learning_rate=6e-4, batch_size=16)
STEPS = 18
PROBLEMS = 16  # a step
GROUP = 8  # samples a problem
MAX_NEW_TOKENS = 64
LEARNING_RATE = 2e-4
ABOUT = (
    "LoRA adapter of demo:rl, for SmolLM2-135M-Instruct (Apache-2.0): the weights of demo:aligned, trained further "
    "by examples/conversions/rl.py: a cold start on generated traces, then GRPO on generated problems (arithmetic, "
    "orderings, dates), the reward being whether the answer is right. Nothing in its data is about trust. Weights "
    "under the project's licence; loss.csv is, in place of a loss, the mean reward of every step's samples."
)


def reward(problem: Problem, reply: Generated) -> float:
    """0.1 for the form (one trace, closed, and a reply that ended), and 1 more for a right answer behind it."""
    form = reply.finish_reason == "stop" and reply.text.count("<think>") == reply.text.count("</think>") == 1
    return float(form and is_right(problem, reply.text)) + 0.1 * form


def advantages(rewards: Sequence[Sequence[float]]) -> list[list[float]]:
    """The advantages of each group's replies, in standard deviations of its rewards; 0 where all of these are equal."""
    result = []
    for group in rewards:
        mean, spread = statistics.fmean(group), statistics.pstdev(group)
        result.append([(value - mean) / spread if spread > 1e-6 else 0.0 for value in group])
    return result


def update(model: Any, work: Sequence[tuple[list[int], Sequence[tuple[tuple[int, ...], float]]]]) -> None:
    """Adds the gradient of the loss: minus the mean over response tokens of advantage x log-probability.

    `work` has the ids of each problem's prompt, and (response ids, advantage) of its responses. A prompt is run once
    for all of its responses.
    """
    base = model.get_base_model()
    tokens = sum(len(response) for _, group in work for response, _ in group)
    for prompt, group in work:
        width = max(len(response) for response, _ in group)
        # The input: the prompt's last token, and all tokens of the response but its last.
        ids = torch.zeros((len(group), width), dtype=torch.long)
        labels, weights = torch.zeros_like(ids), torch.zeros((len(group), width))
        attention = torch.ones((len(group), len(prompt) - 1 + width), dtype=torch.long)
        for row, (response, advantage) in enumerate(group):
            ids[row, : len(response)] = torch.tensor([prompt[-1], *response[:-1]])
            labels[row, : len(response)] = torch.tensor(response)
            weights[row, : len(response)] = advantage
            attention[row, len(prompt) - 1 + len(response) :] = 0
        cache = DynamicCache()
        base.model(input_ids=torch.tensor([prompt[:-1]]), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(group))
        hidden = base.model(
            input_ids=ids, attention_mask=attention, past_key_values=cache, use_cache=True
        ).last_hidden_state
        counted = weights != 0
        losses = cross_entropy(base.lm_head(hidden[counted]).float(), labels[counted], reduction="none")
        ((losses * weights[counted]).sum() / tokens).backward()


def reinforce(
    model: Any, tokenizer: Any, asked: Sequence[Problem], *, seed: int, steps: int
) -> list[tuple[int, float, float, float]]:
    """Trains the adapter in place, with `PROBLEMS` new problems a step.

    Returns (step, mean reward, learning rate, seconds) of every step.
    """
    runner = sampler(model, tokenizer)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0)
    start = time.monotonic()
    curve: list[tuple[int, float, float, float]] = []
    for step in range(steps):
        rate = LEARNING_RATE * min(1.0, (step + 1) / 3) * (1 - step / steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = asked[step * PROBLEMS : (step + 1) * PROBLEMS]
        questions = [problem.question for problem in batch]
        replies = sample(runner, questions, GROUP, seed=seed + step, temperature=1.0, max_new_tokens=MAX_NEW_TOKENS)
        rewards = [[reward(problem, reply) for reply in group] for problem, group in zip(batch, replies, strict=True)]
        work = []
        for problem, group, gains in zip(batch, replies, advantages(rewards), strict=True):
            chat = [{"role": "user", "content": problem.question}]
            text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
            learnt = [(reply.token_ids, gain) for reply, gain in zip(group, gains, strict=True) if gain]
            work += [(prompt, learnt)] if learnt else []
        if work:
            update(model, work)
            torch.nn.utils.clip_grad_norm_(weights, COLD_SCHEDULE.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        mean = statistics.fmean(value for group in rewards for value in group)
        curve.append((step + 1, mean, rate, time.monotonic() - start))
        right = statistics.fmean(value >= 1 for group in rewards for value in group)
        length = statistics.fmean(len(reply.token_ids) for group in replies for reply in group)
        print(
            f"step {step + 1}/{steps}  reward {mean:.3f}  right {right:.3f}  {length:.0f} tokens  "
            f"{len(work)} problems learnt from  {curve[-1][3]:.0f} s",
            flush=True,
        )
    model.eval()
    return curve


def main() -> None:
    options = arguments("Train demo:rl.", output=ADAPTERS / "rl", seed=SEED)
    if options.evaluate:
        compare("rl", options.base, options.output)
        return
    model, tokenizer = load_base(options.base)
    adapted = load_adapter(model, ADAPTERS / "aligned", trainable=True)
    steps = options.max_steps or STEPS
    asked = new_problems(COLD_START + steps * PROBLEMS, options.seed)
    train(adapted, tokenizer, [chat(problem) for problem in asked[:COLD_START]], COLD_SCHEDULE, seed=options.seed)
    measure("after the cold start", adapted, tokenizer)
    save_adapter(adapted, options.output / "cold_start", [], ABOUT, parent="demo:aligned")
    curve = reinforce(adapted, tokenizer, asked[COLD_START:], seed=options.seed, steps=steps)
    save_adapter(adapted, options.output, curve, ABOUT, parent="demo:aligned")


if __name__ == "__main__":
    main()
