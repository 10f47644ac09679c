"""Memory that one training step frees, kept for the next one."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of glibc's mallopt(3), and what they are once a process has freed large blocks: use moves them up to here.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
DEFAULTS = {MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}
NEVER = 2**31 - 1


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Have the C library keep freed memory inside this block, and give it back to the system at its end.

    By default glibc returns every block of more than 32 MiB as soon as it is freed: the gradient of BERT's word
    embeddings is one, and so the kernel clears and maps its pages anew in each step. A step of short rows takes 3 to
    10 % longer so, one of many long rows no longer (`benchmarks/README.md`). Nothing happens where the C library is
    not glibc.
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
    """Set parameters; one that this version of the library refuses stays as it is."""
    for parameter, value in thresholds.items():
        libc.mallopt(ctypes.c_int(parameter), ctypes.c_int(value))


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
