"""The executor of a cluster, with its actors in this process and without Ray.

It makes the rows of a local run, and none twice.
"""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.audit.executor import LocalExecutor
from pytest_trust.audit.ray import executor as cluster
from pytest_trust.audit.ray import shipments as cluster_chunks
from pytest_trust.audit.ray.actors import Connection, connect
from pytest_trust.audit.ray.executor import RayExecutor
from pytest_trust.audit.ray.shipments import Chunk, Done, cut, missing_of_side, shipped
from pytest_trust.audit.ray.worker import Settings, Worker
from pytest_trust.audit.record_file import write_recording
from pytest_trust.drift.trace_dependence import stored_dependence
from pytest_trust.engine.engine import Engine
from pytest_trust.engine.store import Store, Table
from pytest_trust.errors import TrustError
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Message
from pytest_trust.responses import Job, Progress
from tests.support import traced_choices
from tests.support.pairs import acquire
from tests.support.pairs import drift as drift_of
from tests.support.ray_jobs import ASK, CHOICE, FEWER, GREEDY, JOBS, PICK, SHARED, TABLES, check_same, content
from tests.support.scripted_models import scripted_model
from tests.support.tiny_models import CHATML, save_model, save_tokenizer
from tests.support.traced_choices import traced_model


class Here:
    """Actors that are objects of this process, two of them by turns."""

    made: list[Here]

    def __init__(self, settings: Settings, needs: dict[str, float], *, worker: type[Worker] = Worker) -> None:
        self.needs, self.settings = needs, settings
        self.workers = [worker(settings), worker(settings)]
        self.chunks: list[Chunk] = []
        self.rows: Counter[str] = Counter()

    def room(self) -> int:
        return 2

    def run(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, Done]]:
        for index, chunk in enumerate(chunks):
            sent: Chunk = pickle.loads(pickle.dumps(chunk))  # as it would cross
            done = self.workers[index % 2].run(sent)
            self.chunks.append(chunk)
            self.rows.update(key for table, key, _, _ in done.rows if table in TABLES)
            yield chunk, done

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Here]:
    made: list[Here] = []

    def make(*arguments: Any, **named: Any) -> Here:
        made.append(Here(*arguments, **named))
        return made[-1]

    monkeypatch.setattr(cluster, "Actors", make)
    monkeypatch.setattr(cluster, "connect", lambda: Connection("a cluster in this process", False, 1 << 33, False))
    monkeypatch.setattr(cluster, "share", lambda content: content)
    monkeypatch.setattr(cluster_chunks, "_LEAST", 100)
    return made


def engine(store: Path | Store, **named: Any) -> closing[RayExecutor]:
    return closing(RayExecutor(store, batch_size=4, **named))


def local_engine(store: Path | Store, **named: Any) -> Engine:
    return Engine(store, batch_size=4, **named)


def test_the_store_is_that_of_a_local_run_and_nothing_is_computed_twice(
    here: list[Here], pair: tuple[Reference, Reference], local: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    notes: list[str] = []
    told: list[Progress] = []
    with engine(tmp_path, note=notes.append, progress=told.append) as found:
        acquire(found, JOBS, *pair)
        assert not found.engine.local(pair[0]).loaded
    check_same(tmp_path, local)
    assert notes == ["models run on a cluster in this process"]
    (actors,) = here
    assert set(actors.rows.values()) == {1}
    assert len(actors.rows) == sum(len(local[table]) for table in TABLES)
    kinds = Counter((chunk.side, chunk.jobs[0].task) for chunk in actors.chunks)
    assert all(kinds[side, "generate"] > 2 for side in (0, 1))
    assert kinds[None, "generate"] >= 2
    last = {(one.model, one.phase): one for one in told}
    assert last["base", "generate"].done == last["base", "generate"].total == len(ASK) + 3 * 6 + len(PICK)
    assert last["adapter", "drift"].done == last["adapter", "drift"].total == len(GREEDY.drift) + len(CHOICE.drift)
    assert last["base", "generate"].tokens > 0


def test_options_behind_traces_are_those_of_a_local_run(here: list[Here], tmp_path: Path) -> None:
    models = [
        traced_model(tmp_path / "a"),
        parse_reference(str(save_model(tmp_path / "b", seed=4, scale=3.0))),
    ]
    job = replace(traced_choices.JOB, drift=frozenset(traced_choices.TRACED))
    for store, make in (("cluster", engine), ("local", local_engine)):
        with make(tmp_path / store, reasoning_tags=traced_choices.TAGS) as found:
            acquire(found, [job], *models)
    assert here
    check_same(tmp_path / "cluster", content(tmp_path / "local"))


def test_trace_dependence_is_that_of_a_local_run(here: list[Here], tmp_path: Path) -> None:
    models = [
        parse_reference(str(scripted_model(tmp_path / name, f"<think> first {word} good </think> Sure here is how")))
        for name, word in (("one", "add"), ("other", "number"))
    ]
    job = replace(GREEDY, generation=replace(GREEDY.generation, max_new_tokens=20))
    with local_engine(tmp_path / "local") as found:
        acquire(found, [job], *models)
        expected = [stored_dependence(found, job, *pair, "").answers for pair in (models, models[::-1])]
    with engine(tmp_path / "ray") as found:
        acquire(found, [job], *models)
        found_here = [stored_dependence(found.engine, job, *pair, "").answers for pair in (models, models[::-1])]
        acquire(found, [job], *models)
    assert set(here[0].rows.values()) == {1}
    assert all(one.keys() == {"half", "none", "other"} for one in expected)
    for one, other in zip(found_here, expected, strict=True):
        assert {kind: one[kind].keys() for kind in one} == {kind: other[kind].keys() for kind in other}
        assert all(len(one[kind]) == len(job.drift) for kind in one)
        for kind, answers in one.items():
            for name, answer in answers.items():
                assert answer.nats == pytest.approx(other[kind][name].nats, rel=1e-5, abs=1e-5)


def test_a_second_run_needs_no_actor(here: list[Here], pair: tuple[Reference, Reference], tmp_path: Path) -> None:
    for _ in range(2):
        with engine(tmp_path) as found:
            acquire(found, JOBS, *pair)
    assert len(here) == 1


@pytest.mark.parametrize("other", [engine, local_engine], ids=["cluster", "local"])
def test_runs_at_once_make_nothing_twice(
    here: list[Here],
    pair: tuple[Reference, Reference],
    local: dict[str, dict[str, bytes]],
    tmp_path: Path,
    other: Callable[..., Any],
) -> None:
    made: Counter[str] = Counter()

    class Counting(Store):
        def put(self, table: Table, values: Mapping[str, bytes], *arguments: Any, **named: Any) -> None:
            made.update(list(values) if table in TABLES else ())
            super().put(table, values, *arguments, **named)

    def run(kind: Callable[..., Any], jobs: Sequence[Job]) -> dict[tuple[str, str], Progress]:
        last: dict[tuple[str, str], Progress] = {}
        with kind(Counting(tmp_path), progress=lambda told: last.update({(told.model, told.phase): told})) as found:
            acquire(found, jobs, *pair)
        return last

    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(run, engine, JOBS), pool.submit(run, other, JOBS[::-1])]
        told = [run.result() for run in runs]
    assert set(made.values()) == {1}
    assert {table: rows.keys() for table, rows in content(tmp_path).items()} == {
        table: rows.keys() for table, rows in local.items()
    }
    assert all(one.done == one.total for last in told for one in last.values())


def test_what_a_run_died_over_is_made_by_the_one_that_waits(
    here: list[Here], pair: tuple[Reference, Reference], tmp_path: Path
) -> None:
    with Engine(tmp_path, batch_size=4) as dying:
        held = list(dying.local(pair[0]).keys(SHARED).values())[1:3]
        assert dying.claims.claim("responses", held) == (held, [])
        told: list[Progress] = []

        def wait(progress: Progress) -> None:
            told.append(progress)
            if progress.phase == "generate" and progress.done == 2:  # the other two are made, and these are waited for
                dying.claims.close()

        with engine(tmp_path, progress=wait) as found:
            found.acquire_side([SHARED], pair[0])
            assert len(found.engine.model(pair[0]).responses(SHARED)) == 4
    assert [len(chunk.keys) for chunk in here[0].chunks] == [2, 2]
    assert set(here[0].rows.values()) == {1}
    assert told[-1].done == told[-1].total == 4


class Interrupted(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("after", [1, 5, 12])
def test_an_interrupted_run_goes_on_with_what_is_missing(
    here: list[Here], pair: tuple[Reference, Reference], local: dict[str, dict[str, bytes]], tmp_path: Path, after: int
) -> None:
    finished: list[Progress] = []

    def interrupt(told: Progress) -> None:
        finished.extend([told] * (told.done > 0))
        if len(finished) == after:
            raise Interrupted

    with engine(tmp_path, progress=interrupt) as found, pytest.raises(Interrupted):
        acquire(found, JOBS, *pair)
    with engine(tmp_path) as found:
        acquire(found, JOBS, *pair)
    assert {table: rows.keys() for table, rows in content(tmp_path).items()} == {
        table: rows.keys() for table, rows in local.items()
    }
    assert content(tmp_path)["responses"] == local["responses"]
    assert set((here[0].rows + here[1].rows).values()) == {1}


def test_a_local_run_is_gone_on_with_and_half_a_probes_samples_are_not_made_again(
    here: list[Here], pair: tuple[Reference, Reference], tmp_path: Path
) -> None:
    with Engine(tmp_path, batch_size=4) as first:
        acquire(first, [FEWER], *pair)
        acquire(first, [replace(GREEDY, probes=ASK[:5])], *pair)
    before = content(tmp_path)
    with engine(tmp_path) as found:
        acquire(found, JOBS, *pair)
    after = content(tmp_path)
    assert all(before[table].items() <= after[table].items() for table in before)
    assert set(here[0].rows.values()) == {1}
    assert here[0].rows.keys() == {key for table in TABLES for key in after[table].keys() - before[table].keys()}


def test_two_names_of_one_model_answer_once(
    here: list[Here], pair: tuple[Reference, Reference], tmp_path: Path
) -> None:
    named = parse_reference(f"{pair[0].text}?label=again")
    with engine(tmp_path) as found:
        acquire(found, [SHARED], pair[0], named)
        assert len(found.engine.model(named).responses(SHARED)) == 4
    assert len(here[0].rows) == 4


@pytest.mark.parametrize("mutant", ["temperature:1", "no_system:1"])
def test_a_damaged_model_is_sent_with_its_damage(
    here: list[Here], pair: tuple[Reference, Reference], tmp_path: Path, mutant: str
) -> None:
    damaged = parse_reference(f"{pair[0].text}?mutant={mutant}")
    system = Message("system", "Answer in one word.")
    # One prompt under two names: one greedy answer, and two where the damage makes them samples.
    probes = [replace(ASK[0], messages=(system, *ASK[0].messages)), ASK[1], replace(ASK[1], id="again")]
    job = replace(GREEDY, probes=tuple(probes), drift=frozenset())
    with Engine(tmp_path / "local", batch_size=4) as first:
        acquire(first, [job], pair[0], damaged)
    with engine(tmp_path / "cluster") as found:
        acquire(found, [job], pair[0], damaged)
    assert content(tmp_path / "cluster") == content(tmp_path / "local")
    assert set(here[0].rows.values()) == {1}
    assert len(here[0].rows) == (5 if mutant == "temperature:1" else 4)


@pytest.mark.parametrize("topk", [0, 8])
def test_a_recording_is_sent_along(
    here: list[Here], pair: tuple[Reference, Reference], tmp_path: Path, topk: int
) -> None:
    with Engine(tmp_path / "recorded", batch_size=4) as first:
        write_recording(tmp_path / "base.trust", LocalExecutor(first), pair[0], [GREEDY, CHOICE], topk=topk)
    recorded = parse_reference(str(tmp_path / "base.trust"))
    with Engine(tmp_path / "local", batch_size=4) as first:
        acquire(first, [GREEDY, CHOICE], recorded, pair[1])
    with engine(tmp_path / "cluster") as found:
        acquire(found, [GREEDY, CHOICE], recorded, pair[1])
    expected = content(tmp_path / "local")
    assert expected["drifts"]
    check_same(tmp_path / "cluster", expected)
    assert {chunk.models[0].content is None for chunk in here[0].chunks if chunk.side is None} == {False}


@pytest.mark.parametrize("named", [{"template": "shared"}, {"offload": True}], ids=["template", "offload"])
def test_what_was_asked_of_drift_reaches_the_actors(
    here: list[Here], pair: tuple[Reference, Reference], tmp_path: Path, named: dict[str, Any]
) -> None:
    """The candidate has a template of its own."""
    other = Path(shutil.copytree(pair[0].path, tmp_path / "other"))
    save_tokenizer(other, template=CHATML.replace("assistant", "model"))
    candidate = parse_reference(str(other))
    with Engine(tmp_path / "local", batch_size=4, **named) as first:
        acquire(first, [GREEDY], pair[0], candidate)
    with engine(tmp_path / "cluster", **named) as found:
        acquire(found, [GREEDY], pair[0], candidate)
    expected = content(tmp_path / "local")
    assert expected["drifts"]
    ours = content(tmp_path / "cluster")
    if "template" in named:
        assert ours == expected
    else:  # a chunk's texts pass a layer together, the whole run's do in a local run
        assert {table: rows.keys() for table, rows in ours.items()} == {
            table: rows.keys() for table, rows in expected.items()
        }


def test_a_pair_with_different_tokenizers_is_measured_on_its_texts(
    here: list[Here], models: Path, pair: tuple[Reference, Reference], tmp_path: Path
) -> None:
    other = save_model(tmp_path / "other", scale=1.0)
    save_tokenizer(other, vocabulary=330)
    candidate = parse_reference(str(other))
    with Engine(tmp_path / "local", batch_size=4) as first:
        acquire(first, [GREEDY], pair[0], candidate)
        expected = drift_of(first, GREEDY, pair[0], candidate).texts
    with engine(tmp_path / "cluster") as found:
        acquire(found, [GREEDY], pair[0], candidate)
        assert not found.engine.local(pair[0]).loaded
        measured = drift_of(found, GREEDY, pair[0], candidate).texts
    assert sum(map(len, expected.values())) > len(GREEDY.drift)
    for side, texts in expected.items():
        assert [one.probe for one in measured[side]] == [one.probe for one in texts]
        for ours, theirs in zip(measured[side], texts, strict=True):
            assert ours.nats == pytest.approx(theirs.nats, rel=1e-4)
            assert ours.chunks == pytest.approx(theirs.chunks, abs=1e-4)
    assert set(here[0].rows.values()) == {1}


def test_a_head_that_is_no_head_is_noted_here(
    here: list[Here], pair: tuple[Reference, Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_trust.models import heads
    from pytest_trust.models.heads import Head

    real = heads.head_of
    monkeypatch.setattr(heads, "head_of", lambda model: Head(real(model).weight, scale=0.5))
    with engine(tmp_path) as found:
        acquire(found, [GREEDY], *pair)
        drift = drift_of(found, GREEDY, *pair)
    assert "does more to its logits than its output layer" in drift.candidate_baseline_reason


def test_chunks_are_longest_first_and_hold_one_task(
    here: list[Here], pair: tuple[Reference, Reference], tmp_path: Path
) -> None:
    with engine(tmp_path) as found:
        sent = (shipped(found.engine, pair[0]),)
        found.engine.acquire([CHOICE.lead_in], pair)  # options can be cut into chunks when their lead-ins are there
        pieces = missing_of_side(found.engine, JOBS, pair[0])
        chunks = list(cut(found.engine, JOBS, pieces, pair, sent, 0, 2))
    assert sum(chunk.items for chunk in chunks) == len(ASK) + 3 * 6 + len(PICK)
    assert all(len({job.task for job in chunk.jobs}) == 1 for chunk in chunks)
    longest = [
        max(len(probe.prompt) for job in chunk.jobs for probe in job.probes)
        for chunk in chunks
        if chunk.jobs[0].suite == "dim/ask"
    ]
    assert longest == sorted(longest, reverse=True)
    assert len(longest) > 2


def sent_chunk(store: Path, reference: Reference) -> tuple[Worker, Chunk]:
    with Engine(store) as found:
        sent = (shipped(found, reference),)
        pieces = missing_of_side(found, [SHARED], reference)
        (chunk,) = cut(found, [SHARED], pieces, [reference], sent, 0, 1)
    return Worker(Settings("cpu", None, None, False, (), "own", False, "/absent/models")), chunk


def test_a_model_that_the_node_does_not_have(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "base", tmp_path / "base")
    worker, chunk = sent_chunk(tmp_path / "store", parse_reference(str(tmp_path / "base")))
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(TrustError) as error:
        worker.run(chunk)
    assert f"{tmp_path / 'base'} does not exist on the cluster's node" in str(error.value)
    assert "\n" not in str(error.value)
    worker.close()


def test_a_base_that_the_node_does_not_have(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = shutil.copytree(models / "base", tmp_path / "base")
    shutil.copytree(models / "adapter", tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    worker, chunk = sent_chunk(tmp_path / "store", parse_reference("adapter?base=base"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len([key for table, key, _, _ in worker.run(chunk).rows if table == "responses"]) == 4
    worker.close()
    shutil.rmtree(base)
    with pytest.raises(TrustError, match="base does not exist on the cluster's node"):
        worker.run(chunk)
    worker.close()


def test_another_model_under_the_same_name(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "base", tmp_path / "base")
    worker, chunk = sent_chunk(tmp_path / "store", parse_reference(str(tmp_path / "base")))
    save_model(tmp_path / "base", seed=7)
    with pytest.raises(TrustError, match="other files lie under this name on the cluster's node"):
        worker.run(chunk)
    worker.close()


def test_a_node_with_another_version() -> None:
    worker = Worker(Settings("cpu", None, None, False, (), "own", False, "/absent/models", version="0.0.1"))
    with pytest.raises(TrustError, match=r"expected 0\.0\.1: install the same version on every node"):
        worker.ready()


def test_one_gpu_of_an_actors_own(here: list[Here], models: Path, tmp_path: Path) -> None:
    with engine(tmp_path) as found, pytest.raises(TrustError, match="an actor has one GPU of its own, expected cuda"):
        found.engine.identify(parse_reference(f"{models / 'base'}?device=cuda:1"))


def test_a_cluster_with_gpus_runs_models_as_gpus_do(
    here: list[Here], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "connect", lambda: Connection("a cluster", True, 1 << 33, False))
    reference = parse_reference(str(models / "base"))
    with engine(tmp_path) as found:
        assert found.engine.identify(reference).device == "cuda"
        assert found._needs([reference]) == {"CPU": 1, "GPU": 1}
        assert found._needs([parse_reference(f"{reference.text}?device=cpu")])["memory"] > 1 << 30
        found._ready([reference])
    with engine(tmp_path, device="cpu") as found:
        on_gpu = parse_reference(f"{reference.text}?device=cuda")
        assert found._needs([reference, on_gpu]) == {"CPU": 1, "GPU": 1}
        found._ready([reference, on_gpu])
    # An actor with a GPU still runs on the CPU what this run has there.
    assert [actors.settings.device for actors in here] == ["cuda", "cpu"]


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(TrustError, match=r"pip install 'pytest-trust\[ray\]'"):
        connect()
