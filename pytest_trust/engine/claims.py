"""Claims on keys of the store: processes that share a store never make the same response twice.

A process claims a batch, computes it and stores its values; one transaction stores them and ends the claims. A process
that holds claims never waits for another, so there is no deadlock.

The claims of a dead process are free. No wall clock decides whether a process is dead. Its process id and start time
tell on the same machine. Its heartbeat, a counter that it raises in the store, tells everywhere; other processes watch
the counter on their own monotonic clocks.
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
# An owner is dead when its counter stood still for so long while it was watched. This decides about processes on other
# machines and about stopped ones, which look alive. The time between two looks counts for one beat at most, because a
# clock may leap, as after a machine slept.
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.2
_IN = 500  # SQLite allows at least 999 parameters in a statement
_GONE = "gone"

_living: set[str] = set()  # names of this process's owners that have not been closed


class Claims:
    """This process's claims on a store's keys. As a context manager it releases all claims that are left at the end.

    Args:
        clock: counts seconds and never goes back.
        patience: seconds that another owner's counter may stand still before the owner counts as dead.
        poll: seconds between two looks at the claims of others.
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
        except StoreError:  # a full disk: others take the claims over when the heartbeat stops
            self._forget()
            if error is None:
                raise

    @property
    def name(self) -> str:
        """This process's name in the store; empty before its first claim."""
        return self._name

    def claim(self, table: Table, keys: Iterable[str]) -> tuple[list[str], list[str]]:
        """Claim the free keys. Gives this process's keys and the keys that others hold; the rest is stored.

        The first list includes keys that this process had claimed before, and keys of owners that have died. A claim
        lasts until `Store.put` or `release`.
        """
        wanted = list(dict.fromkeys(keys))
        # This look blocks nobody. The look inside the transaction below decides.
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
            # A process that others took for dead, as after its machine slept, enters itself again.
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
        """Claim batch after batch. Yields a batch's index and its claimed keys.

        The caller stores their values before it goes on. Free batches come first, in order.

        Args:
            wait: go on until all keys are stored, and claim the keys that others give up or leave when they die.
            waiting: called before each pause with the keys, by batch, that others are still computing.
        """
        left: dict[int, Sequence[str]] = dict(enumerate(batches))
        while left:
            found = False
            for index in list(left):
                claimed, held = self.claim(table, left[index])
                if held:
                    left[index] = held
                else:
                    del left[index]
                if claimed:
                    found = True
                    yield index, claimed
            if not wait:
                return
            if left and not found:
                if waiting is not None:
                    waiting(left)
                time.sleep(self._poll)

    def release(self) -> None:
        """Give up the claims whose values were not stored."""
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
            pass  # this process can do nothing about it; the others notice that it is gone
        self._forget()

    def _register(self) -> None:
        """Give this process a name and a heartbeat, unless it has them. A forked process needs its own."""
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
        """Keys that are free, and keys that others hold."""
        stored: set[str] = set()
        held: set[str] = set()
        owners: dict[str, bool] = {self._name: False}
        for start in range(0, len(keys), _IN):
            part = keys[start : start + _IN]
            marks = ",".join("?" * len(part))
            # Read the claims before the values: a claim never ends before its value is stored.
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
        """Whether the owner may still store the values that it has claimed."""
        if host is None:
            return False  # the owner has left, or another process has found it dead
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
    """What was seen of another owner's heartbeat."""

    beats: int
    """The owner's counter."""
    last: float
    """When the counter was last looked at, seconds of `Claims`' clock."""
    still: float
    """Watched seconds without a beat."""


class _Heart:
    """A thread that raises an owner's counter in the store.

    It has a connection of its own, so that a beat is never part of another transaction.
    """

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
                    continue  # the work itself reports what is wrong with the store


@cache
def _host() -> str:
    """Names the space of process ids: a machine since it was started, or a container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _runs(pid: int, started: str) -> bool:
    """Whether that process runs on this machine; True where this cannot be told."""
    if os.name != "posix":
        return True  # signal 0 is Ctrl-C there, so the heartbeat decides
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's process
    now = _started(pid)
    return not now or not started or now == started


def _started(pid: int) -> str:
    """When a process of this machine started, in ticks since the kernel did; "" where this cannot be told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The second field, the name, may hold spaces and brackets. The state is the 3rd field, the start time the 22nd.
    fields = stat.rpartition(")")[2].split()
    return _GONE if fields[0] in "ZXx" else fields[19]
