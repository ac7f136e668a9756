"""From both sides' states on the same texts to token drifts, all texts of a call in one reduction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from pytest_trust.drift.sides import Side, Unit
from pytest_trust.errors import InvalidInput
from pytest_trust.responses import TokenIds

if TYPE_CHECKING:
    import torch

    from pytest_trust.drift.kernels.divergence import TokenDivergences
    from pytest_trust.models.heads import Head


@dataclass(frozen=True, slots=True)
class Read:
    """A text that both sides have read, and the key that its drift is stored under."""

    key: str
    unit: Unit
    p: Any
    """p's states that predict the text's tokens, [tokens, hidden size], or the `TopK` of a recording."""
    q: Any
    """The same of q."""
    token_ids: TokenIds
    answer: int
    """Index of the answer's first token."""
    masked: Sequence[int]
    """Indices of the template's tokens."""


def divergences(
    work: Sequence[Read], p_head: Head | None, q_head: Head | None, shared: int, p: Side, q: str
) -> dict[str, bytes]:
    """Encoded token drifts of p against q, by key. The `shared` leading numbers are compared; -1 stands for all.

    Raises:
        InvalidInput: a logit is NaN or infinite; names model, probe and token.
    """
    import torch

    from pytest_trust.drift.kernels.from_hidden import divergences_from_hidden
    from pytest_trust.drift.kernels.reduction import OddLogits
    from pytest_trust.drift.summary import TokenDrift
    from pytest_trust.drift.top_k import divergences_from_top_k, swapped
    from pytest_trust.engine.top_k import TopK

    if not work:
        return {}
    limit = shared if shared >= 0 else min(head.vocabulary for head in (p_head, q_head) if head)
    labels = [torch.tensor([token for row in one.token_ids for token in row]) for one in work]
    kept = []
    for one, row in zip(work, labels, strict=True):
        counted = row < limit  # tokens that only one side has cannot be compared
        counted[list(one.masked)] = False
        kept.append(counted.nonzero().view(-1))
    try:
        targets = torch.cat([row[keep] for row, keep in zip(labels, kept, strict=True)])
        p_states, q_states = _joined([one.p for one in work], kept), _joined([one.q for one in work], kept)
        if isinstance(p_states, TopK):
            assert q_head is not None
            found = divergences_from_top_k(p_states, q_states, q_head, targets)
        elif isinstance(q_states, TopK):
            assert p_head is not None
            found = swapped(divergences_from_top_k(q_states, p_states, p_head, targets))
        else:
            assert p_head is not None
            assert q_head is not None
            found = divergences_from_hidden(
                p_states, p_head, q_states, q_head, labels=targets, shared_vocabulary=None if shared < 0 else shared
            )
    except OddLogits as odd:
        index, place = odd.place([len(keep) for keep in kept])
        unit, whose = work[index].unit, p if odd.side == "p" else q
        label = (unit.candidate if whose == "candidate" else unit.baseline).reference.label
        raise InvalidInput(
            f"{label} ({whose}): {odd.what} in its logits for token {int(kept[index][place])} of the {p}'s text "
            f"on probe {unit.probe.id}; expected finite logits: check the model's weights and dtype"
        ) from odd
    values, start = {}, 0
    for one, keep, row in zip(work, kept, labels, strict=True):
        unit = one.unit
        drift = TokenDrift.of(
            rows_of(found, start, start + len(keep)),
            probe=unit.probe.id,
            cluster=unit.probe.cluster,
            suite=unit.job.suite,
            p=p,
            q=q,
            answer_start=int((keep < one.answer).sum()),
            masked_tokens=len(row) - len(keep),
            windowed=any(unit.side(side).beyond(unit.probe.id, one.token_ids) for side in ("baseline", "candidate")),
        )
        values[one.key] = drift.to_bytes()
        start += len(keep)
    return values


def _joined(states: Sequence[Any], kept: Sequence[torch.Tensor]) -> Any:
    """The states at the counted tokens of all texts, one after the other, or their `TopK` in a top-k recording."""
    import torch

    from pytest_trust.engine.top_k import TopK

    if isinstance(states[0], TopK):
        return TopK.joined([state.at(keep) for state, keep in zip(states, kept, strict=True)])
    return torch.cat([state[keep.to(state.device)] for state, keep in zip(states, kept, strict=True)])


def rows_of(found: TokenDivergences, start: int, stop: int) -> TokenDivergences:
    """The divergences at the tokens from `start` to before `stop`."""
    whole = {column.name: getattr(found, column.name) for column in fields(found)}
    part: dict[str, Any] = {name: None if value is None else value[start:stop] for name, value in whole.items()}
    return type(found)(**part)
