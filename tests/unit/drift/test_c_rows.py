"""The compiled CPU reduction: the same numbers as torch's loop, and a said-so fallback where it cannot be built."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

from pytest_trust.drift.kernels import c_rows as native
from pytest_trust.drift.kernels import reduction
from pytest_trust.drift.kernels import torch_blocks as blocks
from pytest_trust.drift.kernels.divergence import kl_divergence, token_divergences

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler on the PATH"
)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing built, nothing loaded; forgotten again afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    native._loaded.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    native._loaded.cache_clear()


@pytest.fixture
def torch_only(monkeypatch):
    monkeypatch.setattr(native, "load", lambda: None)


def logits(vocabulary, dtype=torch.float32, rows=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    p = torch.randn(rows, vocabulary, generator=random) * 3
    q = p + torch.randn(rows, vocabulary, generator=random)
    return p.to(dtype), q.to(dtype), torch.randint(0, vocabulary, (rows,), generator=random)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
# one lane, a part of a vector, whole segments, a segment and one, a real odd vocabulary
@pytest.mark.parametrize("vocabulary", [1, 5, 2048, 2049, 50_257])
def test_every_column_is_that_of_the_torch_loop(vocabulary, dtype):
    assert native.load() is not None, native.status()
    p, q, labels = logits(vocabulary, dtype)
    for temperature in (1.0, 0.7):
        table = native.reduce_native(p, q, 1 / temperature, labels=labels)
        expected = blocks.block_columns(p, q, labels, 1 / temperature, True)
        for index, name in enumerate(native.COLUMNS):
            exact = name in ("same_top", "rank_p", "rank_q")
            torch.testing.assert_close(
                table[:, index], expected[name].double(), atol=0 if exact else 4e-6, rtol=0 if exact else 1e-5, msg=name
            )
        alone = native.reduce_native(p, q, 1 / temperature, kl_only=True)
        torch.testing.assert_close(alone, table[:, 0], atol=1e-9, rtol=1e-9)


@needs_compiler
def test_sixteen_bit_logits_are_widened_exactly():
    # Every finite half-precision value against a row of zeros: the sums must be those of the same values in float32.
    half = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    half = half[half.isfinite() & (half.abs() < 60)]
    for narrow in (half, half.to(torch.bfloat16)):
        rows = narrow.view(1, -1)
        zeros = torch.zeros_like(rows)
        table = native.reduce_native(rows, zeros, 1.0)
        assert torch.equal(table, native.reduce_native(rows.float(), zeros.float(), 1.0))
    odd = torch.tensor([[math.inf, 0.0], [math.nan, 0.0]], dtype=torch.float16)
    assert native.reduce_native(odd, torch.zeros_like(odd), 1.0, kl_only=True).isnan().all()


@needs_compiler
def test_rows_are_independent_of_their_neighbours_and_of_the_threads(monkeypatch):
    p, q, _ = logits(3001, rows=400)  # enough for several threads
    whole = kl_divergence(p, q)
    assert torch.equal(whole, torch.cat([kl_divergence(p[i : i + 7], q[i : i + 7]) for i in range(0, 400, 7)]))
    monkeypatch.setattr(native, "_WORTH_A_THREAD", 1)
    assert torch.equal(whole, kl_divergence(p, q))
    mask = torch.arange(400) % 3 == 1
    assert torch.equal(kl_divergence(p, q, mask=mask)[mask], whole[mask])


@needs_compiler
def test_rows_may_be_strided():
    p, q, labels = logits(6000)
    expected = token_divergences(p[:, :2500].contiguous(), q[:, 3000:5500].contiguous(), labels=labels % 2500)
    found = token_divergences(p[:, :2500], q[:, 3000:5500], labels=labels % 2500)
    assert torch.equal(found.kl_pq, expected.kl_pq)
    assert torch.equal(found.rank_q, expected.rank_q)


@needs_compiler
def test_a_growing_maximum_is_followed_through_the_segments():
    # Ascending logits move the maximum in every segment, descending ones never.
    up = torch.linspace(-80, 80, 20_000).view(1, -1)
    for p, q in ((up, up.flip(-1)), (up, up * 0.5), (up.flip(-1), up * 0.5)):
        log_p, log_q = (x.double().log_softmax(-1) for x in (p, q))
        kl = native.reduce_native(p, q, 1.0, kl_only=True)
        torch.testing.assert_close(kl, (log_p.exp() * (log_p - log_q)).sum(-1), atol=1e-4, rtol=1e-6)


@needs_compiler
def test_excluded_beginnings_are_no_obstacle():
    p, q, _ = logits(5000)
    expected = kl_divergence(p[:, 4000:], q[:, 4000:])
    p[:, :4000] = q[:, :4000] = -math.inf  # whole segments without a single allowed token
    table = native.reduce_native(p, q, 1.0)
    assert table.isfinite()[:, :7].all()  # settled without the slow rows
    torch.testing.assert_close(kl_divergence(p, q), expected, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("torch_only")
def test_the_torch_loop_alone_is_as_exact():
    p, q, labels = logits(1271)
    log_p, log_q = (x.double().log_softmax(-1) for x in (p, q))
    found = token_divergences(p, q, labels=labels)
    expected = (log_p.exp() * (log_p - log_q)).sum(-1).float()
    torch.testing.assert_close(found.kl_pq, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(kl_divergence(p, q), expected, atol=1e-5, rtol=0)
    assert torch.equal(found.rank_p.long(), (p > p.gather(-1, labels[:, None])).sum(-1) + 1)


def test_no_compiler_is_said_and_works(fresh):
    fresh.setenv("PATH", "")
    assert reduction.path() == "torch blocks: no C compiler (cc, gcc or clang) on the PATH"
    p, q, _ = logits(300)
    assert kl_divergence(p, q).gt(0).all()


def test_a_compiler_that_fails_is_said_and_works(fresh, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'cc: no space left' >&2\nexit 1\n")
    broken.chmod(0o755)
    fresh.setenv("CC", str(broken))
    assert reduction.path() == f"torch blocks: {broken} failed: cc: no space left"
    p, q, _ = logits(300)
    assert kl_divergence(p, q).gt(0).all()
    assert not list((tmp_path / "pytest-trust" / "compiled").iterdir())


@needs_compiler
def test_wrong_numbers_are_noticed(fresh, tmp_path):
    wrong = tmp_path / "wrong.c"
    wrong.write_text(native._SOURCE.read_text().replace("5.0000001201e-1f", "5.4e-1f"))
    fresh.setattr(native, "_SOURCE", wrong)
    assert native.status().endswith("gives wrong numbers")
    assert native.load() is None


@needs_compiler
def test_it_is_built_once(fresh, tmp_path):
    assert native.load() is not None
    (built,) = (tmp_path / "pytest-trust" / "compiled").iterdir()
    first = built.stat().st_mtime_ns
    native._loaded.cache_clear()
    assert native.load() is not None
    assert built.stat().st_mtime_ns == first
    assert native.status().startswith("compiled C")


def test_the_formula_for_the_compiler_is_the_same(monkeypatch):
    # As it is, uncompiled: inductor needs half a minute for it; on a GPU tests/gpu compiles it.
    monkeypatch.setattr(blocks, "_compiler", lambda: blocks._sums)
    p, q, labels = logits(1271, torch.bfloat16)
    found = blocks.compiled_columns(p, q, labels, 0.5, True)
    expected = blocks.block_columns(p, q, labels, 0.5, True)
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        torch.testing.assert_close(found[name].double(), column.double(), atol=4e-6, rtol=1e-5, msg=name)


def test_a_failing_kernel_is_given_up_once_and_the_reason_said(monkeypatch):
    """The order of the paths on CUDA; the kernels themselves are in tests/gpu."""
    monkeypatch.setattr(reduction, "_failed", {})
    assert reduction.path("cuda") == "Triton"
    reduction._give_up("Triton", ValueError("no such chip\nmore"))
    assert reduction.path("cuda:0") == "torch.compile; Triton: ValueError: no such chip"
    reduction._give_up("torch.compile", RuntimeError(""))
    assert reduction.path("cuda").startswith("torch blocks; Triton: ")
    with pytest.raises(torch.OutOfMemoryError):  # the chunk is halved for this, not the path changed
        reduction._give_up("Triton", torch.OutOfMemoryError("full"))


def test_every_path_of_a_gpu_gives_the_same(monkeypatch):
    """The fallbacks in their order, on the CPU: no Triton kernel can run here, then no compiler either."""
    monkeypatch.setattr(reduction, "_failed", {"Triton": "absent"})
    p, q, labels = logits(1271)
    expected = reduction.reduce_rows(p, q, labels, 1.0, True)
    monkeypatch.setattr(reduction, "_on_cuda", lambda p, q: True)
    monkeypatch.setattr(blocks, "_compiler", lambda: blocks._sums)
    compiled = reduction.reduce_rows(p, q, labels, 1.0, True)
    assert reduction._failed == {"Triton": "absent"}

    def broken():
        raise RuntimeError("no inductor")

    monkeypatch.setattr(blocks, "_compiler", broken)
    last = reduction.reduce_rows(p, q, labels, 1.0, True)
    assert reduction._failed["torch.compile"] == "RuntimeError: no inductor"
    for found in (compiled, last):
        assert found.keys() == expected.keys()
        for name, column in expected.items():
            torch.testing.assert_close(found[name].double(), column.double(), atol=4e-6, rtol=1e-5, msg=name)


@needs_compiler
def test_without_a_place_to_keep_it_it_is_built_for_the_process(fresh, tmp_path):
    (tmp_path / "pytest-trust").write_text("a file where the directory should be")
    fresh.setattr("tempfile.tempdir", str(tmp_path))
    assert native.load() is not None
    assert [path.name for path in tmp_path.iterdir()] == ["pytest-trust"]  # nothing is left behind
