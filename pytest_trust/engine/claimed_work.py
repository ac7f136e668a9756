"""The loop that all work of models goes through: claim a batch, make and store it, tell of it, until all of the plan is in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from pytest_trust.engine.engine import Engine
    from pytest_trust.engine.server.model import Served
    from pytest_trust.engine.store import Table
    from pytest_trust.models.reference import Reference
    from pytest_trust.responses import Job, Phase

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
    engine: Engine,
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
        engine.tell(reference, phase, "", total - left, total, tokens, made)

    def waiting(held: Mapping[int, Sequence[str]]) -> None:
        tell(sum(len(part(batches[index], set(theirs))) for index, theirs in held.items()))

    tell(missing)
    with engine.claims:
        for index, mine in engine.claims.shares(table, [keys(batch) for batch in batches], wait=wait, waiting=waiting):
            for items, new in make(part(batches[index], set(mine))):
                made, tokens = made + items, tokens + new
                tell(missing - made)
    wanted = {key for batch in batches for key in keys(batch)}
    left = wanted - engine.store.has(table, wanted) if made < missing and not wait else set()
    if made < missing and not left:
        tell(0)  # others made the rest
    return not left


def ask(engine: Engine, served: Served, jobs: Sequence[Job]) -> None:
    """Have a server asked for what is missing, by one process at a time: the requests that it takes at once are the run's, not each
    worker's."""
    tables: tuple[tuple[str, Table], ...] = (("generate", "responses"), ("choose", "options"))
    for task, table in tables:
        asked = [(job, served.keys(job)) for job in jobs if job.task == task]
        keys = [key for _, found in asked for key in found.values()]
        with engine.claims:
            for _, mine in engine.claims.shares(table, [keys]):
                wanted = set(mine)
                parts = []
                for job, found in asked:
                    names = {name for (name, _), key in found.items() if key in wanted}
                    parts.append(replace(job, probes=tuple(probe for probe in job.probes if probe.id in names)))
                served.acquire([part for part in parts if part.probes], engine.tell)
