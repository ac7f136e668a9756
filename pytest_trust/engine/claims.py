"""Who computes what: claims on keys of the store, so that processes that share it never make the same response twice.

A process claims a batch, computes it, and puts its values, which ends the claims in the same transaction. It never waits while it holds
one, so nobody waits for each other. Claims of a process that is gone are anybody's. No wall clock is asked whether it is: on the same
machine its process id and start time say so, and everywhere a counter that it raises (its heartbeat), which the others watch on their
own monotonic clocks.
"""

from __future__ import annotations

import os
import platform
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from pytest_trust.engine.store import Store, StoreError, Table

_BEAT_SECONDS = 5.0
# An owner whose process cannot be looked at (another machine) or looks alive (it is stopped) is dead when its heart was watched so long
# and stood still. Between two looks at most one beat counts as watched: a clock that leaps, as after a machine slept, proves nothing.
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.2
_IN = 500  # SQLite allows at least 999 parameters in a statement
_GONE = "gone"

_living: set[str] = set()  # names of this process's owners that have not been closed


class Claims:
    """This process's claims on a store's keys. Use it as a context manager around work: what is left of them is released at the end.

    `clock` counts seconds and never goes back; `patience`: how many of them a heart may stand still; `poll`: seconds between two looks
    at what others hold.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.monotonic,
        patience: float = _PATIENCE_SECONDS,
        poll: float = _POLL_SECONDS,
    ) -> None:
        self._store = store
        self._clock, self._patience, self._poll = clock, patience, poll
        self._name, self._process = "", 0
        self._heart: _Heart | None = None
        self._seen: dict[str, _Watched] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except StoreError:  # a full disk: claims whose heart stands still are taken over
            self._forget()
            if error is None:
                raise

    @property
    def name(self) -> str:
        """What this process is called in the store; empty before its first claim."""
        return self._name

    def claim(self, table: Table, keys: Iterable[str]) -> tuple[list[str], list[str]]:
        """Of `keys`, those that this process is to compute now, and those that others are computing; the rest is in the store.

        A process's own claims are among the first, those of owners that have died too. Claims last until `Store.put` or `release`.
        """
        wanted = list(dict.fromkeys(keys))
        # Reading does not hold up anybody; the answer that counts is the one below.
        with self._store.reading() as connection:
            free, taken = self._look(connection, table, wanted)
        if not free:
            return [], taken
        self._register()
        with self._store.writing() as connection:
            free, taken = self._look(connection, table, wanted)
            for name in self._dead_owners(connection):
                connection.execute("DELETE FROM claims WHERE owner = ?", (name,))
                connection.execute("DELETE FROM owners WHERE name = ?", (name,))
            # Who was taken for dead and went on (a machine that slept) is an owner again.
            row = (self._name, _host(), os.getpid(), _started(os.getpid()))
            connection.execute(
                "INSERT OR IGNORE INTO owners (name, host, pid, started, beats) VALUES (?, ?, ?, ?, 0)", row
            )
            connection.executemany(
                "INSERT OR REPLACE INTO claims (key, owner) VALUES (?, ?)", [(key, self._name) for key in free]
            )
        return free, taken

    def shares(
        self,
        table: Table,
        batches: Sequence[Sequence[str]],
        *,
        wait: bool = True,
        waiting: Callable[[Mapping[int, Sequence[str]]], None] | None = None,
    ) -> Iterator[tuple[int, list[str]]]:
        """Batch after batch that is this process's to compute: its index and its claimed keys, to be put before the next one is asked for.

        First, in order, what nobody has; then, with `wait`, until all of them are in the store, what others gave up or died over.
        `waiting` is told, before each look, which keys of which batches others are still computing.
        """
        left: dict[int, Sequence[str]] = dict(enumerate(batches))
        while left:
            found = False
            for index in list(left):
                mine, theirs = self.claim(table, left[index])
                if theirs:
                    left[index] = theirs
                else:
                    del left[index]
                if mine:
                    found = True
                    yield index, mine
            if not wait:
                return
            if left and not found:
                if waiting is not None:
                    waiting(left)
                time.sleep(self._poll)

    def release(self) -> None:
        """Give up what was claimed and not put."""
        if self._name and self._process == os.getpid():
            with self._store.writing() as connection:
                connection.execute("DELETE FROM claims WHERE owner = ?", (self._name,))

    def close(self) -> None:
        """Release everything and leave the list of owners. The claims can be used again afterwards."""
        try:
            self.release()
            if self._name and self._process == os.getpid():
                with self._store.writing() as connection:
                    connection.execute("DELETE FROM owners WHERE name = ?", (self._name,))
        except StoreError:
            pass  # nothing that this process could do about it; the others see that it is gone
        self._forget()

    def _register(self) -> None:
        """Have a name and a beating heart in this process: neither is carried over a fork."""
        if self._name and self._process == os.getpid():
            return
        self._name, self._process = secrets.token_hex(8), os.getpid()
        _living.add(self._name)
        self._heart = _Heart(self._store.directory, self._name)

    def _forget(self) -> None:
        _living.discard(self._name)
        if self._heart is not None and self._process == os.getpid():
            self._heart.stop()
        self._name, self._heart = "", None

    def _look(self, connection: sqlite3.Connection, table: Table, keys: Sequence[str]) -> tuple[list[str], list[str]]:
        """Keys that are free, and those that others hold."""
        stored: set[str] = set()
        held: set[str] = set()
        owners: dict[str, bool] = {self._name: False}
        for start in range(0, len(keys), _IN):
            part = keys[start : start + _IN]
            marks = ",".join("?" * len(part))
            # Claims first: an owner puts its values before its claim ends.
            rows = connection.execute(
                "SELECT key, owner, host, pid, started, beats FROM claims LEFT JOIN owners ON name = owner "
                f"WHERE key IN ({marks})",
                part,
            ).fetchall()
            for key, name, *owner in rows:
                if name not in owners:
                    owners[name] = self._lives(name, *owner)
                if owners[name]:
                    held.add(key)
            found = connection.execute(f"SELECT key FROM {table} WHERE key IN ({marks})", part)
            stored.update(key for (key,) in found)
        left = [key for key in keys if key not in stored]
        return [key for key in left if key not in held], [key for key in left if key in held]

    def _dead_owners(self, connection: sqlite3.Connection) -> list[str]:
        rows = connection.execute("SELECT name, host, pid, started, beats FROM owners").fetchall()
        return [name for name, *owner in rows if name != self._name and not self._lives(name, *owner)]

    def _lives(self, name: str, host: str | None, pid: int, started: str, beats: int) -> bool:
        """Whether the owner may still put what it has claimed."""
        if host is None:
            return False  # it left, or somebody has found it dead
        if host == _host():
            if pid == os.getpid():
                return name in _living
            if not _runs(pid, started):
                return False
        now, seen = self._clock(), self._seen.get(name)
        still = seen.still + min(now - seen.last, _BEAT_SECONDS) if seen is not None and seen.beats == beats else 0.0
        self._seen[name] = _Watched(beats, now, still)
        return still < self._patience


@dataclass(frozen=True, slots=True)
class _Watched:
    """Another owner's heart: its counter, when it was last looked at, and for how many watched seconds it has stood still."""

    beats: int
    last: float
    still: float


class _Heart:
    """A thread that raises an owner's counter in the store; it has a connection of its own, so as not to be in another's transaction."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pytest-trust heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        with Store(self._directory) as store:
            while not self._stopped.wait(_BEAT_SECONDS):
                try:
                    with store.writing() as connection:
                        connection.execute("UPDATE owners SET beats = beats + 1 WHERE name = ?", (self._name,))
                except StoreError:
                    continue  # the work itself will say what is wrong with the store


@cache
def _host() -> str:
    """What is equal for two processes that know each other by their process ids: a machine since its start, or a container in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _runs(pid: int, started: str) -> bool:
    """Whether that process of this machine runs, as far as can be told."""
    if os.name != "posix":
        return True  # signal 0 is Ctrl-C there; the heartbeat tells
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    now = _started(pid)
    return not now or not started or now == started


def _started(pid: int) -> str:
    """When a process of this machine started, in the kernel's ticks, which no clock changes; "" where it cannot be told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name in the second field may hold spaces and brackets. Then: state, ..., and start time as the 22nd field.
    fields = stat.rpartition(")")[2].split()
    return _GONE if fields[0] in "ZXx" else fields[19]
