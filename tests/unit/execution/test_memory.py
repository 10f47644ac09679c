"""Kept memory: counted in page faults, which do not depend on the machine's speed."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest
import torch

from mtdnn.execution import memory as allocator
from mtdnn.execution.memory import freed_memory_kept

LARGE = 48 * 2**20  # bytes; more than glibc keeps of its own accord


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def page_faults() -> int:
    """Of taking and freeing a large tensor, again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(12):
        torch.zeros(LARGE // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(allocator._glibc() is None, reason="the C library is not glibc")
def test_a_freed_tensor_is_kept_inside_the_block() -> None:
    before = page_faults()
    with freed_memory_kept():
        page_faults()  # glibc finds an aligned block again only once it has room on both sides
        inside = page_faults()
    assert inside < before / 2


@pytest.mark.skipif(allocator._glibc() is None, reason="the C library is not glibc")
def test_kept_memory_is_given_back_at_the_end_of_the_block() -> None:
    with freed_memory_kept():
        tensors = [torch.zeros(LARGE // 4) for _ in range(8)]
        del tensors
        inside = resident()
    assert resident() < inside - 4 * LARGE


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator._glibc() is None
    with freed_memory_kept():
        torch.zeros(LARGE // 4)
