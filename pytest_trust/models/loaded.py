"""A loaded model: its weights, tokenizer, identity and end tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_trust.models.identity import ModelIdentity

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_trust.models.layer_turns import Layers


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Weights in evaluation mode on their device, tokenizer, identity, and the ids that end a response."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: ModelIdentity
    device: str
    eos_ids: frozenset[int]
    layers: Layers | None = None
    """The decoder layers of a model that keeps one of them in memory at a time (`models.layer_offload`); else None."""
