"""The CPU cores and GPUs that this process may use, and the order in which GPUs add."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mtdnn.errors import ConfigError, fault, first_line


def usable_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs of this process, as in CUDA_VISIBLE_DEVICES; if it is not set, PyTorch's numbers of all GPUs."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        import torch

        return [str(number) for number in range(torch.cuda.device_count())]
    names = [name.strip() for name in given.split(",")]
    hidden = next((place for place, name in enumerate(names) if name in ("", "-1")), len(names))
    return names[:hidden]  # as in CUDA: names after an invalid one are ignored


def num_launched() -> int:
    """Number of processes that a launcher started together, this one among them.

    Source of WORLD_SIZE: the environment that torchrun and `accelerate launch` give.
    """
    return int(os.environ.get("WORLD_SIZE") or 1)


def num_launched_here() -> int:
    """Those of them on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


@contextmanager
def fixed_order(wanted: bool) -> Iterator[None]:
    """A context in which a GPU adds numbers in a fixed order, if wanted.

    New memory is not filled, as PyTorch does by default then: nothing here reads what it has not written.

    Args:
        wanted: False changes nothing.
    Raises:
        ConfigError: PyTorch has no such algorithm for an operation.
    """
    if not wanted:
        yield
        return
    import torch
    from torch.utils import deterministic as module

    deterministic: Any = module  # with a property that mypy does not know
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product on a GPU
    before = torch.get_deterministic_debug_mode(), deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        fix = "Set it to false; a resumed run then ends with nearly the same weights."
        raise ConfigError(fault("", "execution.deterministic", first_line(error), fix)) from error
    finally:
        torch.set_deterministic_debug_mode(before[0])
        deterministic.fill_uninitialized_memory = before[1]


@contextmanager
def threads_set(number: int | None) -> Iterator[None]:
    """A context with this number of CPU threads of PyTorch; after it there are as many as before.

    Args:
        number: None changes nothing.
    """
    if number is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """A context in which Ctrl-C waits; processes started in it never receive it, so that only their parent ends them.

    A terminal sends it to all processes; one that still imports its modules would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
