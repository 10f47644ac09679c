"""The Ray cluster of this process: the one that it is on, or a local Ray."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from mtdnn.errors import ConfigError, fault, first_line
from mtdnn.registry import trusted


def imported_ray() -> Any:
    """The module `ray`. Raises ConfigError if it is not installed."""
    try:
        import ray
    except ImportError as error:
        fix = "Install it with: pip install 'mtdnn[ray]'."
        raise ConfigError(fault("--launcher", "", "ray is not installed", fix)) from error
    return ray


def connected_ray() -> Any:
    """The module `ray`, connected to the cluster of RAY_ADDRESS or of this machine, or else to a local Ray.

    Raises:
        ConfigError: ray is not installed, or the cluster cannot be reached.
    """
    ray = imported_ray()
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            fix = "Check RAY_ADDRESS, and the cluster with: ray status."
            raise ConfigError(fault("--launcher", "", f"no Ray cluster: {first_line(error)}", fix)) from error
    return ray


def num_cpus(ray: Any) -> int:
    """The CPUs of the cluster, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


@contextlib.contextmanager
def as_submitted(folder: str, *, trust: bool) -> Iterator[None]:
    """Within a process of the cluster: the folder and the trust of the process that submitted the work.

    Processes begin where Ray was started and have another environment, while paths are named from where the command
    was given. A machine without that folder stays where it was: absolute paths work there all the same.

    Args:
        folder: of the process that submitted.
        trust: whether it may import dotted paths.
    """
    with trusted(trust), contextlib.chdir(folder) if os.path.isdir(folder) else contextlib.nullcontext():
        yield
