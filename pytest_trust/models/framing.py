"""The text of a response from its token ids, and the token at a place of that text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_trust.reasoning import DEFAULT_TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pytest_trust.models.loaded import LoadedModel


@dataclass(frozen=True, slots=True)
class Framing:
    """A model's tokenizer, and the ids of the tokens that end its texts."""

    tokenizer: PreTrainedTokenizerBase
    eos_ids: frozenset[int]


def token_behind(loaded: LoadedModel | Framing, tokens: Sequence[int], character: int) -> int:
    """Index of the token that holds a response's character number `character`; the number of tokens where none does."""
    return least(len(tokens), lambda count: len(decode(loaded, tokens[: count + 1])) > character)


def least(count: int, holds: Callable[[int], bool]) -> int:
    """The first number below `count` for which `holds` is true, else `count`. Once true, `holds` stays true."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def decode(loaded: LoadedModel | Framing, tokens: Sequence[int]) -> str:
    """Text of a response without the tokens that only frame it: end tokens, padding, the beginning-of-sequence token.

    Other special tokens stay, since reasoning markers are special in some vocabularies.
    """
    return decode_tokens(loaded.tokenizer, [token for token in tokens if token not in loaded.eos_ids])


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The token ids of a text, without the special tokens that a tokenizer adds around one."""
    return tuple(map(int, tokenizer(text, add_special_tokens=False)["input_ids"])) if text else ()


def decode_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """As `decode`, for tokens without end tokens."""
    kept = [token for token in tokens if token != tokenizer.pad_token_id]
    # Some vocabularies begin a text with the token that also begins a tag: s1's `<|im_start|>think`.
    if (
        kept
        and kept[0] == tokenizer.bos_token_id
        and not any(tag.startswith(str(tokenizer.bos_token)) for pair in DEFAULT_TAGS for tag in pair)
    ):
        kept = kept[1:]
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))
