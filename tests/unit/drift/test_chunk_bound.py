"""The chunk-level bound: its formula on real tokenizers, and that it is a bound where every probability is known."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_trust.drift.cross_tokenizer.chances import Chances, ends_of_tokens
from pytest_trust.drift.cross_tokenizer.chunk_bound import binary_divergence, chunk_bound, chunk_divergences
from pytest_trust.errors import InvalidInput
from tests.support.tiny_models import save_model, save_tokenizer

TEXTS = ["The nurse said that she would come back.", "Is it wrong to keep\nwhat you  found — é ?", "Sure, here"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models whose tokenizers cut differently."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = []
    for seed, vocabulary in ((0, 400), (1, 290)):
        directory = save_model(tmp_path_factory.mktemp("models") / str(seed), seed=seed, vocab_size=400, scale=1.0)
        save_tokenizer(directory, vocabulary=vocabulary)
        found.append((AutoModelForCausalLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)))
    return found


def binary(p, q):
    return sum(x * math.log(x / y) for x, y in ((p, q), (1 - p, 1 - q)))


def word_chances(model, tokenizer, text):
    """P(c | s) of every word of the text but the last, in float64 from the model's own logits, word by word."""
    blank = [i for t, i in tokenizer.get_vocab().items() if t[0] in "ĠĊĉč"]
    words, start = [], 0
    for end in range(1, len(text)):
        if not text[end - 1].isspace() and text[end].isspace():
            words.append(text[start:end])
            start = end
    ids, found, before = [tokenizer.bos_token_id], [], 1.0

    def next_token():
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)

    for word in words:
        chance = 1.0
        for token in tokenizer(word, add_special_tokens=False)["input_ids"]:
            chance *= next_token()[token].item()
            ids.append(token)
        after = next_token()[blank].sum().item()
        found.append(chance * after / before)
        before = after
    return found


def test_each_word_s_chance_is_the_definition_s(models):
    found = chunk_bound(*models, TEXTS, batch_size=2)
    sides = [[word_chances(*side, text) for text in TEXTS] for side in models]
    expected = [[binary(p, q) for p, q in zip(*pair, strict=True)] for pair in zip(*sides, strict=True)]
    assert [len(one) for one in expected] == [7, 10, 1]
    assert found.chunks == 18
    assert float(found.per_chunk) == pytest.approx(sum(map(sum, expected)) / 18, rel=1e-4)
    assert float(found.per_text) == pytest.approx(sum(map(sum, expected)) / 3, rel=1e-4)
    assert (found.per_chunk.unit, found.per_text.unit) == ("nats per chunk", "nats per text")
    assert found.left_out == len(" back.") + len(" ?") + len(" here")
    assert float(found.per_chunk) > 0
    with pytest.raises(TypeError, match=r"found.per_chunk <="):
        bool(found)


def test_a_model_against_itself_and_windows(models):
    assert float(chunk_bound(models[0], models[0], TEXTS).per_chunk) == 0.0
    whole, cut = (chunk_bound(*models, TEXTS, window=window) for window in (None, 12))
    assert whole.chunks == cut.chunks  # every word is measured once, with less before it
    assert float(whole.per_chunk) != float(cut.per_chunk)


def test_below_the_exact_divergence_where_there_is_one(models):
    """One tokenizer, so KL exists: over the same words it is at least the bound."""
    from pytest_trust.drift.compare import compare_models

    (ours, tokenizer), (theirs, _) = models
    for text in TEXTS[:2]:
        bound = chunk_bound((ours, tokenizer), (theirs, tokenizer), [text])
        exact = compare_models((ours, tokenizer), (theirs, tokenizer), [f"<|im_start|>{text}"])
        assert float(bound.per_text) < float(exact.per_sequence)


def test_bad_input(models):
    with pytest.raises(InvalidInput, match="no text has a word with another after it"):
        chunk_bound(*models, ["Sure."])
    slow = type("Slow", (), {"is_fast": False})()
    with pytest.raises(InvalidInput, match=r"^b: its tokenizer does not tell where its tokens are"):
        ends_of_tokens(slow, "Sure.", "b")


# Where everything is known: texts of one to three words, one model's tokens are whole words, the other's are letters.
WORDS = ("ab", "ac", "b")
LANGUAGE = [words for count in (1, 2, 3) for words in itertools.product(WORDS, repeat=count)]


def pieces(words, letters):
    tokens = []
    for index, word in enumerate(words):
        space = " " if index else ""
        tokens += [space + word[0], *word[1:]] if letters else [space + word]
    return tokens


def chances_under(weights, words, letters):
    """What a model that generates exactly `weights` over the language gives its tokens of a text."""
    cut = {text: pieces(text, letters) for text in LANGUAGE}
    row, tokens, word = cut[words], [], []

    def mass(condition):
        return sum(weight for text, weight in weights.items() if condition(cut[text]))

    for index in range(len(row) + 1):
        begun = mass(lambda one, index=index: one[:index] == row[:index])
        word.append(
            mass(
                lambda one, index=index: one[:index] == row[:index] and one[index : index + 1] and one[index][0] == " "
            )
            / begun
        )
        if index < len(row):
            tokens.append(mass(lambda one, index=index: one[: index + 1] == row[: index + 1]) / begun)
    end = weights[words] / mass(lambda one: one[: len(row)] == row)
    with numpy.errstate(divide="ignore"):
        return Chances(numpy.log(tokens), numpy.log(word), math.log(end)), list(itertools.accumulate(map(len, row)))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 50), min_size=2 * len(LANGUAGE), max_size=2 * len(LANGUAGE)))
def test_in_expectation_it_is_a_lower_bound_of_the_divergence_of_the_texts(numbers):
    p, q = (dict(zip(LANGUAGE, part, strict=True)) for part in (numbers[: len(LANGUAGE)], numbers[len(LANGUAGE) :]))
    p, q = ({text: weight / sum(side.values()) for text, weight in side.items()} for side in (p, q))
    divergence = sum(p[text] * math.log(p[text] / q[text]) for text in LANGUAGE)
    bound = 0.0
    for words in LANGUAGE:
        (ours, ends), (theirs, other) = chances_under(p, words, False), chances_under(q, words, True)
        values, covered = chunk_divergences(" ".join(words), ends, ours, other, theirs, ended=True)
        assert len(values) == len(words)
        assert covered == len(" ".join(words))
        bound += p[words] * values.sum()
    assert 0 <= bound <= divergence + 1e-9


def test_a_text_that_was_cut_leaves_its_last_word_out():
    weights = dict.fromkeys(LANGUAGE, 1 / len(LANGUAGE))
    (ours, ends), (theirs, other) = (chances_under(weights, ("ab", "b", "ac"), letters) for letters in (False, True))
    values, covered = chunk_divergences("ab b ac", ends, ours, other, theirs, ended=False)
    assert len(values) == 2
    assert covered == len("ab b")


@settings(deadline=None, max_examples=60)
@given(st.floats(1e-9, 1.0), st.floats(1e-9, 1.0))
def test_the_binary_divergence(p, q):
    (found,) = binary_divergence(numpy.log([p]), numpy.log([q]))
    assert found >= 0
    expected = sum(x * math.log(x / y) if y else math.inf for x, y in ((p, q), (1 - p, 1 - q)) if x)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
