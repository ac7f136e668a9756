"""Models on a GPU: what is let go is the device's again, and layers spread over several GPUs are the same model."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from pytest_trust.engine.engine import Engine
from pytest_trust.models.reference import parse_reference
from tests.support.engine_jobs import JOBS, check_alike, everything
from tests.support.tiny_models import save_model

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)


def test_the_devices_memory_is_back_at_its_start(tmp_path: Path) -> None:
    pair = tuple(
        parse_reference(f"{save_model(tmp_path / name, seed=seed)}?device=cuda") for name, seed in (("a", 0), ("b", 1))
    )
    torch.zeros(1, device="cuda")  # the libraries' own
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    with Engine(store=tmp_path / "store") as found:
        for reference in pair:
            found.acquire_side(JOBS, reference)
            assert torch.cuda.memory_allocated() > before
        assert [subject.loaded for subject in found._subjects.values()] == [False, True]
        found.acquire(JOBS, *pair)
    gc.collect()
    assert torch.cuda.memory_allocated() == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU: layers are spread over several")
def test_a_model_over_several_gpus_is_the_same(tmp_path: Path) -> None:
    save_model(tmp_path / "a"), save_model(tmp_path / "b", seed=1)
    results = []
    for device in ("cuda:0", "balanced"):
        pair = tuple(parse_reference(f"{tmp_path / name}?device={device}&dtype=float32") for name in "ab")
        with Engine(store=tmp_path / device) as found:
            found.acquire(JOBS, *pair)
            results.append(everything(found, pair))
            if device == "balanced":
                assert len({parameter.device for parameter in found.runner(pair[0]).model.parameters()}) > 1
    check_alike(results[1], results[0])
