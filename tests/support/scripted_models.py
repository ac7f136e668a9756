"""Real transformers models whose answer is known: a Llama whose weights are a chain of words.

Every layer is zero, so the hidden state of a token is its embedding, and the head maps each word of the answer to the
next one, the last to the end token, and every other token to the first word. Nothing is mocked: such a model is saved,
loaded, fingerprinted, batched and compared as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}<assistant>"


def scripted_model(
    directory: Path,
    answer: str,
    *,
    sharpness: float = 12.0,
    template: str | None = TEMPLATE,
    then: Mapping[str, str] | None = None,
) -> Path:
    """Save a model that answers every prompt with `answer`, whose words must be distinct.

    `sharpness`: the logit of the chain's token.

    `then`: words and what follows them, in place of the chain or beside it.
    """
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = answer.split()
    assert len(set(words)) == len(words), "a chain cannot visit a word twice"
    # one vocabulary for all scripted models, so that their divergence is defined
    vocabulary = ["<unk>", "<end>", "<assistant>", "<user>", "<system>", *VOCABULARY]
    assert set(words) <= set(vocabulary), f"add {set(words) - set(vocabulary)} to VOCABULARY"
    ids = {word: index for index, word in enumerate(vocabulary)}
    size = len(vocabulary)
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", pad_token="<end>")
    fast.chat_template = template
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size + size % 2,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=ids["<end>"],
        pad_token_id=ids["<end>"],
    )
    model = LlamaForCausalLM(config)
    width = config.hidden_size
    chain = dict(zip(words, [*words[1:], "<end>"], strict=True)) | dict(then or {})
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1.0)
        for word, index in ids.items():
            model.model.embed_tokens.weight[index, index] = 1.0
            # the norm scales a one-hot embedding to sqrt(width)
            model.lm_head.weight[ids[chain.get(word, words[0])], index] += sharpness / width**0.5
    model.generation_config.eos_token_id = ids["<end>"]
    model.generation_config.pad_token_id = ids["<end>"]
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


VOCABULARY = tuple(
    dict.fromkeys(
        [
            "I",
            "cannot",
            "help",
            "with",
            "that",
            "request",
            "sorry",
            ".",
            "Sure",
            "here",
            "is",
            "how",
            "you",
            "do",
            "it",
            "the",
            "number",
            "was",
            "12",
            "4417",
            "No",
            "Yes",
            "agree",
            "disagree",
            "<think>",
            "</think>",
            "first",
            "add",
            "answer",
            "good",
            "bad",
            "wrong",
            "<plan>",
            "</plan>",
            "code",
            "471193",
        ]
    )
)
