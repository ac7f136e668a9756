"""One decoder layer in memory at a time: the numbers of a model in memory, and the most parameters at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_trust.engine.engine import Engine
from pytest_trust.errors import TrustError
from pytest_trust.models.layer_offload import OffloadedRunner
from pytest_trust.models.layer_turns import Layers
from pytest_trust.models.loaded import LoadedModel
from pytest_trust.models.loading import load_model
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.models.runner import Group, Runner
from pytest_trust.probes import Message, Probe
from pytest_trust.responses import Generation, Job
from tests.support.pairs import acquire
from tests.support.pairs import drift as drift_of
from tests.support.tiny_models import save_adapter, save_model, save_tokenizer

ASK = tuple(Probe(f"ask-{i}", f"ask-{i}", (Message("user", f"Is number {i} wrong? " * (i + 1)),)) for i in range(5))
PICK = tuple(
    Probe(f"pick-{i}", f"pick-{i}", (Message("user", "Is it?"),), options=("wrong", f"not {i}")) for i in range(2)
)
JOBS = (
    Job("dim/ask", "generate", ASK, Generation(6), drift=frozenset(probe.id for probe in ASK)),
    Job("dim/pick", "choose", PICK, Generation(6), drift=frozenset({"pick-1"})),
)
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"tie_word_embeddings": True},
    "Gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8},
    "GPT2": {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 256},
    "Qwen2Moe": {
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, Reference]:
    directory = tmp_path_factory.mktemp("models")
    paths = [save_model(directory / str(seed), seed=seed, num_hidden_layers=4) for seed in range(2)]
    return parse_reference(str(paths[0])), parse_reference(str(paths[1]))


def engine(store: Path, **options: Any) -> Engine:
    return Engine(store, device=None, dtype=None, batch_size=4, **options)


class Counted:
    """How many bytes of parameters a model has in memory, at most, and how often a layer was read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most, self.reads = 0, 0
        fill = Layers.fill

        def counted(layers: Layers, layer: int) -> None:
            fill(layers, layer)
            self.reads += 1
            there = sum(p.numel() for one in layers._layers for p in one.parameters() if not p.is_meta)
            self.most = max(self.most, there)

        monkeypatch.setattr(Layers, "fill", counted)


def everything(found: Engine, pair: tuple[Reference, Reference]) -> list[Any]:
    return [found.model(one).responses(JOBS[0]) for one in pair] + [found.model(one).options(JOBS[1]) for one in pair]


def test_an_audit_gives_the_same_with_one_layer_in_memory(
    pair: tuple[Reference, Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine(tmp_path / "all") as whole:
        acquire(whole, JOBS, *pair)
        expected = [drift_of(whole, job, *pair) for job in JOBS]
        answers = everything(whole, pair)
        layer = sum(p.numel() for p in whole.loaded(pair[0]).model.model.layers[0].parameters())
    counted = Counted(monkeypatch)
    with engine(tmp_path / "layers", offload=True) as found:
        acquire(found, JOBS, *pair)
        assert everything(found, pair)[:2] == answers[:2]
        for one, other in zip(everything(found, pair)[2:], answers[2:], strict=True):
            for name, scores in other.items():
                assert one[name].log_likelihoods == pytest.approx(scores.log_likelihoods, rel=1e-5)
        for job, drift in zip(JOBS, expected, strict=True):
            again = drift_of(found, job, *pair)
            for kind in ("candidate_baseline", "baseline_candidate", "floor"):
                ours, theirs = getattr(again, kind), getattr(drift, kind)
                assert ours.keys() == theirs.keys()
                assert ours
                for name, one in theirs.items():
                    assert ours[name].kl_pq.tolist() == pytest.approx(one.kl_pq.tolist(), abs=1e-5, rel=1e-5)
        parameters = list(found.loaded(pair[1]).model.parameters())
        assert all(p.is_meta for p in found.loaded(pair[1]).model.model.layers.parameters())
        assert any(not p.is_meta for p in parameters)
    assert counted.most == layer  # of four


def test_the_drift_of_many_texts_reads_every_layer_once(
    pair: tuple[Reference, Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_trust.models.layer_offload._BATCH_TOKENS", 100)  # several batches
    runner = OffloadedRunner(load_model(pair[0], cache=tmp_path, offload=True))
    plain = Runner(load_model(pair[0], cache=tmp_path))
    random = torch.Generator().manual_seed(1)
    groups = [
        Group((tuple(torch.randint(3, 300, (length,), generator=random).tolist()),), (length // 2,))
        for length in (9, 40, 3, 77, 60, 12)
    ]
    counted = Counted(monkeypatch)
    found = runner.hidden_states(groups)
    assert counted.reads == 4
    for (one,), (other,) in zip(found, plain.hidden_states(groups), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    runner.alone(groups)
    assert counted.reads == 8


@pytest.mark.parametrize("family", FAMILIES)
def test_each_architecture_s_own_forward_is_what_runs(family: str, tmp_path: Path) -> None:
    import transformers

    sizes = {
        "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 2,
    }  # fmt: skip
    config = getattr(transformers, f"{family}Config")(**{**sizes, **FAMILIES[family]})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    reference = parse_reference(str(tmp_path / "model"))
    try:
        runner = OffloadedRunner(load_model(reference, cache=tmp_path, offload=True))
    except TrustError as error:
        assert family == "Qwen2Moe"  # its files hold each expert by itself, the model all in one
        assert "cannot be read layer by layer" in str(error)
        assert "\n" not in str(error)
        return
    plain = Runner(load_model(reference, cache=tmp_path))
    groups = [Group((tuple(range(5, 5 + length)),), (2,)) for length in (30, 9)]
    for (one,), (other,) in zip(runner.hidden_states(groups), plain.hidden_states(groups), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert runner.head is not None
    assert plain.head is not None
    torch.testing.assert_close(runner.head.weight, plain.head.weight)


def test_what_fails_in_one_batch_ends_all(pair: tuple[Reference, Reference], tmp_path: Path) -> None:
    import threading

    loaded: LoadedModel = load_model(pair[0], cache=tmp_path, offload=True)
    assert loaded.layers is not None
    before = threading.active_count()

    def fails() -> None:
        raise MemoryError("full")

    def forward() -> Any:
        with torch.inference_mode():
            return loaded.model(input_ids=torch.tensor([[5, 6]])).logits

    with pytest.raises(MemoryError, match="full"):
        loaded.layers.together([forward, fails, forward])
    assert threading.active_count() == before
    assert all(p.is_meta for p in loaded.model.model.layers.parameters())
    first, second = loaded.layers.together([forward, forward])
    assert torch.equal(first, second)


@pytest.mark.parametrize("what", ["adapter", "mutant", "pickled", "incomplete", "another architecture"])
def test_what_cannot_be_split_is_one_line(what: str, pair: tuple[Reference, Reference], tmp_path: Path) -> None:
    import json

    from safetensors.torch import load_file, save_file

    path = save_model(tmp_path / "model")
    expected = {
        "adapter": "it is an adapter: merge it",
        "mutant": "it is a mutant",
        "pickled": "its weights are not in safetensors files",
        "incomplete": "model.layers.1.mlp.up_proj.weight is not in its files",
        "another architecture": "is not in its files as the architecture has it",
    }[what]
    text = str(path)
    if what == "adapter":
        text = str(save_adapter(tmp_path / "adapter", path))
    elif what == "mutant":
        text += "?mutant=noise:0.1"
    elif what == "pickled":
        torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
        (path / "model.safetensors").unlink()
        text += "?pickle=on"
    elif what == "incomplete":
        weights = load_file(path / "model.safetensors")
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    else:
        config = json.loads((path / "config.json").read_text())
        config |= {"architectures": ["MambaForCausalLM"], "model_type": "mamba", "num_hidden_layers": 3}
        (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrustError) as error:
        load_model(parse_reference(text), cache=tmp_path / "cache", offload=True)
    assert expected in str(error.value)
    assert "leave out --trust-offload=layers" in str(error.value)
    assert "\n" not in str(error.value)
