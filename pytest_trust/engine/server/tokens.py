"""A server's tokens in the ids of a model that is loaded here.

A server names the most likely tokens at each token of its response. They are looked up in the loaded model's vocabulary
by their ids, or by their text where the server returns no ids. A likely token that is not found counts to the tail,
which can only lower the bound. A response is not measured when one of its own tokens is not found, or when its tokens
do not spell its text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_trust.engine.server.logprobs import Place, Token
from pytest_trust.engine.server.protocol import TOP_LOGPROBS

if TYPE_CHECKING:
    from pytest_trust.engine.top_k import TopK

_WIDTH = TOP_LOGPROBS + 1  # on a text that it did not write, a server adds the text's token to the most likely ones
_SMALLEST_TAIL = 1e-9  # probabilities that are rounded to float32 may add up to a little more than 1


def as_top_k(places: Sequence[Place], vocabulary: LoadedTokens) -> TopK:
    """The places of a text as a top k in the vocabulary's ids.

    A row with fewer tokens repeats its first one, which changes no result. The entropy is a lower bound: it takes the
    tail for one token.
    """
    import torch

    from pytest_trust.engine.top_k import TopK

    rows = [vocabulary.known(place)[:_WIDTH] for place in places]
    tails = [max(_SMALLEST_TAIL, 1 - sum(math.exp(value) for _, value in row)) for row in rows]
    entropies = [
        -sum(value * math.exp(value) for _, value in row) - tail * math.log(tail)
        for row, tail in zip(rows, tails, strict=True)
    ]
    full = [[*row, *[row[0]] * (_WIDTH - len(row))] for row in rows]
    return TopK(
        torch.tensor([[index for index, _ in row] for row in full], dtype=torch.int32),
        torch.tensor([[value for _, value in row] for row in full], dtype=torch.float32),
        torch.tensor(tails, dtype=torch.float32).log(),
        torch.tensor([min(0.0, place.label.log_p) for place in places], dtype=torch.float32),
        torch.tensor(entropies, dtype=torch.float32),
    )


class LoadedTokens:
    """The loaded model's tokens, by id and by text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def spelt(self, places: Sequence[Place], response: Any) -> dict[str, Any] | None:
        """The ids of a response, and the index of its answer's first token.

        None where a token is not in this vocabulary, or where the ids do not spell the response.
        """
        ids = [self.id_of(place.label) for place in places]
        if not ids or min(ids) < 0 or any(not self.known(place) for place in places):
            return None
        said = response.answer.strip()
        # An end token is a special token that is not in the text. A think marker may be special, and in the text too.
        if not said or not any(_bare(self._decode(ids, skip)).endswith(_bare(said)) for skip in (True, False)):
            return None
        if not response.reasoning:
            return {"ids": ids, "answer_start": 0}
        text = self._decode(ids)
        place = text.rfind(said.split("\n\n")[0])
        before = place if place >= 0 else len(text)
        start = next((count for count in range(len(ids)) if len(self._decode(ids[: count + 1])) > before), len(ids))
        return {"ids": ids, "answer_start": start}

    def known(self, place: Place) -> list[tuple[int, float]]:
        """Ids and log-probabilities of those of a place's most likely tokens that are in this vocabulary."""
        found: dict[int, float] = {}
        for token in place.known:
            index = self.id_of(token)
            if index >= 0 and not math.isinf(token.log_p):
                found.setdefault(index, min(0.0, token.log_p))
        return list(found.items())

    def id_of(self, token: Token) -> int:
        """A token's id in this vocabulary.

        -1 where the vocabulary has no such token, has several with this text, or has another text under this id.
        """
        if token.id < 0:
            return self._by_text.get(token.text, -1)
        if token.id >= self._size:
            return -1
        text = self._text(token.id)
        # `spelt` checks ids without a text by the whole response. A part of a character has no text of its own.
        same = not token.text or "\ufffd" in text or text.strip() == token.text.strip()
        return token.id if same else -1

    @cached_property
    def _size(self) -> int:
        return len(self._tokenizer)

    @cached_property
    def _by_text(self) -> dict[str, int]:
        texts = [self._text(index) for index in range(self._size)]
        counts = Counter(texts)
        return {text: index for index, text in enumerate(texts) if counts[text] == 1 and "\ufffd" not in text}

    def _text(self, index: int) -> str:
        if index not in self._texts:
            self._texts[index] = self._decode([index])
        return self._texts[index]

    def _decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        return str(
            self._tokenizer.decode(list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False)
        )


def _bare(text: str) -> str:
    """The text without white space. Servers strip it at both ends; some tokenizers add it between special tokens."""
    return "".join(text.split())
