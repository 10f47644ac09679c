"""The CPU cores and GPUs that this process may use."""

from __future__ import annotations

import os


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
