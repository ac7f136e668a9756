"""Log-likelihoods of options, log P(option | prompt). The prompt of a probe is computed once for all of its options."""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import accumulate
from typing import TYPE_CHECKING

from pytest_trust.errors import InvalidInput
from pytest_trust.models.runner import Group, Runner, pairs
from pytest_trust.responses import OptionScores

if TYPE_CHECKING:
    import torch

    from pytest_trust.models.heads import Head

# Tokens that are kept of those that a model would write in place of an option.
_FIRST_TOKENS = 5

# Tokens whose logits exist at once; the product is no faster per token above this.
_CHUNK_TOKENS = 128


def score_options(runner: Runner, groups: Sequence[Group], options: Sequence[Sequence[str]]) -> list[OptionScores]:
    """Scores of one batch of probes, in nats.

    Args:
        runner: the loaded model.
        groups: for each probe, the sequences of prompt and option, and where the options start.
        options: for each probe, the texts of its options; their UTF-8 lengths are reported beside the scores.

    Raises:
        InvalidInput: the model has no plain head.
    """
    if runner.head is None:
        raise InvalidInput(
            f"{runner.loaded.identity.label}: its head is quantised or missing, so options cannot be scored: "
            "load it with a plain head"
        )
    rows = [row[start:] for group in groups for row, start in pairs(group)]
    totals: dict[int, float] = {}
    first_rows = dict(zip(accumulate((len(group.rows) for group in groups), initial=0), groups, strict=False))
    firsts: dict[int, torch.Tensor] = {}  # by the first row of each probe: the state that predicts its first token
    for part in runner.predictions(groups):
        # The head is applied once to the whole forward. By option it would stream its weights for one or two tokens.
        places = [place for found in part.places.values() for place in found]
        values = iter(
            token_log_likelihoods(runner.head, part.states, [t for index in part.places for t in rows[index]], places)
        )
        firsts |= {index: part.states[part.places[index][0]] for index in part.places.keys() & first_rows}
        totals |= {index: sum(next(values) for _ in rows[index]) for index in part.places}
    sums = iter([(totals[index], len(row)) for index, row in enumerate(rows)])
    begins = [{row[start] for row, start in pairs(group)} for group in groups]
    likeliest = _first_tokens(runner, [firsts[index] for index in first_rows], begins)
    results = []
    for texts, first_tokens in zip(options, likeliest, strict=True):
        of_probe = [next(sums) for _ in texts]
        lengths = tuple(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        results.append(
            OptionScores(
                tuple(total for total, _ in of_probe),
                tuple(count for _, count in of_probe),
                lengths,
                first_tokens=first_tokens,
            )
        )
    return results


def _first_tokens(
    runner: Runner, states: Sequence[torch.Tensor], begins: Sequence[Set[int]]
) -> list[tuple[tuple[str, float], ...]]:
    """For each state [hidden size] the likeliest next tokens that are not in its `begins`, with their probabilities."""
    import torch

    assert runner.head is not None
    found = []
    for start in range(0, len(states), _CHUNK_TOKENS):
        with torch.inference_mode():
            logits = runner.head.logits(torch.stack(list(states[start : start + _CHUNK_TOKENS]))).float()
        for p, begin in zip(logits.softmax(-1), begins[start : start + _CHUNK_TOKENS], strict=True):
            likeliest = p.topk(min(len(p), _FIRST_TOKENS + len(begin)))
            tokens = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
            kept = [(token, value) for token, value in tokens if token not in begin][:_FIRST_TOKENS]
            found.append(tuple((str(runner.loaded.tokenizer.decode([token])), value) for token, value in kept))
    return found


def token_log_likelihoods(
    head: Head, hidden: torch.Tensor, tokens: Sequence[int], places: Sequence[int] | None = None
) -> list[float]:
    """log P(token) in nats, float32, from the states [states, hidden size] that predict the tokens.

    `places` says which state predicts each token; default: one state a token, in order. The logits exist for a chunk of
    states at a time.
    """
    import torch

    order = sorted(range(len(tokens)), key=lambda index: index if places is None else places[index])
    values, done = [0.0] * len(tokens), 0
    with torch.inference_mode():
        for start in range(0, len(hidden), _CHUNK_TOKENS):
            logits = head.logits(hidden[start : start + _CHUNK_TOKENS]).float()
            here = []
            while (
                done < len(order) and (order[done] if places is None else places[order[done]]) < start + _CHUNK_TOKENS
            ):
                here.append(order[done])
                done += 1
            lines = torch.tensor(
                [(index if places is None else places[index]) - start for index in here], device=logits.device
            )
            asked = torch.tensor([tokens[index] for index in here], device=logits.device)
            top = logits.amax(-1, keepdim=True)
            chosen = logits[lines, asked] - top[lines, 0]
            # In place, since fresh pages of this size would cost as much as the sums.
            totals = logits.sub_(top).exp_().sum(-1).log_()
            for index, value in zip(here, (chosen - totals[lines]).double().tolist(), strict=True):
                values[index] = value
    return values
