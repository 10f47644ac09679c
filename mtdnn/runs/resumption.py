"""The checkpoint a run resumes from, and whether the run is still the one its checkpoints were trained with."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import TaskDef
from mtdnn.errors import ConfigError, DataError, Fault, MtdnnError, fault
from mtdnn.files import remove_folder
from mtdnn.runs.folder import FREE_TO_CHANGE, RunFolder, differences
from mtdnn.runs.plug_ins import resolved
from mtdnn.training.checkpoint import (
    State,
    TaskRows,
    copy_weights,
    damage,
    newest_whole,
    read_state,
    read_training,
    recover,
    step_number,
    steps_of,
)

logger = logging.getLogger(__name__)

PLACES = frozenset({"tasks", "data"})
"""Fields of a run that are paths; what they name is compared by content."""


def is_finished(folder: RunFolder) -> bool:
    """Whether training has finished: `last`, written only then, and `best` are whole."""
    return all(damage(recover(folder.checkpoint(name))) is None for name in ("last", "best"))


def resume_point(folder: RunFolder) -> Path | None:
    """The newest whole `step-N` from which training writes all that the folder lacks; None = the start.

    If `best` is missing or damaged, it is one from before the step of `best`; see `restore_best`.
    """
    newest = newest_whole(folder.checkpoints)
    best_step = _lost_best(folder, newest)
    if newest is None or not best_step:
        return newest
    earlier = [path for path in reversed(steps_of(folder.checkpoints)) if step_number(path) < best_step]
    return next((path for path in earlier if damage(path) is None), None)


def restore_best(folder: RunFolder) -> None:
    """Restore a missing or damaged `best` from another checkpoint of its step, or else let training write it again.

    For the latter `last` is removed: the run is then not finished, and training from `resume_point` writes both, with
    the same weights as before.
    """
    newest, last = newest_whole(folder.checkpoints), folder.checkpoint("last")
    best_step = _lost_best(folder, newest)
    if best_step:
        for source in (folder.checkpoint(f"step-{best_step}"), last):
            if damage(source) is None and read_state(source)["step"] == best_step:
                copy_weights(source, folder.checkpoint("best"))
                return
    if damage(folder.checkpoint("best")) is not None and damage(last) is None:
        start = resume_point(folder)
        begin = "from the start" if start is None else f"from {start.name}"
        logger.warning("%s: missing or damaged; training %s writes it again", folder.checkpoint("best"), begin)
        remove_folder(last)


def _lost_best(folder: RunFolder, newest: Path | None) -> int:
    """The step of a `best` that was written before the newest checkpoint and is missing or damaged; else 0."""
    if newest is None or damage(folder.checkpoint("best")) is None:
        return 0
    return int(read_training(newest)["progress"]["best_step"])


def settings_of(config: RunConfig, tasks: Mapping[str, TaskDef]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a checkpoint stores of its run: the fields that decide what is computed, and the tasks."""
    left_out = set(FREE_TO_CHANGE | PLACES)
    run = resolved(config).model_dump(mode="json", by_alias=True, exclude=left_out)
    return run, {name: task.model_dump(mode="json", by_alias=True) for name, task in tasks.items()}


def require_same_run(
    checkpoint: Path, config: RunConfig, tasks: Mapping[str, TaskDef], rows: Mapping[str, TaskRows]
) -> None:
    """Require that a run has the settings its checkpoint was trained with, as far as the checkpoint stores them.

    Args:
        checkpoint: a whole checkpoint of the run's folder.
        config: the run that resumes from it.
        tasks: name → definition.
        rows: task → its train rows.
    Raises:
        ConfigError: run.yml or the definitions were edited since.
        DataError: the train rows differ from those the checkpoint was trained on.
    """
    state = read_state(checkpoint)
    edited = list(_edited(state, checkpoint, config, tasks))
    changed = list(_changed_rows(state, checkpoint, config, rows))
    if edited and changed:
        raise MtdnnError([*edited, *changed])
    if edited:
        raise ConfigError(edited)
    if changed:
        raise DataError(changed)


def _edited(state: State, checkpoint: Path, config: RunConfig, tasks: Mapping[str, TaskDef]) -> Iterator[Fault]:
    run, definitions = settings_of(config, tasks)
    fix = "Undo the change, or give another --output."
    places = [(key, "run.yml", first, run[key]) for key, first in state.get("run", {}).items() if key in run]
    of_tasks = [each for each in state.get("tasks", {}).items() if each[0] in definitions]
    places += [(name, "tasks.yml", first, definitions[name]) for name, first in of_tasks]
    for key, file, before, now in places:
        for place, first, second in differences(key, before, now, added=False):
            found = f"{checkpoint.name} was trained with {first!r}, now it is {second!r}"
            yield fault(str(Path(config.output) / file), place, found, fix)


def _changed_rows(state: State, checkpoint: Path, config: RunConfig, rows: Mapping[str, TaskRows]) -> Iterator[Fault]:
    before = state.get("rows", {})
    for name in (name for name in rows if name in before and before[name] != rows[name]):
        counts = f"{before[name]['rows']} then, {rows[name]['rows']} now"
        found = f"the train rows differ from those {checkpoint} was trained on ({counts})"
        fix = "Undo the change and run mtdnn prepro again, or give another --output."
        yield fault(str(Path(config.data) / name), "", found, fix)
