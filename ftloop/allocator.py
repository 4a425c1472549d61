"""What is asked of the C library's allocator. Changes no bit of what is computed."""

from __future__ import annotations

import ctypes
import platform
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that is freed for the next time, for the whole process.

    By default it gives blocks of megabytes back to the system, and gets them again page by page, each page zeroed: for
    gradients and activations, at every step. What is computed stays the same bits; the most memory held at a time does
    too, as each step needs what the one before has freed.
    Returns: whether it was done; elsewhere than on glibc it is not.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # No block is mapped alone, and none given back: a larger threshold of mapping would say so too, but older versions
    # take none above 32 MB.
    kept = [mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)]
    return all(kept)
