"""Memory: how much a batch may hold, what runs again in halves where it did not suffice, what goes back to the system."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pytest_trust.errors import TrustError

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What a batch may hold: rows, and tokens of all rows together at the length of the longest."""

    rows: int
    tokens: int


def halving(
    items: Sequence[Item],
    run: Callable[[Sequence[Item]], list[Made]],
    *,
    too_much: str,
    fewer: Callable[[int, Sequence[Item]], None] = lambda rows, items: None,
) -> list[Made]:
    """Run on a batch; where the memory does not suffice, on its halves, in order.

    `fewer` is told how many of these items are tried next.

    Raises:
        TrustError: the memory does not suffice for a single item; `too_much` says so.
    """
    if not items:
        return []
    try:
        return run(items)
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        ran_out(error, len(items), too_much)
    middle = len(items) // 2
    fewer(middle, items)
    parts = (items[:middle], items[middle:])
    return [one for part in parts for one in halving(part, run, too_much=too_much, fewer=fewer)]


def ran_out(error: Exception, items: int, too_much: str) -> None:
    """Let go of what memory can be had.

    Raises the error itself when it is another one, and TrustError (`too_much`) when a single item was too much.
    """
    if not out_of_memory(error):
        raise error
    if items == 1:
        raise TrustError(too_much) from error
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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
