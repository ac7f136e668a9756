"""What an adapter states about its benchmark: where its rows are, how they are normalised, which probes they become."""

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
"""One normalised row of strings, numbers, booleans and lists of strings. It is the same from every source, so records
are what is counted and hashed."""

Tables = Sequence[Sequence[Row]]
Behaviour = Callable[[Probe], str]


class NotFound(InvalidInput):
    """A benchmark's rows are nowhere to be found; the message says how to get them."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The rows that an adapter was checked with: how many, and the SHA-256 of their normal form."""

    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Layout:
    """One form of the original files. `read` makes the records from one table for each of `files`, in their order."""

    files: tuple[File, ...]
    read: Callable[[Tables], list[Record]]
    checked: Checked | None = None


@dataclass(frozen=True, slots=True)
class Hub:
    """A dataset of the Hugging Face Hub. Each split, or each of `files` in its repository, becomes one table.

    revision: the commit. With None only `checked` vouches for the rows, and the report says so.
    files: the original files, where the repository has a loading script, which `datasets` no longer runs.
    configs: one configuration for each split, where they differ.
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
    good, bad: for a suite whose responses are judged, what a trustworthy and an untrustworthy model would say to a
    probe. The suite's judge and every gate must score `good` below `bad`.
    generate: makes the records of a synthetic benchmark, for which nothing is read.
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
    """An id made from the content of a row, for benchmarks whose rows have no id."""
    return f"{prefix}-{fingerprint(*texts)}"


def fingerprint(*texts: str) -> str:
    """Twelve hexadecimal digits of the texts' SHA-256. Adapters use it to name a known row without holding its text."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def numbered(probes: Iterable[Probe]) -> list[Probe]:
    """The probes with `-2`, `-3` added to an id that was used before, since benchmarks hold some rows twice."""
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
