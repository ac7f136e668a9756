"""Memory: how much a batch may hold, what runs again in halves where it did not suffice, what goes back to the system."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_trust.errors import TrustError


@dataclass(frozen=True, slots=True)
class Limits:
    """What a batch may hold: rows, and tokens of all rows together at the length of the longest."""

    rows: int
    tokens: int


def halving(items: Sequence[int], run: Callable[[Sequence[int]], None]) -> None:
    """Run on a batch; where the memory does not suffice on its halves, in order.

    Raises:
        TrustError: not enough for a single item.
    """
    try:
        run(items)
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not out_of_memory(error):
            raise
        if len(items) == 1:
            raise TrustError(
                "out of memory for a single window of a text: give a smaller window, a smaller dtype or another device"
            ) from error
    else:
        return
    gc.collect()
    middle = len(items) // 2
    halving(items[:middle], run)
    halving(items[middle:], run)


def out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory ran out: torch has several."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "allocate memory" in str(error) or "out of memory" in str(error)  # the CPU allocator raises RuntimeError


_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h

_LARGE = (
    8 << 20
)  # above what a forward of some hundred tokens makes and frees again and again, below keys and values of a batch


@functools.cache
def return_large_blocks() -> None:
    """Have glibc map blocks of 8 MiB and more by themselves, so that they are the system's again when they are freed.

    By itself it raises that limit to 32 MiB as such blocks are freed, keeps them, and fits others between them: a generation's keys and
    values then take twice their size, and keep it. Another allocator, and a user's own MALLOC_MMAP_THRESHOLD_, are left alone.
    """
    if os.name == "posix" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _LARGE)
