"""Claims between processes: none twice, the dead's taken over, whatever the clocks do."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_trust.engine import claims as module
from pytest_trust.engine.claims import Claims
from pytest_trust.engine.store import Store, StoreError

ROOT = Path(__file__).parents[3]
ALL = ["a", "b", "c", "d"]


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as opened:
        yield opened


@pytest.fixture
def ours(store: Store) -> Iterator[Claims]:
    found = Claims(store)
    yield found
    found.close()


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Claims]:
    """Of another engine with a connection of its own."""
    with Store(tmp_path) as other:
        found = Claims(other)
        yield found
        found.close()


def claimed(store: Store) -> set[str]:
    with store.reading() as connection:
        return {key for (key,) in connection.execute("SELECT key FROM claims")}


def owned_by(
    store: Store, keys: list[str], *, host: str, pid: int = 1, started: str = "1", name: str = "other"
) -> None:
    """Claims of an owner that is not this process."""
    with store.writing() as connection:
        connection.execute("INSERT INTO owners VALUES (?, ?, ?, ?, 0)", (name, host, pid, started))
        connection.executemany("INSERT INTO claims VALUES (?, ?)", [(key, name) for key in keys])


def test_a_key_has_one_owner_until_its_value_is_there(store: Store, ours: Claims, theirs: Claims) -> None:
    assert ours.claim("responses", ["a", "b", "a"]) == (["a", "b"], [])
    assert theirs.claim("responses", ALL) == (["c", "d"], ["a", "b"])
    assert ours.claim("responses", ALL) == (["a", "b"], ["c", "d"])  # its own are its own
    store.put("responses", {"a": b"1"})
    assert theirs.claim("responses", ALL) == (["c", "d"], ["b"])
    assert claimed(store) == {"b", "c", "d"}


def test_values_end_claims_in_their_own_transaction(store: Store, ours: Claims) -> None:
    ours.claim("responses", ALL)
    with store.reading() as connection:
        connection.execute("CREATE TRIGGER fails BEFORE DELETE ON claims BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(StoreError):
            store.put("responses", {"a": b"1"})
        assert store.get("responses", ALL) == {}
        connection.execute("DROP TRIGGER fails")
    store.put("responses", {"a": b"1"})
    assert claimed(store) == {"b", "c", "d"}


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_what_is_left_is_released_however_the_work_ends(
    store: Store, ours: Claims, theirs: Claims, error: type[BaseException] | None
) -> None:
    try:
        with ours:
            ours.claim("responses", ALL)
            store.put("responses", {"a": b"1"})
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert claimed(store) == set()
    assert theirs.claim("responses", ALL) == (["b", "c", "d"], [])


def test_closing_leaves_no_trace_and_no_thread(store: Store, ours: Claims) -> None:
    ours.claim("responses", ALL)
    assert any(thread.name == "pytest-trust heartbeat" for thread in threading.enumerate())
    ours.close()
    assert not any(thread.name == "pytest-trust heartbeat" for thread in threading.enumerate())
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM owners").fetchone() == (0,)
    assert ours.claim("responses", ["a"]) == (["a"], [])


def test_a_run_from_the_store_claims_nothing(store: Store, ours: Claims) -> None:
    store.put("responses", dict.fromkeys(ALL, b"1"))
    assert list(ours.shares("responses", [ALL])) == []
    assert ours.name == ""


def test_shares_go_in_order_and_leave_out_what_is_stored_or_taken(store: Store, ours: Claims, theirs: Claims) -> None:
    store.put("responses", {"a": b"1"})
    theirs.claim("responses", ["c"])
    seen = []
    for index, keys in ours.shares("responses", [["a", "b"], ["c"], ["d", "e"]], wait=False):
        seen.append((index, keys))
        assert claimed(store) == {"c", *keys}  # one batch at a time
        store.put("responses", dict.fromkeys(keys, b"1"))
    assert seen == [(0, ["b"]), (2, ["d", "e"])]


def test_what_others_hold_is_waited_for_and_taken_when_given_up(
    store: Store, theirs: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs.claim("responses", ALL)
    ours, told, looks = Claims(store), [], iter(("puts", "gives up"))

    def sleep(seconds: float) -> None:
        if next(looks) == "puts":
            store.put("responses", {"a": b"1", "c": b"1"})
        else:
            theirs.release()

    monkeypatch.setattr(module.time, "sleep", sleep)
    shared = ours.shares("responses", [["a", "b"], ["c", "d"]], waiting=lambda left: told.append(dict(left)))
    index, keys = next(shared)
    assert told == [{0: ["a", "b"], 1: ["c", "d"]}, {0: ["b"], 1: ["d"]}]
    assert (index, keys) == (0, ["b"])
    store.put("responses", {"b": b"1"})
    assert next(shared) == (1, ["d"])
    ours.close()


def test_a_process_that_is_gone_owns_nothing(store: Store, ours: Claims) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    owned_by(store, ALL, host=module._host(), pid=done.pid, started="1")
    assert ours.claim("responses", ["a"]) == (["a"], [])
    assert claimed(store) == {"a"}  # its other claims are gone too


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start times are read from /proc")
def test_a_process_id_that_was_given_again_is_not_the_owner(store: Store, ours: Claims) -> None:
    owned_by(store, ["a"], host=module._host(), pid=os.getppid(), started="1")
    owned_by(store, ["b"], host=module._host(), pid=os.getppid(), started=module._started(os.getppid()), name="parent")
    assert ours.claim("responses", ["a", "b"]) == (["a"], ["b"])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="a zombie is seen in /proc")
def test_a_killed_process_that_nobody_has_waited_for_is_gone(store: Store, ours: Claims) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owned_by(store, ["a"], host=module._host(), pid=child.pid, started=module._started(child.pid))
    assert ours.claim("responses", ["a"]) == ([], ["a"])
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
    assert ours.claim("responses", ["a"]) == (["a"], [])
    child.communicate()


def beat(store: Store, name: str = "other") -> None:
    with store.writing() as connection:
        connection.execute("UPDATE owners SET beats = beats + 1 WHERE name = ?", (name,))


def test_another_machine_lives_as_long_as_its_heart_is_seen_to_beat(store: Store) -> None:
    clock = Clock()
    ours = Claims(store, clock=clock)
    owned_by(store, ["a"], host="another machine")
    for _ in range(100):  # 400 s
        clock.now += 4
        beat(store)
        assert ours.claim("responses", ["a"]) == ([], ["a"])
    looks = 0
    while ours.claim("responses", ["a"]) == ([], ["a"]):
        clock.now += 4
        looks += 1
    assert looks == 60 / 4
    ours.close()


def test_a_stopped_process_of_this_machine_does_not_hold_up_others_for_ever(store: Store) -> None:
    clock = Clock()
    ours = Claims(store, clock=clock)
    owned_by(store, ["a"], host=module._host(), pid=os.getppid(), started=module._started(os.getppid()))
    looks = [ours.claim("responses", ["a"])]
    for _ in range(12):
        clock.now += 5
        looks.append(ours.claim("responses", ["a"]))
    assert looks == [([], ["a"])] * 12 + [(["a"], [])]
    ours.close()


def test_a_leap_of_the_clock_takes_no_claim_from_the_living(store: Store) -> None:
    """As after a machine slept: the owner's heart slept too."""
    clock = Clock()
    ours = Claims(store, clock=clock)
    owned_by(store, ["a"], host="another machine")
    ours.claim("responses", ["a"])
    clock.now += 1e6
    assert ours.claim("responses", ["a"]) == ([], ["a"])
    ours.close()


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_the_wall_clock_may_say_what_it_likes(
    store: Store, ours: Claims, theirs: Claims, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    theirs.claim("responses", ["a"])
    owned_by(store, ["b"], host="another machine")
    owned_by(store, ["c"], host=module._host(), pid=2**22 + 1, name="gone")  # no process has such an id
    ours.claim("responses", ALL)
    here = time.time()
    monkeypatch.setattr(time, "time", lambda: here + jump)
    monkeypatch.setattr(time, "time_ns", lambda: int((here + jump) * 1e9))
    assert ours.claim("responses", ALL) == (["c", "d"], ["a", "b"])
    theirs.release()
    assert ours.claim("responses", ALL) == (["a", "c", "d"], ["b"])


def test_who_was_taken_for_dead_and_goes_on_does_no_harm(store: Store, ours: Claims, theirs: Claims) -> None:
    theirs.claim("responses", ["a", "b"])
    with store.writing() as connection:  # as another process does that finds it dead
        connection.execute("DELETE FROM claims")
        connection.execute("DELETE FROM owners")
    assert ours.claim("responses", ["a"]) == (["a"], [])
    store.put("responses", {"a": b"late"})
    assert theirs.claim("responses", ["a", "b", "c"]) == (["b", "c"], [])
    assert ours.claim("responses", ["b"]) == ([], ["b"])  # it is an owner again


def test_a_heart_beats_in_the_store(store: Store, ours: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.001)
    ours.claim("responses", ["a"])
    with store.reading() as connection:
        while connection.execute("SELECT beats FROM owners").fetchone()[0] < 3:
            time.sleep(0.001)  # waits for another thread


def test_a_full_disk_ends_the_work_and_not_the_next_one(store: Store, ours: Claims, theirs: Claims) -> None:
    with pytest.raises(StoreError, match="the disk is full") as error, ours:
        ours.claim("responses", ALL)
        with store.reading() as connection:
            connection.execute("PRAGMA max_page_count = 1")  # not below what there is: nothing more fits
        store.put("responses", dict.fromkeys(ALL, b"x" * 5000))
    assert "\n" not in str(error.value)
    assert theirs.claim("responses", ALL) == (ALL, [])


def test_claims_that_a_full_disk_kept_from_being_released_bind_nobody(
    store: Store, ours: Claims, theirs: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise StoreError("the disk is full")

    with pytest.raises(ValueError), ours:
        ours.claim("responses", ALL)
        monkeypatch.setattr(ours, "release", full)
        raise ValueError
    assert claimed(store) == set(ALL)
    assert theirs.claim("responses", ALL) == (ALL, [])


WORKER = """
    import sys
    from pathlib import Path
    from pytest_trust.engine.claims import Claims
    from pytest_trust.engine.store import Store
    store, stop = Store(Path(sys.argv[1])), int(sys.argv[2])
    batches = [[f"{batch}-{row}" for row in range(7)] for batch in range(60)]
    with Claims(store) as claims:
        for index, keys in claims.shares("responses", batches):
            print(*keys, flush=True)
            if index == stop:
                input()
            store.put("responses", {key: b"1" for key in keys}, {"by": claims.name})
"""


def worker(directory: Path, stop: int = -1) -> subprocess.Popen[str]:
    """Computes a plan of 60 batches of 7, a line of output for each; over batch `stop` it hangs."""
    command = [sys.executable, "-c", textwrap.dedent(WORKER), str(directory), str(stop)]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_processes_share_a_plan_and_compute_nothing_twice(tmp_path: Path) -> None:
    outputs = [process.communicate(timeout=120) for process in [worker(tmp_path) for _ in range(4)]]
    assert [errors for _, errors in outputs] == [""] * 4
    made = Counter(key for output, _ in outputs for key in output.split())
    assert len(made) == 420
    assert set(made.values()) == {1}


@pytest.mark.skipif(os.name == "nt", reason="no kill -9")
def test_the_claims_of_a_killed_process_are_taken_over_by_who_waits_for_them(tmp_path: Path) -> None:
    first = worker(tmp_path, stop=20)
    assert first.stdout is not None
    before = [first.stdout.readline().split() for _ in range(21)]  # it hangs over the last of them
    second = worker(tmp_path)
    assert second.stdout is not None
    rest = [second.stdout.readline().split() for _ in range(39)]  # all but what the first one holds
    first.send_signal(signal.SIGKILL)
    first.communicate()
    output, errors = second.communicate(timeout=120)
    assert errors == ""
    assert output.split() == before[-1]
    made = Counter(key for keys in (*before[:-1], *rest, before[-1]) for key in keys)
    assert len(made) == 420 and set(made.values()) == {1}
    with Store(tmp_path) as store:
        assert store.count("responses") == 420
        with store.reading() as connection:
            by = Counter(connection.execute("SELECT json_extract(context, '$.by') FROM responses"))
        assert sorted(by.values()) == [20 * 7, 40 * 7]
        assert claimed(store) == set()


def schema_1(path: Path) -> None:
    """A store as the release before claims wrote it."""
    connection = sqlite3.connect(path)
    for table in ("responses", "options", "drifts", "prompts", "notes"):
        connection.execute(f"CREATE TABLE {table} (key TEXT PRIMARY KEY, value BLOB NOT NULL, context TEXT NOT NULL)")
        connection.execute(f"INSERT INTO {table} VALUES ('old', '\"{table}\"', '{{}}')")
    connection.execute("CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, hash TEXT)")
    connection.execute(f"PRAGMA application_id = {0x74727374}")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()


def test_an_older_store_is_migrated_where_it_lies(tmp_path: Path) -> None:
    schema_1(tmp_path / "store.sqlite3")
    with Store(tmp_path) as store:
        claims = Claims(store)
        assert claims.claim("responses", ["old", "new"]) == (["new"], [])
        store.put_json("responses", {"new": 1})
        assert store.get_json("responses", ["old", "new"]) == {"old": "responses", "new": 1}
        assert [store.count(table) for table in ("options", "drifts", "prompts", "notes")] == [1] * 4
        claims.close()
        with store.reading() as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_several_processes_migrate_one_store(tmp_path: Path) -> None:
    schema_1(tmp_path / "store.sqlite3")
    outputs = [process.communicate(timeout=120) for process in [worker(tmp_path) for _ in range(4)]]
    assert [errors for _, errors in outputs] == [""] * 4
    with Store(tmp_path) as store:
        assert store.count("responses") == 421
