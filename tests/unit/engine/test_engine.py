"""The engine: resuming, sharing, looking up without models, drift of a pair, and errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.drift.loaded_pair import one_at_a_time
from pytest_trust.engine import batch_limits as fitting
from pytest_trust.engine.engine import Engine
from pytest_trust.engine.rates import planned_tokens, rate_of, remember_rate, tokens_left
from pytest_trust.errors import TrustError
from pytest_trust.models import runner as inference
from pytest_trust.models.identity import lineage
from pytest_trust.models.memory import BatchLimits
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.models.runner import Runner
from pytest_trust.models.token_trees import Pack
from pytest_trust.responses import Generation, Progress
from tests.support.engine_jobs import ASK, CHOICE, GREEDY, JOBS, PICK, check_alike, engine, everything
from tests.support.pairs import acquire
from tests.support.pairs import drift as drift_of
from tests.support.tiny_models import CHATML, save_model, save_tokenizer


def test_everything_asked_for_is_there(complete: tuple[Path, Any]) -> None:
    sides, columns = complete[1]
    for greedy, choice, sampled in sides:
        assert set(greedy) == {probe.id for probe in ASK}
        assert set(choice) == {probe.id for probe in PICK}
        assert all(len(samples) == 3 for samples in sampled.values())
        assert any(len({sample.text for sample in samples}) > 1 for samples in sampled.values())
    assert [set(part) for part in columns[:2]] == [{"ask-0", "ask-3", "ask-6"}] * 2
    assert [set(part) for part in columns[3:5]] == [{"pick-1"}] * 2


def test_the_adapter_changes_the_model_and_its_fingerprint(
    complete: tuple[Path, Any], pair: tuple[Reference, Reference]
) -> None:
    with engine(complete[0]) as found:
        ours, theirs = (found.identify(one) for one in pair)
    assert ours.fingerprint != theirs.fingerprint
    assert ours.tokenizer == theirs.tokenizer
    assert lineage(ours, theirs) == "parent"
    assert lineage(ours, ours) == "same"
    base, adapter = complete[1][0]
    assert base[1] != adapter[1]


def test_a_second_run_computes_nothing_and_imports_neither_torch_nor_transformers(
    complete: tuple[Path, Any], pair: tuple[Reference, Reference]
) -> None:
    code = """
        import sys, json
        from pathlib import Path
        from pytest_trust.models.reference import parse_reference
        from tests.support.engine_jobs import JOBS, engine, everything
        from tests.support.pairs import acquire
        told = []
        found = engine(Path(sys.argv[1]), progress=told.append)
        pair = tuple(parse_reference(text) for text in sys.argv[2:4])
        acquire(found, JOBS, *pair)
        sides, columns = everything(found, pair)
        print(json.dumps([len(told), [m for m in ("torch", "transformers") if m in sys.modules], columns]))
    """
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(complete[0]), *(one.text for one in pair)],
        capture_output=True, text=True, check=False, cwd=root,
    )  # fmt: skip
    assert done.stderr == ""
    assert json.loads(done.stdout) == [0, [], complete[1][1]]


class Interrupted(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("after", [1, 3, 5, 8, 12])
def test_an_interrupted_run_keeps_finished_batches_and_goes_on_with_the_same_result(
    complete: tuple[Path, Any], pair: tuple[Reference, Reference], tmp_path: Path, after: int
) -> None:
    batches: list[Progress] = []

    def interrupt(told: Progress) -> None:
        if told.phase != "load" and told.made:  # not only begun
            batches.append(told)
            if len(batches) == after:
                raise Interrupted

    with engine(tmp_path, progress=interrupt) as found, pytest.raises(Interrupted):
        acquire(found, JOBS, *pair)
    before = len(batches)
    again: list[Progress] = []
    with engine(tmp_path, progress=again.append) as found:
        acquire(found, JOBS, *pair)
        assert everything(found, pair)[0] == complete[1][0]
    told = [progress for progress in again if progress.phase != "load" and progress.made]
    uninterrupted = (
        2 * (4 + 2 + 4 + 5) + 1
    )  # batches of two rows (a probe of two options is two, after its lead-in) on both sides, one chunk of drift
    assert before + len(told) == uninterrupted


def test_the_batch_size_does_not_change_a_float32_result(
    complete: tuple[Path, Any], pair: tuple[Reference, Reference], tmp_path: Path
) -> None:
    with engine(tmp_path, batch_size=None) as found:
        acquire(found, JOBS, *pair)
        (ours, theirs), _ = everything(found, pair)
    for side, expected in zip((ours, theirs), complete[1][0], strict=True):
        assert side[0] == expected[0]
        assert side[2] == expected[2]
        for name, scores in side[1].items():
            assert scores.log_likelihoods == pytest.approx(expected[1][name].log_likelihoods, abs=1e-4)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: "
            "you tried to allocate 9 bytes"
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_a_row_that_does_not_is_one_line(
    pair: tuple[Reference, Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from pytest_trust.models import reasoning_budget as budget

    whole, sizes = budget.stream, []

    def within(most: int) -> Any:
        def stream(runner: Any, rows: Any, settings: Any, limits: Any) -> Any:
            sizes.append(min(limits.rows, len(rows)))
            yield []
            if sizes[-1] > most:
                raise error
            yield from whole(runner, rows, settings, limits)

        return stream

    job = GREEDY
    with Engine(tmp_path / "plain", device="cpu") as engine:
        engine.acquire([job], [pair[0]])
        expected = engine.model(pair[0]).responses(job)
    monkeypatch.setattr(budget, "stream", within(2))
    with Engine(tmp_path / "halved", device="cpu") as engine:
        engine.acquire([job], [pair[0]])
        assert engine.model(pair[0]).responses(job) == expected
        assert max(sizes) > 2
        seen = engine.fitting.limits(engine.identify(pair[0]), engine.loaded(pair[0]))
    with Engine(tmp_path / "halved", device="cpu") as engine:  # the next run begins with what was seen to fit
        assert engine.fitting.limits(engine.identify(pair[0]), engine.loaded(pair[0])) == seen
        assert seen.tokens < engine.loaded(pair[0]).limits().tokens
    monkeypatch.setattr(budget, "stream", within(0))
    with (
        Engine(tmp_path / "none", device="cpu") as engine,
        pytest.raises(TrustError, match="not enough memory for a single row"),
    ):
        engine.acquire([job], [pair[0]])


def test_on_a_gpu_the_memory_of_a_forward_is_measured_once(
    pair: tuple[Reference, Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards: list[int] = []
    forward = Runner._forward_tree

    def counting(self: Runner, pack: Pack, *cache: Any) -> Any:
        forwards.append(sum(len(row.ids) for row in pack.rows))
        return forward(self, pack, *cache)

    def peak(run: Callable[[], None]) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(Runner, "_forward_tree", counting)
            run()
        return 3_000_000

    def limits_of(memory: int) -> BatchLimits:
        monkeypatch.setattr(inference, "free_bytes", lambda device: memory)
        with Engine(tmp_path, device="cpu") as found:
            return found.fitting.limits(found.identify(pair[0]), found.loaded(pair[0]))

    monkeypatch.setattr(inference, "peak_bytes", peak)
    monkeypatch.setattr(fitting, "on_cuda", lambda device: True)
    monkeypatch.setattr(inference, "_CPU_FORWARD", inference._GPU_FORWARD)
    small, large = limits_of(10_000_000), limits_of(20_000_000)
    assert sum(forwards) == inference._GPU_FORWARD  # all of it, and once
    config = json.loads((pair[0].path / "config.json").read_text())
    states = (
        2
        * 4
        * config["num_hidden_layers"]
        * config["num_key_value_heads"]
        * (config["hidden_size"] // config["num_attention_heads"])
    )
    assert (small.rows, large.rows) == (256, 256)
    assert small.tokens == (9_000_000 - 3_000_000) // (2 * states)
    assert large.tokens == (18_000_000 - 3_000_000) // (2 * states)


@pytest.mark.parametrize("kind", ["RuntimeError", "OutOfMemoryError"])
def test_a_probe_that_does_not_fit_fails_no_run(
    pair: tuple[Reference, Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import torch

    error = getattr(torch, kind, RuntimeError)("CUDA out of memory")

    def peak(run: Callable[[], None]) -> int:
        raise error

    monkeypatch.setattr(inference, "peak_bytes", peak)
    monkeypatch.setattr(fitting, "on_cuda", lambda device: True)
    with Engine(tmp_path, device="cpu") as found:
        runner = found.loaded(pair[0])
        assert found.fitting.limits(found.identify(pair[0]), runner) == runner.limits()


def test_another_error_of_the_model_is_not_taken_for_a_lack_of_memory(
    pair: tuple[Reference, Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("pytest_trust.models.reasoning_budget.stream", broken)
    with Engine(tmp_path / "store", device="cpu") as engine, pytest.raises(RuntimeError, match="mat1 and mat2"):
        engine.acquire([GREEDY], [pair[0]])


def test_two_processes_at_once_on_one_store(
    complete: tuple[Path, Any], pair: tuple[Reference, Reference], tmp_path: Path
) -> None:
    code = """
        import sys
        from pathlib import Path
        from pytest_trust.models.reference import parse_reference
        from tests.support.engine_jobs import JOBS, engine
        from tests.support.pairs import acquire
        with engine(Path(sys.argv[1])) as found:
            acquire(found, JOBS, *(parse_reference(text) for text in sys.argv[2:4]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), *(one.text for one in pair)]
    running = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) for _ in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=600)
        assert (process.returncode, errors) == (0, "")
    with engine(tmp_path) as found:
        assert everything(found, pair)[0] == complete[1][0]


def test_drift_of_a_model_with_itself_is_zero_and_said_to_be_identical(
    pair: tuple[Reference, Reference], tmp_path: Path
) -> None:
    named = parse_reference(f"{pair[0].text}?label=again")
    with engine(tmp_path) as found:
        acquire(found, [GREEDY], pair[0], named)
        drift = drift_of(found, GREEDY, pair[0], named)
    assert drift.identical
    values = [
        float(one.kl_pq.max()) for part in (drift.candidate_baseline, drift.baseline_candidate) for one in part.values()
    ]
    assert len(values) == 6
    assert max(values) <= 1e-6  # nats; float32 forwards of the same rows
    floor = [float(one.kl_pq.max()) for one in drift.floor.values()]
    assert floor
    assert max(floor) <= 1e-5  # nats; other padding and batch, float32


def test_drift_equals_the_definition(complete: tuple[Path, Any], pair: tuple[Reference, Reference]) -> None:
    """KL(candidate || baseline) on the candidate's response, from two plain forwards in float64."""
    import torch

    with engine(complete[0]) as found:
        response = found.model(pair[1]).responses(GREEDY)["ask-3"][0]
        prompt = found.local(pair[1]).prompts(ASK)["ask-3"].ids
        ids = torch.tensor([[*prompt, *response.token_ids]])
        with torch.inference_mode():
            theirs, ours = (
                found.loaded(one).model(input_ids=ids).logits[0].double().log_softmax(-1) for one in (pair[1], pair[0])
            )
        kl = (theirs.exp() * (theirs - ours)).sum(-1)[len(prompt) - 1 : -1]
        drift = drift_of(found, GREEDY, *pair).candidate_baseline["ask-3"]
    assert drift.kl_pq.tolist() == pytest.approx(kl.tolist(), rel=1e-4)  # float32 against float64 logits
    assert (drift.suite, drift.cluster, drift.p, drift.q) == ("dim/ask", "ask-3", "candidate", "baseline")
    assert len(drift) == len(response.token_ids)


def test_one_model_in_memory_at_a_time_gives_the_same(
    complete: tuple[Path, Any], pair: tuple[Reference, Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pytest_trust.models.runner

    loads: list[str] = []
    with engine(
        tmp_path, progress=lambda told: loads.append(told.model) if told.phase == "load" and told.done else None
    ) as found:
        # As much as fits the batches, and not a second model of 177 kB.
        monkeypatch.setattr(pytest_trust.models.runner, "free_bytes", lambda device: 200_000)
        acquire(found, JOBS, *pair)
        assert sum(subject.loaded for subject in found._loadable) == 1
        (ours, theirs), columns = everything(found, pair)
    assert (ours[0], theirs[0]) == (complete[1][0][0][0], complete[1][0][1][0])
    for part, expected in zip(columns, complete[1][1], strict=True):
        assert part.keys() == expected.keys()
        assert one_at_a_time(found, *pair)  # which the report's warnings say
    assert len(loads) >= 3
    with engine(complete[0]) as found:
        assert not one_at_a_time(found, *pair)


def test_other_tokenizers_claim_no_drift(pair: tuple[Reference, Reference], tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", seed=3)
    save_tokenizer(other, vocabulary=330)
    reference = parse_reference(str(other))
    with engine(tmp_path / "store") as found:
        acquire(found, [GREEDY, CHOICE], pair[0], reference)
        drift = drift_of(found, GREEDY, pair[0], reference)
        assert len(found.model(reference).responses(GREEDY)) == len(ASK)
    assert not drift.candidate_baseline
    assert "tokenizers differ" in drift.candidate_baseline_reason


def test_another_template_or_an_added_token_is_no_other_tokenizer(
    pair: tuple[Reference, Reference], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    other = save_model(tmp_path / "other", seed=0, template=CHATML.replace("assistant", "model"))
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(other)
    reference = parse_reference(str(other))
    with engine(tmp_path / "store") as found:
        acquire(found, [GREEDY], pair[0], reference)
        drift = drift_of(found, GREEDY, pair[0], reference)
    assert set(drift.candidate_baseline) == GREEDY.drift


def test_no_template_is_said_once_and_works(tmp_path: Path) -> None:
    reference = parse_reference(str(save_model(tmp_path / "plain", template=None)))
    with engine(tmp_path / "store") as found:
        found.acquire([GREEDY], [reference])
        assert len(found.model(reference).responses(GREEDY)) == len(ASK)
        identity = found.identify(reference)
    assert identity.chat_format == "plain"
    assert "no chat template" in identity.warnings[0]


def test_thinking_opened_by_the_template_is_reasoning(models: Path, tmp_path: Path) -> None:
    on, off = (parse_reference(f"{models / 'base'}?thinking={value}") for value in ("on", "off"))
    with engine(tmp_path) as found:
        acquire(found, [replace(GREEDY, drift=frozenset())], off, on)
        assert not any(sample.complete for samples in found.model(on).responses(GREEDY).values() for sample in samples)
        assert all(sample.complete for samples in found.model(off).responses(GREEDY).values() for sample in samples)


def test_a_full_store_is_one_line_and_keeps_what_it_had(pair: tuple[Reference, Reference], tmp_path: Path) -> None:
    with engine(tmp_path) as found:
        found.acquire([CHOICE], [pair[0]])
        with found.store._open() as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
        many = replace(GREEDY, generation=Generation(200), drift=frozenset())
        with pytest.raises(TrustError, match="disk is full") as error:
            found.acquire([many], [pair[0]])
        assert "\n" not in str(error.value)
    with engine(tmp_path) as found:
        assert len(found.model(pair[0]).options(CHOICE)) == len(PICK)


def break_model(directory: Path, how: str) -> None:
    if how == "cut short":
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "part missing":
        from safetensors.torch import load_file, save_file

        tensors = load_file(directory / "model.safetensors")
        del tensors["lm_head.weight"]
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    elif how == "no tokenizer":
        (directory / "tokenizer.json").unlink()
    elif how == "unknown kind":
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, "model_type": "something-new"}))
    elif how == "own code":
        config = json.loads((directory / "config.json").read_text())
        (directory / "own.py").write_text("raise SystemExit('a model ran its own code')")
        own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
        (directory / "config.json").write_text(json.dumps({**config, "model_type": "something-new", "auto_map": own}))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut short", "cannot be loaded"),
        ("part missing", "the weights of 1 parts are missing (lm_head.weight"),
        ("no tokenizer", "cannot be loaded"),
        ("unknown kind", "cannot be loaded"),
        ("own code", "needs its own code"),
    ],
)
def test_what_is_no_model_is_one_line(tmp_path: Path, how: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    directory = save_model(tmp_path / "m")
    break_model(directory, how)
    capfd.readouterr()
    with engine(tmp_path / "store") as found, pytest.raises(TrustError) as error:
        found.acquire([GREEDY], [parse_reference(str(directory))])
    assert said in str(error.value)
    assert str(directory) in str(error.value)
    assert "\n" not in str(error.value)
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")


def test_a_gpu_that_is_not_there(models: Path, tmp_path: Path) -> None:
    import torch

    absent = f"cuda:{torch.cuda.device_count()}"
    with engine(tmp_path) as found, pytest.raises(TrustError, match=f"{absent} was asked for and is not available"):
        found.acquire([CHOICE], [parse_reference(f"{models / 'base'}?device={absent}")])


def test_a_hub_model_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with engine(tmp_path) as found, pytest.raises(TrustError) as error:
        found.identify(parse_reference("org/nothing-by-this-name"))
    assert "not in the local cache" in str(error.value)
    assert "\n" not in str(error.value)


def test_loading_says_nothing_and_leaves_the_settings_of_the_libraries(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    logging.set_verbosity_info()
    try:
        capfd.readouterr()
        with engine(tmp_path) as found:
            found.loaded(parse_reference(str(models / "adapter")))
        output = capfd.readouterr()
        assert (output.out, output.err) == ("", "")
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()


def test_a_plan_counts_what_is_stored_and_loads_nothing(pair: tuple[Reference, Reference], tmp_path: Path) -> None:
    planned = sum(planned_tokens(job, probe) for job in JOBS for probe in job.probes)
    with engine(tmp_path) as found:
        assert [found.model(pair[0]).stored(job) for job in JOBS] == [set()] * 3
        assert tokens_left(JOBS, found.model(pair[0])) == planned
        found.acquire(JOBS, [pair[0]])
        assert [len(found.model(pair[0]).stored(job)) for job in JOBS] == [len(ASK), len(PICK), 9]
        assert tokens_left(JOBS, found.model(pair[0])) == 0
        assert tokens_left(JOBS, found.model(pair[1])) == planned
        assert not found.local(pair[1]).loaded


def test_the_engine_remembers_how_long_a_pair_took(pair: tuple[Reference, Reference], tmp_path: Path) -> None:
    with engine(tmp_path) as found:
        fingerprints = [found.identify(one).fingerprint for one in pair]
        remember_rate(found.store, fingerprints, 9_999, 5.0)
        assert found.store.count("notes") == 0
        remember_rate(found.store, fingerprints, 20_000, 10.0)
        remember_rate(found.store, fingerprints[::-1], 40_000, 1.0)
        assert rate_of(found.store, fingerprints[::-1]) == 2000.0
        assert rate_of(found.store, fingerprints[:1]) is None


@pytest.mark.parametrize("keep", [False, True])
def test_a_model_is_let_go_while_the_other_answers(
    pair: tuple[Reference, Reference], tmp_path: Path, keep: bool
) -> None:
    at_work: dict[str, set[int]] = {}

    def told(progress: Progress) -> None:
        if progress.phase != "load":
            at_work.setdefault(progress.phase, set()).add(sum(subject.loaded for subject in found._loadable))

    with Engine(tmp_path, batch_size=2, progress=told, keep=keep) as found:
        acquire(found, JOBS, *pair)
    assert at_work == {"generate": {1, 2} if keep else {1}, "score": {1, 2} if keep else {1}, "drift": {2}}


def test_a_model_that_accelerate_has_spread_is_the_same(
    complete: tuple[Path, Any], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without GPUs: accelerate's hooks are at every part, and all of them at the CPU."""
    from pytest_trust.models import loading

    spread = loading.spread
    places: list[Any] = []

    def over_cpus(model: Any) -> Any:
        moved, device = spread(model, {"cpu": 1 << 30})
        places.append(moved.hf_device_map)
        return moved, device

    monkeypatch.setattr("pytest_trust.models.identity._gpu_nodes", lambda: True)
    monkeypatch.setattr(loading, "available_device", lambda device, given: device)
    monkeypatch.setattr(loading, "spread", over_cpus)
    pair = tuple(parse_reference(f"{models / name}?device=balanced&dtype=float32") for name in ("base", "adapter"))
    with engine(tmp_path) as found:
        acquire(found, JOBS, *pair)
        check_alike(everything(found, pair), complete[1])
        assert found.loaded(pair[0]).shares
        assert hasattr(found.loaded(pair[0]).body.layers[0], "_hf_hook")
    assert {"cpu"} == {device for one in places for device in one.values()}
