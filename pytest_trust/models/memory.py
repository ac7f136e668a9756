"""Memory: limits of a batch, batches in halves when memory runs out, and freed blocks returned to the system."""

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
    """What a batch may hold."""

    rows: int
    tokens: int
    """Tokens of all rows together, each counted at the length of the longest."""


def halving(
    items: Sequence[Item],
    run: Callable[[Sequence[Item]], list[Made]],
    *,
    too_much: str,
    fewer: Callable[[int, Sequence[Item]], None] = lambda rows, items: None,
) -> list[Made]:
    """Run on a batch, and on its halves in order when the memory runs out.

    `fewer` is called with the size of the smaller batch and the items that did not fit.

    Raises:
        TrustError: a single item does not fit; its message is `too_much`.
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
    """Free what memory can be freed, after a batch of so many items failed.

    Raises:
        Exception: the error itself, when it does not say that memory ran out.
        TrustError: a single item does not fit; its message is `too_much`.
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
    """Whether an exception says that memory ran out. torch raises several kinds."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "allocate memory" in str(error) or "out of memory" in str(error)  # the CPU allocator raises RuntimeError


_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h

# Larger than the blocks that a forward of some hundred tokens makes and frees; smaller than a batch's keys and values.
_LARGE = 8 << 20


@functools.cache
def return_large_blocks() -> None:
    """Make glibc map blocks of 8 MiB and more on their own, so that they return to the system when they are freed.

    glibc otherwise raises that limit up to 32 MiB as such blocks are freed. It then keeps freed blocks and fits others
    between them, so that a generation's keys and values take twice their size for good. Other allocators are not
    changed, nor is a MALLOC_MMAP_THRESHOLD_ that the user has set.
    """
    if os.name == "posix" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _LARGE)
