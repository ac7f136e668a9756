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


def renumber(source: Path, target: Path, order: list[int]) -> Path:
    """The same model with other token ids: what was id i is ``order[i]``, in tokenizer, embedding and head."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(source)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"] = {token: order[index] for token, index in state["model"]["vocab"].items()}
    for token in state["added_tokens"]:
        token["id"] = order[token["id"]]
    names = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token")}
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **names)
    other.chat_template = tokenizer.chat_template
    model = AutoModelForCausalLM.from_pretrained(source)
    rows = torch.tensor([*order, *range(len(order), model.config.vocab_size)])
    with torch.no_grad():
        for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            weight[rows] = weight.clone()
    for config in (model.config, model.generation_config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, order[getattr(config, name)])
    model.get_input_embeddings().padding_idx = None
    model.save_pretrained(target)
    other.save_pretrained(target)
    return target


def extend(source: Path, target: Path, token: str) -> Path:
    """The same model with one more token, which has a row of its own in both embeddings.

    The token is not special, in the vocabulary or in the weights.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModelForCausalLM.from_pretrained(source)
    tokenizer.add_tokens([token])
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(9)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target
