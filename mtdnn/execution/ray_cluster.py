"""The Ray cluster of this process: the one that it is on, or a local Ray."""

from __future__ import annotations

import logging
from typing import Any

from mtdnn.errors import ConfigError, fault, first_line


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
