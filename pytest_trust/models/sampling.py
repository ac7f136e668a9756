"""The next token of each row of a batch: the likeliest one, or a sample.

A sample is the inverse of the cumulative distribution at a number of the row's own generator. It depends on neither the
other rows nor the global seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_trust.responses import Generation

if TYPE_CHECKING:
    import torch

# Tokens in a block of the vocabulary, where a sample is searched block by block.
_BLOCK = 256

# Number of most likely tokens among which the nucleus of top-p is searched first.
_NUCLEUS = 1024


class Draws:
    """A row's own uniform random numbers, one a token."""

    def __init__(self, seed: int, generation: Generation, drawn: int = 0) -> None:
        self._random = None if generation.greedy else random.Random(seed)
        for _ in range(0 if self._random is None else drawn):
            self.next()

    def next(self) -> float:
        assert self._random is not None
        return self._random.random()


def choose_tokens(
    logits: torch.Tensor, draws: Sequence[Draws], generation: Generation, read: Sequence[Sequence[int]] = ()
) -> torch.Tensor:
    """The next token of each row, [rows], from logits [rows, vocabulary].

    It is the most likely one, or a sample after temperature, top-k, top-p and min-p in this order. A repetition penalty
    comes before them; `read` then has the token ids of each row's prompt and response. The order is that of
    transformers' `generate`.
    """
    import torch

    scores = logits.float()
    if generation.repetition_penalty != 1:
        scores = _penalised(scores, read, generation.repetition_penalty)
    if generation.greedy:
        return scores.argmax(-1)
    scores = scores / generation.temperature
    numbers = torch.tensor([draw.next() for draw in draws], dtype=torch.float64, device=logits.device)[:, None]
    if not generation.top_k and generation.top_p == 1:
        if generation.min_p:
            least = scores.amax(-1, keepdim=True) + math.log(generation.min_p)
            scores = scores.masked_fill(scores < least, float("-inf"))
        return _invert_by_blocks(scores, numbers)
    scores, order = _nucleus(scores, generation)
    probabilities = scores.double().softmax(-1)
    if generation.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= generation.top_p, 0.0)
    if generation.min_p:
        least = generation.min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    reached = probabilities.cumsum(-1)
    return order.gather(-1, _invert(reached, numbers * reached[:, -1:]))[:, 0]


def _penalised(scores: torch.Tensor, read: Sequence[Sequence[int]], penalty: float) -> torch.Tensor:
    """The scores with those of tokens that were read or written before made smaller."""
    import torch

    scores = scores.clone()
    for row, ids in zip(scores, read, strict=True):
        seen = torch.tensor(sorted(set(ids)), dtype=torch.long, device=scores.device)
        row[seen] = torch.where(row[seen] < 0, row[seen] * penalty, row[seen] / penalty)
    return scores


def _invert(reached: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """[rows, 1]: the first place of each row where the running total `reached` [rows, places] is above `mass`."""
    import torch

    # The place must not be behind the last one that has mass, whatever the rounding.
    last = (reached < reached[:, -1:]).sum(-1, keepdim=True)
    return torch.minimum(torch.searchsorted(reached, mass, right=True), last)


def _invert_by_blocks(scores: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """A token of the whole vocabulary for each row: first its block, by float64 totals, then the token in the block.

    A running total in float64 over the whole vocabulary would cost as much as the head.
    """
    import torch

    masses = (scores - scores.amax(-1, keepdim=True)).exp_()
    if masses.shape[-1] % _BLOCK:
        masses = torch.nn.functional.pad(masses, (0, -masses.shape[-1] % _BLOCK))
    masses = masses.reshape(len(masses), -1, _BLOCK)
    reached = masses.sum(-1, dtype=torch.float64).cumsum(-1)
    mass = numbers * reached[:, -1:]
    block = _invert(reached, mass)
    before = reached.gather(-1, (block - 1).clamp(min=0)) * (block > 0)
    inside = masses[torch.arange(len(masses), device=masses.device), block[:, 0]].double().cumsum(-1)
    return (block * _BLOCK + _invert(inside, mass - before))[:, 0]


def _nucleus(scores: torch.Tensor, generation: Generation) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores in falling order with their ids: the top k, or enough for top-p and one entry for all others.

    Sorting the whole vocabulary at every token would cost as much as the model. The first 1,024 tokens nearly always
    hold the nucleus.
    """
    import torch

    vocabulary = scores.shape[-1]
    if generation.top_k:
        ranked, order = scores.topk(min(generation.top_k, vocabulary))
        return ranked, order
    ranked, order = scores.topk(min(_NUCLEUS, vocabulary))
    log_total = scores.double().logsumexp(-1, keepdim=True)
    held = (ranked.double() - log_total).exp().sum(-1, keepdim=True)
    if bool((held < generation.top_p).any()):
        ranked, order = scores.sort(-1, descending=True)
        return ranked, order
    # The tail is one entry, which top-p then removes. With it the probabilities are those of the whole vocabulary.
    tail = (log_total + torch.log1p(-held.clamp(max=1.0))).to(scores.dtype)
    return torch.cat([ranked, tail], -1), torch.cat([order, order[:, :1]], -1)
