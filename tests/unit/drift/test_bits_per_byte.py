"""Bits per byte of a text under models whose tokenizers differ."""

from __future__ import annotations

import math

import pytest
import torch

from pytest_trust.drift.cross_tokenizer.bits_per_byte import bits_per_byte
from pytest_trust.errors import InvalidInput
from tests.support.tiny_models import save_model, save_tokenizer

TEXTS = ["The nurse said that she would come back.", "Is it wrong to keep what you found — é?", "Sure. " * 30]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models whose tokenizers cut differently."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = []
    for seed, vocabulary in ((0, 400), (1, 290)):
        directory = save_model(tmp_path_factory.mktemp("models") / str(seed), seed=seed, vocab_size=400)
        save_tokenizer(directory, vocabulary=vocabulary)
        found.append((AutoModelForCausalLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)))
    return found


def bits(model, tokenizer, text):
    """From plain logits in float64, every token of the text behind the beginning token."""
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        log_p = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    return -log_p.gather(-1, ids[0, 1:, None]).sum().item() / math.log(2)


def test_agrees_with_the_definition_whatever_the_tokenizer(models):
    fewer, more = (len(tokenizer(TEXTS[0])["input_ids"]) for _, tokenizer in models)
    assert fewer < more
    found = bits_per_byte(*models, TEXTS, batch_size=2)
    size = sum(len(text.encode()) for text in TEXTS)
    assert (found.bytes, found.texts, found.windowed) == (size, 3, 0)
    expected = [sum(bits(*side, text) for text in TEXTS) / size for side in models]
    assert float(found.a) == pytest.approx(expected[0], rel=1e-5)
    assert float(found.b) == pytest.approx(expected[1], rel=1e-5)
    assert float(found.difference) == pytest.approx(expected[0] - expected[1], rel=1e-3)
    assert found.a.unit == "bits per byte"
    assert found.difference.lower_limit < found.difference.upper_limit
    with pytest.raises(TypeError, match=r"found.difference <="):
        bool(found)


def test_a_model_against_itself_differs_by_nothing(models):
    assert float(bits_per_byte(models[0], models[0], TEXTS).difference) == 0.0


def test_long_texts_are_read_in_windows_and_counted(models):
    whole, cut = (bits_per_byte(*models, TEXTS, window=window) for window in (None, 16))
    assert cut.windowed == 3
    assert cut.bytes == whole.bytes
    assert float(cut.a) != float(whole.a)  # less is known of what came before
    model, tokenizer = models[0]
    ids = [tokenizer.bos_token_id, *tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]]
    total, first = 0.0, 1
    for end in (16, *range(24, len(ids), 8), len(ids)):
        start = max(0, end - 16)
        with torch.no_grad():
            log_p = (
                model(input_ids=torch.tensor([ids[start : end - 1]]))
                .logits[0, first - 1 - start :]
                .double()
                .log_softmax(-1)
            )
        total -= sum(log_p[place, token].item() for place, token in enumerate(ids[first:end])) / math.log(2)
        first = end
    alone = bits_per_byte(*models, TEXTS[:1], window=16)
    assert float(alone.a) == pytest.approx(total / len(TEXTS[0]), rel=1e-4)


def test_bad_input(models):
    import copy

    with pytest.raises(InvalidInput, match="no texts"):
        bits_per_byte(*models, [])
    model, tokenizer = models[0]
    silent = copy.deepcopy(tokenizer)
    silent.bos_token = silent.eos_token = None
    with pytest.raises(InvalidInput, match=r"^b: its tokenizer has neither a bos_token nor an eos_token"):
        bits_per_byte(models[1], (model, silent), TEXTS)
    unknowing = copy.deepcopy(tokenizer)
    unknowing.unk_token = "e"
    with pytest.raises(InvalidInput, match=r"^a: text 0 has tokens that its tokenizer does not know"):
        bits_per_byte((model, unknowing), models[1], ["e"])
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.get_input_embeddings().weight[300:] = math.nan
    with pytest.raises(InvalidInput, match=r"^a: the probability of text 0 is not a number above 0"):
        bits_per_byte((broken, tokenizer), models[1], TEXTS)
