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
        raise InvalidInput(
            f"{runner.loaded.identity.label}: its head is quantised or missing, so options cannot be scored: load it with a plain head"
        )
    import torch

    states = runner.hidden_states(groups)
    tokens = [row[start:] for group in groups for row, start in pairs(group)]
    # One pass of the head for the whole batch: by option it would stream the head's weights for one or two tokens each.
    values = iter(
        token_log_likelihoods(
            runner.head, torch.cat([row for rows in states for row in rows]), [t for row in tokens for t in row]
        )
    )
    sums = iter([(sum(next(values) for _ in row), len(row)) for row in tokens])
    results = []
    for texts in options:
        of_probe = [next(sums) for _ in texts]
        lengths = tuple(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        results.append(
            OptionScores(tuple(total for total, _ in of_probe), tuple(count for _, count in of_probe), lengths)
        )
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
