"""The CPU reduction, `reduction.c`, built once a machine with the system's C compiler and called without the
interpreter's lock.

It takes a second to build and makes one pass. ``torch.compile`` takes 9 to 27 s for the same sums, and its kernel makes
several passes. Where there is no compiler, or its build gives wrong numbers, `torch_blocks` is used and `status` says
so.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["COLUMNS", "load", "reduce_native", "status"]

COLUMNS = (
    *("kl_pq", "kl_qp", "entropy_p", "entropy_q", "lse_p", "lse_q", "total_variation", "js"),
    *("p_label", "q_label", "rank_p", "rank_q", "same_top"),
)
"""The columns that `trust_reduce` writes for a row, in the order of the enumeration in reduction.c."""

_SOURCE = Path(__file__).with_name("reduction.c")
_FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
# By the processor's capability as torch reports it, so that a cache shared between machines never holds foreign
# instructions.
_TARGETS = {
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"),
}
_SEGMENT = 2048  # as in reduction.c
# Logits that are worth a thread: with fewer, a second thread costs more than it saves.
_WORTH_A_THREAD = 2**18


@dataclass(frozen=True, slots=True)
class _Loaded:
    function: Any
    """`trust_reduce`, or None."""
    status: str


def load() -> Any:
    """The compiled function, or None where there is none."""
    return _loaded().function


def status() -> str:
    """The code that reduces logits on a CPU, in words: ``compiled C, AVX2``, or ``torch blocks: `` and the reason."""
    return _loaded().status


def reduce_native(
    p: torch.Tensor,
    q: torch.Tensor,
    inverse_temperature: float,
    *,
    chosen: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    kl_only: bool = False,
    jensen_shannon: bool = True,
) -> torch.Tensor | None:
    """The columns of rows of logits in float64, [rows, COLUMNS]; with `kl_only` KL(p || q) in nats, [rows].

    The inputs are not checked. Rows whose logits are no distribution give numbers that are not finite.

    Args:
        p: logits of p, [rows, vocabulary].
        q: logits of q, same shape.
        inverse_temperature: factor on both sides' logits.
        chosen: indices of the rows to reduce; None for all.
        labels: one token id for each reduced row.
        kl_only: compute KL(p || q) alone.
        jensen_shannon: also compute ``js``.

    Returns:
        None where the compiled code cannot take these logits: they are not on a CPU, not in float32, bfloat16 or
            float16, the vocabulary is
        strided, or there is no compiled code.
    """
    import torch

    types = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
    for side in (p, q):
        if side.device.type != "cpu" or side.dtype not in types or (side.stride(1) != 1 and side.shape[1] > 1):
            return None
    function = load()
    if function is None:
        return None
    count, vocabulary = p.shape[0] if chosen is None else chosen.numel(), p.shape[1]
    mode = 0 if kl_only else 1 + jensen_shannon
    out = torch.empty((count,) if kl_only else (count, len(COLUMNS)), dtype=torch.float64)
    rows = torch.arange(count) if chosen is None else chosen.contiguous()
    targets = None if labels is None else labels.contiguous()

    def run(start: int, stop: int) -> None:
        scratch = torch.empty(0 if kl_only else _scratch_floats(vocabulary))  # this thread's own
        function(
            *(p.data_ptr(), p.stride(0), types[p.dtype], q.data_ptr(), q.stride(0), types[q.dtype]),
            *(stop - start, vocabulary, inverse_temperature, rows[start:].data_ptr()),
            *(None if targets is None else targets[start:].data_ptr(), mode),
            *(scratch.data_ptr(), out[start:].data_ptr()),
        )

    workers = max(1, min(torch.get_num_threads(), count, count * vocabulary // _WORTH_A_THREAD))
    if workers == 1:
        run(0, count)
        return out
    bounds = [count * worker // workers for worker in range(workers + 1)]
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(run, *span) for span in itertools.pairwise(bounds)]:
            done.result()
    return out


def _scratch_floats(vocabulary: int) -> int:
    """Floats of `trust_reduce`'s scratch: both sides' exponentials in whole segments, and two maxima a segment."""
    return 2 * (_SEGMENT + 1) * -(-vocabulary // _SEGMENT)


@functools.cache
def _loaded() -> _Loaded:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)
    if compiler is None:
        return _Loaded(None, "torch blocks: no C compiler (cc, gcc or clang) on the PATH")
    try:
        with _built(compiler, _TARGETS.get(capability, ())) as path:
            function = _bind(path)
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines() or [type(error).__name__]
        return _Loaded(None, f"torch blocks: {compiler} failed: {said[0]}")
    except (OSError, AttributeError) as error:
        return _Loaded(None, f"torch blocks: the compiled reduction cannot be loaded: {error}")
    if not _is_right(function):
        return _Loaded(None, f"torch blocks: what {compiler} built gives wrong numbers")
    return _Loaded(function, f"compiled C, {capability}")


@contextmanager
def _built(compiler: str, target: tuple[str, ...]) -> Iterator[Path]:
    """The shared library, from the user's cache or built now.

    Where the cache cannot be written, it lives for this block.
    """
    import platformdirs

    source = _SOURCE.read_bytes()
    key = hashlib.sha256(repr((source, compiler, _FLAGS, target, platform.machine(), platform.system())).encode())
    name = f"reduction-{key.hexdigest()[:24]}.so"
    directory = Path(platformdirs.user_cache_dir("pytest-trust", appauthor=False)) / "compiled"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (directory / name).exists():
            _build([compiler, *_FLAGS, *target, str(_SOURCE)], directory / name)
    except OSError:
        with tempfile.TemporaryDirectory(prefix="pytest-trust-") as own:
            _build([compiler, *_FLAGS, *target, str(_SOURCE)], Path(own, name))
            yield Path(own, name)
        return
    yield directory / name


def _build(command: list[str], path: Path) -> None:
    handle, draft = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        command = [*command, "-o", draft, "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        os.replace(draft, path)  # another process may build it too; each puts a whole file in place
    finally:
        Path(draft).unlink(missing_ok=True)


def _bind(path: Path) -> Any:
    function = ctypes.CDLL(str(path)).trust_reduce
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    side = (pointer, number, ctypes.c_int)
    function.argtypes = [
        *side,
        *side,
        number,
        number,
        ctypes.c_double,
        pointer,
        pointer,
        ctypes.c_int,
        pointer,
        pointer,
    ]
    function.restype = None
    return function


def _is_right(function: Any) -> bool:
    """Whether two rows agree with float64 in every mode.

    A compiler that takes liberties with floating point is not trusted.
    """
    import torch

    steps = torch.arange(2 * 4099, dtype=torch.float64).view(2, 4099)
    p, q = (8 * torch.sin(steps * rate) for rate in (0.37, 0.11))
    p[0, 5] = q[0, 5] = -torch.inf
    log_p, log_q = (x.float().double().log_softmax(-1) for x in (p, q))
    expected = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q)).sum(-1)
    variation = 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)
    p32, q32 = p.float(), q.float()
    for mode, width in ((0, 1), (1, len(COLUMNS)), (2, len(COLUMNS))):
        out, scratch = torch.zeros(2, width, dtype=torch.float64), torch.empty(_scratch_floats(4099))
        given = (p32.data_ptr(), 4099, 0, q32.data_ptr(), 4099, 0, 2, 4099, 1.0, None, None, mode)
        function(*given, scratch.data_ptr(), out.data_ptr())
        if not torch.allclose(out[:, 0], expected, atol=1e-5, rtol=0):
            return False
        if mode and not torch.allclose(out[:, COLUMNS.index("total_variation")], variation, atol=1e-5, rtol=0):
            return False
    return True
