"""Judgements are kept in the store, so that a run from the store judges nothing again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from pytest_trust.engine.store import Store
from pytest_trust.judges import Judge, Judgement
from pytest_trust.keys import digest
from pytest_trust.probes import Probe
from pytest_trust.responses import Response


class Remembered:
    """A judge that looks its judgements up first, and stores the new ones when the `with` block ends.

    The key holds the judge's identity, the judges' installed files, the answer and the whole probe. Judgements that
    failed are not stored, so the judge is asked again.
    """

    def __init__(
        self,
        judge: Judge,
        store: Store,
        probes: Sequence[Probe],
        responses: Mapping[str, tuple[Response, ...]],
    ) -> None:
        self._judge, self._store = judge, store
        self._probes = {probe.id: digest("judged", 1, judge.identity, _installed(), asdict(probe)) for probe in probes}
        keys = [self._key(one.answer, probe.id) for probe in probes for one in responses.get(probe.id, ())]
        self._known = store.get_json("notes", keys)
        self._new: dict[str, object] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._new:
            self._store.put_json("notes", self._new)

    def __call__(self, answer: str, probe: Probe) -> Judgement:
        key = self._key(answer, probe.id)
        if key in self._known:
            return Judgement(**self._known[key])
        made = self._judge(answer, probe)
        if made.outcome != "error":
            self._new[key] = self._known[key] = asdict(made)
        return made

    def _key(self, answer: str, probe: str) -> str:
        return digest(self._probes[probe], answer)


@cache
def _installed() -> str:
    """A digest of the judges' installed files, by size and time: an edited judge must not answer from the store."""
    files = sorted((Path(__file__).parents[1] / "judges").glob("*.*"))
    return digest([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])
