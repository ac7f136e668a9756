"""The store: the results of all models in one SQLite file, which several processes may use at once.

A key is a hash of everything that determines its value. Results are added and never changed. A finished batch is one
transaction, so a killed run continues where it stopped. Two runs at once share their results; `engine.claims` divides
their work.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pytest_trust.engine.filesystems import between_machines
from pytest_trust.errors import TrustError

SCHEMA = 2
"""Schema 1 has values and hashes of files; schema 2 adds claims and their owners.

An older store is migrated in place. A newer one is refused.
"""

FILE_NAME = "store.sqlite3"
_APPLICATION = 0x74727374  # "trst": a database without this application id is refused
_BUSY_SECONDS = 60
_IN = 500  # SQLite allows at least 999 parameters in a statement

Table = Literal["responses", "options", "drifts", "prompts", "notes"]
TABLES: tuple[Table, ...] = ("responses", "options", "drifts", "prompts", "notes")
CLAIMED: tuple[Table, ...] = ("responses", "options", "drifts")
"""Tables of results that models compute. Processes claim their keys, so that none is computed twice."""


class StoreError(TrustError):
    """A store that cannot be used: damaged, full, of another version, or not writable."""


class Store:
    """Values by key in `directory`/store.sqlite3. The file is made on first use.

    Values are bytes: JSON or arrays, never pickles. Each value has a context, such as batch size, device and versions.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / FILE_NAME
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, table: Table, keys: Iterable[str]) -> dict[str, bytes]:
        """The stored values among `keys`."""
        return dict(self._select("key, value", table, keys))

    def has(self, table: Table, keys: Iterable[str]) -> set[str]:
        """The stored keys among `keys`. This reads no values."""
        return {key for (key,) in self._select("key", table, keys)}

    def _select(self, columns: str, table: Table, keys: Iterable[str]) -> list[Any]:
        wanted = list(dict.fromkeys(keys))
        found: list[Any] = []
        with self._open() as connection:
            for start in range(0, len(wanted), _IN):
                part = wanted[start : start + _IN]
                marks = ",".join("?" * len(part))
                found += connection.execute(f"SELECT {columns} FROM {table} WHERE key IN ({marks})", part).fetchall()
        return found

    def put(
        self,
        table: Table,
        values: Mapping[str, bytes],
        context: Mapping[str, object] | None = None,
        *,
        replace: bool = False,
    ) -> None:
        """Add values and end the claims on their keys, in one transaction.

        A key that is already there keeps its value, unless `replace` is true.
        """
        beside = json.dumps(context or {}, sort_keys=True)
        rows = [(key, value, beside) for key, value in values.items()]
        verb = "REPLACE" if replace else "INSERT OR IGNORE"
        with self._open() as connection, connection:
            connection.executemany(f"{verb} INTO {table} (key, value, context) VALUES (?, ?, ?)", rows)
            if table in CLAIMED:
                connection.executemany("DELETE FROM claims WHERE key = ?", [(key,) for key in values])

    def get_json(self, table: Table, keys: Iterable[str]) -> dict[str, Any]:
        """As `get`, with the values parsed as JSON."""
        found = self.get(table, keys)
        try:
            return {key: json.loads(value) for key, value in found.items()}
        except ValueError:
            raise self._damaged() from None

    def put_json(
        self,
        table: Table,
        values: Mapping[str, object],
        context: Mapping[str, object] | None = None,
        *,
        replace: bool = False,
    ) -> None:
        """As `put`, with the values written as JSON."""
        self.put(
            table,
            {
                key: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
                for key, value in values.items()
            },
            context,
            replace=replace,
        )

    def file_hash(self, path: Path, compute: Callable[[Path], str]) -> str:
        """The hash of a file's whole content. The store keeps it for the file's path, size and time of change."""
        state = path.stat()
        identity = (str(path.resolve()), state.st_size, state.st_mtime_ns)
        with self._open() as connection:
            row = connection.execute(
                "SELECT hash FROM files WHERE path = ? AND size = ? AND mtime_ns = ?", identity
            ).fetchone()
        if row:
            return str(row[0])
        value = compute(path)
        with self._open() as connection, connection:
            connection.execute(
                "INSERT OR REPLACE INTO files (path, size, mtime_ns, hash) VALUES (?, ?, ?, ?)", (*identity, value)
            )
        return value

    def count(self, table: Table) -> int:
        """Number of values in the table."""
        with self._open() as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """This process's connection, for `engine.claims`. SQLite's errors are raised as StoreError."""
        with self._open() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """As `reading`, in one transaction that excludes other writers. It is undone when the block raises."""
        with self._open() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    def close(self) -> None:
        """Close this process's connection. The next use opens another."""
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        self._connection = None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The connection of this process. SQLite's errors are raised as StoreError, in words."""
        try:
            # A connection must not be carried over a fork.
            if self._connection is None or self._process != os.getpid():
                self._connection, self._process = self._connect(), os.getpid()
            yield self._connection
        except sqlite3.OperationalError as error:
            text = str(error)
            if "full" in text:
                raise StoreError(
                    f"{self.path}: the disk is full; everything finished so far is kept: make room and run again"
                ) from None
            if "locked" in text or "busy" in text:
                raise StoreError(
                    f"{self.path}: another process held the store for more than {_BUSY_SECONDS} s: "
                    "end it, or use another --trust-store"
                ) from None
            if "malformed" in text or "no such" in text or "not a database" in text:
                raise self._damaged() from None
            raise StoreError(
                f"{self.path}: the store cannot be used ({text}): check the directory, or use another --trust-store"
            ) from None
        except sqlite3.DatabaseError:
            raise self._damaged() from None

    def _damaged(self) -> StoreError:
        return StoreError(
            f"{self.path}: the store is damaged or not a store; it was left as it is: "
            "move it away, or use another --trust-store"
        )

    def _connect(self) -> sqlite3.Connection:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.directory}: the store directory cannot be made ({error.strerror}): use another --trust-store"
            ) from None
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        if application == _APPLICATION:
            self._refuse_newer(version)
        if application not in (0, _APPLICATION) or (
            application == 0 and connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        ):
            # Another process may have made the store since: tables and application id come in one transaction.
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            if application != _APPLICATION:
                raise self._damaged()
        # Write-ahead logging keeps its index in shared memory, so all its processes must be on one machine.
        shared = between_machines(self.directory)
        _use_journal(connection, "DELETE" if shared else "WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if shared else 'NORMAL'}")
        if application == _APPLICATION and version == SCHEMA:
            return
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            # Another process may have migrated the store since.
            self._refuse_newer(connection.execute("PRAGMA user_version").fetchone()[0])
            for table in TABLES:
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {table} "
                    "(key TEXT PRIMARY KEY, value BLOB NOT NULL, context TEXT NOT NULL)"
                )
            connection.execute(
                "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, hash TEXT)"
            )
            # Schema 2 adds these tables. A store of schema 1 has all others, unchanged.
            connection.execute("CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL)")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS owners "
                "(name TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, "
                "started TEXT NOT NULL, beats INTEGER NOT NULL)"
            )
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")

    def _refuse_newer(self, version: int) -> None:
        if version > SCHEMA:
            raise StoreError(
                f"{self.path}: written by a newer pytest-trust (schema {version}, this one knows {SCHEMA}): "
                "update, or use another --trust-store"
            )


def _use_journal(connection: sqlite3.Connection, mode: str) -> None:
    # SQLite ignores the busy timeout when the journal mode changes. Wait here for another process that makes the store.
    for _ in range(100):
        try:
            connection.execute(f"PRAGMA journal_mode = {mode}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.05)
    raise sqlite3.OperationalError("database is locked")


def context_of(**values: object) -> dict[str, object]:
    """The context of stored values: the given facts, and the versions of the libraries that computed the values."""
    names = ("torch", "transformers", "peft", "tokenizers")
    versions = {name: str(getattr(sys.modules[name], "__version__", "")) for name in names if name in sys.modules}
    return {**values, "versions": versions}


def default_store() -> Path:
    """The user's cache directory, as platformdirs finds it."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("pytest-trust", appauthor=False))
