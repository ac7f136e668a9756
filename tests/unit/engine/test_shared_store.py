"""Engines that share a store, in processes of their own: nothing computed twice, whatever happens to one of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.engine.batches import Answer, answer_batches
from pytest_trust.models.generation import Row
from pytest_trust.models.reference import Reference
from pytest_trust.responses import Generation, Progress
from tests.support.engine_jobs import JOBS, check_alike, engine, everything
from tests.support.pairs import acquire

ROOT = Path(__file__).parents[3]
Pair = tuple[Reference, Reference]
ACQUIRE = """
    import itertools, json, os, signal, sys, time
    from pathlib import Path
    from pytest_trust.engine.store import CLAIMED, Store
    from pytest_trust.models.reference import parse_reference
    from tests.support.engine_jobs import JOBS, engine, everything
    from tests.support.pairs import acquire
    store, die, jump, *texts = sys.argv[1:]
    puts, put, clock = dict.fromkeys(CLAIMED, 0), Store.put, time.time

    def counting(self, table, values, *arguments, **options):
        if table in CLAIMED:
            if die == f"{table}:{puts[table]}":
                os.kill(os.getpid(), signal.SIGKILL)  # computed, claimed, and not put
            puts[table] += 1
            print(*values, flush=True)
        put(self, table, values, *arguments, **options)

    Store.put = counting
    if jump != "0":
        jumps = itertools.cycle((float(jump), -float(jump)))
        time.time = lambda: clock() + next(jumps)
    pair = tuple(map(parse_reference, texts))
    with engine(Path(store)) as found:
        acquire(found, JOBS, *pair)
        print("result", json.dumps(everything(found, pair)[1]))
"""


def acquiring(store: Path, pair: Pair, *, die: str = "", jump: float = 0) -> subprocess.Popen[str]:
    """A process that acquires all jobs, and prints the keys of each batch as it puts them, then the drift.

    It is killed at the batch `die`, such as `responses:3`. Its wall clock leaps by `jump` seconds to and fro.
    """
    arguments = [str(store), die, str(jump), *(reference.text for reference in pair)]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ACQUIRE), *arguments],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def parsed(output: str) -> tuple[Counter[str], Any]:
    """Keys that a process put, and the drift that it saw."""
    head, _, result = output.partition("result ")
    return Counter(head.split()), json.loads(result) if result else None


def rows(store: Path, what: str) -> list[Any]:
    connection = sqlite3.connect(store / "store.sqlite3")
    try:
        return [
            found
            for table in ("responses", "options", "drifts")
            for (found,) in connection.execute(f"SELECT {what} FROM {table}")
        ]
    finally:
        connection.close()


def unclaimed(store: Path) -> bool:
    connection = sqlite3.connect(store / "store.sqlite3")
    try:
        return connection.execute("SELECT count(*) FROM claims").fetchone() == (0,)
    finally:
        connection.close()


def test_a_plan_is_cut_so_that_each_of_several_workers_may_take_a_few_parts() -> None:
    kinds = (
        [Generation(16)] * 10 + [Generation(8)] * 2090 + [Generation(8, temperature=1.0)] * 400
    )  # the limit alone parts none
    plan = [Answer(str(index), Row((1, 2), 0), "", kind) for index, kind in enumerate(kinds)]
    for workers, expected in (
        (1, [1024, 1024, 52, 400]),
        (2, [313] * 6 + [222, 313, 87]),
        (50, [13] * 161 + [7] + [13] * 30 + [10]),
    ):
        parts = list(answer_batches(plan, workers))
        assert [len(part) for part in parts] == expected
        assert [one for part in parts for one in part] == plan


def test_runs_at_once_whose_clocks_jump_share_the_work(complete: tuple[Path, Any], pair: Pair, tmp_path: Path) -> None:
    processes = [acquiring(tmp_path, pair, jump=jump) for jump in (1e9, 3600)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    made, results = zip(*(parsed(output) for output, _ in outputs), strict=True)
    check_alike(list(results), [complete[1][1]] * 2)
    total = sum(made, Counter())
    assert set(total.values()) == {1}
    assert set(total) == set(rows(tmp_path, "key")) == set(rows(complete[0], "key"))
    assert unclaimed(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="no kill -9")
@pytest.mark.parametrize("die", ["responses:3", "options:1", "drifts:0"])
def test_what_a_killed_run_had_claimed_is_taken_over(
    complete: tuple[Path, Any], pair: Pair, tmp_path: Path, die: str
) -> None:
    killed = acquiring(tmp_path, pair, die=die)
    output, _ = killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    before, _ = parsed(output)
    assert not unclaimed(tmp_path)
    told: list[Progress] = []
    with engine(tmp_path, progress=told.append) as found:
        acquire(found, JOBS, *pair)
        check_alike(everything(found, pair), complete[1])
        name = found.claims.name
    by = Counter(rows(tmp_path, "json_extract(context, '$.process')"))
    assert by[name] + sum(before.values()) == by.total() == len(rows(complete[0], "key"))
    assert by.total() - by[name] == sum(before.values())  # all that the first one finished was kept
    assert unclaimed(tmp_path)


def test_a_run_waits_for_another_and_makes_what_that_one_gives_up(
    complete: tuple[Path, Any], pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process has claimed everything. While another waits, it puts both models' responses and gives up the rest."""
    from pytest_trust.engine import claims

    keys, slept, told = rows(complete[0], "key"), [], list[Progress]()
    with engine(complete[0]) as known:
        responses = known.store.get("responses", keys)
    with engine(tmp_path) as other, engine(tmp_path, progress=told.append) as found:
        for table in ("responses", "options", "drifts"):
            other.claims.claim(table, keys)

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            other.store.put("responses", responses)
            other.claims.release()

        monkeypatch.setattr(claims.time, "sleep", sleep)
        acquire(found, JOBS, *pair)
        assert len(slept) == 1
        check_alike(everything(found, pair), complete[1])
        name = found.claims.name
    by = Counter(rows(tmp_path, "json_extract(context, '$.process')"))
    assert by == {None: len(responses), name: len(keys) - len(responses)}
    last = {(progress.model, progress.phase): progress for progress in told}
    assert len(last) == 2 * 3 + 1
    assert [progress for progress in last.values() if progress.done < progress.total] == []


def test_an_error_gives_up_the_claims_of_its_batch(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_trust.models import reasoning_budget as budget

    def fails(*arguments: Any) -> Any:
        raise ValueError("in the middle of a batch")

    monkeypatch.setattr(budget, "stream", fails)
    with engine(tmp_path) as found:
        with pytest.raises(ValueError, match="in the middle"):
            acquire(found, JOBS, *pair)
        assert found.claims.name
        assert unclaimed(tmp_path)


FULL = """
    mount -t tmpfs -o size=300k tmpfs "$1" || exit 77
    "$2" -c "$3" "$1/store" "$4" "$5"; echo "first $?"
    mount -o remount,size=64m "$1"
    "$2" -c "$3" "$1/store" "$4" "$5"; echo "second $?"
"""
ON_A_DISK = """
    import json, sys
    from pathlib import Path
    from pytest_trust.engine.store import StoreError
    from pytest_trust.models.reference import parse_reference
    from tests.support.engine_jobs import JOBS, engine, everything
    from tests.support.pairs import acquire
    pair = tuple(map(parse_reference, sys.argv[2:]))
    try:
        with engine(Path(sys.argv[1])) as found:
            acquire(found, JOBS, *pair)
            print(json.dumps([found.claims.name, everything(found, pair)[1]]))
            with found.store.reading() as connection:
                query = "SELECT json_extract(context, '$.process') FROM "
                tables = ("responses", "options", "drifts")
                by = [row for table in tables for (row,) in connection.execute(query + table)]
            print(json.dumps(by))
    except StoreError as error:
        sys.exit(f"StoreError: {error}")
"""


def test_a_disk_that_fills_in_the_middle_loses_nothing(complete: tuple[Path, Any], pair: Pair, tmp_path: Path) -> None:
    """A real file system of 300 kB is full; once there is room, the run continues.

    The file system is in a mount namespace that ends with the test.
    """
    enter = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*enter, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    where = tmp_path / "disk"
    where.mkdir()
    command = [*enter, "sh", "-c", textwrap.dedent(FULL), "sh", str(where), sys.executable, textwrap.dedent(ON_A_DISK)]
    done = subprocess.run(
        [*command, *(one.text for one in pair)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("no file system can be mounted here")
    first, result, by, second = done.stdout.splitlines()
    assert (first, second) == ("first 1", "second 0"), done.stdout + done.stderr
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["StoreError"]
    assert "the disk is full; everything finished so far is kept: make room and run again" in done.stderr
    name, drift = json.loads(result)
    check_alike(drift, complete[1][1])
    processes = Counter(json.loads(by))
    assert processes.total() == len(rows(complete[0], "key"))
    assert len(processes) == 2 and 0 < processes[name] < processes.total()
