"""Checks of a study's cells before they run, and which finished cells had other rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtdnn.config.tasks import TaskDef, load_task_defs
from mtdnn.data.arrow import DATA_FILE
from mtdnn.data.jobs import block_faults
from mtdnn.data.manifest import read_manifest
from mtdnn.data.store import prepro_command
from mtdnn.errors import ConfigError, DataError, Fault, MtdnnError, fault, unknown
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.hub import run_place
from mtdnn.runs.length import RunLength, prepared_rows, prepared_sampler, training_rows
from mtdnn.runs.named import task_faults
from mtdnn.runs.plug_ins import plug_in_faults
from mtdnn.study.cells import Outcome, outcomes
from mtdnn.study.grid import Cell, Grid, of_cell
from mtdnn.study.size import measured_by, tasks_of


def require_planned_tasks(cell: Cell) -> None:
    """Require, before a cell is trained, the task definitions that the study had when it began.

    A cell's hash is of those; with others its results would be taken for results of the plan.

    Raises:
        ConfigError: the file of definitions has other options for one of the cell's tasks now.
    """
    now = {name: task.model_dump() for name, task in load_task_defs(cell.config.tasks).items()}
    changed = [name for name, planned in measured_by(cell).items() if now.get(name) != planned.model_dump()]
    if changed:
        found = "is no longer what it was when the study was started"
        fix = "Start the study again: it makes new cells of those that the change touches."
        raise ConfigError([fault(str(cell.config.tasks), name, found, fix) for name in changed])


def require_prepared(cell: Cell) -> None:
    """Require, before a cell is trained, that the splits in its stage's `evaluate` can be measured afterwards.

    Raises:
        ConfigError: a word that is neither a role nor a split of its tasks.
        DataError: a split that is not prepared, or damaged.
    """
    tasks, unknown_words, faults = measured_by(cell), [], []
    for word in cell.evaluate:
        found = [(task, split) for task in tasks.values() for split in _splits_of(task, word)]
        if not found:
            known = sorted({each for task in tasks.values() for each in (*task.splits, *task.split_names)})
            unknown_words.append(fault(f"stages.{cell.stage}", "evaluate", unknown("split", word, known)))
        for task, split in found:
            folder = Path(cell.config.data) / task.name / split
            fix = f"{prepro_command(Path(cell.config.data), task, None, None)}. Or remove it from `evaluate`."
            if (manifest := read_manifest(folder)) is None:
                faults.append(fault(str(folder), "", f"is not prepared, but evaluate: {word} needs it", fix))
            elif (damage := manifest.damage(folder / DATA_FILE)) is not None:
                broken = f"damaged: {damage}, but evaluate: {word} needs it"
                faults.append(fault(str(folder / DATA_FILE), "", broken, fix))
    if unknown_words:
        raise ConfigError(unknown_words)
    if faults:
        raise DataError(faults)


def require_known_splits(grid: Grid) -> None:
    """Require that every word in a stage's `evaluate` is a role or a split of a task of the stage.

    Raises:
        ConfigError: the words that are not, with their lines.
    """
    faults = []
    for name, stage in grid.study.stages.items():
        if not stage.evaluate:
            continue
        cells = (cell for cell in grid.cells if cell.stage == name)
        kinds = {(cell.task_file or cell.config.tasks, cell.config.train): cell for cell in cells}
        tasks = [task for cell in kinds.values() for task in measured_by(cell).values()]
        known = sorted({word for task in tasks for word in (*task.splits, *task.split_names)})
        where = grid.source.where(("stages", name, "evaluate"))
        for word in stage.evaluate:
            if tasks and word not in known:
                faults.append(fault(where, f"stages.{name}.evaluate", unknown("split", word, known)))
    if faults:
        raise ConfigError(faults)


def require_valid_plug_ins(grid: Grid, cells: Sequence[Cell]) -> None:
    """Require, before any cell runs, that the plug-ins of the cells to run and their options are valid.

    Raises:
        ConfigError: each error once, with the first cell that has it.
    """
    found, faults, of_tasks = outcomes(cells), dict[Fault, Fault](), dict[int, list[Fault]]()
    for cell in (cell for cell in cells if cell.name not in found):
        tasks, config = tasks_of(cell), cell.config
        of_cell = plug_in_faults(config)
        for task in tasks.values():  # shared by the cells with the same file
            if id(task) not in of_tasks:
                of_tasks[id(task)] = block_faults(task)
            of_cell += of_tasks[id(task)]
        if config.regularizer or any(task.regularizer for task in tasks.values()):
            from mtdnn.runs.faults import objective_faults  # loads PyTorch

            of_cell += objective_faults(tasks, config.model_copy(update={"encoder": ""}))
        for each in of_cell:
            faults.setdefault(each, _placed(each, grid, cell))
    if faults:
        raise ConfigError(list(faults.values()))


def _placed(found: Fault, grid: Grid, cell: Cell) -> Fault:
    return of_cell(found, grid.source, stage=cell.stage, axes=cell.axes, given_at=cell.given_at)


def require_valid_lengths(grid: Grid, cells: Sequence[Cell]) -> None:
    """Require, before any cell runs, that tasks, subsets and mixing of the cells to run are valid.

    Cells whose rows are not prepared are checked without them.

    Raises:
        ConfigError: each error once, with the first cell that has it.
    """
    found, faults = outcomes(cells), dict[Fault, Fault]()
    for cell in (cell for cell in cells if cell.name not in found):
        for each in task_faults(cell.config, cell.definitions) or _length_faults(cell):
            faults.setdefault(each, _placed(each, grid, cell))
    if faults:
        raise ConfigError(list(faults.values()))


def _length_faults(cell: Cell) -> tuple[Fault, ...]:
    """Errors in the length of a run on the prepared rows; empty if they are not prepared."""
    try:
        RunLength.of(cell.config, prepared_sampler(cell.config, tasks_of(cell)))
    except ConfigError as error:
        return error.faults
    except DataError:
        pass
    return ()


def require_runnable(cells: Sequence[Cell]) -> None:
    """Require, before anything is written, that at least one of the cells to run can run, see `not_runnable`.

    The cells that cannot run break later, without the others.

    Raises:
        MtdnnError: no cell can run; each error once.
    """
    found = outcomes(cells)
    left = [cell for cell in cells if cell.name not in found]
    lacking = not_runnable(left)
    if left and len(lacking) == len(left):
        raise MtdnnError(list(dict.fromkeys(line for lines in lacking.values() for line in lines)))


def not_runnable(cells: Sequence[Cell]) -> dict[str, tuple[Fault, ...]]:
    """Name of a cell → what it lacks, for the cells that cannot run: prepared rows, an encoder, soft labels."""
    encoders: dict[str, tuple[Fault, ...]] = {}
    found: dict[str, tuple[Fault, ...]] = {}
    for cell in cells:
        blocked_by = next((need for need in cell.needs if need in found), None)
        if lacking := found[blocked_by] if blocked_by else _lacking(cell, encoders):
            found[cell.name] = lacking
    return found


def _lacking(cell: Cell, encoders: dict[str, tuple[Fault, ...]]) -> tuple[Fault, ...]:
    """Errors about what a cell needs and does not have; `encoders` caches those of each encoder."""
    if lacking := _soft_label_faults(cell):
        return lacking
    try:
        RunLength.of(cell.config, prepared_sampler(cell.config, tasks_of(cell)))
        require_prepared(cell)
    except MtdnnError as error:
        return error.faults
    if cell.needs:
        return ()
    place = cell.config.encoder if isinstance(cell.config.encoder, str) else cell.config.encoder.run
    if place not in encoders:
        encoders[place] = _encoder_faults(cell)
    return encoders[place]


def _soft_label_faults(cell: Cell) -> tuple[Fault, ...]:
    """Errors of the teachers of a cell, but for files that no earlier cell of the study has written yet."""
    tasks = tasks_of(cell)
    if not cell.config.distill and all(task.distill is None for task in tasks.values()):
        return ()
    from mtdnn.runs.faults import soft_label_faults  # loads PyTorch

    within = f"{cell.folder.parents[1]}/"
    return tuple(each for each in soft_label_faults(tasks, cell.config) if not str(each.place).startswith(within))


def _encoder_faults(cell: Cell) -> tuple[Fault, ...]:
    from mtdnn.tokens.loading import load_tokenizer

    encoder = cell.config.encoder
    try:
        if isinstance(encoder, str):
            load_tokenizer(encoder)
        else:
            RunFolder(run_place(encoder.run)).read_config()
    except MtdnnError as error:
        return error.faults
    return ()


def _splits_of(task: TaskDef, word: str) -> tuple[str, ...]:
    """The splits of a role, or the split of that name, if the task has it."""
    return task.splits.get(word, (word,) if word in task.split_names else ())


def stored_rows(cell: Cell) -> dict[str, str]:
    """`task/split` → SHA-256 of the rows it was prepared from, of every split that decides the cell's results."""
    found = {}
    for task in measured_by(cell).values():
        names = (split for word in ("train", "dev", *cell.evaluate) for split in _splits_of(task, word))
        for split in dict.fromkeys(names):
            manifest = read_manifest(Path(cell.config.data) / task.name / split)
            if manifest is not None:
                found[f"{task.name}/{split}"] = str(manifest.source.get("sha256", ""))
    return found


def of_other_rows(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Finished cell → the splits whose rows have changed since; for a cell finished by an earlier version the tasks
    whose number of rows has changed. What is no longer prepared is skipped."""
    found: dict[str, list[str]] = {}
    by_name = {cell.name: cell for cell in cells}
    for name, outcome in outcomes(cells).items():
        try:
            changed = _changed(by_name[name], outcome)
        except MtdnnError:
            continue
        if changed:
            found[name] = changed
    return found


def _changed(cell: Cell, outcome: Outcome) -> list[str]:
    if "stored_rows" in outcome:
        now, then = stored_rows(cell), outcome["stored_rows"]
        return [place for place in then if place in now and now[place] != then[place]]
    tasks = tasks_of(cell).values()
    rows = {task.name: training_rows(cell.config, task, prepared_rows(cell.config, task)) for task in tasks}
    return [task for task, count in outcome.get("rows", {}).items() if rows.get(task, count) != count]
