"""`--trust-engine=ray` as a user runs it.

It gives the report of a local run, names the cluster, leaves nothing running and refuses what it cannot do.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.report import comparable, read_report
from tests.support.ray_clusters import NODE, ray_cluster, ray_directory

PAIR = ("--trust-baseline=demo:instruct", "--trust-candidate=demo:aligned")
RUN = "-m pytest -W error -p no:cacheprovider -p no:xdist --trust-profile=smoke --trust-limit=8".split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*PAIR, "--trust-engine=spark"], "--trust-engine=spark: expected local or ray"),
        ([*PAIR, "--trust-engine=ray", "-n2"], "--trust-engine=ray: the cluster's actors do the work"),
        (
            [PAIR[0], "--trust-engine=ray", "--trust-record=baseline.trust"],
            "record with --trust-engine=local",
        ),
        (
            [PAIR[0], "--trust-candidate=http://localhost:9/v1#served", "--trust-engine=ray"],
            "--trust-engine=ray: served is behind a server",
        ),
    ],
)
def test_what_is_refused(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    # Earlier runs inside of this process may have taken the module out of sys.modules: import it anew.
    config = importlib.import_module("pytest_trust.plugin.config")
    monkeypatch.setattr(config, "find_spec", lambda name: object())  # with or without Ray
    refused(pytester, arguments, message)


def test_ray_that_is_not_installed(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys\nsys.modules['ray'] = None\n")
    pytester.makeini("[pytest]\ntrust_engine = ray\n")
    loaded = sys.modules.pop("ray", None)
    try:
        refused(pytester, [*PAIR], "--trust-engine=ray: Ray is not installed: pip install 'pytest-trust[ray]'")
    finally:
        sys.modules.pop("ray", None)
        if loaded is not None:
            sys.modules["ray"] = loaded


def refused(pytester: pytest.Pytester, arguments: list[str], message: str) -> None:
    result = pytester.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.strip()]
    assert message in line


@pytest.fixture
def directory() -> Iterator[str]:
    pytest.importorskip("ray")
    with ray_directory() as found:
        yield found


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def command(cwd: Path, pair: tuple[Path, Path], name: str, *more: str) -> list[str]:
    baseline, candidate = pair
    return [
        sys.executable, *RUN, f"--trust-baseline={baseline}", f"--trust-candidate={candidate}", "--trust-suite=safety",
        "--trust-suite=ethics", f"--trust-store={cwd / name}", f"--trust-report={cwd / name}.json", *more,
    ]  # fmt: skip


def report(cwd: Path, name: str) -> Any:
    return comparable(read_report(cwd / f"{name}.json"))


def running(directory: str) -> list[str]:
    """Processes whose command names the directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended
        if directory in line:
            found.append(line)
    return found


@pytest.mark.ray
def test_a_cluster_of_its_own_gives_the_report_of_a_local_run_and_is_gone_afterwards(
    tmp_path: Path, refusing: Path, complying: Path, directory: str
) -> None:
    pair = refusing, complying
    local = subprocess.run(
        command(tmp_path, pair, "local"), cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    ran = subprocess.run(
        command(tmp_path, pair, "ray", "--trust-engine=ray"), cwd=tmp_path,
        env=environment(RAY_TMPDIR=directory), capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == local.returncode == 0, ran.stdout + ran.stderr
    assert report(tmp_path, "ray") == report(tmp_path, "local")
    assert "trust: models run on a Ray cluster of this process's own (1 node, " in ran.stdout
    assert ran.stderr == ""
    assert os.listdir(directory)
    assert running(directory) == []


@pytest.mark.ray
def test_the_cluster_of_rays_configuration(tmp_path: Path, refusing: Path, complying: Path) -> None:
    pytest.importorskip("ray")
    with ray_cluster() as cluster:
        cluster.add_node(**NODE)
        ran = subprocess.run(
            command(tmp_path, (refusing, complying), "ray", "--trust-engine=ray"), cwd=tmp_path,
            env=environment(RAY_ADDRESS=cluster.address), capture_output=True, text=True,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert f"trust: models run on the Ray cluster at {cluster.address} (2 nodes, 1 CPU)" in ran.stdout
        assert ran.stderr == ""
        # It is not that run's to stop.
        assert all(node.any_processes_alive() for node in (cluster.head_node, *cluster.worker_nodes))


@pytest.mark.ray
def test_a_cluster_that_does_not_answer(tmp_path: Path, refusing: Path, complying: Path) -> None:
    pytest.importorskip("ray")
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        ran = subprocess.run(
            command(tmp_path, (refusing, complying), "ray", "--trust-engine=ray"), cwd=tmp_path,
            env=environment(RAY_ADDRESS=address), capture_output=True, text=True,
        )  # fmt: skip
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout + ran.stderr
    assert f"RAY_ADDRESS={address}: no cluster answers" in ran.stdout
    assert "4 skipped, 1 error" in ran.stdout
    assert ran.stderr == ""


@pytest.mark.ray
def test_an_interrupted_run_leaves_nothing_running(
    tmp_path: Path, refusing: Path, complying: Path, directory: str
) -> None:
    pair = refusing, complying
    process = subprocess.Popen(
        command(tmp_path, pair, "ray", "--trust-engine=ray", "--trust-limit=300"), cwd=tmp_path,
        env=environment(RAY_TMPDIR=directory), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # in the background of a shell the signal is ignored, and what is started inherits that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while stored(tmp_path / "ray") == 0 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)  # polling another process, not timing it
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output + errors
    assert "finished batches are kept" in output
    assert running(directory) == []


def stored(directory: Path) -> int:
    from pytest_trust.engine.store import Store

    if not (directory / "store.sqlite3").exists():
        return 0
    with Store(directory) as store:
        return store.count("responses")
