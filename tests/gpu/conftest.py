"""Tests that need a CUDA device: `make gpu`, or `python -m pytest -m gpu tests/gpu`. Without one they are skipped.

`MTDNN_GPU_TESTS_ON=cpu` runs what they do on the CPU, so that they can be tried while they are written; what only a GPU
has, such as its kernels and its memory, is skipped then too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by the first product; for deterministic algorithms

ON_CPU = os.environ.get("MTDNN_GPU_TESTS_ON") == "cpu"
NO_GPU = "no CUDA device: torch.cuda.is_available() is false"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if "tests/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The first GPU, without TF32."""
    if not (torch.cuda.is_available() or ON_CPU):
        pytest.skip(NO_GPU)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield torch.device("cpu" if ON_CPU else "cuda")


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    """The first GPU, for tests of what only a GPU has."""
    if device.type != "cuda":
        pytest.skip(NO_GPU)
    return device
