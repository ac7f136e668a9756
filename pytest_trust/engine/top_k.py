"""The most likely tokens at each place of a text, where the whole distribution is not at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class TopK:
    """What is kept of a distribution, by token of a text."""

    ids: torch.Tensor
    """[tokens, K], int32, most likely first."""
    log_p: torch.Tensor
    """[tokens, K], float32: their log-probabilities, nats."""
    tail: torch.Tensor
    """[tokens], float32: the log of the mass of all other tokens."""
    label: torch.Tensor
    """[tokens], float32: the log-probability of the token that follows."""
    entropy: torch.Tensor
    """[tokens], float32, nats."""

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def rows(self, start: int, stop: int) -> TopK:
        return TopK(*(getattr(self, name)[start:stop] for name in self.__slots__))

    def at(self, index: torch.Tensor) -> TopK:
        """The tokens at these positions."""
        return TopK(*(getattr(self, name)[index] for name in self.__slots__))

    @classmethod
    def joined(cls, parts: list[TopK]) -> TopK:
        import torch

        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__slots__))
