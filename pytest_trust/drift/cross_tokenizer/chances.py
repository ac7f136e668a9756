"""One model's log-probabilities of a text: of its tokens, of the ends of its words, and of its end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_trust.errors import InvalidInput
from pytest_trust.models.context_windows import WINDOW_TOO_LARGE, Window, batches, padded, window_sizes, windows
from pytest_trust.models.heads import head_of
from pytest_trust.models.hidden_states import check_head, response_hidden
from pytest_trust.models.memory import halving

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from pytest_trust.models.heads import Head

    Floats = NDArray[np.float64]

# Tokens whose logits exist at once.
_CHUNK_TOKENS = 128

# White space at the beginning of a token: as it is, in byte-level BPE, in SentencePiece, and as SentencePiece's bytes.
_BLANK = (" ", "\n", "\t", "\r", "Ġ", "Ċ", "ĉ", "č", "▁", "<0x20>", "<0x0A>", "<0x09>", "<0x0D>")


@dataclass(frozen=True, slots=True)
class Chances:
    """One model's log-probabilities of a tokenized text, in nats, float64."""

    tokens: Floats
    """[tokens]: of each token given those before."""
    word: Floats
    """[tokens + 1]: that the next token begins with white space, before each token and after the last."""
    end: float
    """That the text ends after its last token."""


def ends_of_tokens(tokenizer: Any, text: str, name: str = "the model") -> list[int]:
    """The place in the text where each token ends, in characters.

    A token that ends inside a character gets -1 or less, no two the same: no boundary of another tokenization equals
    it. So does a token that ends behind the beginning of the next one.

    Raises:
        InvalidInput: a tokenizer without offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InvalidInput(
            f"{name}: its tokenizer does not tell where its tokens are; use the fast one of transformers"
        )
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    following = [start for start, _ in offsets[1:]] + [len(text)]
    return [
        end if end <= after else -1 - index
        for index, ((_, end), after) in enumerate(zip(offsets, following, strict=True))
    ]


def blank_tokens(tokenizer: Any, size: int) -> list[int]:
    """Ids below `size` whose text begins with white space.

    An empty list means that the tokenizer splits texts into words first, so that every token may begin a word.
    """
    return sorted(
        index for token, index in tokenizer.get_vocab().items() if index < size and str(token).startswith(_BLANK)
    )


def chances(
    head: Head, hidden: torch.Tensor, tokens: Sequence[int], blanks: Sequence[int], ends: Sequence[int]
) -> tuple[Floats, Floats, Floats]:
    """Three log-probabilities at each state of [tokens, hidden size], in nats, each [tokens].

    They are those of the token that follows, of any token among `blanks`, and of any token among `ends`. An empty list
    stands for all tokens and gives 0. The logits exist for a chunk of tokens at a time.
    """
    import torch

    device = head.weight.device
    groups = [torch.tensor(list(ids), device=device, dtype=torch.long) for ids in (blanks, ends)]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(tokens), _CHUNK_TOKENS):
            logits = head.logits(hidden[start : start + _CHUNK_TOKENS]).float()
            total = logits.logsumexp(-1)
            label = torch.tensor(tokens[start : start + _CHUNK_TOKENS], device=device)
            columns = [logits.gather(-1, label[:, None])[:, 0] - total]
            columns += [logits[:, ids].logsumexp(-1) - total if len(ids) else torch.zeros_like(total) for ids in groups]
            parts.append(torch.stack(columns).double().cpu())
    if not parts:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    whole = torch.cat(parts, 1).numpy()
    return whole[0], whole[1], whole[2]


def chances_of_texts(
    name: str, loaded: tuple[Any, Any], texts: Sequence[str], batch_size: int, window: int | None, stride: int | None
) -> tuple[list[Chances], list[bool]]:
    """A model's log-probabilities of each text behind a beginning token, and whether the text was read in windows.

    Raises:
        InvalidInput: a text with unknown tokens, a tokenizer with neither a beginning nor an end token, a probability
            that is not above 0, or a head that `check_head` refuses.
    """
    model, tokenizer = loaded
    head = head_of(model)
    check_head(model, head)
    length, step = window_sizes([model], window, stride)
    blanks = blank_tokens(tokenizer, head.vocabulary)
    pieces: list[Window] = []
    for index, text in enumerate(texts):
        encoded = _encoded(name, tokenizer, index, text)
        row = (*encoded, encoded[0])  # The last token is not read. The state before it predicts what follows the text.
        pieces += windows(index, row, (False,) * len(row), length, step)
    columns: list[list[list[float]]] = [[[], []] for _ in texts]
    parts: dict[int, tuple[Floats, Floats]] = {}

    def measure(chosen: Sequence[int]) -> list[tuple[Floats, Floats]]:
        ids, attended, response = padded([pieces[index] for index in chosen])
        found = chances(head, response_hidden(model, ids, attended, response), ids[response].tolist(), blanks, ())
        ends = list(itertools.accumulate((sum(pieces[index].measured) for index in chosen), initial=0))
        return [(found[0][start:stop], found[1][start:stop]) for start, stop in itertools.pairwise(ends)]

    for batch in batches(pieces, batch_size):
        parts.update(zip(batch, halving(batch, measure, too_much=WINDOW_TOO_LARGE), strict=True))
    for index, piece in enumerate(pieces):  # in order of the text
        for column, values in zip(columns[piece.text], parts[index], strict=True):
            column.extend(values)
    result = []
    for index, (tokens, word) in enumerate(columns):
        one = Chances(np.array(tokens[:-1]), np.array(word), 0.0)
        if not np.isfinite(one.tokens).all():
            raise InvalidInput(
                f"{name}: the probability of text {index} is not a number above 0; check the model's weights and dtype"
            )
        result.append(one)
    return result, [sum(piece.text == index for piece in pieces) > 1 for index in range(len(texts))]


def _encoded(name: str, tokenizer: Any, index: int, text: str) -> tuple[int, ...]:
    """The text's ids, behind a token that stands for its beginning."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not isinstance(start, int):
        raise InvalidInput(
            f"{name}: its tokenizer has neither a bos_token nor an eos_token to read a text behind; set one"
        )
    ids = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    if not ids or tokenizer.unk_token_id in ids:
        raise InvalidInput(
            f"{name}: text {index} has tokens that its tokenizer does not know; their bytes would be lost"
        )
    return (start, *ids)
