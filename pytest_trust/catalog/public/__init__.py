"""Public benchmarks as suites, by adapter: `load_suite("public/xstest", data=DIR)`.

No row of any of them is part of this package. Rows come from a folder of the original files (`--trust-data=DIR`) or
from the Hub at a pinned revision. They are normalised, counted and hashed, and refused when they are not the rows that
the adapter was checked with. Importing this package imports the standard library only; an adapter's module is imported
when its suite is asked for.

Gates of public suites have margins of their own, which hold where neither the test, its marker nor the policy gives
one. A gate that the policy names belongs to the policy's family. The family of all others is the whole registry,
whichever gates a run selects, so a verdict never depends on the selection (see `family`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_trust.errors import InvalidInput

if TYPE_CHECKING:
    from pytest_trust.catalog.public.adapter import Adapter, Record
    from pytest_trust.probes import Suite

_MODULES: Final = (
    "xstest", "harmful_prompts", "continuations", "crows_pairs", "bbq", "stereoset", "winogender", "dt_stereotype",
    "ethics", "moral_stories", "confaide", "privacylens", "dt_privacy", "advglue", "dt_styles", "realtimeqa",
    "mathematics",
)  # fmt: skip


@cache
def adapters() -> dict[str, Adapter]:
    """All adapters by the name of their suite, in a fixed order."""
    by_name: dict[str, Adapter] = {}
    for module in _MODULES:
        for adapter in import_module(f"{__name__}.{module}").ADAPTERS:
            by_name[adapter.name] = adapter
    return by_name


def public_gates() -> list[tuple[str, str]]:
    """(suite, gate) of every gate in the registry."""
    return [(name, gate.name) for name, adapter in adapters().items() for gate in adapter.gates]


@cache
def family() -> int:
    """How many gates share the error rate: all gates of the registry except controls, whichever a run selects."""
    return sum(len(adapter.gates) for adapter in adapters().values() if not adapter.control)


def get_adapter(name: str) -> Adapter:
    if name not in adapters():
        from difflib import get_close_matches

        near = get_close_matches(name, adapters(), 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(adapters())}"
        raise InvalidInput(f"no public suite {name!r}; {hint}")
    return adapters()[name]


def load_public(name: str, *, data: Path | None = None, accept_data_change: bool = False) -> Suite:
    """The suite of a public benchmark: its rows are found, checked and turned into probes.

    The suite is cached while the files do not change. Raises NotFound (an InvalidInput) when there are no rows; the
    message says how to get them. Raises InvalidInput for rows that are broken or changed, or that fail the adapter's
    self-check.
    """
    from pytest_trust.catalog.public.source import find_files

    adapter = get_adapter(name)
    located = find_files(adapter, data)
    stamps = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in located[1]) if located else ()
    return _load(name, data, accept_data_change, stamps)


@lru_cache(maxsize=128)
def _load(name: str, data: Path | None, accept_data_change: bool, stamps: tuple[tuple[str, int, int], ...]) -> Suite:
    from pytest_trust.catalog.public.source import find_records

    del stamps
    adapter = get_adapter(name)
    found = find_records(adapter, data=data, accept_data_change=accept_data_change)
    suite = build_suite(adapter, found.records)
    checked = next(
        (c for c in (*(layout.checked for layout in adapter.layouts), adapter.hub and adapter.hub.checked) if c), None
    )
    if adapter.generate is not None:
        words = "Its rows are made by the adapter."
    elif checked is None:
        words = "Not checked with real rows."
    else:
        words = f"Checked with {checked.rows} rows, hash {checked.sha256[:12]}."
    return replace(suite, about=f"{adapter.about} {words}", notes=found.notes)


def build_suite(adapter: Adapter, records: Sequence[Record]) -> Suite:
    """The suite of the records, self-checked. Raises InvalidInput.

    The adapter's own check reads the labels. The suite's judge checks that a larger value of every gate is worse.
    """
    from pytest_trust.catalog.public.checks import known_answers, orientation
    from pytest_trust.probes import Suite

    probes = tuple(adapter.probes(records))
    if len({probe.id for probe in probes}) != len(probes):
        ids = [probe.id for probe in probes]
        twice = next(name for name in ids if ids.count(name) > 1)
        raise InvalidInput(f"{adapter.name}: two rows have the id {twice!r}, expected ids to be unique")
    suite = Suite(
        name=adapter.name,
        dimension=adapter.dimension,
        title=adapter.title,
        about=adapter.about,
        task=adapter.task,
        judge=adapter.judge,
        gates={gate.name: gate for gate in adapter.gates},
        probes=probes,
        max_new_tokens=adapter.max_new_tokens,
        samples=adapter.samples,
        temperature=adapter.temperature,
        normalise=adapter.normalise,
        control=adapter.control,
        family=family(),
    )
    adapter.check(records, probes)
    known_answers(suite.name, probes)
    orientation(suite, adapter.good, adapter.bad)
    return suite
