"""The GPUs a process may use, as its environment and PyTorch name them, and the order in which they add."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch

from mtdnn.errors import ConfigError
from mtdnn.execution.machine import fixed_order, interrupts_held, visible_gpus


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


def test_sums_in_a_fixed_order_end_with_the_context_and_what_has_none_is_an_error_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with fixed_order(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ConfigError) as caught, fixed_order(True):
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise RuntimeError("histc_cuda has no deterministic implementation.")
    assert str(caught.value) == (
        "execution.deterministic: histc_cuda has no deterministic implementation. "
        "Set it to false; a resumed run then ends with nearly the same weights."
    )
    with pytest.raises(RuntimeError, match="out of memory"), fixed_order(True):
        raise RuntimeError("out of memory")
    assert not torch.are_deterministic_algorithms_enabled()


def test_ctrl_c_waits_for_the_end_of_the_block_and_does_not_reach_processes_started_in_it() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        signal.raise_signal(signal.SIGINT)
        reached = "the end"
    assert reached == "the end"
    child.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.5)
    child.terminate()
    assert child.wait(10) == -signal.SIGTERM
