"""The loop that all work of models goes through: claim a batch, make and store it, tell of it, until all of the plan is in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from pytest_trust.engine.store import Table
    from pytest_trust.engine.workspace import Workspace
    from pytest_trust.models.reference import Reference
    from pytest_trust.responses import Phase

Item = TypeVar("Item")


class Keyed(Protocol):
    @property
    def key(self) -> str: ...


KeyedItem = TypeVar("KeyedItem", bound=Keyed)


def keys_of(items: Sequence[Keyed]) -> list[str]:
    return [one.key for one in items]


def with_keys(items: Sequence[KeyedItem], keys: Set[str]) -> list[KeyedItem]:
    return [one for one in items if one.key in keys]


def share(
    workspace: Workspace,
    reference: Reference,
    phase: Phase,
    table: Table,
    batches: Sequence[Sequence[Item]],
    make: Callable[[list[Item]], Iterable[tuple[int, int]]],
    *,
    missing: int,
    keys: Callable[[Sequence[Item]], Sequence[str]],
    part: Callable[[Sequence[Item], Set[str]], list[Item]],
    wait: bool = True,
) -> bool:
    """Have made what no other process has claimed of the batches, and with `wait` wait for the rest. Whether all is there at the end.

    make: makes items and puts them into `table`; gives, after each put, how many items and tokens that was. missing: items that were not
    in the store before. keys, part: the keys of items, and what of items is asked for by some of their keys.
    """
    total, made, tokens = sum(map(len, batches)), 0, 0

    def tell(left: int) -> None:
        workspace.tell(reference, phase, "", total - left, total, tokens, made)

    def waiting(held: Mapping[int, Sequence[str]]) -> None:
        tell(sum(len(part(batches[index], set(theirs))) for index, theirs in held.items()))

    tell(missing)
    with workspace.claims:
        for index, mine in workspace.claims.shares(
            table, [keys(batch) for batch in batches], wait=wait, waiting=waiting
        ):
            for items, new in make(part(batches[index], set(mine))):
                made, tokens = made + items, tokens + new
                tell(missing - made)
    wanted = {key for batch in batches for key in keys(batch)}
    left = wanted - workspace.store.has(table, wanted) if made < missing and not wait else set()
    if made < missing and not left:
        tell(0)  # others made the rest
    return not left
