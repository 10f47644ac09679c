"""Arguments of a call of `train` → a run, with the definitions and rows that are in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtdnn.config.arguments import wrong_type
from mtdnn.config.run import RunConfig, run_source
from mtdnn.config.tasks import Definitions, TaskDef, load_task_defs
from mtdnn.errors import ConfigError, Fault, fault
from mtdnn.rows.places import Data
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.plug_ins import checked_run, plug_in_faults

CALL = "train()"


@dataclass(frozen=True)
class GivenRun:
    """A run as it was given.

    Attributes:
        config: the run; paths of what is in memory are in its own folder.
        tasks: definitions in memory; None if `config.tasks` names their file.
        rows: rows in memory, to be prepared in `config.data`; None if it names prepared rows.
    """

    config: RunConfig
    tasks: dict[str, TaskDef] | None = None
    rows: Mapping[str, Mapping[str, Any]] | None = None


def given_run(run: RunConfig | str | Path | None, options: Mapping[str, Any]) -> GivenRun:
    """The run that a call describes.

    Args:
        run: a configuration, its YAML file, or nothing.
        options: fields of RunConfig laid over it, dots for keys within them; `tasks` may be a mapping as for
            `load_task_defs`, `data` one of rows as for `prepare`.
    Raises:
        ConfigError: every error in the configuration, or in definitions in memory.
    """
    kinds = {"tasks": Definitions, "data": Data}
    wrong = {key: wrong_type(options[key], kind) for key, kind in kinds.items() if key in options}
    if faults := [fault(CALL, key, found, "Give one.") for key, found in wrong.items() if found]:
        raise ConfigError(faults)
    in_memory = {key: options[key] for key in ("tasks", "data") if isinstance(options.get(key), Mapping)}
    config = _config(run, {**options, **dict.fromkeys(in_memory, "in memory")})
    folder = RunFolder(config.output)
    places = {"tasks": str(folder.tasks_file), "data": str(folder.prepared)}
    config = config.model_copy(update={key: places[key] for key in in_memory})
    tasks = load_task_defs(in_memory["tasks"]) if "tasks" in in_memory else None
    return GivenRun(config, tasks, in_memory.get("data"))


def keys_in(run: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a run that a mapping in place of its YAML file has; a mapping of definitions is its tasks."""
    return {"tasks": run} if any(map(_is_definition, run.values())) else dict(run)


def _is_definition(value: object) -> bool:
    """Whether it defines a task; no key of a run has such a value."""
    return isinstance(value, TaskDef) or (isinstance(value, Mapping) and isinstance(value.get("task_type"), str))


def _config(run: RunConfig | str | Path | None, options: Mapping[str, Any]) -> RunConfig:
    if isinstance(run, RunConfig) and not options:
        if faults := plug_in_faults(run):
            raise ConfigError(faults)
        return run
    path, base = (None, run.model_dump(by_alias=True)) if isinstance(run, RunConfig) else (run, {})
    try:
        return checked_run(run_source(path, {**base, **options}, given_by=CALL))
    except ConfigError as error:
        raise ConfigError([_of_call(each) for each in error.faults]) from error


def _of_call(found: Fault) -> Fault:
    """The error with the call as its place, if it is about an option."""
    return found.within(CALL) if found.place.flags and not found.place.name else found
