"""On a Ray cluster whose nodes die and join: the store of a local run, nothing lost, nothing twice."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pytest_trust.audit.executor import LocalExecutor
from pytest_trust.audit.ray import shipments as cluster_chunks
from pytest_trust.audit.ray.actors import Actors
from pytest_trust.audit.ray.executor import RayExecutor
from pytest_trust.audit.ray.shipments import Chunk, Done
from pytest_trust.audit.ray.worker import Settings, Worker
from pytest_trust.engine.engine import Engine
from pytest_trust.errors import TrustError
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.responses import Progress
from tests.support.pairs import acquire
from tests.support.ray_clusters import NODE, ray_cluster
from tests.support.ray_jobs import CHOICE, GREEDY, JOBS, SHARED, TABLES, check_same, content
from tests.support.tiny_models import save_model

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ray


class Counting(Worker):
    """Writes down beside the controller's store what it computed, and where."""

    @property
    def notes(self) -> Path:
        return Path(self._settings.models).parent

    def run(self, chunk: Chunk) -> Done:
        done = super().run(chunk)
        keys = [key for table, key, _, _ in done.rows if table in TABLES]
        node = ray.get_runtime_context().get_node_id()
        text = json.dumps({"node": node, "process": os.getpid(), "keys": keys})
        path = self.notes / f"computed-{uuid4()}"
        path.with_suffix(".part").write_text(text)
        path.with_suffix(".part").rename(path)
        return done


class FirstHangs(Counting):
    """The first one to finish a chunk keeps the result to itself."""

    def run(self, chunk: Chunk) -> Done:
        done = super().run(chunk)
        own = self.notes / f"node-{os.getpid()}"
        own.write_text(ray.get_runtime_context().get_node_id())
        try:
            os.link(own, self.notes / "hanging")
        except FileExistsError:
            return done
        return threading.Event().wait()  # type: ignore[return-value]


class FirstWaitsForAnother(Counting):
    """The first one to finish a chunk gives it back when another actor has finished one."""

    patient = 0  # chunks that are given back at once

    def run(self, chunk: Chunk) -> Done:
        done = super().run(chunk)
        mine = sum(one["process"] == os.getpid() for one in computed(self.notes))
        if mine > self.patient:
            until(lambda: len({one["process"] for one in computed(self.notes)}) > 1)
        return done


class SecondWaitsForAnother(FirstWaitsForAnother):
    """Gives back one chunk, and the next one when another actor has finished one."""

    patient = 1


class Dies(Worker):
    def run(self, chunk: Chunk) -> Done:
        os._exit(1)


def until(true: Any) -> None:
    """Wait for another process; not for time to pass."""
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "the other process did not do it in 120 s"
        time.sleep(0.02)


def computed(store: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in store.glob("computed-*") if not path.suffix]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Its nodes come and go with the tests."""
    with ray_cluster() as found:
        ray.init(address=found.address, log_to_driver=False, logging_level=logging.CRITICAL)
        # The nodes have pytest-trust, and not its tests.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield found
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        ray.shutdown()


@pytest.fixture
def nodes(cluster: Any) -> Iterator[Any]:
    """`nodes()` adds one."""
    yield lambda **named: cluster.add_node(**{**NODE, **named})
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_chunks, "_LEAST", 100)


def engine(store: Path, worker: type[Worker] = Counting, **named: Any) -> closing[RayExecutor]:
    made = RayExecutor(store, batch_size=4, **named)
    made.worker = worker
    return closing(made)


def test_two_nodes_make_the_store_of_a_local_run(
    nodes: Any, pair: tuple[Reference, Reference], local: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    nodes()
    nodes()
    notes: list[str] = []
    with engine(tmp_path, FirstWaitsForAnother, note=notes.append) as found:
        acquire(found, JOBS, *pair)
    check_same(tmp_path, local)
    done = computed(tmp_path)
    assert len({one["node"] for one in done}) == 2
    assert Counter(key for one in done for key in one["keys"]) == {key: 1 for table in TABLES for key in local[table]}
    (note,) = notes
    assert note.startswith("models run on the Ray cluster at ")
    assert note.endswith("(3 nodes, 2 CPUs)")
    assert ray.is_initialized()  # it was not this engine that connected


def test_a_node_that_dies_loses_nothing_and_only_its_chunk_is_done_again(
    cluster: Any, nodes: Any, pair: tuple[Reference, Reference], local: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    both = {node.node_id: node for node in (nodes(), nodes())}
    dead: list[str] = []

    def kill(told: Progress) -> None:
        """By now another node has delivered, and the first result to be computed was not."""
        if told.done and not dead:
            dead.append((tmp_path / "hanging").read_text())
            cluster.remove_node(both[dead[0]])

    with engine(tmp_path, FirstHangs, progress=kill) as found:
        acquire(found, JOBS, *pair)
    check_same(tmp_path, local)
    done = computed(tmp_path)
    (lost,) = [one["keys"] for one in done if one["node"] == dead[0]]
    assert lost
    times = Counter(key for one in done for key in one["keys"])
    assert times.keys() == {key for table in TABLES for key in local[table]}
    assert {key for key, count in times.items() if count > 1} == set(lost)
    assert max(times.values()) == 2


def test_a_node_that_dies_between_two_acquisitions(
    cluster: Any, nodes: Any, pair: tuple[Reference, Reference], local: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    both = {node.node_id: node for node in (nodes(), nodes())}
    with engine(tmp_path, FirstWaitsForAnother) as found:
        acquire(found, [GREEDY], *pair)
        cluster.remove_node(both[computed(tmp_path)[0]["node"]])
        acquire(found, JOBS, *pair)
    assert {table: rows.keys() for table, rows in content(tmp_path).items()} == {
        table: rows.keys() for table, rows in local.items()
    }
    assert max(Counter(key for one in computed(tmp_path) for key in one["keys"]).values()) == 1


def test_a_node_that_joins_is_given_work(
    nodes: Any, pair: tuple[Reference, Reference], local: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    nodes()
    joined: list[Any] = []

    def add(told: Progress) -> None:
        if told.done and not joined:
            joined.append(nodes())

    with engine(tmp_path, SecondWaitsForAnother, progress=add) as found:
        acquire(found, JOBS, *pair)
    check_same(tmp_path, local)
    assert {one["node"] for one in computed(tmp_path)} > {joined[0].node_id}


def test_a_chunk_that_kills_its_actors_is_given_up_after_three(
    nodes: Any, pair: tuple[Reference, Reference], tmp_path: Path
) -> None:
    nodes()
    with engine(tmp_path, Dies) as found, pytest.raises(TrustError) as error:
        acquire(found, [CHOICE], *pair)
    assert str(error.value).startswith("dim/pick: 3 actors in a row died on the same ")
    assert "\n" not in str(error.value)


def test_a_model_that_cannot_load_is_the_error_of_a_local_run_and_fails_once(nodes: Any, tmp_path: Path) -> None:
    nodes()
    broken = save_model(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    reference = parse_reference(str(broken))
    said = []
    for made in (closing(LocalExecutor(Engine(tmp_path / "local"))), engine(tmp_path / "cluster")):
        with made as found, pytest.raises(TrustError) as error:
            found.acquire_side([SHARED], reference)
        said.append((type(error.value), str(error.value)))
    assert said[0] == said[1]
    assert "cannot be loaded" in said[0][1]


def test_actors_of_a_cluster_with_gpus_ask_for_one_each(
    nodes: Any, pair: tuple[Reference, Reference], tmp_path: Path
) -> None:
    from pytest_trust.models.identity import _gpu_nodes

    if _gpu_nodes():
        pytest.skip("a GPU might be here, and this is about an actor that finds none")
    nodes(num_gpus=1)
    # Ray is told of a GPU that is not there; that an actor on that node says so shows that it was placed there.
    with (
        engine(tmp_path) as found,
        pytest.raises(TrustError, match="the device cuda was asked for and is not available"),
    ):
        found.acquire_side([SHARED], pair[0])


def test_a_cluster_that_has_nothing_to_give(nodes: Any) -> None:
    nodes()
    actors = Actors(Settings("cuda", None, None, False, (), "own", False, ""), {"CPU": 1, "GPU": 1}, patience=0)
    chunk = Chunk((), 0, (), {}, "responses", frozenset(), 1, 1)
    with pytest.raises(TrustError, match="no node of the Ray cluster gave an actor 1 CPU and 1 GPU in 0 s"):
        list(actors.run([chunk]))
