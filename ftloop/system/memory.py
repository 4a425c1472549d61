"""Memory of the process: the C library's allocator and Python's garbage collector. Changes no bit of any result."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next time, in the whole process.

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
    accepted = [mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)]
    return all(accepted)


def has_gpu() -> bool:
    """Whether CUDA will be used where nothing else is asked for. On its host there is next to nothing to keep, but for
    the copy from which the model was moved."""
    import torch  # only now: the command uses the functions here before it has imported it

    return torch.cuda.is_available()


@contextmanager
def fast_start() -> Iterator[None]:
    """Collect no garbage while the libraries are imported, nor ever look at what they have made: a million objects
    that stay. To search them again and again is a sixth of a start's time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
