"""The store under faults: damage, other versions, a full disk, two processes, kill -9."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pytest_trust.engine.filesystems import between_machines
from pytest_trust.engine.store import Store, StoreError


def test_keeps_what_is_put_and_the_first_value_of_a_key(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.put_json("responses", {"a": {"text": "\ud800 é"}}, {"batch_size": 4})
        store.put_json("responses", {"a": {"text": "other"}, "b": 2})
    with Store(tmp_path) as store:
        found = store.get_json("responses", ["a", "b", "c", *map(str, range(2000))])
    assert found == {"a": {"text": "\ud800 é"}, "b": 2}


def test_hashes_a_file_again_only_when_it_changed(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    asked: list[bytes] = []

    def compute(path: Path) -> str:
        asked.append(path.read_bytes())
        return path.read_text()

    with Store(tmp_path / "store") as store:
        assert [store.file_hash(file, compute) for _ in range(3)] == ["one"] * 3
        file.write_bytes(b"two!")
        assert store.file_hash(file, compute) == "two!"
    assert asked == [b"one", b"two!"]


@pytest.mark.parametrize(
    "content",
    [b"not a database at all, but long enough to have a header " * 40, b"SQLite format 3\x00" + b"\xff" * 4096],
)
def test_a_damaged_store_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.sqlite3"
    path.write_bytes(content)
    with Store(tmp_path) as store, pytest.raises(StoreError) as error:
        store.get("responses", ["a"])
    assert str(path) in str(error.value)
    assert "damaged" in str(error.value)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content


def test_damage_inside_the_file_is_seen_when_it_is_read(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.put_json("responses", {f"{index:04}": "x" * 2000 for index in range(200)})
    path = tmp_path / "store.sqlite3"
    content = bytearray(path.read_bytes())
    content[8192:-4096] = os.urandom(len(content) - 8192 - 4096)
    path.write_bytes(content)
    with Store(tmp_path) as store, pytest.raises(StoreError, match="damaged"):
        store.get("responses", [f"{index:04}" for index in range(200)])


def test_a_foreign_database_is_not_written_to(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "store.sqlite3")
    connection.execute("CREATE TABLE mine (x)")
    connection.commit()
    connection.close()
    with Store(tmp_path) as store, pytest.raises(StoreError, match="not a store"):
        store.put("notes", {"a": b"b"})


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.put("notes", {"a": b"b"})
    connection = sqlite3.connect(tmp_path / "store.sqlite3")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with Store(tmp_path) as store, pytest.raises(StoreError, match=r"newer pytest-trust \(schema 99"):
        store.get("notes", ["a"])


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.put_json("responses", {"first": "kept"})
        with store._open() as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages + 4}")
        with pytest.raises(StoreError, match="the disk is full") as error:
            store.put_json("responses", {f"{index}": "x" * 5000 for index in range(50)})
        assert "\n" not in str(error.value)
        assert store.get_json("responses", ["first", "0"]) == {"first": "kept"}
    with Store(tmp_path) as store:
        store.put_json("responses", {"second": "fits again"})
        assert store.count("responses") == 2


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with Store(tmp_path / "store") as store, pytest.raises(StoreError, match="cannot be made"):
            store.get("notes", ["a"])
    finally:
        tmp_path.chmod(0o700)


MOUNTS = """\
/dev/sda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/local ext4 rw 0 0
//server/share /mnt/my\\040share cifs rw 0 0
bucket /mnt/bucket fuse.s3fs rw 0 0
/dev/sdc /twice ext4 rw 0 0
server:/twice /twice nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/var/store", False),
        ("/home/me/store", True),
        ("/home/local/store", False),
        ("/mnt/my share/store", True),
        ("/mnt/bucket", True),
        ("/twice/store", True),
        ("/homeless", False),
    ],
)
def test_a_file_system_of_several_machines_is_known_by_its_mount(tmp_path: Path, place: str, expected: bool) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert between_machines(Path(place), mounts) is expected
    assert not between_machines(Path(place), tmp_path / "no such list")


@pytest.mark.parametrize(("shared", "mode"), [(False, "wal"), (True, "delete")])
def test_a_store_of_several_machines_does_without_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool, mode: str
) -> None:
    with Store(tmp_path) as store:
        store.put("notes", {"before": b"1"})
    monkeypatch.setattr("pytest_trust.engine.store.between_machines", lambda directory: shared)
    with Store(tmp_path) as one, Store(tmp_path) as two:
        one.put("notes", {"a": b"1"})
        two.put("notes", {"b": b"2"})
        assert one.get("notes", ["before", "a", "b"]) == {"before": b"1", "a": b"1", "b": b"2"}
        assert (tmp_path / "store.sqlite3-shm").exists() is not shared
        with two.reading() as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == (mode,)


WRITER = """
    import sys, os, signal
    from pathlib import Path
    from pytest_trust.engine.store import Store
    store, name, die = Store(Path(sys.argv[1])), sys.argv[2], sys.argv[3] == "die"
    for batch in range(40):
        store.put_json("responses", {f"shared-{batch}-{row}": name for row in range(5)} | {f"{name}-{batch}": batch})
        if die and batch == 20:
            with store._open() as connection:
                connection.execute("INSERT INTO responses VALUES ('half', x'00', '')")
                os.kill(os.getpid(), signal.SIGKILL)
    print("done")
"""


def writer(directory: Path, name: str, end: str = "live") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(directory), name, end],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_several_processes_make_and_use_one_store(tmp_path: Path) -> None:
    processes = [writer(tmp_path, name) for name in ("a", "b", "c")]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert (output.strip(), errors) == ("done", "")
    with Store(tmp_path) as store:
        assert store.count("responses") == 40 * 5 + 3 * 40


@pytest.mark.skipif(os.name == "nt", reason="no kill -9")
def test_kill_9_keeps_finished_batches_and_drops_the_open_one(tmp_path: Path) -> None:
    process = writer(tmp_path, "a", "die")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    with Store(tmp_path) as store:
        assert store.count("responses") == 21 * 6
        assert store.get("responses", ["half"]) == {}
