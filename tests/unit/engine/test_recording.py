"""Recordings: what one holds, what it can stand in for, and files that are damaged or hostile."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.audit.executor import LocalExecutor
from pytest_trust.audit.record_file import write_recording
from pytest_trust.engine.engine import Engine
from pytest_trust.engine.recording import InvalidRecording, read_recording
from pytest_trust.errors import TrustError
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Message
from pytest_trust.responses import Generation, Job
from tests.support.pairs import acquire
from tests.support.pairs import drift as drift_of
from tests.support.recordings import ASK, JOBS, engine, rewritten
from tests.support.tiny_models import save_adapter, save_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reference, Reference, Path]:
    """The recording of a baseline, its model, a candidate, and the store that knows both."""
    directory = tmp_path_factory.mktemp("recording")
    base = save_model(directory / "base")
    adapter = save_adapter(directory / "adapter", base)
    baseline, candidate = parse_reference(str(base)), parse_reference(str(adapter))
    with engine(directory / "store") as found:
        acquire(found, JOBS, baseline, candidate)
        write_recording(directory / "base.trust", LocalExecutor(found), baseline, JOBS)
    return directory / "base.trust", baseline, candidate, directory / "store"


def test_a_recording_answers_for_its_model(made: Any, tmp_path: Path) -> None:
    path, baseline, candidate, store = made
    recorded = parse_reference(str(path))
    with engine(store) as live, engine(tmp_path) as other:
        acquire(other, JOBS, recorded, candidate)
        assert other.identify(recorded).fingerprint == live.identify(baseline).fingerprint
        for job in JOBS:
            if job.task == "generate":
                assert other.model(recorded).responses(job) == live.model(baseline).responses(job)
            else:
                assert other.model(recorded).options(job) == live.model(baseline).options(job)
        assert [one.reference for one in other._loadable] == [candidate]


def test_drift_from_recorded_states(made: Any, tmp_path: Path) -> None:
    path, baseline, candidate, store = made
    recorded = parse_reference(str(path))
    with engine(store) as live, engine(tmp_path) as other:
        acquire(other, JOBS, recorded, candidate)
        exact, found = drift_of(live, JOBS[0], baseline, candidate), drift_of(other, JOBS[0], recorded, candidate)
        assert set(found.baseline_candidate) == {"ask-0", "ask-3"}
        for name, drift in found.baseline_candidate.items():
            # 11 bits of the states and the head, whose sharpened logits reach 30
            assert drift.kl_pq.tolist() == pytest.approx(
                exact.baseline_candidate[name].kl_pq.tolist(), rel=0.01, abs=1e-3
            )
        assert not found.candidate_baseline
        assert "the baseline is a recording" in found.candidate_baseline_reason
        assert "the baseline is a recording" in found.floor_reason
        assert not found.baseline_candidate_reason
        options = drift_of(other, JOBS[1], recorded, candidate)
        assert set(options.candidate_baseline) == set(options.baseline_candidate) == {"pick-1"}


def test_a_recorded_candidate(made: Any, tmp_path: Path) -> None:
    path, _, candidate, _ = made
    recorded = parse_reference(str(path))
    with engine(tmp_path) as other:
        acquire(other, JOBS, candidate, recorded)
        found = drift_of(other, JOBS[0], candidate, recorded)
    assert set(found.candidate_baseline) == {"ask-0", "ask-3"}
    assert set(found.floor) == {"ask-0", "ask-3"}
    assert "the candidate is a recording" in found.baseline_candidate_reason


def test_probes_that_were_not_recorded_are_counted(made: Any, tmp_path: Path) -> None:
    path, _, candidate, _ = made
    more = replace(JOBS[0], probes=(*ASK, replace(ASK[0], id="new", messages=(Message("user", "A new one."),))))
    longer = replace(JOBS[0], suite="dim/longer", generation=Generation(9))
    with engine(tmp_path) as other, pytest.raises(TrustError) as error:
        acquire(other, [more, longer], parse_reference(str(path)), candidate)
    assert "1 of 6 of dim/ask, 5 of 5 of dim/longer" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_same_recording_is_the_same_file_and_holds_no_pickle(made: Any, tmp_path: Path) -> None:
    path, baseline, _, store = made
    with engine(store) as found:
        write_recording(tmp_path / "again.trust", LocalExecutor(found), baseline, JOBS)
        with pytest.raises(InvalidRecording, match="already a recording"):
            write_recording(tmp_path / "b.trust", LocalExecutor(found), parse_reference(str(path)), JOBS)
    assert (tmp_path / "again.trust").read_bytes() == path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["manifest.json", "tensors.safetensors"]


def test_a_recording_that_cannot_be_written(made: Any, tmp_path: Path) -> None:
    _, baseline, _, store = made
    (tmp_path / "file").write_text("")
    with engine(store) as found, pytest.raises(TrustError, match="cannot be written"):
        write_recording(tmp_path / "file" / "b.trust", LocalExecutor(found), baseline, JOBS)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def text_is_a_list(manifest: dict[str, Any]) -> None:
    next(iter(manifest["responses"].values()))["text"] = ["x"]


def unequal_scores(manifest: dict[str, Any]) -> None:
    next(iter(manifest["options"].values()))["tokens"].append(1)


def negative_offset(manifest: dict[str, Any]) -> None:
    next(iter(manifest["drift"].values()))["offset"] = -1


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "another format": lambda manifest: manifest.update(format="something"),
    "no identity": lambda manifest: manifest.pop("identity"),
    "identity with another field": lambda manifest: manifest["identity"].update(command="rm"),
    "identity of another type": lambda manifest: manifest["identity"].update(parameters="many"),
    "responses are a list": lambda manifest: manifest.update(responses=[]),
    "a text is a list": text_is_a_list,
    "unequal scores": unequal_scores,
    "negative offset": negative_offset,
    "head of another type": lambda manifest: manifest["head"].update(scale="x"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_hostile_manifest_is_one_line(made: Any, tmp_path: Path, what: str) -> None:
    path = rewritten(made[0], tmp_path / "r.trust", CHANGES[what])
    with pytest.raises(InvalidRecording) as error:
        read_recording(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_newer_schema_is_refused(made: Any, tmp_path: Path) -> None:
    path = rewritten(made[0], tmp_path / "r.trust", lambda manifest: manifest.update(schema=99))
    with pytest.raises(InvalidRecording, match=r"newer pytest-trust \(schema 99"):
        read_recording(path)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    place = content.index(b"manifest.json") + 60
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def bomb(_: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * (1 << 20))
    # The directory announces a gigabyte; nothing of that size may be read.
    content = bytearray(file.getvalue())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (1 << 30).to_bytes(4, "little")
    return bytes(content)


def traversal(_: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../outside.json", "{}")
    return file.getvalue()


@pytest.mark.parametrize("damage", [truncated, flipped, bomb, traversal])
def test_a_damaged_file_is_one_line(made: Any, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "deep" / "er" / "r.trust"
    path.parent.mkdir(parents=True)
    path.write_bytes(damage(made[0].read_bytes()))
    with pytest.raises(InvalidRecording) as error:
        read_recording(path)
    assert "not a recording, or damaged" in str(error.value)
    assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["r.trust"]


@pytest.mark.parametrize("what", ["pickle", "cut short", "other sizes"])
def test_damaged_tensors_are_one_line_when_drift_needs_them(made: Any, tmp_path: Path, what: str) -> None:
    import pickle

    import torch
    from safetensors.torch import save

    tensors = {
        "pickle": pickle.dumps({"hidden": 1}),
        "cut short": save({"hidden": torch.zeros(1, 32), "head": torch.zeros(400, 32)}),
        "other sizes": save({"hidden": torch.zeros(500, 16), "head": torch.zeros(400, 32)}),
    }[what]
    path = rewritten(made[0], tmp_path / "r.trust", lambda manifest: None, tensors)
    with engine(tmp_path / "store") as other, pytest.raises(InvalidRecording) as error:
        acquire(other, JOBS, parse_reference(str(path)), made[2])
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecording, match="no such file"):
        read_recording(tmp_path / "r.trust")


def test_what_a_recording_holds_is_read_and_counted(made: Any, tmp_path: Path) -> None:
    path = made[0]
    recording = read_recording(path)
    words = recording.verify()
    tokens = sum(len(row) for entry in ("ask-0", "ask-3") for row in _text(recording, entry)) + sum(
        map(len, _text(recording, "pick-1", JOBS[1]))
    )
    assert words.startswith("holds 9 responses, 3 option scores, states of 3 texts")
    assert f"({tokens:,} tokens x 32, float16)" in words
    assert words.endswith("MB, schema 1, verified")
    damaged = tmp_path / "damaged.trust"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(damaged, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data[:-50] if name.endswith(".safetensors") else data)
    with pytest.raises(InvalidRecording, match="damaged") as error:
        read_recording(damaged).verify()
    assert "\n" not in str(error.value)


def _text(recording: Any, probe: str, job: Job = JOBS[0]) -> Any:
    from pytest_trust.keys import portable_key

    return recording.token_ids(portable_key(next(one for one in job.probes if one.id == probe), job, 0))


def test_a_recording_is_small_and_gives_the_live_divergence(tmp_path: Path) -> None:
    """At most 2.2 bytes a state and 2 a weight of the head, and within 1e-3 of the models' own divergence.

    The models have the demo model's hidden size and kind of logits, few layers and few ids.
    """
    references = [
        parse_reference(
            str(
                save_model(
                    tmp_path / str(seed),
                    seed=seed,
                    hidden_size=576,
                    scale=1.0,
                    initializer_range=0.02 * (seed + 1),
                    num_hidden_layers=1,
                )
            )
        )
        for seed in range(2)
    ]
    job = Job("dim/ask", "generate", ASK, Generation(80), drift=frozenset(probe.id for probe in ASK))
    with engine(tmp_path / "live") as live, engine(tmp_path / "recorded") as other:
        acquire(live, [job], *references)
        write_recording(tmp_path / "base.trust", LocalExecutor(live), references[0], [job])
        recorded = parse_reference(str(tmp_path / "base.trust"))
        acquire(other, [job], recorded, references[1])
        exact, found = (
            drift_of(live, job, *references).baseline_candidate,
            drift_of(other, job, recorded, references[1]).baseline_candidate,
        )
        tokens = sum(len(samples[0].token_ids) for samples in live.model(references[0]).responses(job).values())
    size, head = (tmp_path / "base.trust").stat().st_size, 2 * 576 * 400
    assert size - head <= 2.2 * 576 * tokens
    means = [
        sum(float(one.kl_pq.sum()) for one in side.values()) / sum(map(len, side.values())) for side in (exact, found)
    ]
    assert means[0] > 0.01
    assert abs(means[1] - means[0]) <= 1e-3 * means[0]
    assert all(one.masked_tokens == exact[name].masked_tokens for name, one in found.items())


def test_think_markers_of_a_recorded_text_are_not_counted_either(tmp_path: Path) -> None:
    from tests.support.scripted_models import scripted_model

    paths = [
        scripted_model(tmp_path / str(sharp), "<think> first add </think> answer good", sharpness=sharp)
        for sharp in (12.0, 9.0)
    ]
    one, two = (parse_reference(str(path)) for path in paths)
    job = Job("dim/ask", "generate", ASK[:1], Generation(8), drift=frozenset({"ask-0"}))
    with engine(tmp_path / "store") as live, engine(tmp_path / "other") as other:
        acquire(live, [job], one, two)
        write_recording(tmp_path / "one.trust", LocalExecutor(live), one, [job])
        recorded = parse_reference(str(tmp_path / "one.trust"))
        acquire(other, [job], recorded, two)
        expected, found = (
            drift_of(x, job, y, two).baseline_candidate["ask-0"] for x, y in ((live, one), (other, recorded))
        )
    assert (len(found), found.masked_tokens, found.answer_start) == (5, 2, 2)
    assert found.kl_pq.tolist() == pytest.approx(expected.kl_pq.tolist(), rel=1e-3)
    path = rewritten(
        tmp_path / "one.trust", tmp_path / "r.trust", lambda m: next(iter(m["drift"].values())).update(masked=[99])
    )
    with pytest.raises(InvalidRecording):
        read_recording(path)


def head(found: Engine, recorded: Reference, reader: Reference) -> Any:
    return found.model(recorded).head(found.model(reader))


def test_a_head_that_both_sides_have_is_in_memory_once(tmp_path: Path) -> None:
    """By its hash: the live model's own, or that of the other recording."""
    base = save_model(tmp_path / "base")
    one, two, three = (
        parse_reference(str(path))
        for path in (base, save_adapter(tmp_path / "adapter", base), save_model(tmp_path / "c", seed=7))
    )
    job = Job("dim/ask", "generate", ASK[:2], Generation(4), drift=frozenset({"ask-0"}))
    with engine(tmp_path / "store") as found:
        acquire(found, [job], one, two)
        paths = [tmp_path / "one.trust", tmp_path / "two.trust"]
        for path, reference in zip(paths, (one, two), strict=True):
            write_recording(path, LocalExecutor(found), reference, [job])
        recorded = [parse_reference(str(path)) for path in paths]
        runner = found.loaded(two)
        assert runner.head is not None
        assert head(found, recorded[0], two).weight is runner.head.weight
        first, second = head(found, recorded[0], recorded[1]), head(found, recorded[1], recorded[0])
        assert first.weight is second.weight
        assert head(found, recorded[0], recorded[1]).weight is first.weight  # and read once
        other = found.loaded(three).head
        assert other is not None
        assert head(found, recorded[0], three).weight is not other.weight
        # A recording of before there were hashes brings its own.
        old = rewritten(paths[0], tmp_path / "old.trust", lambda manifest: manifest["head"].pop("hash"))
        assert head(found, parse_reference(str(old)), two).weight is not runner.head.weight
