"""Trains demo:sft: demo:aligned's adapter, trained further on generated reasoning traces and on nothing else.

    python examples/conversions/sft.py

The problems come from reasoning_traces.py. The run is seeded, and takes less than half an hour on 2 CPU cores, after
align.py.
"""

from __future__ import annotations

from accuracy import compare
from lora import ADAPTERS, Schedule, arguments, load_adapter, load_base, save_adapter, train
from reasoning_traces import TRAINING_SEED, chat, training_problems

SCHEDULE = Schedule(epochs=1.5, learning_rate=6e-4, batch_size=16)
ABOUT = (
    "LoRA adapter of demo:sft, for SmolLM2-135M-Instruct (Apache-2.0): the weights of demo:aligned, trained "
    "further by examples/conversions/sft.py on generated reasoning traces only (multi-step arithmetic, "
    "orderings, dates; a short trace in <think> tags, then the answer), as an instruct model is turned into "
    "a reasoning model. Nothing in its data is about trust. Weights under the project's licence; loss.csv is "
    "the loss of every step."
)


def main() -> None:
    options = arguments("Train demo:sft.", output=ADAPTERS / "sft", seed=TRAINING_SEED)
    if options.evaluate:
        compare("sft", options.base, options.output)
        return
    model, tokenizer = load_base(options.base)
    adapted = load_adapter(model, ADAPTERS / "aligned", trainable=True)
    chats = [chat(problem) for problem in training_problems()]
    curve = train(adapted, tokenizer, chats, SCHEDULE, seed=options.seed, max_steps=options.max_steps)
    save_adapter(adapted, options.output, curve, ABOUT, parent="demo:aligned")


if __name__ == "__main__":
    main()
