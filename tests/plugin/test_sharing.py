"""Whole runs of several processes on one store: the workers of one run, and runs at once; and what is shown of them."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.report import comparable, read_report
from tests.support.tiny_models import save_adapter, save_model
from tests.support.trust_runs import ENVIRONMENT, pair, trust_run

SUITES = (
    "--trust-suite=safety/harmful_requests",
    "--trust-suite=ethics",
    "--trust-limit=6",
    "--trust-max-new-tokens=8",
    "--trust-batch-size=2",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model and an adapter on it that answers otherwise.

    These random models would not choose an option. How likely they find each is all that counts here.
    """
    where = tmp_path_factory.mktemp("tiny")
    (where / "policy.yaml").write_text("min_option_mass: 0\n")
    base = save_model(where / "base")
    adapter = save_adapter(where / "adapter", base)
    return [*pair(base, adapter), f"--trust-policy={where / 'policy.yaml'}", "--trust-choices=likelihood"]


def asked(store: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(store / "store.sqlite3")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def stored(store: Path) -> Counter[str]:
    """Keys of what the models computed."""
    return Counter(
        key for table in ("responses", "options", "drifts") for (key,) in asked(store, f"SELECT key FROM {table}")
    )


# A plugin that writes each computed key to a file of its process. It makes the processes of a run begin together: a
# late one would find nothing left to do.
COUNTING = """
    import os, time
    from pathlib import Path
    from pytest_trust.engine.store import CLAIMED, Store
    put, where = Store.put, Path(os.environ["TRUST_COUNTED"])
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", os.environ["TRUST_RUNS"]))
    def counting(self, table, values, *arguments, **options):
        if table in CLAIMED:
            with open(where / str(os.getpid()), "a") as file:
                file.writelines(f"{key}\\n" for key in values)
            while len(list(where.iterdir())) < count:
                time.sleep(0.01)
        return put(self, table, values, *arguments, **options)
    Store.put = counting
"""


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have runs keep count; gives what each process has computed since the last call."""
    (tmp_path / "counting.py").write_text(textwrap.dedent(COUNTING))
    where = tmp_path / "counted"
    where.mkdir()
    monkeypatch.setitem(ENVIRONMENT, "TRUST_COUNTED", str(where))
    monkeypatch.setitem(ENVIRONMENT, "TRUST_RUNS", "1")
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", str(tmp_path))

    def counts() -> list[Counter[str]]:
        found = []
        for path in sorted(where.iterdir()):
            found.append(Counter(path.read_text().split()))
            path.unlink()
        return found

    return counts


def shares_of(counts: list[Counter[str]], store: Path) -> list[int]:
    """How much each process computed of what is in the store, none of it twice."""
    assert sum(counts, Counter()) == stored(store)
    assert asked(store, "SELECT * FROM claims") == []
    return [share.total() for share in counts]


def test_workers_share_the_whole_plan_and_report_what_one_process_does(
    tmp_path: Path, models: list[str], counted: Any
) -> None:
    arguments = [*models, *SUITES, "-p", "counting"]
    runs = {"one": ("-p", "no:xdist"), "file": ("-n2", "--dist=loadfile"), "load": ("-n2", "-q")}
    reports, outputs = {}, {}
    for name, how in runs.items():
        done = trust_run(tmp_path, *arguments, *how, f"--trust-store={name}", f"--trust-report={name}.json")
        assert done.returncode in (0, 1), done.stdout + done.stderr
        assert done.stderr == ""
        reports[name], outputs[name] = comparable(read_report(tmp_path / f"{name}.json")), done.stdout
        shares = shares_of(counted(), tmp_path / name)
        assert len(shares) == (1 if name == "one" else 2), shares
    assert reports["one"] == reports["file"] == reports["load"]
    for name in ("one", "file"):
        told = [line for line in outputs[name].splitlines() if line.startswith("trust: ")]
        for phase in (
            "base: answering",
            "base: scoring options of",
            "adapter: answering",
            "adapter: measuring drift on",
        ):
            assert any(line.startswith(f"trust: {phase} ") for line in told), outputs[name]
        assert any(
            line.startswith("trust: base: loading" if name == "one" else "trust: base: loading 2/2") for line in told
        )
    assert "trust: " not in outputs["load"]


def test_workers_stop_early_where_one_process_does(
    tmp_path: Path, refusing: Path, complying: Path, counted: Any
) -> None:
    arguments = [*pair(refusing, complying), "--trust-suite=safety", "--trust-sequential", "-p", "counting"]
    reports = []
    for name, how in {"one": ("-p", "no:xdist"), "two": ("-n2",)}.items():
        done = trust_run(tmp_path, *arguments, *how, f"--trust-store={name}", f"--trust-report={name}.json")
        assert done.returncode == 1, done.stdout + done.stderr
        shares = shares_of(counted(), tmp_path / name)
        assert len(shares) == (1 if name == "one" else 2), shares
        reports.append(read_report(tmp_path / f"{name}.json"))
    assert any(gate.sequential and gate.sequential.stopped for gate in reports[0].gates)
    assert comparable(reports[0]) == comparable(reports[1])


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals")
def test_two_runs_at_once_report_the_same_and_show_a_bar_in_a_terminal(
    tmp_path: Path, models: list[str], counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pty

    monkeypatch.setitem(ENVIRONMENT, "TRUST_RUNS", "2")
    ours, theirs = pty.openpty()
    processes = []
    for name, output in (("log", subprocess.PIPE), ("terminal", theirs)):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--trust-profile=smoke", "-p", "no:xdist"]
        arguments = [*models, *SUITES, "-p", "counting", "--trust-store=store", f"--trust-report={name}.json"]
        processes.append(
            subprocess.Popen(
                [*command, *arguments], cwd=tmp_path, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT
            )
        )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    log = processes[0].communicate()[0]
    assert [process.wait() for process in processes] == [0, 0], log.decode() + shown.decode()
    assert b"trust: base: loading" in log
    assert b"\rtrust: base: loading" in shown
    assert b"loading  took" not in shown
    assert len(shares_of(counted(), tmp_path / "store")) == 2
    log_report, terminal_report = (read_report(tmp_path / f"{name}.json") for name in ("log", "terminal"))
    assert comparable(log_report) == comparable(terminal_report)
