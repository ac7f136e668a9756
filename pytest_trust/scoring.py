"""Log-likelihoods of options: log P(option | prompt), the prompt of a probe's options computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_trust.errors import InvalidInput
from pytest_trust.inference import Group, Runner, pairs
from pytest_trust.jobs import OptionScores

if TYPE_CHECKING:
    import torch

    from pytest_trust.heads import Head

# Tokens whose logits exist at once; the product is no faster per token above this.
_CHUNK_TOKENS = 128


def score_options(runner: Runner, groups: Sequence[Group], options: Sequence[Sequence[str]]) -> list[OptionScores]:
    """Scores of one batch of probes; `options` hold each probe's texts, whose UTF-8 lengths are reported beside the scores."""
    if runner.head is None:
        raise InvalidInput(f"{runner.loaded.identity.label}: its head is quantised or missing, so options cannot be scored: load it with a plain head")
    results = []
    for group, states, texts in zip(groups, runner.hidden_states(groups), options, strict=True):
        sums, counts = [], []
        for (row, start), hidden in zip(pairs(group), states, strict=True):
            sums.append(sum(token_log_likelihoods(runner.head, hidden, row[start:])))
            counts.append(len(row) - start)
        results.append(OptionScores(tuple(sums), tuple(counts), tuple(len(text.encode("utf-8", "surrogatepass")) for text in texts)))
    return results


def token_log_likelihoods(head: Head, hidden: torch.Tensor, tokens: Sequence[int]) -> list[float]:
    """log P(token) in nats, float32, from the states [tokens, hidden size] that predict them; logits exist for a chunk at a time."""
    import torch

    values: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(tokens), _CHUNK_TOKENS):
            part = torch.tensor(tokens[start : start + _CHUNK_TOKENS], device=hidden.device)
            logits = head.logits(hidden[start : start + _CHUNK_TOKENS]).float()
            chosen = logits.gather(-1, part[:, None])[:, 0] - logits.logsumexp(-1)
            values += chosen.double().tolist()
    return values
