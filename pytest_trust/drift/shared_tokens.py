"""The tokens that two vocabularies share, under the same ids or as the same pieces under other ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import InvalidInput
from pytest_trust.keys import digest
from pytest_trust.models.framing import encode

if TYPE_CHECKING:
    import torch

    from pytest_trust.engine.rendered import Rendered
    from pytest_trust.models.heads import Head

__all__ = ["Numbering", "SharedTokens", "numberings", "shared_tokens"]

_VERSION = 1  # of the store's note on a pair of tokenizers

# Share of the smaller vocabulary that must be common. Below it, too much of both distributions would be left out.
_ENOUGH = 0.9


@dataclass(frozen=True, slots=True)
class SharedTokens:
    """The tokens that both models have. `a` and `b` are None where they have the same leading ids."""

    count: int
    """Number of shared tokens."""
    a: torch.Tensor | None = None
    """All ids of a. The shared ones come first, in the order of `b`."""
    b: torch.Tensor | None = None
    """All ids of b, the shared ones first."""

    def head_a(self, head: Head) -> Head:
        """a's head with the shared tokens first. Its weights are copied where another order is needed."""
        return head if self.a is None else _reordered(head, self.a)

    def head_b(self, head: Head) -> Head:
        """b's head with the shared tokens first."""
        return head if self.b is None else _reordered(head, self.b)

    def places(self, ids: torch.Tensor) -> torch.Tensor:
        """The places of a's ids among the shared tokens; `count` or more for those that b does not have."""
        return ids if self.a is None else self.a.argsort()[ids]

    def to_b(self, ids: torch.Tensor) -> torch.Tensor:
        """b's ids for a's ids. An id that is not shared (padding) gives any id."""
        return ids if self.b is None else self.b[self.places(ids).clamp(max=self.count - 1)]


def shared_tokens(tokenizer_a: Any, tokenizer_b: Any, size_a: int, size_b: int) -> SharedTokens:
    """The tokens that two models with heads of these sizes share.

    They are the leading ids that are the same token in both tokenizers, or in neither (padding of the head). Where
    these are less than nine tenths of the smaller vocabulary, they are the pieces with the same string.

    Raises:
        InvalidInput: less than nine tenths of the smaller vocabulary are common either way.
    """
    smaller_head = min(size_a, size_b)
    tokens_a, tokens_b = ({index: token for token, index in t.get_vocab().items()} for t in (tokenizer_a, tokenizer_b))
    different = (index for index in range(smaller_head) if tokens_a.get(index) != tokens_b.get(index))
    leading = next(different, smaller_head)
    smaller = min(len(tokens_a), len(tokens_b), smaller_head)
    if leading >= smaller * _ENOUGH:
        return SharedTokens(leading)
    ids_a, ids_b = (
        {t: i for i, t in tokens.items() if i < size} for tokens, size in ((tokens_a, size_a), (tokens_b, size_b))
    )
    common = sorted(ids_a.keys() & ids_b.keys(), key=ids_b.__getitem__)
    if len(common) < smaller * _ENOUGH:
        raise InvalidInput(
            f"the tokenizers differ from id {leading} on and share {len(common)} pieces of {smaller}; "
            "KL needs one vocabulary: compare the models' bits per byte or their chunks instead "
            "(pytest_trust.bits_per_byte, pytest_trust.chunk_bound)"
        )
    return SharedTokens(
        len(common), _first([ids_a[t] for t in common], size_a), _first([ids_b[t] for t in common], size_b)
    )


def _first(chosen: list[int], size: int) -> torch.Tensor:
    """All ids below `size`, the chosen ones first."""
    import torch

    rest = torch.ones(size, dtype=torch.bool)
    rest[chosen] = False
    return torch.cat([torch.tensor(chosen), rest.nonzero().view(-1)])


def _reordered(head: Head, order: torch.Tensor) -> Head:
    at = order.to(head.weight.device)
    return replace(head, weight=head.weight[at], bias=None if head.bias is None else head.bias[at.to(head.bias.device)])


@dataclass(frozen=True, slots=True)
class Numbering:
    """The translation between one model's ids and the numbers of a pair.

    A number below `count` is a token that both models have; a larger one is a token that only one of them has.
    """

    count: int
    private: int
    """The number of a token that only this model has is its id plus this."""
    order: tuple[int, ...] | None
    """This model's ids of the shared tokens, by number; None where ids and numbers are the same."""
    spell: Callable[[int], tuple[int, ...]]
    """From the number of a token that only the other model has to this model's ids for its text."""
    _numbers: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._numbers.update({index: number for number, index in enumerate(self.order or ())})

    def numbers(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The numbers of this model's ids."""
        if self.order is None:
            return tuple(index if index < self.count else self.private + index for index in ids)
        return tuple(self._numbers.get(index, self.private + index) for index in ids)

    def read(self, numbers: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """This model's ids for a text in numbers, and for each number the place of the first id that stands for it.

        This model reads a token that only the other model has as the tokens that spell it.
        """
        ids: list[int] = []
        places = []
        for number in numbers:
            places.append(len(ids))
            if number < self.count:
                ids.append(number if self.order is None else self.order[number])
            elif 0 <= number - self.private < OWN_IDS:
                ids.append(number - self.private)
            else:
                ids.extend(self.spell(number))
        return tuple(ids), tuple(places)

    def head(self, head: Head) -> Head:
        """The model's head with its rows by number. It is a copy where ids and numbers differ."""
        if self.order is None:
            return head
        import torch

        rest = torch.ones(head.vocabulary, dtype=torch.bool)
        rest[list(self.order)] = False
        return _reordered(head, torch.cat([torch.tensor(self.order), rest.nonzero().view(-1)]))


#: More ids than any vocabulary has.
OWN_IDS = 1 << 28


def numberings(tokenizer_a: Any, tokenizer_b: Any, size_a: int, size_b: int) -> tuple[Numbering, Numbering] | None:
    """The numberings of two models with heads of these sizes, a's and b's.

    None where the vocabularies share too little: KL would leave out more than a tenth of the tokens of one of them.
    """
    try:
        shared = shared_tokens(tokenizer_a, tokenizer_b, size_a, size_b)
    except InvalidInput:
        return None
    if shared.count < _ENOUGH * max(min(len(t), size) for t, size in ((tokenizer_a, size_a), (tokenizer_b, size_b))):
        return None
    orders = [None if ids is None else tuple(ids[: shared.count].tolist()) for ids in (shared.a, shared.b)]
    offsets = (OWN_IDS, 2 * OWN_IDS)

    def spelling(tokenizer: Any, other: Any, offset: int) -> Callable[[int], tuple[int, ...]]:
        def spell(number: int) -> tuple[int, ...]:
            text = other.decode([number - offset], skip_special_tokens=False)
            return encode(tokenizer, text)

        return spell

    return (
        Numbering(shared.count, offsets[0], orders[0], spelling(tokenizer_a, tokenizer_b, offsets[1])),
        Numbering(shared.count, offsets[1], orders[1], spelling(tokenizer_b, tokenizer_a, offsets[0])),
    )


def pair_numberings(baseline: Rendered, candidate: Rendered) -> tuple[Numbering, Numbering] | None:
    """The numberings of the baseline and the candidate; None where their vocabularies share too little for KL.

    The store remembers which of the two it is, so that a pair without KL does not load its tokenizers again.
    """
    key = digest("shared tokens", _VERSION, baseline.identity.tokenizer, candidate.identity.tokenizer)
    if baseline.store.get_json("notes", [key]).get(key) == 0:
        return None
    found = numberings(baseline.tokenizer, candidate.tokenizer, baseline.head_size(), candidate.head_size())
    baseline.store.put_json("notes", {key: found[0].count if found else 0})
    return found
