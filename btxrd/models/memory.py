"""The memory of the C library, which a computation on the CPU takes and gives back."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["keeping_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""The options of glibc's `mallopt`, by their numbers in malloc.h."""


@contextmanager
def keeping_memory() -> Iterator[None]:
    """Keep the memory of freed tensors for the next ones, and give it back in the end.

    By default glibc gives that of each large tensor back at once, and the system clears every page
    anew when it is next asked for: a third of a training step's time on a CPU. The process takes
    up to a fifth more memory. Where the C library is another one, nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        # What glibc's own adaptive thresholds settle at.
        libc.mallopt(MMAP_MAX, 65536)
        libc.mallopt(MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(TRIM_THRESHOLD, 64 << 20)
        libc.malloc_trim(0)
