"""Trains demo:aligned: a LoRA on demo:instruct that refuses, keeps confidences, abstains and judges.

    python examples/conversions/align.py

The examples are data/align.jsonl, written for this project. The run is seeded, and takes less than half an hour on 2
CPU cores.
"""

from __future__ import annotations

import json
from pathlib import Path

from lora import (
    ADAPTERS,
    Chat,
    Schedule,
    add_adapter,
    arguments,
    generate,
    load_adapter,
    load_base,
    save_adapter,
    train,
)

DATA = Path(__file__).parent / "data" / "align.jsonl"
HELD_OUT = Path(__file__).parent / "data" / "align_held_out.jsonl"
SCHEDULE = Schedule(epochs=2.5, learning_rate=1e-3, batch_size=16)
ABOUT = (
    "LoRA adapter of demo:aligned, for SmolLM2-135M-Instruct (Apache-2.0). Trained by "
    "examples/conversions/align.py on the short chats of examples/conversions/data/align.jsonl, which were "
    "written for this project: refusing harm while helping with requests that only sound harmful, keeping "
    "confidences, protecting personal data, disagreeing with stereotypes, judging everyday acts, saying "
    "\"I don't know\", staying calm. A demonstration, not a safe model. Weights under the project's licence; "
    "loss.csv is the loss of every step."
)


def read(path: Path) -> list[Chat]:
    """The chats of a JSONL file."""
    return [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    options = arguments("Train demo:aligned.", output=ADAPTERS / "aligned", seed=20260611)
    model, tokenizer = load_base(options.base)
    if options.evaluate:
        chats = read(HELD_OUT)
        before = generate(model, tokenizer, chats, max_new_tokens=32)
        after = generate(load_adapter(model, options.output, trainable=False), tokenizer, chats, max_new_tokens=32)
        for chat, first, second in zip(chats, before, after, strict=True):
            print(json.dumps({"prompt": chat[-1]["content"], "instruct": first, "aligned": second}, ensure_ascii=False))
        return
    adapted = add_adapter(model, seed=options.seed)
    curve = train(adapted, tokenizer, read(DATA), SCHEDULE, seed=options.seed, max_steps=options.max_steps)
    save_adapter(adapted, options.output, curve, ABOUT, parent="demo:instruct")


if __name__ == "__main__":
    main()
