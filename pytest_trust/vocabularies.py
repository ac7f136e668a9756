"""Which tokens two vocabularies share: the same ids, or the same pieces under other ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import InvalidInput

if TYPE_CHECKING:
    import torch

    from pytest_trust.heads import Head

__all__ = ["SharedTokens", "shared_tokens"]

# Share of the smaller vocabulary that must be common: below it, too much of both distributions would be left out.
_ENOUGH = 0.9


@dataclass(frozen=True, slots=True)
class SharedTokens:
    """The tokens that both models have. `a` and `b` are None where they have the same leading ids."""

    count: int
    """How many there are."""
    a: torch.Tensor | None = None
    """The ids of a, the shared ones first, in the order of b's."""
    b: torch.Tensor | None = None
    """The ids of b, the shared ones first."""

    def head_a(self, head: Head) -> Head:
        """a's head with the shared tokens first; a copy of its weights where they are not already."""
        return head if self.a is None else _reordered(head, self.a)

    def head_b(self, head: Head) -> Head:
        """b's head with the shared tokens first."""
        return head if self.b is None else _reordered(head, self.b)

    def places(self, ids: torch.Tensor) -> torch.Tensor:
        """Where a's ids stand among the shared tokens; `count` or more for those that b does not have."""
        return ids if self.a is None else self.a.argsort()[ids]

    def to_b(self, ids: torch.Tensor) -> torch.Tensor:
        """b's ids for a's; any id for those that are not shared (padding)."""
        return ids if self.b is None else self.b[self.places(ids).clamp(max=self.count - 1)]


def shared_tokens(tokenizer_a: Any, tokenizer_b: Any, size_a: int, size_b: int) -> SharedTokens:
    """The tokens that two models with heads of these sizes share.

    Leading ids that are the same token in both tokenizers, or in neither (padding of the head); where those are less than nine tenths of the
    smaller vocabulary, the pieces with the same string.

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
            f"the tokenizers differ from id {leading} on and share {len(common)} pieces of {smaller}; KL needs one vocabulary: "
            "compare the models' bits per byte instead (pytest_trust.bits_per_byte)"
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
