"""The GPUs a process may use, as its environment and PyTorch name them."""

from __future__ import annotations

import pytest
import torch

from mtdnn.execution.machine import visible_gpus


@pytest.mark.parametrize(
    ("variable", "names"),
    [
        ("0,1,2", ["0", "1", "2"]),
        ("3, 1", ["3", "1"]),
        ("GPU-8932f937-d72c,GPU-1", ["GPU-8932f937-d72c", "GPU-1"]),
        ("", []),
        ("-1", []),
        ("2,-1,0", ["2"]),  # as the CUDA programming guide has it: what follows an invalid one is not seen
    ],
)
def test_the_variable_names_them(monkeypatch: pytest.MonkeyPatch, variable: str, names: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == names


@pytest.mark.parametrize("count", [0, 4])
def test_without_it_pytorch_counts_them(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert visible_gpus() == [str(number) for number in range(count)]
