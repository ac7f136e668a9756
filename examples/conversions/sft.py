"""Trains demo:sft: demo:aligned's adapter, trained further on generated reasoning traces and on nothing else.

    python examples/conversions/sft.py

The problems come from reasoning_traces.py. Seeded; under half an hour on 2 CPU cores, after align.py.
"""

from __future__ import annotations

from collections import Counter

from lora import ADAPTERS, Schedule, arguments, generate, load_adapter, load_base, save_adapter, train
from reasoning_traces import TRAINING_SEED, chat, held_out, is_right, training_problems

SCHEDULE = Schedule(epochs=1.5, learning_rate=6e-4, batch_size=16)
ABOUT = (
    "LoRA adapter of demo:sft, for SmolLM2-135M-Instruct (Apache-2.0): the weights of demo:aligned, trained "
    "further by examples/conversions/sft.py on generated reasoning traces only (multi-step arithmetic, "
    "orderings, dates; a short trace in <think> tags, then the answer), as an instruct model is turned into "
    "a reasoning model. Nothing in its data is about trust. Weights under the project's licence; loss.csv is "
    "the loss of every step."
)


def measure(name: str, model: object, tokenizer: object, count: int = 120) -> None:
    """Prints accuracy on held-out problems, and how many traces were opened and closed."""
    asked = held_out(count)
    replies = generate(model, tokenizer, [chat(problem)[:-1] for problem in asked], max_new_tokens=80)
    right = Counter(p.kind for p, reply in zip(asked, replies, strict=True) if is_right(p, reply))
    total = Counter(problem.kind for problem in asked)
    opened = sum("<think>" in reply for reply in replies)
    closed = sum(reply.count("<think>") == reply.count("</think>") == 1 for reply in replies)
    cut = sum(reply.endswith("…") for reply in replies)
    kinds = ", ".join(f"{kind} {right[kind]}/{total[kind]}" for kind in sorted(total))
    print(
        f"{name}: {sum(right.values())}/{count} right ({kinds}); "
        f"traces opened {opened}, closed {closed}; replies cut {cut}",
        flush=True,
    )
    for problem, reply in list(zip(asked, replies, strict=True))[:8]:
        print(f"  {problem.question}\n    {reply!r}  (right: {problem.answer})", flush=True)


def main() -> None:
    options = arguments("Train demo:sft.", output=ADAPTERS / "sft", seed=TRAINING_SEED)
    model, tokenizer = load_base(options.base)
    if options.evaluate:
        measure("aligned", load_adapter(model, ADAPTERS / "aligned", trainable=False), tokenizer)
        model, tokenizer = load_base(options.base)
        measure("sft", load_adapter(model, options.output, trainable=False), tokenizer)
        return
    adapted = load_adapter(model, ADAPTERS / "aligned", trainable=True)
    chats = [chat(problem) for problem in training_problems()]
    curve = train(adapted, tokenizer, chats, SCHEDULE, seed=options.seed, max_steps=options.max_steps)
    save_adapter(adapted, options.output, curve, ABOUT, parent="demo:aligned")


if __name__ == "__main__":
    main()
