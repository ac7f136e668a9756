"""Batched generation.

Each prompt is prefilled once, waiting rows take the places of finished ones, and a sample does not depend on its batch.

Nothing of a model's own generation_config.json acts on its own (`models.loading` removes it): both sides of a pair are
asked in the same way, or with what `models.decoding` read from that file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pytest_trust.models.framing import decode, least
from pytest_trust.models.kv_buffers import close_up, merge_caches, replace_rows
from pytest_trust.models.loops import RULE
from pytest_trust.models.memory import BatchLimits
from pytest_trust.models.rendering import PLAIN_STOP
from pytest_trust.models.runner import LONGEST_TREE, Runner
from pytest_trust.models.sampling import Draws, choose_tokens
from pytest_trust.responses import Generation

if TYPE_CHECKING:
    import torch

    from pytest_trust.models.loaded import LoadedModel
    from pytest_trust.models.runner import Prefilled

# Waiting rows take the places of finished ones when at most this share of a batch is still running. Prompts are read
# faster together.
_ADMIT_BELOW = 0.875

# The same share where no rows wait. It is higher because closing up moves few rows.
_CLOSE_BELOW = 0.94

# Tokens that a row gets room for at first, where its limit is higher. A row that says more gets as many again as it has
# said: few responses are long, and room for the longest ones would leave a batch few rows.
_RESERVE = 128

# Columns of the buffers beyond what the rows of a batch need. For so many steps a new row finds room in the place of a
# finished one; after that all rows are moved.
_SLACK = 24

# A row in the plain format is searched for the next turn once in so many steps.
_LOOK_EVERY = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One response to produce."""

    prompt: tuple[int, ...]
    seed: int = 0
    """Seed of a sample; greedy decoding does not use it."""
    plain: bool = False
    """Whether the prompt is in the plain format, without a chat template.

    The response then ends at the next `User:` line.
    """
    forced: tuple[int, ...] = ()
    """Token ids that the response begins with; they count as its own."""
    drawn: int = 0
    """How many of the seed's random numbers are used up."""
    most: int | None = None
    """Token limit of this response, where it is below `max_new_tokens`."""
    room: int | None = None
    """Tokens that the model's context leaves for this response; None where the context is unknown."""
    answered: Callable[[LoadedModel, Sequence[int]], bool] | None = field(default=None, compare=False)
    """Whether a response has its answer, from its tokens so far; it then ends."""
    goes_on: Callable[[Sequence[int]], bool] | None = field(default=None, compare=False)
    """Whether a response goes on though it loops, from its tokens so far: its budget will close its trace."""

    @property
    def read(self) -> tuple[int, ...]:
        """Token ids that the model reads before it writes."""
        return self.prompt + self.forced

    def looped(self, said: Sequence[int]) -> bool:
        """Whether a response, given its tokens so far, loops and ends."""
        return RULE.due(len(said)) and RULE.block(said) > 0 and not (self.goes_on and self.goes_on(said))


class Further(Protocol):
    """Decides whether a response that has reached its token limit goes on."""

    def __call__(self, number: int, said: list[int]) -> tuple[Sequence[int], int] | None:
        """Token ids that row `number` is made to say next, and how many of its own may follow.

        None when the response ends here. `said` are the tokens of the response so far.
        """


@dataclass(frozen=True, slots=True)
class Generated:
    """A response: its token ids with the end token, its text without."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: Literal["stop", "length", "answered", "loop"]


def generate(
    runner: Runner, rows: Sequence[Row], generation: Generation, limits: BatchLimits | None = None
) -> list[Generated]:
    """Responses to rows, in order; see `stream`."""
    found = {index: one for part in stream(runner, rows, generation, limits) for index, one in part}
    return [found[index] for index in range(len(rows))]


def stream(
    runner: Runner,
    rows: Sequence[Row],
    generation: Generation,
    limits: BatchLimits | None = None,
    *,
    further: Further | None = None,
    longest: int | None = None,
) -> Iterator[list[tuple[int, Generated]]]:
    """Responses to rows as they are finished, with the rows' numbers.

    As many rows run at once as the limits allow, or all rows without limits. Waiting rows take the places of finished
    ones. A greedy response in float32 equals that of transformers' `generate` token for token and does not depend on
    the batch. In 16 bits the composition of the batch can change near-ties.

    Args:
        runner: the loaded model.
        rows: the responses to produce.
        generation: token limit and sampling.
        limits: rows and tokens of a batch.
        further: asked when a response has reached its token limit: first `max_new_tokens`, later the limit that
            `further` set.
        longest: upper bound of a response's tokens; default: `max_new_tokens`.
    """
    import torch

    limits = limits or BatchLimits(len(rows), sys.maxsize)
    course = _Course(runner, rows, generation, further, longest or generation.max_new_tokens)
    shared = runner.shares and max((len(row.read) for row in rows), default=0) <= LONGEST_TREE
    with torch.inference_mode():
        for part in (_stream_shared if shared else _stream_general)(course, limits):
            yield [(number, course.finished(number, said)) for number, said in part]


class _Course:
    """What each row has said so far, and whether it goes on."""

    def __init__(
        self, runner: Runner, rows: Sequence[Row], generation: Generation, further: Further | None, longest: int
    ) -> None:
        self.runner = runner
        self.rows = rows
        self.generation = generation
        self.longest = longest
        self.said = [list(row.forced) for row in rows]
        self.made_to_say: dict[int, list[int]] = {}
        self._answered: set[int] = set()
        self._looped: set[int] = set()
        self._further = further
        self._rooms = [max(1, sys.maxsize if row.room is None else row.room) for row in rows]
        self._most = [
            min(generation.max_new_tokens, row.most or generation.max_new_tokens, room)
            for row, room in zip(rows, self._rooms, strict=True)
        ]

    def room(self, number: int) -> int:
        """Upper bound of the tokens that a row can still say."""
        most = min(self.longest, self._rooms[number]) if self._further else self._most[number]
        return max(1, most - len(self.said[number]))

    def reserve(self, number: int) -> int:
        """Tokens that a row gets room for now."""
        return min(self.room(number), max(_RESERVE, len(self.said[number])))

    def read(self, number: int) -> tuple[int, ...]:
        """Token ids that the model has read, or must read, before a row goes on."""
        return self.rows[number].prompt + tuple(self.said[number])

    def say(self, number: int, token: int) -> tuple[int, bool]:
        """Add a token to a row: the one it is made to say, else the one it has chosen.

        Returns the token that was added, and whether the row is over.
        """
        waiting, said = self.made_to_say.get(number), self.said[number]
        if waiting:
            token = waiting.pop(0)
        said.append(token)
        loaded = self.runner.loaded
        if waiting:
            return token, False
        if token in loaded.eos_ids:
            return token, True
        answered, plain = self.rows[number].answered, self.rows[number].plain
        if answered and answered(loaded, said):
            self._answered.add(number)
            return token, True
        if self.rows[number].looped(said):
            self._looped.add(number)
            return token, True
        if len(said) < self._most[number]:
            looks = plain and len(said) % _LOOK_EVERY == 0
            return token, looks and PLAIN_STOP in decode(loaded, said[-4 * _LOOK_EVERY :])
        if self._further is None or len(said) >= self._rooms[number] or (plain and PLAIN_STOP in decode(loaded, said)):
            return token, True
        more = self._further(number, said)
        if more is None:
            return token, True
        self.made_to_say[number] = list(more[0])
        self._most[number] = min(len(said) + len(more[0]) + more[1], self._rooms[number])
        return token, False

    def finished(self, number: int, said: list[int]) -> Generated:
        """The response of a row that is over."""
        made = finish(self.runner.loaded, said, self.rows[number].plain)
        if number in self._answered:
            return replace(made, finish_reason="answered")
        looped = (
            number in self._looped and made.finish_reason == "length"
        )  # the plain format's next turn ends it before
        return replace(made, finish_reason="loop") if looped else made

    def left_to(self, number: int) -> int:
        """Tokens up to a row's present limit."""
        return max(1, self._most[number] - len(self.said[number]))

    def say_all(self, number: int, tokens: Sequence[int]) -> bool:
        """Add tokens up to the row's present limit or its end; returns whether the row is over."""
        return any(self.say(number, token)[1] for token in tokens[: self.left_to(number)])

    def fitting(self, waiting: Sequence[int], running: Sequence[int], limits: BatchLimits) -> list[int]:
        """The first waiting rows, as many as fit beside the running ones. One row always fits an empty batch."""
        taken: list[int] = []

        def columns(number: int) -> int:
            return len(self.rows[number].prompt) + len(self.said[number]) + self.reserve(number)

        longest = max(map(columns, running), default=0)
        for number in waiting:
            longest = max(longest, columns(number))
            count = len(running) + len(taken)
            if count and (count >= limits.rows or (count + 1) * longest > limits.tokens):
                break
            taken.append(number)
        return taken


class _Batch:
    """Rows that run together. A line of the batch holds one row; `active` has the number of the row in each line."""

    def __init__(self, course: _Course) -> None:
        self.course = course
        self.runner = course.runner
        self.active: list[int] = []
        self.over: set[int] = set()
        self._draws: dict[int, Draws] = {}
        self._cache: Any = None
        self._lengths: Any = None  # [rows]: tokens of each row that are in the cache
        self._columns = 0
        self._left = 0  # columns that the buffers have left
        self._logits: Any = None  # [rows, vocabulary]: a buffer that every step uses again
        self._next: Any = None  # [rows]: the last token of each row, which the model has not read yet

    @property
    def left(self) -> list[int]:
        """Lines whose rows are not over."""
        return [line for line, number in enumerate(self.active) if number not in self.over]

    @property
    def full(self) -> bool:
        """Whether rows go on and the buffers have no column left."""
        return self._left < 1 and bool(self.left)

    def put_back(self, limits: BatchLimits) -> list[int]:
        """Take out the rows that do not fit any more when all get further room; returns their numbers."""
        running = [self.active[line] for line in self.left]
        kept = set(self.course.fitting(running, [], limits))
        lines = [line for line in self.left if self.active[line] not in kept]
        numbers = [self.active[line] for line in lines]
        self._close_up(lines)
        return numbers

    def admit(self, numbers: Sequence[int]) -> list[tuple[int, list[int]]]:
        """Replace finished rows by new ones with their first tokens; returns the finished rows' numbers and tokens."""
        import torch

        course, device, left = self.course, self.runner.device, self.left
        free = [line for line, number in enumerate(self.active) if number in self.over]
        done = [(self.active[line], self.course.said[self.active[line]]) for line in free]
        self.over.clear()
        if numbers:
            read = [course.read(number) for number in numbers]
            prompts = list(dict.fromkeys(read))
            place = {prompt: index for index, prompt in enumerate(prompts)}
            source = torch.tensor([place[prompt] for prompt in read], device=device)
            fresh = self.runner.prefill(prompts)
            first = self._choose(fresh.last[source], numbers)
            if (
                not self.full
                and len(numbers) <= len(free)
                and self._put(free[: len(numbers)], numbers, fresh, source, first)
            ):
                self._close_up(free[len(numbers) :])
                return done
        elif left and not self.full:
            self._close_up(free)
            return done
        self.active = [self.active[line] for line in left]
        if not self.active and not numbers:
            return done
        kept = torch.tensor(left, dtype=torch.long, device=device)
        if not self.active:
            self._cache, others, lines, added = fresh.cache, None, source, source[:0]
            self._lengths, self._next = fresh.lengths[source], first
        elif not numbers:
            others, lines, added = None, kept, kept[:0]
            self._lengths, self._next = self._lengths[kept], self._next[kept]
        else:
            others, lines, added = fresh.cache, kept, source
            self._lengths = torch.cat([self._lengths[kept], fresh.lengths[source]])
            self._next = torch.cat([self._next[kept], first])
        self.active += numbers
        self._columns = int(self._lengths.max())
        self._left = max(self.course.reserve(number) for number in self.active) + _SLACK
        merge_caches(self._cache, lines, others, added, columns=self._columns, capacity=self._columns + self._left)
        return done

    def _put(
        self, lines: Sequence[int], numbers: Sequence[int], fresh: Prefilled, source: torch.Tensor, first: torch.Tensor
    ) -> bool:
        """Put new rows in the places of finished ones; the others stay. Returns False where there is no room."""
        import torch

        places = torch.tensor(lines, device=self.runner.device)
        lengths = self._lengths.index_copy(0, places, fresh.lengths[source])
        columns, room = int(lengths.max()), max(self.course.reserve(number) for number in numbers)
        if not replace_rows(self._cache, places, fresh.cache, source, columns=columns, room=room):
            return False
        self._lengths, self._columns = lengths, columns
        self._next = self._next.index_copy(0, places, first)
        for line, number in zip(lines, numbers, strict=True):
            self.active[line] = number
        return True

    def _close_up(self, free: Sequence[int]) -> None:
        """Take out lines; the last lines move into their places."""
        import torch

        if not free:
            return
        count = len(self.active) - len(free)
        places = [line for line in free if line < count]
        sources = [line for line in range(count, len(self.active)) if line not in free]
        for line, source in zip(places, sources, strict=True):
            self.active[line] = self.active[source]
        del self.active[count:]
        into, out_of = (torch.tensor(lines, dtype=torch.long, device=self.runner.device) for lines in (places, sources))
        self._lengths = self._lengths.index_copy(0, into, self._lengths[out_of])[:count]
        self._next = self._next.index_copy(0, into, self._next[out_of])[:count]
        self._columns = int(self._lengths.max())
        close_up(self._cache, into, out_of, count, self._columns)

    def advance(self) -> None:
        """Run each row's last token and choose its next one.

        Finished rows are run too until they are taken out, without saying more.
        """
        import torch

        self._columns += 1
        self._left -= 1
        place = torch.arange(self._columns, device=self.runner.device)
        seen = place >= self._columns - 1 - self._lengths[:, None]
        state = self.runner.step(self._next, seen, self._lengths, self._cache)
        self._lengths = self._lengths + 1
        self._next = self._choose(state, self.active)

    def _choose(self, state: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
        import torch

        assert self.runner.head is not None
        generation = self.course.generation
        for number in numbers:
            if number not in self._draws:
                self._draws[number] = Draws(self.course.rows[number].seed, generation, self.course.rows[number].drawn)
        head = self.runner.head
        if self._logits is None or len(self._logits) < len(state):
            self._logits = head.weight.new_empty(len(state), head.vocabulary)
        logits = head.logits(state, self._logits[: len(state)])
        read = [] if generation.repetition_penalty == 1 else [self.course.read(number) for number in numbers]
        chosen = choose_tokens(logits, [self._draws[number] for number in numbers], generation, read)
        tokens = chosen.tolist()
        for line, number in enumerate(numbers):
            if number not in self.over:
                tokens[line], over = self.course.say(number, tokens[line])
                if over:
                    self.over.add(number)
        return torch.tensor(tokens, device=self.runner.device)


Spoken = Iterator[list[tuple[int, list[int]]]]


def _stream_shared(course: _Course, limits: BatchLimits) -> Spoken:
    waiting, batch = list(range(len(course.rows))), _Batch(course)
    while waiting or batch.active:
        if batch.full:
            waiting = [*batch.put_back(limits), *waiting]
        taken = course.fitting(waiting, [batch.active[line] for line in batch.left], limits)
        free = len(batch.over)
        if 0 < free < len(taken) <= free + (1 - _ADMIT_BELOW) * len(batch.active):
            taken = taken[:free]  # a few rows more are not worth moving all
        waiting = waiting[len(taken) :]
        yield batch.admit(taken)
        share = _ADMIT_BELOW if waiting else _CLOSE_BELOW
        while len(batch.left) > share * len(batch.active) and not batch.full:
            batch.advance()


def _stream_general(course: _Course, limits: BatchLimits) -> Spoken:
    """Batch by batch.

    A row that goes on after its limit is prefilled again, with what it has said behind its prompt.
    """
    waiting, whole = list(range(len(course.rows))), course.generation
    while waiting:
        running = course.fitting(waiting, [], limits)
        waiting, taken, most = waiting[len(running) :], list(running), whole.max_new_tokens
        while running:
            asked = []
            for number in running:
                row, said = course.rows[number], course.said[number]
                said += course.made_to_say.pop(number, [])
                asked.append(replace(row, forced=tuple(said), drawn=row.drawn + len(said) - len(row.forced)))
                most = max(most, course.left_to(number))
            made = _generate_general(course.runner, asked, replace(whole, max_new_tokens=most))
            running = [
                number for number, tokens in zip(running, made, strict=True) if not course.say_all(number, tokens)
            ]
            most = 1
        yield [(number, course.said[number]) for number in taken]


def _generate_general(runner: Runner, rows: Sequence[Row], generation: Generation) -> list[list[int]]:
    """transformers' own `generate` on a left-padded batch, for models that cannot share beginnings."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    width = max(len(row.read) for row in rows)
    ids = torch.full((len(rows), width), runner.pad_id, device=runner.device)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, width - len(row.read) :] = torch.tensor(row.read, device=runner.device)
        mask[index, width - len(row.read) :] = 1
    draws = [Draws(row.seed, generation, row.drawn) for row in rows]

    def choose(read: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        penalised = generation.repetition_penalty != 1
        ids = [read[index, width - len(row.read) :].tolist() for index, row in enumerate(rows)] if penalised else []
        chosen = choose_tokens(scores, draws, generation, ids)
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen[:, None], 0.0)

    def over(read: torch.Tensor, _: torch.Tensor, **__: object) -> torch.Tensor:
        coming = read.shape[1] - width
        found = []
        for index, row in enumerate(rows):
            looks = row.answered is not None or RULE.due(len(row.forced) + coming)
            said = [*row.forced, *read[index, width:].tolist()] if looks else []
            answered = row.answered is not None and row.answered(runner.loaded, said)
            found.append(answered or (looks and row.looped(said)))
        return torch.tensor(found, device=read.device)

    configuration: Any = GenerationConfig
    settings = configuration(
        max_new_tokens=generation.max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(runner.loaded.eos_ids) or None,
        pad_token_id=runner.pad_id,
    )
    processors = LogitsProcessorList([] if generation.greedy and generation.repetition_penalty == 1 else [choose])
    model: Any = runner.model
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=settings,
        logits_processor=processors,
        stopping_criteria=StoppingCriteriaList([over]),
    )
    return [_until_end(tokens, runner.loaded.eos_ids) for tokens in output[:, width:].tolist()]


def _until_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """The tokens up to the first end token. Padding follows it, and may have the same id."""
    stop = next((index + 1 for index, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:stop]


def finish(loaded: LoadedModel, tokens: list[int], plain: bool) -> Generated:
    """A response from its tokens. Without an end token it was cut; in the plain format it ends at the next turn."""
    ended = bool(tokens) and tokens[-1] in loaded.eos_ids
    text = decode(loaded, tokens)
    if plain and PLAIN_STOP in text:
        tokens = _cut_at(loaded, tokens, PLAIN_STOP)
        text, ended = text[: text.index(PLAIN_STOP)], True
    return Generated(tuple(tokens), text, "stop" if ended else "length")


def _cut_at(loaded: LoadedModel, tokens: list[int], stop: str) -> list[int]:
    """The fewest tokens whose text holds `stop`."""
    return tokens[: least(len(tokens), lambda count: stop in decode(loaded, tokens[:count]))]
