"""Fine-tune one shared encoder on many tasks: the public names of the package, each imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtdnn.config.run import RunConfig, load_run_config
    from mtdnn.config.task import TaskDef
    from mtdnn.config.tasks import load_task_defs
    from mtdnn.data.prepro import prepare
    from mtdnn.errors import ConfigError, DataError
    from mtdnn.metrics.records import score
    from mtdnn.report.write import write_report
    from mtdnn.runs.opened import open_run
    from mtdnn.runs.row_check import check
    from mtdnn.runs.train import train
    from mtdnn.study.load import load_study
    from mtdnn.study.run import run_study

    __version__: str

__all__ = [
    "ConfigError",
    "DataError",
    "RunConfig",
    "TaskDef",
    "__version__",
    "check",
    "load_run_config",
    "load_study",
    "load_task_defs",
    "open_run",
    "prepare",
    "run_study",
    "score",
    "train",
    "write_report",
]

_MODULES = {
    "ConfigError": "errors",
    "DataError": "errors",
    "RunConfig": "config.run",
    "TaskDef": "config.task",
    "check": "runs.row_check",
    "load_run_config": "config.run",
    "load_study": "study.load",
    "load_task_defs": "config.tasks",
    "open_run": "runs.opened",
    "prepare": "data.prepro",
    "run_study": "study.run",
    "score": "metrics.records",
    "train": "runs.train",
    "write_report": "report.write",
}


def __getattr__(name: str) -> Any:
    """A public object, imported on the first access to its name (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("mtdnn")
        except PackageNotFoundError:  # a checkout that is not installed
            return "unknown"
    if name not in _MODULES:
        raise AttributeError(f"module 'mtdnn' has no attribute '{name}'")
    value = getattr(import_module(f"mtdnn.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
