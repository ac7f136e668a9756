"""Reasoning tags told from their spelling: in a vocabulary with a token for a tag, only that token is the tag.

A model whose tokenizer has a token `<think>` opens a trace with that token alone. The same characters in ordinary
tokens are text, as in an answer that speaks of the tag or repeats a prompt that does. Read as a tag they would open a
trace that never ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pytest_trust.reasoning import Split, Tags, cut_tag, opened_by, split_reasoning, tags_in

if TYPE_CHECKING:
    from pytest_trust.models.loaded import LoadedModel

_LEAST = 3  # characters of a token that can mark anything
_known: WeakKeyDictionary[object, dict[int, str]] = WeakKeyDictionary()

Stretches = tuple[tuple[int, int], ...]


def read_response(loaded: LoadedModel, token_ids: Sequence[int], text: str, tail: str, tags: Tags) -> Split:
    """The reasoning and the answer of a response, read by its tokens.

    `tail` is the end of its prompt, which may open a trace.
    """
    return split_reasoning(
        text, tags, bool(opened_by(tail, tags)), spelled=spelled_out(loaded, token_ids, text, tail, tags)
    )


def spelled_out(loaded: LoadedModel, token_ids: Sequence[int], text: str, tail: str, tags: Tags) -> Stretches:
    """Stretches [start, end) of a response's text that read like a tag, or the beginning of one, and are only spelled
    out.

    Tags without a token that was added to the vocabulary are read by text and give no stretch. `<think>` may be such a
    token, and so may the `<|im_start|>` of `<|im_start|>think`. Nearly all responses have no stretch.
    """
    known = _markers(loaded)
    if not known:
        return ()
    pattern = _pattern(tuple(sorted(set(known.values()))))
    real: set[tuple[int, str]] | None = None

    def is_real(start: int, whole: str) -> bool:
        """Whether every added token inside the tag `whole` at `start` was produced as one token."""
        nonlocal real
        for found in pattern.finditer(whole):
            if real is None:
                real = _places(loaded, token_ids, known)
            if (start + found.start(), found.group(0)) not in real:
                return False
        return True

    spelled = [(start, end) for start, end in tags_in(text, tags) if not is_real(start, text[start:end])]
    partial, becoming = cut_tag(text, tags, bool(opened_by(tail, tags)), spelled)
    start = len(text) - len(partial)
    if partial and not any(_may_become(partial, tag, pattern) and is_real(start, partial) for tag in becoming):
        spelled.append((start, len(text)))
    return tuple(spelled)


def _may_become(partial: str, tag: str, pattern: re.Pattern[str]) -> bool:
    """Whether a response that was cut behind `partial` can have begun `tag`.

    No response is cut inside an added token.
    """
    return not any(found.start() < len(partial) < found.end() for found in pattern.finditer(tag))


def _markers(loaded: LoadedModel) -> dict[int, str]:
    """The added tokens that look like markers, by id: `<think>`, `[THINK]`, `<|channel|>`; not words or runs of
    blanks.
    """
    tokenizer = loaded.tokenizer
    if tokenizer not in _known:
        added = tokenizer.get_added_vocab()
        _known[tokenizer] = {
            int(index): token
            for token, index in added.items()
            if len(token) >= _LEAST and not (token[0] + token[-1]).isalnum() and token.strip() == token
        }
    return _known[tokenizer]


@lru_cache(maxsize=16)
def _pattern(tokens: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(tokens, key=lambda token: (-len(token), token)))), re.IGNORECASE)


def _places(loaded: LoadedModel, token_ids: Sequence[int], known: dict[int, str]) -> set[tuple[int, str]]:
    """The place in the text, and the text, of each marker that was produced as one token."""
    from pytest_trust.models.framing import decode

    return {
        (len(decode(loaded, token_ids[:index])), known[token])
        for index, token in enumerate(token_ids)
        if token in known
    }
