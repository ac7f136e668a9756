"""The loop behind all work of models: claim a batch, make it, store it, report progress, until the plan is done."""

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
    """Make the batches' items that no other process has claimed. True when all items are stored at the end.

    Args:
        make: makes items, stores them in `table`, and yields the numbers of items and tokens after each time it stores.
        missing: number of items that the store lacked before.
        keys: gives the keys of items.
        part: gives the items, or the parts of them, that belong to some of their keys.
        wait: wait until other processes have stored their items.
    """
    total, made, tokens = sum(map(len, batches)), 0, 0

    def tell(left: int) -> None:
        workspace.tell(reference, phase, "", total - left, total, tokens, made)

    def waiting(held: Mapping[int, Sequence[str]]) -> None:
        tell(sum(len(part(batches[index], set(names))) for index, names in held.items()))

    tell(missing)
    with workspace.claims:
        for index, claimed in workspace.claims.shares(
            table, [keys(batch) for batch in batches], wait=wait, waiting=waiting
        ):
            for items, new in make(part(batches[index], set(claimed))):
                made, tokens = made + items, tokens + new
                tell(missing - made)
    wanted = {key for batch in batches for key in keys(batch)}
    left = wanted - workspace.store.has(table, wanted) if made < missing and not wait else set()
    if made < missing and not left:
        tell(0)  # other processes made the rest
    return not left
