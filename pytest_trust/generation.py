"""Batched generation: one prefill per prompt, waiting rows in the places of finished ones, samples that do not depend on their batch.

A sample is drawn by inverting the distribution at a number of the row's own generator, so neither the other rows of a batch nor
the global seed matter. A model's own sampling defaults (repetition penalties and the like in generation_config) are not applied:
both sides of a pair are asked in the same way.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pytest_trust.inference import LONGEST_TREE, Runner, merge_caches
from pytest_trust.jobs import Generation, Limits
from pytest_trust.rendering import PLAIN_STOP

if TYPE_CHECKING:
    import torch

    from pytest_trust.models import LoadedModel

# Finished rows are taken out, and waiting ones put in their places, when no more than this share of a batch is left: copying the
# states for a single row costs more than it saves.
_COMPACT_BELOW = 0.75

# Steps between looks at whether a row in the plain format has come to the next turn.
_LOOK_EVERY = 8

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


def generate(
    runner: Runner, rows: Sequence[Row], generation: Generation, limits: Limits | None = None
) -> list[Generated]:
    """Responses to rows, in order; see `stream`."""
    found = {index: one for part in stream(runner, rows, generation, limits) for index, one in part}
    return [found[index] for index in range(len(rows))]


def stream(
    runner: Runner, rows: Sequence[Row], generation: Generation, limits: Limits | None = None
) -> Iterator[list[tuple[int, Generated]]]:
    """Responses to rows as they are finished, with the rows' numbers.

    As many rows run at once as the limits allow (all of them without limits); rows that wait take the places of finished ones. Greedy
    in float32 a response equals transformers' `generate` token for token and does not depend on the batch; in 16 bits the batch's
    composition can change near-ties.
    """
    import torch

    limits = limits or Limits(len(rows), sys.maxsize)
    forced = max((len(row.forced) for row in rows), default=0)
    asked = [replace(row, prompt=row.prompt + row.forced, forced=()) for row in rows] if forced else list(rows)
    left = replace(generation, max_new_tokens=max(1, generation.max_new_tokens - forced))
    longest = max((len(row.prompt) for row in asked), default=0)
    shared = runner.shares and longest <= LONGEST_TREE
    with torch.inference_mode():
        parts = _stream_shared(runner, asked, left, limits) if shared else _stream_general(runner, asked, left, limits)
        for part in parts:
            yield [(index, finish(runner.loaded, [*rows[index].forced, *ids], rows[index].plain)) for index, ids in part]


class _Batch:
    """Rows that run together: line by line their number, the tokens they have said, and what the model needs of them."""

    def __init__(self, runner: Runner, rows: Sequence[Row], generation: Generation) -> None:
        self.runner = runner
        self.rows = rows
        self.generation = generation
        self.active: list[int] = []
        self.said: dict[int, list[int]] = {}
        self.over: set[int] = set()
        self._draws: dict[int, _Draws] = {}
        self._cache: Any = None
        self._lengths: Any = None  # [rows]: tokens of each row that are in the cache
        self._columns = 0
        self._next: Any = None  # [rows]: the last token of each row, which the model has not read yet

    @property
    def left(self) -> list[int]:
        """Lines that are not over."""
        return [line for line, number in enumerate(self.active) if number not in self.over]

    def admit(self, numbers: Sequence[int]) -> list[tuple[int, list[int]]]:
        """Take out the lines that are over, which are returned, and add rows with their first tokens."""
        import torch

        device, left = self.runner.device, self.left
        done = [(number, self.said.pop(number)) for number in self.active if number in self.over]
        self.active = [self.active[line] for line in left]
        self.over.clear()
        kept = torch.tensor(left, dtype=torch.long, device=device)
        if numbers:
            prompts = list(dict.fromkeys(self.rows[number].prompt for number in numbers))
            place = {prompt: index for index, prompt in enumerate(prompts)}
            source = torch.tensor([place[self.rows[number].prompt] for number in numbers], device=device)
            fresh = self.runner.prefill(prompts)
            first = self._choose(fresh.last[source], numbers)
        if not self.active and not numbers:
            return done
        if not self.active:
            self._cache, others, lines, added = fresh.cache, None, source, source[:0]
            self._lengths, self._next = fresh.lengths[source], first
        else:
            others, lines, added = (fresh.cache, kept, source) if numbers else (None, kept, kept[:0])
            self._lengths, self._next = self._lengths[kept], self._next[kept]
            if numbers:
                self._lengths = torch.cat([self._lengths, fresh.lengths[source]])
                self._next = torch.cat([self._next, first])
        self.active += numbers
        self._columns = int(self._lengths.max())
        room = self.generation.max_new_tokens - min(len(self.said[number]) for number in self.active)
        merge_caches(self._cache, lines, others, added, columns=self._columns, capacity=self._columns + room)
        return done

    def advance(self) -> None:
        """Run the last tokens, and choose the next ones. Lines that are over go on until they are taken out, and say nothing more."""
        import torch

        self._columns += 1
        place = torch.arange(self._columns, device=self.runner.device)
        seen = place >= self._columns - 1 - self._lengths[:, None]
        state = self.runner.step(self._next, seen, self._lengths, self._cache)
        self._lengths = self._lengths + 1
        self._next = self._choose(state, self.active)

    def _choose(self, state: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
        assert self.runner.head is not None
        for number in numbers:
            self._draws.setdefault(number, _Draws(self.rows[number].seed, self.generation))
            self.said.setdefault(number, [])
        draws = [self._draws[number] for number in numbers]
        chosen = choose_tokens(self.runner.head.logits(state), draws, self.generation)
        for number, token in zip(numbers, chosen.tolist(), strict=True):
            if number not in self.over:
                self.said[number].append(token)
                if self._ended(number):
                    self.over.add(number)
        return chosen

    def _ended(self, number: int) -> bool:
        said = self.said[number]
        if said[-1] in self.runner.loaded.eos_ids or len(said) == self.generation.max_new_tokens:
            return True
        if not self.rows[number].plain or len(said) % _LOOK_EVERY:
            return False
        return PLAIN_STOP in decode(self.runner.loaded, said[-4 * _LOOK_EVERY :])


def _stream_shared(
    runner: Runner, rows: Sequence[Row], generation: Generation, limits: Limits
) -> Iterator[list[tuple[int, list[int]]]]:
    waiting, batch = list(range(len(rows))), _Batch(runner, rows, generation)
    while waiting or batch.active:
        taken = _fitting(rows, waiting, [batch.active[line] for line in batch.left], generation.max_new_tokens, limits)
        waiting = waiting[len(taken) :]
        yield batch.admit(taken)
        while len(batch.left) > _COMPACT_BELOW * len(batch.active):
            batch.advance()


def _fitting(rows: Sequence[Row], waiting: Sequence[int], running: Sequence[int], new: int, limits: Limits) -> list[int]:
    """Those of the waiting rows that fit beside the running ones; one always fits an empty batch."""
    taken: list[int] = []
    longest = max((len(rows[number].prompt) + new for number in running), default=0)
    for number in waiting:
        longest = max(longest, len(rows[number].prompt) + new)
        count = len(running) + len(taken)
        if count and (count >= limits.rows or (count + 1) * longest > limits.tokens):
            break
        taken.append(number)
    return taken


def _stream_general(
    runner: Runner, rows: Sequence[Row], generation: Generation, limits: Limits
) -> Iterator[list[tuple[int, list[int]]]]:
    waiting = list(range(len(rows)))
    while waiting:
        taken = _fitting(rows, waiting, [], generation.max_new_tokens, limits)
        waiting = waiting[len(taken) :]
        made = _generate_general(runner, [rows[number] for number in taken], generation)
        yield list(zip(taken, made, strict=True))


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


def decode(loaded: LoadedModel, tokens: Sequence[int]) -> str:
    """Text of a response. Special tokens stay (reasoning markers are special in some vocabularies) but for those that only frame a text."""
    tokenizer = loaded.tokenizer
    kept = [token for token in tokens if token not in loaded.eos_ids and token != tokenizer.pad_token_id]
    if kept and kept[0] == tokenizer.bos_token_id:
        kept = kept[1:]
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))
