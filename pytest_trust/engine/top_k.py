"""The most likely next tokens at each token of a text, kept where the whole distribution is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class TopK:
    """The K most likely next tokens for each token of a text, and what is known of the rest."""

    ids: torch.Tensor
    """[tokens, K], int32, most likely first."""
    log_p: torch.Tensor
    """[tokens, K], float32: their log-probabilities, nats."""
    tail: torch.Tensor
    """[tokens], float32: the log of the probability of all other tokens together."""
    label: torch.Tensor
    """[tokens], float32: the log-probability of the text's own token, nats."""
    entropy: torch.Tensor
    """[tokens], float32: the entropy of the distribution, nats."""

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
