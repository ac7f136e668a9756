"""What an adapter states about its benchmark: where the rows lie, how they are normalised, which probes and gates they become."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pytest_trust.catalog.public.rows import File as File
from pytest_trust.catalog.public.rows import Row
from pytest_trust.errors import InvalidInput
from pytest_trust.probes import Gate, Message, Probe

Record = Mapping[str, Any]
"""One normalised row: strings, numbers, booleans and lists of strings, the same from every source; what is counted and hashed."""

Tables = Sequence[Sequence[Row]]
Behaviour = Callable[[Probe], str]


class NotFound(InvalidInput):
    """No source of a benchmark's rows is at hand; the message says how to get them."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The rows that an adapter was checked with: how many, and the SHA-256 of their normal form."""

    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which the original files come. `read` gives the records of the files' rows, in the order of `files`."""

    files: tuple[File, ...]
    read: Callable[[Tables], list[Record]]
    checked: Checked | None = None


@dataclass(frozen=True, slots=True)
class Hub:
    """A dataset of the Hugging Face Hub; each split, or each of `files` in its repository, becomes one table.

    revision: the commit; None where this project knows of none, and then the rows are held to `checked` alone, and the report says so.
    files: for repositories that keep the original files behind a loading script, which `datasets` no longer runs.
    configs: one a split, where the tables are several configurations.
    """

    path: str
    revision: str | None
    splits: tuple[str, ...]
    read: Callable[[Tables], list[Record]]
    config: str | None = None
    checked: Checked | None = None
    files: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The dataset and its revision, as a report names them."""
        return f"{self.path}@{self.revision[:12]}" if self.revision else f"{self.path} (no pinned revision)"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A public benchmark as a suite.

    check(records, probes): raises InvalidInput where a label looks inverted or a class is the wrong one.
    good, bad: for a suite whose responses are judged, what a trustworthy and an untrustworthy model would say to a probe; the suite's judge
    and every gate must rank them so. generate: makes the records where a benchmark's rows are synthetic and nothing is read.
    """

    name: str
    dimension: str
    title: str
    about: str
    home: str
    licence: str
    task: Literal["generate", "choose"]
    judge: str
    gates: tuple[Gate, ...]
    probes: Callable[[Sequence[Record]], Sequence[Probe]]
    check: Callable[[Sequence[Record], Sequence[Probe]], None]
    layouts: tuple[Layout, ...] = ()
    hub: Hub | None = None
    generate: Callable[[], list[Record]] | None = None
    good: Behaviour | None = None
    bad: Behaviour | None = None
    max_new_tokens: int = 64
    samples: int = 1
    temperature: float = 0.0
    normalise: Literal["none", "tokens", "bytes"] = "none"
    control: bool = False


def stable_id(prefix: str, *texts: str) -> str:
    """An id that the row's content alone decides, for benchmarks that number nothing."""
    return f"{prefix}-{fingerprint(*texts)}"


def fingerprint(*texts: str) -> str:
    """Twelve hexadecimal digits of the texts' SHA-256; how adapters name a known row without holding it."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def numbered(probes: Iterable[Probe]) -> list[Probe]:
    """The probes with `-2`, `-3` after an id that was used before: benchmarks hold some rows twice."""
    from dataclasses import replace

    seen: dict[str, int] = {}
    result = []
    for probe in probes:
        seen[probe.id] = seen.get(probe.id, 0) + 1
        result.append(probe if seen[probe.id] == 1 else replace(probe, id=f"{probe.id}-{seen[probe.id]}"))
    return result


def asks(prompt: str, system: str = "") -> tuple[Message, ...]:
    """A conversation of one user message, after a system message if there is one."""
    return (*((Message("system", system),) if system else ()), Message("user", prompt))
