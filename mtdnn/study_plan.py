"""How large the cells of a study are, and how long they will take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtdnn.data.manifest import read_manifest
from mtdnn.data.samplers import SAMPLERS, Sampler
from mtdnn.errors import ConfigError, DataError, MtdnnError, fault, unknown
from mtdnn.run_config import RunConfig
from mtdnn.run_folder import RunFolder
from mtdnn.study_cells import Outcome, outcomes
from mtdnn.study_grid import Cell, Grid
from mtdnn.subset import chosen_rows, subset_size
from mtdnn.task_def import TaskDef, load_task_defs, task_def_from
from mtdnn.yaml_source import parse_yaml

if TYPE_CHECKING:
    import numpy as np

PLAIN_UNITS, PROXIMAL_UNITS = 3.0, 1.0
"""Cost of a step in forward passes (forward 1, backward 2): of a plain step, and what a proximal term adds."""


@dataclass(frozen=True)
class Size:
    """What a cell will compute.

    Attributes:
        rows: task → training rows.
        steps: optimizer steps.
        examples: rows in all steps together.
        units: forward passes of one row, over all examples; None where a regularizer does not tell its cost.
    """

    rows: Mapping[str, int]
    steps: int
    examples: int
    units: float | None


def cell_size(cell: Cell) -> Size:
    """The size of a cell, from the manifests of the prepared rows.

    Raises:
        DataError: a task's training rows are not prepared.
    """
    tasks = trained_tasks(cell)
    return run_size(cell.config, tasks)


def trained_tasks(cell: Cell) -> dict[str, TaskDef]:
    """The definitions of the tasks a cell trains on."""
    known = _known_tasks(cell)
    trainable = [name for name, task in known.items() if task.trainable]
    return {name: known[name] for name in cell.config.train or trainable}


def measured_tasks(cell: Cell) -> dict[str, TaskDef]:
    """The definitions of the tasks a cell has results of: those it trains on, and those their heads answer."""
    trained = trained_tasks(cell)
    return trained | {name: task for name, task in _known_tasks(cell).items() if task.head_of in trained}


def _known_tasks(cell: Cell) -> dict[str, TaskDef]:
    if cell.task_file is None:
        return load_task_defs(cell.config.tasks)
    source = parse_yaml(cell.task_file, path=cell.config.tasks)
    return {name: task_def_from(name, block, source) for name, block in source.value.items()}


def refuse_unprepared(cell: Cell) -> None:
    """Find out before a cell is trained that what its stage's `evaluate` names can be measured afterwards.

    Raises:
        ConfigError: a word that is no role and no split of its tasks.
        DataError: a split that is not prepared.
    """
    tasks, strange, faults = measured_tasks(cell), [], []
    fix = f"Run mtdnn prepro {cell.config.tasks} --out {cell.config.data} first, or take it out of `evaluate`."
    for word in cell.evaluate:
        found = [(task.name, split) for task in tasks.values() for split in _splits_of(task, word)]
        if not found:
            known = sorted({each for task in tasks.values() for each in (*task.splits, *task.split_names)})
            strange.append(fault(f"stages.{cell.stage}", "evaluate", unknown("split", word, known)))
        for folder in (Path(cell.config.data) / name / split for name, split in found):
            if read_manifest(folder) is None:
                faults.append(fault(str(folder), "", f"is not prepared, and evaluate: {word} asks for it", fix))
    if strange:
        raise ConfigError(strange)
    if faults:
        raise DataError(faults)


def refuse_unknown_splits(grid: Grid) -> None:
    """Find out whether every word in a stage's `evaluate` is a role or a split of some task of the stage.

    Raises:
        ConfigError: those that are not, with their lines.
    """
    faults = []
    for name, stage in grid.study.stages.items():
        if not stage.evaluate:
            continue
        cells = (cell for cell in grid.cells if cell.stage == name)
        kinds = {(cell.task_file or cell.config.tasks, cell.config.train): cell for cell in cells}
        tasks = [task for cell in kinds.values() for task in measured_tasks(cell).values()]
        known = sorted({word for task in tasks for word in (*task.splits, *task.split_names)})
        where = grid.source.where(("stages", name, "evaluate"))
        for word in stage.evaluate:
            if tasks and word not in known:
                faults.append(fault(where, f"stages.{name}.evaluate", unknown("split", word, known)))
    if faults:
        raise ConfigError(faults)


def refuse_hopeless(cells: Sequence[Cell]) -> None:
    """Find out, before anything is written, that none of the cells still to be run could be: rows that are
    not prepared, no such encoder. Where only some of them lack something, the others are run.

    Raises:
        MtdnnError: what they lack, each fault once.
    """
    found = outcomes(cells)
    left = [cell for cell in cells if cell.name not in found]
    encoders: dict[str, tuple[str, ...]] = {}
    hopeless: dict[str, tuple[str, ...]] = {}
    for cell in left:
        stuck = next((need for need in cell.needs if need in hopeless), None)
        lacking = hopeless[stuck] if stuck else _lacking(cell, encoders)
        if lacking:
            hopeless[cell.name] = lacking
    if left and len(hopeless) == len(left):
        raise MtdnnError(list(dict.fromkeys(line for lines in hopeless.values() for line in lines)))


def _lacking(cell: Cell, encoders: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What a cell needs and is not there; `encoders` keeps what was found out about each."""
    try:
        cell_size(cell)
        refuse_unprepared(cell)
    except MtdnnError as error:
        return error.faults
    if cell.needs:
        return ()
    place = cell.config.encoder if isinstance(cell.config.encoder, str) else cell.config.encoder.run
    if place not in encoders:
        encoders[place] = _encoder_faults(cell)
    return encoders[place]


def _encoder_faults(cell: Cell) -> tuple[str, ...]:
    from mtdnn.data.tokenizing import load_tokenizer

    encoder = cell.config.encoder
    try:
        if isinstance(encoder, str):
            load_tokenizer(encoder)
        else:
            RunFolder(encoder.run).read_config()
    except MtdnnError as error:
        return error.faults
    return ()


def _splits_of(task: TaskDef, word: str) -> tuple[str, ...]:
    """Those of a role, or the one of that name, if the task has it."""
    return task.splits.get(word, (word,) if word in task.split_names else ())


def stored_rows(cell: Cell) -> dict[str, str]:
    """`task/split` → SHA-256 of the rows it was prepared from, of every split that decides the cell's numbers."""
    found = {}
    for task in measured_tasks(cell).values():
        names = (split for word in ("train", "dev", *cell.evaluate) for split in _splits_of(task, word))
        for split in dict.fromkeys(names):
            manifest = read_manifest(Path(cell.config.data) / task.name / split)
            if manifest is not None:
                found[f"{task.name}/{split}"] = str(manifest.source.get("sha256", ""))
    return found


def of_other_rows(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Finished cell → the splits whose rows are others by now than those it had, or the tasks where they are more or
    fewer: that is all a cell finished by an earlier version can tell. What is not prepared any more is passed over."""
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
    rows = {task.name: training_rows(cell.config, task) for task in trained_tasks(cell).values()}
    return [task for task, count in outcome.get("rows", {}).items() if rows.get(task, count) != count]


def run_size(config: RunConfig, tasks: Mapping[str, TaskDef]) -> Size:
    """The size of a run on these tasks; examples as if each epoch had those of the first, as most strategies' have."""
    rows = {name: training_rows(config, task) for name, task in tasks.items()}
    sampler = SAMPLERS.get(config.mixing.name)(
        rows,
        {name: task.batch_size or config.batch_size for name, task in tasks.items()},
        seed=config.seed,
        num_epochs=config.epochs,
        max_steps=config.max_steps,
        lengths={name: row_lengths(config, task) for name, task in tasks.items()} if config.max_tokens else None,
        max_tokens=config.max_tokens,
        group_by_length=config.group_by_length if config.max_tokens else None,  # alone it changes no number
        **config.mixing.options,
    )
    steps, epochs = _length(config, sampler)
    turns = sampler.batches_per_task(0)
    # Batches differ in size, the last of a pass at least: rows of a pass over its batches is the mean.
    examples = {each.name: epochs * turns[each.name] * each.num_rows / each.num_batches(0) for each in sampler.streams}
    costs = row_costs(config, tasks)
    units = None if costs is None else sum(examples[name] * cost for name, cost in costs.items())
    return Size(rows=rows, steps=steps, examples=round(sum(examples.values())), units=units)


def _length(config: RunConfig, sampler: Sampler) -> tuple[int, float]:
    """Optimizer steps of a run, as `assemble.total_steps` counts them, and the epochs they are."""
    if config.max_steps is not None:
        return config.max_steps, config.max_steps / sampler.num_steps(0)
    whole = int(config.epochs)
    steps, last = sum(sampler.num_steps(epoch) for epoch in range(whole)), sampler.num_steps(whole)
    total = max(1, steps + math.ceil((config.epochs - whole) * last - 1e-9))
    return total, whole + (total - steps) / last


def row_lengths(config: RunConfig, task: TaskDef) -> np.ndarray:
    """[rows], tokens of each row of a task that a run trains on. Loads PyTorch.

    Raises:
        DataError: they are not prepared, or for another task block.
    """
    from mtdnn.data.store import open_train_store

    store, part = open_train_store(config.data, task), config.subset.get(task.name)
    if part is not None:
        store = store.select(chosen_rows(store.ids, training_rows(config, task), seed=part.seed))
    return store.lengths


def training_rows(config: RunConfig, task: TaskDef) -> int:
    """How many rows of a task a run trains on.

    Raises:
        DataError: they are not prepared.
    """
    total = 0
    for split in task.splits.get("train", ()):
        folder = Path(config.data) / task.name / split
        manifest = read_manifest(folder)
        if manifest is None:
            fix = f"Run mtdnn prepro {config.tasks} --out {config.data} first."
            raise DataError(fault(str(folder), "", "is not prepared", fix))
        total += manifest.rows
    total = min(total, task.max_rows or total)
    choice = config.subset.get(task.name)
    if choice is None:
        return total
    return choice.rows or subset_size(total, choice.fraction or 1.0)


def row_costs(config: RunConfig, tasks: Mapping[str, TaskDef]) -> dict[str, float] | None:
    """Forward passes that a training row of each task costs; None where a regularizer does not tell.

    Loads PyTorch, but only where there is a regularizer.

    Raises:
        ConfigError: a regularizer is not known, or an option of it.
    """
    added = PROXIMAL_UNITS if config.proximal is not None else 0.0
    if config.regularizer is None and not any(task.regularizer for task in tasks.values()):
        return dict.fromkeys(tasks, PLAIN_UNITS + added)
    from mtdnn.run_check import regularizers_of

    methods = regularizers_of(config, tasks)
    try:
        costs = {name: method.cost if method and method.weight else PLAIN_UNITS for name, method in methods.items()}
    except NotImplementedError:  # a class from elsewhere
        return None
    return {name: cost + added for name, cost in costs.items()}


def estimated_seconds(
    cells: Sequence[Cell], sizes: Mapping[str, Size], outcomes: Mapping[str, Outcome], *, rate: float | None = None
) -> float | None:
    """Time that cells not finished yet will take, one after another; None when nothing tells how fast they go, or a
    cell's cost is not known.

    Args:
        rate: training examples per second of a plain step. Default: that of the finished cells, weighted by time.
    """
    per_unit = 1 / (rate * PLAIN_UNITS) if rate else _measured(sizes, outcomes)
    left = [sizes[cell.name].units for cell in cells if cell.name not in outcomes]
    known = [units for units in left if units is not None]
    return None if per_unit is None or len(known) < len(left) else sum(known) * per_unit


def _measured(sizes: Mapping[str, Size], outcomes: Mapping[str, Outcome]) -> float | None:
    """Seconds per unit of the finished cells."""
    timed = [
        (outcome["seconds"], size.units)
        for name, outcome in outcomes.items()
        if (size := sizes.get(name)) is not None and size.units is not None
    ]
    units = sum(amount for _, amount in timed)
    return sum(seconds for seconds, _ in timed) / units if units else None
