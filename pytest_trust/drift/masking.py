"""The tokens of a response that belong to its template: think markers, and special tokens that frame a text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pytest_trust.models.framing import Framing, token_behind
from pytest_trust.reasoning import Tags, split_reasoning

Spans = tuple[tuple[int, int], ...]


def marker_spans(text: str, tags: Tags, opened: bool) -> Spans:
    """The places of the tags around reasoning and answer in a response, in characters: [start, stop) of each.

    The beginning of a tag at the very end is not among them, since it may be a word.
    """
    spans, at = [], 0
    names = [tag.lower() for pair in tags for tag in pair if tag]
    for part in split_reasoning(text, tags, opened).parts:
        said = part.text.strip().lower()
        begun = at + len(part.text) == len(text) and said not in names and any(name.startswith(said) for name in names)
        if part.kind == "tag" and said and not begun:
            blank = len(part.text) - len(part.text.lstrip())
            spans.append((at + blank, at + len(part.text.rstrip())))
        at += len(part.text)
    return tuple(spans)


def masked_tokens(
    loaded: Framing, tokens: Sequence[int], spans: Spans, other_ends: Collection[int] | None
) -> list[int]:
    """Indices of the tokens that are not counted: those with a character of a think marker, and special ones.

    The token that ends the response counts, since a model chooses where it stops. It does not count where the other
    model's template ends its turns by other tokens. `other_ends` are these tokens in this model's ids, None where they
    are not known.
    """
    found: set[int] = set()
    for start, stop in spans:
        first = token_behind(loaded, tokens, start)
        last = token_behind(loaded, tokens, stop - 1)
        found.update(range(first, min(last + 1, len(tokens))))
    added: dict[int, Any] = getattr(loaded.tokenizer, "added_tokens_decoder", {})
    special = {
        *loaded.tokenizer.all_special_ids,
        *loaded.eos_ids,
        *(token for token, one in added.items() if one.special),
    }
    for place, token in enumerate(tokens):
        chosen = place == len(tokens) - 1 and token in loaded.eos_ids and (other_ends is None or token in other_ends)
        if token in special and not chosen:
            found.add(place)
    return sorted(found)
