"""Several processes on one store: workers of one run, runs at once, one that is killed, a disk that fills, clocks that jump."""

from __future__ import annotations

import json
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

from pytest_trust.report import comparable, read_report
from tests.plugin.test_runs import ENVIRONMENT, pair, trust_run
from tests.tiny_models import save_adapter, save_model

ROOT = Path(__file__).parents[2]
SUITES = ("--trust-suite=safety", "--trust-suite=ethics", "--trust-suite=toxicity", "--trust-limit=6", "--trust-batch-size=2")
ONE = ("-p", "no:xdist")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model and an adapter on it that answers otherwise."""
    where = tmp_path_factory.mktemp("tiny")
    base = save_model(where / "base")
    return pair(base, save_adapter(where / "adapter", base))


def made(store: Path) -> Counter[str]:
    """How many values of the pair each process has put into the store."""
    connection = sqlite3.connect(store / "store.sqlite3")
    try:
        return Counter(
            process
            for table in ("responses", "options", "drifts")
            for (process,) in connection.execute(f"SELECT json_extract(context, '$.process') FROM {table}")
        )
    finally:
        connection.close()


def claims(store: Path) -> int:
    connection = sqlite3.connect(store / "store.sqlite3")
    try:
        return int(connection.execute("SELECT count(*) FROM claims").fetchone()[0])
    finally:
        connection.close()


# A plugin that writes each computed key to a file of its process, as it is put.
COUNTING = """
    import os
    from pathlib import Path
    from pytest_trust.store import CLAIMED, Store
    put = Store.put
    def counting(self, table, values, context=None):
        if table in CLAIMED:
            with open(Path(os.environ["TRUST_COUNTED"]) / str(os.getpid()), "a") as file:
                file.writelines(f"{key}\\n" for key in values)
        return put(self, table, values, context)
    Store.put = counting
"""


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have runs count what they compute, also what the store had; gives the counts of all runs so far by process."""
    where = tmp_path / "counted"
    where.mkdir()
    (tmp_path / "counting.py").write_text(textwrap.dedent(COUNTING))
    monkeypatch.setitem(ENVIRONMENT, "TRUST_COUNTED", str(where))
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", str(tmp_path))
    return lambda: [Counter(path.read_text().split()) for path in sorted(where.iterdir())]


def started(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--trust-profile=smoke", *arguments]
    return subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def once(counts: list[Counter[str]], store: Path) -> None:
    """All that is in the store was computed once."""
    total: Counter[str] = sum(counts, Counter())
    assert set(total.values()) == {1}
    assert len(total) == made(store).total() > 0
    assert claims(store) == 0


def test_workers_share_the_whole_plan_and_report_what_one_process_does(tmp_path: Path, models: list[str], counted: Any) -> None:
    arguments = [*models, *SUITES, "-p", "counting"]
    runs = {"one": ONE, "file": ("-n2", "--dist=loadfile"), "load": ("-n2",)}
    reports = {}
    before = 0
    for name, how in runs.items():
        done = trust_run(tmp_path, *arguments, *how, f"--trust-store={name}", f"--trust-report={name}.json")
        assert done.returncode in (0, 1), done.stdout + done.stderr
        reports[name] = comparable(read_report(tmp_path / f"{name}.json"))
        counts = counted()
        store = tmp_path / name
        processes = made(store)
        assert len(processes) == (1 if name == "one" else 2), processes
        total = sum(map(Counter.total, counts)) - before  # every worker computed a share of each module's work
        assert total == processes.total() and claims(store) == 0
        before += total
    assert reports["one"] == reports["file"] == reports["load"]
