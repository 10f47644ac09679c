"""Keeping the memory that one training step frees for the next step."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of glibc's mallopt(3), and the largest values that glibc sets by itself once large blocks have been freed.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
DEFAULTS = {MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}
NEVER = 2**31 - 1


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """A context in which the C library keeps freed memory; at its end, the memory is returned to the system.

    By default glibc returns every block of more than 32 MiB as soon as it is freed. The gradient of BERT's word
    embeddings is such a block, so the kernel clears and maps its pages again in each step. This makes a step of short
    rows 3 to 10 % slower, and one of many long rows no slower (`benchmarks/README.md`). Without glibc this does
    nothing.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    _set(libc, dict.fromkeys(DEFAULTS, NEVER))
    try:
        yield
    finally:
        _set(libc, DEFAULTS)
        libc.malloc_trim(ctypes.c_size_t(0))


def _set(libc: ctypes.CDLL, thresholds: dict[int, int]) -> None:
    """Set parameters; those that this version of the library refuses are unchanged."""
    for parameter, value in thresholds.items():
        libc.mallopt(ctypes.c_int(parameter), ctypes.c_int(value))


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
