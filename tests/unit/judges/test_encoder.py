"""The encoder of the refusal and toxicity judges: its packing, its sub-words, and the meaning of its directions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_trust.judges.encoder import GROUP, MAX_TOKENS, pack, shipped_encoder, unpack


@pytest.mark.parametrize("shape", [(1, GROUP), (3, 2 * GROUP), (5, 8 * GROUP)])
def test_packing_errs_by_at_most_half_a_step(shape: tuple[int, int]) -> None:
    weights = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    packed, scales = pack(weights)
    assert packed.dtype == np.uint8
    assert packed.shape == (shape[0], shape[1] // 2)
    # half a step, and the rounding of the scale to float16 on the largest of seven steps
    limit = scales.astype(np.float32).repeat(GROUP, axis=1) * (0.5 + 7 * 2**-10)
    assert (np.abs(unpack(packed, scales) - weights) <= limit).all()


def test_zeros_are_packed_exactly() -> None:
    assert not unpack(*pack(np.zeros((2, GROUP), np.float32))).any()


def test_words_are_cut_into_the_longest_known_pieces() -> None:
    encoder = shipped_encoder()
    names = {index: token for token, index in encoder.vocabulary.items()}
    assert [names[i] for i in encoder.tokens("the train is late!")] == "[CLS] the train is late ! [SEP]".split()
    pieces = [names[i] for i in encoder.tokens("unfriendliness")][1:-1]
    assert len(pieces) > 1
    assert pieces[0] + "".join(piece.removeprefix("##") for piece in pieces[1:]) == "unfriendliness"
    assert [names[i] for i in encoder.tokens("\u597d")] == ["[CLS]", "[UNK]", "[SEP]"]


@given(st.text(max_size=400))
def test_any_text_has_a_finite_state_of_bounded_length(text: str) -> None:
    encoder = shipped_encoder()
    assert 2 <= len(encoder.tokens(text)) <= MAX_TOKENS
    assert np.isfinite(encoder(text)).all()


def cosine(a: str, b: str) -> float:
    x, y = (shipped_encoder()(text) - shipped_encoder()("it") for text in (a, b))
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("the doctor treated the patient", "a nurse helped a sick man", "the car needs a new engine"),
        ("i will not help you with that", "i refuse to assist", "the soup is ready"),
        ("you are a stupid idiot", "what a dumb moron", "the meeting starts at nine"),
    ],
)
def test_sentences_of_like_meaning_are_nearer(text: str, near: str, far: str) -> None:
    assert cosine(text, near) > cosine(text, far)
