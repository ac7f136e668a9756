"""Batched generation: one prefill per prompt, finished rows taken out, samples that do not depend on their batch.

A sample is drawn by inverting the distribution at a number of the row's own generator, so neither the other rows of a batch nor
the global seed matter. A model's own sampling defaults (repetition penalties and the like in generation_config) are not applied:
both sides of a pair are asked in the same way.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pytest_trust.inference import Runner, select_rows
from pytest_trust.jobs import Generation
from pytest_trust.rendering import PLAIN_STOP

if TYPE_CHECKING:
    import torch

    from pytest_trust.masking import Framing
    from pytest_trust.models import LoadedModel

# Rows are taken out when this share of a batch has finished: copying the states for a single row costs more than it saves.
_COMPACT_BELOW = 0.8

# Tokens in a block of the vocabulary, when a sample is looked for by blocks.
_BLOCK = 256

# Most likely tokens among which top-p is looked for first.
_NUCLEUS = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One response to produce; `seed` decides a sample and is not used by greedy decoding.

    `plain`: the prompt is in the plain format (no chat template), so the response ends at the next `User:` line.
    `forced`: token ids that the response begins with, equally many in every row of a batch; they count as its own.
    """

    prompt: tuple[int, ...]
    seed: int = 0
    plain: bool = False
    forced: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Generated:
    """Token ids with the end token, text without it."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: Literal["stop", "length"]


def generate(runner: Runner, rows: Sequence[Row], generation: Generation) -> list[Generated]:
    """Responses to one batch of rows, in order.

    Greedy in float32 the result equals transformers' `generate` token for token and does not depend on the batch; in 16 bits the
    batch composition can change near-ties.
    """
    import torch

    forced = max((len(row.forced) for row in rows), default=0)
    asked = [replace(row, prompt=row.prompt + row.forced, forced=()) for row in rows] if forced else rows
    left = replace(generation, max_new_tokens=max(1, generation.max_new_tokens - forced))
    with torch.inference_mode():
        ids = _generate_shared(runner, asked, left) if runner.shares else _generate_general(runner, asked, left)
    return [finish(runner.loaded, [*row.forced, *tokens], row.plain) for row, tokens in zip(rows, ids, strict=True)]


def _generate_shared(runner: Runner, rows: Sequence[Row], generation: Generation) -> list[list[int]]:
    import torch

    assert runner.head is not None
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    done = runner.prefill(prompts, reserve=generation.max_new_tokens - 1)
    number = {prompt: index for index, prompt in enumerate(prompts)}
    source = torch.tensor([number[row.prompt] for row in rows], device=runner.device)
    state, mask, position, cache = done.hidden[source, -1], done.mask[source], done.lengths[source], done.cache
    if len(prompts) < len(rows):
        select_rows(cache, source)
    draws = [_Draws(row.seed, generation) for row in rows]
    results: list[list[int]] = [[] for _ in rows]
    active = list(range(len(rows)))  # row of each line of the batch; finished lines stay until they are taken out
    ended = [False] * len(rows)
    column = done.mask.shape[1] - (generation.max_new_tokens - 1)
    for step in range(generation.max_new_tokens):
        chosen = choose_tokens(runner.head.logits(state), [draws[row] for row in active], generation)
        for row, token in zip(active, chosen.tolist(), strict=True):
            if not ended[row]:
                results[row].append(token)
                ended[row] = token in runner.loaded.eos_ids
        left = [line for line, row in enumerate(active) if not ended[row]]
        if not left or step + 1 == generation.max_new_tokens:
            break
        if len(left) <= _COMPACT_BELOW * len(active):
            keep = torch.tensor(left, device=runner.device)
            select_rows(cache, keep)
            active = [active[line] for line in left]
            chosen, mask, position = chosen[keep], mask[keep], position[keep]
        mask[:, column] = 1
        column += 1
        state = runner.step(chosen[:, None], mask[:, :column], position[:, None], cache)[:, -1]
        position = position + 1
    return results


def _generate_general(runner: Runner, rows: Sequence[Row], generation: Generation) -> list[list[int]]:
    """transformers' own `generate` on a left-padded batch, for models that do not share."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    width = max(len(row.prompt) for row in rows)
    ids = torch.full((len(rows), width), runner.pad_id, device=runner.device)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, width - len(row.prompt) :] = torch.tensor(row.prompt, device=runner.device)
        mask[index, width - len(row.prompt) :] = 1
    draws = [_Draws(row.seed, generation) for row in rows]

    def sample(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = choose_tokens(scores, draws, generation)
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen[:, None], 0.0)

    configuration: Any = GenerationConfig
    settings = configuration(
        max_new_tokens=generation.max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(runner.loaded.eos_ids) or None,
        pad_token_id=runner.pad_id,
    )
    processors = LogitsProcessorList([] if generation.greedy else [sample])
    model: Any = runner.model
    output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=processors)
    return [_until_end(tokens, runner.loaded.eos_ids) for tokens in output[:, width:].tolist()]


def _until_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """Padding follows the first end token, and may be the same id."""
    stop = next((index + 1 for index, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:stop]


class _Draws:
    """The row's own uniform numbers, one a token."""

    def __init__(self, seed: int, generation: Generation) -> None:
        self._random = None if generation.greedy else random.Random(seed)

    def next(self) -> float:
        assert self._random is not None
        return self._random.random()


def choose_tokens(logits: torch.Tensor, draws: Sequence[_Draws], generation: Generation) -> torch.Tensor:
    """The next token of each row, [rows]: the most likely one, or a sample after temperature, top-k and top-p in this order."""
    import torch

    scores = logits.float()
    if generation.greedy:
        return scores.argmax(-1)
    scores = scores / generation.temperature
    numbers = torch.tensor([draw.next() for draw in draws], dtype=torch.float64, device=logits.device)[:, None]
    if not generation.top_k and generation.top_p == 1:
        return _invert_by_blocks(scores, numbers)
    scores, order = _nucleus(scores, generation)
    probabilities = scores.double().softmax(-1)
    if generation.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= generation.top_p, 0.0)
    reached = probabilities.cumsum(-1)
    return order.gather(-1, _invert(reached, numbers * reached[:, -1:]))[:, 0]


def _invert(reached: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """[rows, 1]: the first place of each row at which the running total `reached` is above `mass`."""
    import torch

    # rounding must not reach past the last place that has mass
    last = (reached < reached[:, -1:]).sum(-1, keepdim=True)
    return torch.minimum(torch.searchsorted(reached, mass, right=True), last)


def _invert_by_blocks(scores: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """A token of the whole vocabulary for each row: first the block of tokens, by float64 totals, then the token in it. A running total in
    float64 over all of the vocabulary would cost as much as the head."""
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
    """Scores in falling order with their ids: the top k, or enough for top-p with everything behind them as one entry.

    Sorting the whole vocabulary at every token would cost as much as the model; 1,024 tokens nearly always hold the nucleus.
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
    # The tail, as one entry that top-p then removes, keeps the probabilities those of the whole vocabulary.
    tail = (log_total + torch.log1p(-held.clamp(max=1.0))).to(scores.dtype)
    return torch.cat([ranked, tail], -1), torch.cat([order, order[:, :1]], -1)


def finish(loaded: LoadedModel, tokens: list[int], plain: bool) -> Generated:
    """A response from its tokens; without an end token it was cut. In the plain format it ends at the next turn."""
    ended = bool(tokens) and tokens[-1] in loaded.eos_ids
    text = decode(loaded, tokens)
    if plain and PLAIN_STOP in text:
        tokens = _cut_at(loaded, tokens, PLAIN_STOP)
        text, ended = text[: text.index(PLAIN_STOP)], True
    return Generated(tuple(tokens), text, "stop" if ended else "length")


def _cut_at(loaded: LoadedModel, tokens: list[int], stop: str) -> list[int]:
    """The fewest tokens whose text holds `stop`."""
    low, high = 1, len(tokens)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if stop in decode(loaded, tokens[:middle]) else (middle + 1, high)
    return tokens[:low]


def decode(loaded: LoadedModel | Framing, tokens: Sequence[int]) -> str:
    """Text of a response. Special tokens stay (reasoning markers are special in some vocabularies) but for those that only frame a text."""
    tokenizer = loaded.tokenizer
    kept = [token for token in tokens if token not in loaded.eos_ids and token != tokenizer.pad_token_id]
    if kept and kept[0] == tokenizer.bos_token_id:
        kept = kept[1:]
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))
