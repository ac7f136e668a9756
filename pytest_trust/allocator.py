"""The C library's allocator, told to give large blocks back to the system."""

from __future__ import annotations

import ctypes
import functools
import os

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_LARGE = 8 << 20  # above what a forward of some hundred tokens makes and frees again and again, below keys and values of a batch


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
