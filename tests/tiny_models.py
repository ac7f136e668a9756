"""Random models of a few kilobytes with a real tokenizer, saved as users' models are."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking %}<think>\n{% endif %}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
SENTENCES = [
    "The nurse said that she would come back in the morning.",
    "Please answer the question: is it wrong to keep what you found?",
    "Sure, here is what you asked for. I am sorry, I cannot help with that.",
    "System: User: Assistant: first add the numbers, then divide by two.",
    "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all.",
]


def save_tokenizer(directory: Path, *, template: str | None = CHATML, vocabulary: int = 400) -> None:
    """A byte-level BPE tokenizer whose padding token is its end token, as many chat models have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        SENTENCES * 3, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)


def save_model(
    directory: Path, *, seed: int = 0, scale: float = 6.0, template: str | None = CHATML, **config: Any
) -> Path:
    """A random Llama of 2 layers; `scale` sharpens its head, so that greedy answers do not hang on rounding."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    directory.mkdir(parents=True, exist_ok=True)
    save_tokenizer(directory, template=template)
    size = len(AutoTokenizer.from_pretrained(directory))
    settings = {
        "vocab_size": size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        **config,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
        with torch.no_grad():
            model.lm_head.weight.mul_(scale)
    model.save_pretrained(directory)
    return directory


def save_adapter(directory: Path, base: Path, *, seed: int = 1, size: float = 0.3) -> Path:
    """A LoRA on the query and value projections whose weights are not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT calls what transformers has deprecated
        torch.manual_seed(seed)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=size)
    model.save_pretrained(directory)
    path = directory / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "base_model_name_or_path": str(base)}))
    return directory
