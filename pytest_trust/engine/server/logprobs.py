"""Log-probabilities in a server's answer: the most likely tokens at each token of a text, packed for the store.

Servers name tokens by their text; some name them by their id too (vLLM on request, llama.cpp). Log-probabilities are
refused when they are no distribution: when one is above 0, or when their probabilities sum to more than 1.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ROUNDING = 1e-3  # tolerance of these two checks: servers round to a few digits


@dataclass(frozen=True, slots=True)
class Token:
    """A token: its id (-1 where the server does not return it), its text, and its log-probability in nats."""

    id: int
    text: str
    log_p: float


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of the distribution at one token of a text."""

    label: Token
    """The text's own token."""
    known: tuple[Token, ...]
    """The most likely tokens, most likely first."""


def tops_of(logprobs: object) -> bytes:
    """The places of an answer's `logprobs`, packed; empty unless there are valid ones for every token."""
    return pack(places_of(logprobs))


def pack(places: Sequence[Place]) -> bytes:
    """Places as bytes for the store; empty when there are none."""
    if not places:
        return b""
    rows = [[[token.id, token.text, token.log_p] for token in (place.label, *place.known)] for place in places]
    return zlib.compress(json.dumps(rows, ensure_ascii=False).encode("utf-8", "surrogatepass"), 6)


def unpack(packed: bytes) -> list[Place]:
    """The inverse of `pack`."""
    rows = json.loads(zlib.decompress(packed))
    places = [[Token(int(index), str(text), float(log_p)) for index, text, log_p in row] for row in rows]
    return [Place(row[0], tuple(row[1:])) for row in places]


def places_of(logprobs: object) -> list[Place]:
    """The places in an answer's `logprobs`; empty where they are missing or invalid.

    The protocol has two forms: `content` in chat completions (llama.cpp uses it everywhere), and lists in completions.
    """
    if not isinstance(logprobs, dict):
        return []
    try:
        if isinstance(logprobs.get("content"), list):
            places = [_place(entry, entry["top_logprobs"]) for entry in logprobs["content"]]
        elif isinstance(logprobs.get("tokens"), list):
            rows = zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
            places = [
                _place(
                    {"token": token, "logprob": log_p},
                    [{"token": name, "logprob": value} for name, value in top.items()],
                )
                for token, log_p, top in rows
            ]
        else:
            return []
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return places if all(_plausible(place) for place in places) else []


def reading_of(rows: object, text: Sequence[int]) -> list[Place]:
    """The places of a text that the server has read, from vLLM's `prompt_logprobs`; empty if one is missing or invalid.

    The tokens have ids and no texts, because the text was given as ids.
    """
    if not isinstance(rows, list) or len(rows) != len(text):
        return []
    try:
        named = [
            {int(index): Token(int(index), "", float(one["logprob"])) for index, one in row.items()} for row in rows
        ]
        places = [
            Place(tokens[index], tuple(sorted(tokens.values(), key=lambda token: -token.log_p)))
            for tokens, index in zip(named, text, strict=True)
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return places if all(_plausible(place) for place in places) else []


def _place(entry: Any, top: Sequence[Any]) -> Place:
    known = sorted((_token(one) for one in top), key=lambda token: -token.log_p)
    return Place(_token(entry), tuple(known))


def _token(entry: Any) -> Token:
    text, log_p = entry["token"], float(entry["logprob"])
    if not isinstance(text, str):
        raise TypeError(text)
    if text.startswith("token_id:"):  # vLLM's form when ids are requested
        return Token(int(text.removeprefix("token_id:")), "", log_p)
    index = entry.get("id")
    return Token(index if isinstance(index, int) else -1, _text(text, entry.get("bytes")), log_p)


def _text(text: str, data: object) -> str:
    """The token's text, from its bytes where there are any. Bytes of a partial character are kept as surrogates."""
    if isinstance(data, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in data):
        return bytes(data).decode("utf-8", "surrogateescape")
    return text


def _plausible(place: Place) -> bool:
    values = [token.log_p for token in (place.label, *place.known)]
    mass = sum(math.exp(token.log_p) for token in place.known)
    return (
        bool(place.known)
        and all(not math.isnan(value) and value <= _ROUNDING for value in values)
        and mass <= 1 + _ROUNDING
    )
