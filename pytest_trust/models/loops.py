"""Responses that repeat one block of tokens without end.

Each repetition of a block makes the next one likelier (Xu et al. 2022, arXiv 2206.02369). After enough of them nothing
else follows, and greedy decoding goes on until its limit. Reasoning models do this at low temperatures, distilled ones
most (Pipis et al. 2025, arXiv 2512.12895). Stopping such a response saves the rest of its limit and leaves the
tokens before that point as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class LoopRule:
    """When a response loops, and how often that is checked.

    A response loops if it ends in repetitions of one block. The block has at most `longest` tokens, there are at least
    `repeats` repetitions, and together they fill at least `tokens` tokens.

    A response is checked at every multiple of `look_every` tokens of its own. What runs beside it has no influence, so
    it is stopped at the same place in every batch.
    """

    repeats: int
    tokens: int
    longest: int
    look_every: int = 32

    def block(self, tokens: Sequence[int]) -> int:
        """The length of the shortest block that the end of `tokens` repeats; 0 if it does not loop.

        Only places where the last token occurs again are compared, so ordinary text costs one search through `longest`
        tokens.
        """
        newest = list(tokens[: -max(self.tokens, self.repeats * self.longest) - 1 : -1])
        length = 0
        while True:
            try:
                length = newest.index(newest[0], length + 1, self.longest + 1)
            except (ValueError, IndexError):  # the last token occurs nowhere else; or there are no tokens
                return 0
            end = max(self.tokens, self.repeats * length)
            if end > len(newest):
                return 0
            if newest[length:end] == newest[: end - length]:
                return length

    def due(self, count: int) -> bool:
        """Whether a response is checked when it has `count` tokens."""
        return count % self.look_every == 0 and count >= self.tokens

    def stop(self, tokens: Sequence[int]) -> int:
        """The number of tokens after which a whole response is stopped; its length if it does not loop."""
        looks = (count for count in range(1, len(tokens) + 1) if self.due(count) and self.block(tokens[:count]))
        return next(looks, len(tokens))


# The limits are about twice the longest repetition that a text was seen to leave again. They were measured with the
# demo's models and tokenizer:
# - 71 responses (greedy and sampled, up to 1,024 tokens): 13 ended at their limit in a repeated block of 2 to 104
#   tokens. Of the exact repetitions that ended by themselves, the one with the most repeats had 4.3 (39 tokens each),
#   and the longest had 195 tokens (2.9 repeats). The rule stopped five responses, and each of these had gone on with
#   its block to the limit.
# - 24,921 texts (6.7 million tokens: completions of large and small models, human solutions, stories, tweets and
#   comments, source files): the rule stops three tweets that are one escaped emoji throughout. It stops nothing that a
#   model wrote.
# The rule also stops text that is meant to repeat for so long, such as a written-out matrix of 400 zeros.
RULE: Final = LoopRule(repeats=8, tokens=384, longest=256)
