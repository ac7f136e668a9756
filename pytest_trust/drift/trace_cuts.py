"""A response with a trace, taken apart so that its answer can be read behind another trace.

All pieces are the response's own tokens. A tag that is spelled in ordinary tokens may share one with the trace: `.</`
in ``It is 4.</think>``. What stands behind the trace is then encoded anew for other traces, since its tokens do not
exist without the trace's last character.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_trust.models.framing import Framing, decode, encode, token_behind

Ids = tuple[int, ...]

KINDS = ("half", "none", "other")
"""What is put in the place of a trace: its first half, nothing, the other model's trace for the same probe."""


@dataclass(frozen=True, slots=True)
class TracedResponse:
    """The tokens of a response, in the order in which they stand."""

    opening: Ids
    """What stands before the trace; empty where the template has opened it."""
    trace: Ids
    closing: Ids
    """What stands between the trace and the answer: the closing tag and the white space around it."""
    answer: Ids
    """The answer, its end token included."""
    start: int
    """Index of the answer's first token in the response."""

    @property
    def half(self) -> Ids:
        """The response up to its answer with the first half of the trace's tokens, rounded down, and closed there."""
        return self.opening + self.trace[: len(self.trace) // 2] + self.closing

    def behind(self, trace: Sequence[int]) -> Ids:
        """The response up to its answer with another trace. Without tokens, it is closed at once."""
        return (*self.opening, *trace, *self.closing)


def cut_response(
    framing: Framing, tokens: Sequence[int], text: str, trace_at: tuple[int, int], answer_at: int
) -> TracedResponse:
    """Take a response apart.

    Args:
        framing: the tokenizer of the model that wrote it.
        tokens: the response's token ids.
        text: its text.
        trace_at: the characters [start, end) of the trace (`reasoning.Split.trace_at`); not empty.
        answer_at: the characters before the answer; not less than the trace's end.
    """
    tokens, (begin, end) = tuple(tokens), trace_at
    start = token_behind(framing, tokens, answer_at)
    first = token_behind(framing, tokens, begin)
    before = len(decode(framing, tokens[:first]))
    # Blanks before a word often are in its token. A tag must not be lost with the trace.
    opening = tokens[:first] if not text[before:begin].strip() else encode(framing.tokenizer, text[:begin])
    behind = min(token_behind(framing, tokens, end), start)
    if len(decode(framing, tokens[:behind])) == end:
        closing = tokens[behind:start]
    else:
        behind = min(behind + 1, start)
        closing = encode(framing.tokenizer, text[end : len(decode(framing, tokens[:start]))])
    return TracedResponse(opening, tokens[first:behind], closing, tokens[start:], start)
