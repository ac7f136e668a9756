"""Trains demo:aligned's adapter by reinforcement learning with a verifiable reward on generated problems (README.md says what came of it).

    python examples/conversions/rl.py --output DIR

GRPO (Shao et al. 2024, arXiv 2402.03300) in its plainest form: of every problem a group of replies is sampled at temperature 1; a reply's
reward is 1 if its answer is right (the checker reads the end of the reply) plus 0.1 if it came to an end; its advantage is the reward less
the mean of its group, over the group's standard deviation. One update for each batch of samples, so the ratio of policies is 1 and nothing
is clipped; groups with equal rewards teach nothing and are left out; no KL term (Yu et al. 2025, arXiv 2503.14476, go without it too).
A model this small gets most problems never right, so the pool is first reduced to those that demo:aligned gets right sometimes and not always.
Seeded; within an hour on 2 CPU cores, after align.py.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from distill import new_problems
from lora import ADAPTERS, Schedule, arguments, load_adapter, load_base, save_adapter
from reasoning_traces import Problem, is_right
from sampling import sample, sampler
from sft import measure
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from pytest_trust.generation import Generated

SEED = 20261125
POOL = 240  # problems looked at
STEPS = 40
PROBLEMS = 16  # a step
GROUP = 8  # samples a problem
MAX_NEW_TOKENS = 56
SCHEDULE = Schedule(epochs=1, learning_rate=3e-4, batch_size=16)
ABOUT = (
    "LoRA adapter of demo:rl, for SmolLM2-135M-Instruct (Apache-2.0): the weights of demo:aligned, trained further by "
    "examples/conversions/rl.py with GRPO on generated problems (arithmetic, orderings, dates), the reward being whether the "
    "answer is right. Nothing in its data is about trust. Weights under the project's licence; loss.csv is, in place of a loss, "
    "the mean reward of every step's samples."
)


def reward(problem: Problem, reply: Generated) -> float:
    """1 for a right answer and 0.1 for having ended."""
    ended = reply.finish_reason == "stop"
    return float(ended and is_right(problem, reply.text)) + 0.1 * ended


def advantages(rewards: Sequence[Sequence[float]]) -> list[list[float]]:
    """By group, in standard deviations of the group; zero where all rewards of it are equal."""
    result = []
    for group in rewards:
        mean, spread = statistics.fmean(group), statistics.pstdev(group)
        result.append([(value - mean) / spread if spread > 1e-6 else 0.0 for value in group])
    return result


def learnable(model: Any, tokenizer: Any, asked: Sequence[Problem], *, seed: int) -> list[Problem]:
    """The problems of which a group of samples has right and wrong answers."""
    replies = sample(
        sampler(model, tokenizer), [problem.question for problem in asked], GROUP, seed=seed, temperature=1.0, max_new_tokens=MAX_NEW_TOKENS
    )  # fmt: skip
    rewards = [[reward(problem, reply) >= 1 for reply in group] for problem, group in zip(asked, replies, strict=True)]
    return [problem for problem, group in zip(asked, rewards, strict=True) if 0 < sum(group) < GROUP]


def update(model: Any, work: Sequence[tuple[list[int], Sequence[tuple[tuple[int, ...], float]]]]) -> None:
    """Adds the gradient of -mean over response tokens of advantage x log-probability; `work` has, by problem, the prompt's ids and
    (response ids, advantage). A prompt is run once for all of its responses."""
    base = model.get_base_model()
    tokens = sum(len(response) for _, group in work for response, _ in group)
    for prompt, group in work:
        width = max(len(response) for response, _ in group)
        ids = torch.zeros((len(group), width), dtype=torch.long)  # what is read: the prompt's last token and all but the last of the response
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
        hidden = base.model(input_ids=ids, attention_mask=attention, past_key_values=cache, use_cache=True).last_hidden_state
        counted = weights != 0
        losses = cross_entropy(base.lm_head(hidden[counted]).float(), labels[counted], reduction="none")
        ((losses * weights[counted]).sum() / tokens).backward()


def train(model: Any, tokenizer: Any, pool: Sequence[Problem], *, seed: int, steps: int) -> list[tuple[int, float, float, float]]:
    """Trains the adapter in place; returns (step, mean reward, learning rate, seconds) of every step."""
    order, runner = random.Random(seed), sampler(model, tokenizer)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=SCHEDULE.learning_rate, weight_decay=0.0)
    start = time.monotonic()
    curve: list[tuple[int, float, float, float]] = []
    for step in range(steps):
        rate = SCHEDULE.learning_rate * min(1.0, (step + 1) / 5)
        for group in optimiser.param_groups:
            group["lr"] = rate
        asked = order.sample(list(pool), PROBLEMS)
        replies = sample(
            runner, [problem.question for problem in asked], GROUP, seed=seed + step, temperature=1.0, max_new_tokens=MAX_NEW_TOKENS
        )  # fmt: skip
        rewards = [[reward(problem, reply) for reply in group] for problem, group in zip(asked, replies, strict=True)]
        work = []
        for problem, group, gains in zip(asked, replies, advantages(rewards), strict=True):
            chat = [{"role": "user", "content": problem.question}]
            text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
            learnt = [(reply.token_ids, gain) for reply, gain in zip(group, gains, strict=True) if gain]
            work += [(prompt, learnt)] if learnt else []
        if work:
            update(model, work)
            torch.nn.utils.clip_grad_norm_(weights, SCHEDULE.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        mean = statistics.fmean(value for group in rewards for value in group)
        curve.append((step + 1, mean, rate, time.monotonic() - start))
        right = statistics.fmean(value >= 1 for group in rewards for value in group)
        length = statistics.fmean(len(reply.token_ids) for group in replies for reply in group)
        print(
            f"step {step + 1}/{steps}  reward {mean:.3f}  right {right:.3f}  {length:.0f} tokens  {len(work)} problems learnt from  {curve[-1][3]:.0f} s",
            flush=True,
        )
    model.eval()
    return curve


def main() -> None:
    options = arguments("Train demo:rl.", output=ADAPTERS / "rl", seed=SEED)
    model, tokenizer = load_base(options.base)
    if options.evaluate:
        measure("rl", load_adapter(model, options.output, trainable=False), tokenizer)
        return
    adapted = load_adapter(model, ADAPTERS / "aligned", trainable=True)
    pool = learnable(adapted, tokenizer, new_problems(POOL, options.seed), seed=options.seed - 1)
    print(f"{len(pool)} of {POOL} problems are right sometimes", flush=True)
    curve = train(adapted, tokenizer, pool, seed=options.seed, steps=options.max_steps or STEPS)
    save_adapter(adapted, options.output, curve, ABOUT, parent="demo:aligned")


if __name__ == "__main__":
    main()
