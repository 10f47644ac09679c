"""The length of a run: rows of each task, order of their batches, optimizer steps. Needs no PyTorch.

The one place that computes it: for `check` from the rows it has read, for a study from the manifests, for `train` from
its stores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from mtdnn.config.options import named_faults
from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import TaskDef, row_units
from mtdnn.data.manifest import read_manifest
from mtdnn.data.samplers import SAMPLERS, Sampler
from mtdnn.data.sharing import labelled_rows
from mtdnn.data.store import Store, open_store, prepro_command
from mtdnn.errors import ConfigError, DataError, Fault, fault
from mtdnn.files import file_stamp
from mtdnn.rows.subset import chosen_rows, size_fault, subset_size


@dataclass(frozen=True)
class RunLength:
    """The length of a run.

    Attributes:
        rows: task → rows it trains on.
        sampler: the order of the tasks' batches.
        steps: optimizer steps.
        epochs: these steps in epochs of the run's mixing.
    """

    rows: Mapping[str, int]
    sampler: Sampler
    steps: int
    epochs: float

    @classmethod
    def of(cls, config: RunConfig, sampler: Sampler) -> RunLength:
        """`max_steps`, or the steps of all epochs; those of a fraction of an epoch are rounded up.

        Raises:
            ConfigError: the proximal term would start after the last step.
        """
        if config.max_steps is not None:
            total, epochs = config.max_steps, config.max_steps / sampler.num_steps(0)
        else:
            whole = int(config.epochs)
            steps, last = sum(sampler.num_steps(epoch) for epoch in range(whole)), sampler.num_steps(whole)
            total = max(1, steps + math.ceil((config.epochs - whole) * last - 1e-9))
            epochs = whole + (total - steps) / last
        if faults := _start_faults(config, total):
            raise ConfigError(faults)
        return cls(sampler.sizes, sampler, total, epochs)


def _start_faults(config: RunConfig, steps: int) -> list[Fault]:
    """A proximal term that a run of so many steps never has; its other options are checked where it is built."""
    start = config.proximal.options.get("start_after", 0) if config.proximal is not None else 0
    try:
        start = float(start)  # a text too, as in a study's variables
    except (TypeError, ValueError):
        return []
    if start < steps:
        return []
    found = f"{start:g} steps, and the run has {steps}: the term would never act"
    return [fault("", "proximal.start_after", found, "Give fewer, or {fraction: number below 1}, or remove proximal.")]


def run_length(
    config: RunConfig,
    tasks: Mapping[str, TaskDef],
    available: Mapping[str, int],
    lengths: Mapping[str, np.ndarray] | None = None,
) -> RunLength:
    """The length of a run; arguments and errors as in `run_sampler`."""
    return RunLength.of(config, run_sampler(config, tasks, available, lengths))


def run_sampler(
    config: RunConfig,
    tasks: Mapping[str, TaskDef],
    available: Mapping[str, int],
    lengths: Mapping[str, np.ndarray] | None = None,
) -> Sampler:
    """The order of a run's batches.

    Args:
        config: its `subset`, `mixing`, `tasks_per_step`, `batch_size`, `max_tokens`, `group_by_length`, `seed`,
            `epochs`, `max_steps`.
        tasks: the tasks it trains on.
        available: unit (see `row_units`) → number of train rows; of tasks that share rows, those with any label.
        lengths: unit → [rows trained on], tokens of each; needed for `max_tokens`, and to group by length.
    Raises:
        ConfigError: a subset with no row or more rows than there are; options the mixing does not have; a row longer
            than `max_tokens`.
    """
    if faults := subset_faults(config, tasks, available):
        raise ConfigError(faults)
    if faults := named_faults(SAMPLERS, config.mixing, "mixing"):
        raise ConfigError(faults)
    units = {unit: tasks[names[0]] for unit, names in row_units(tasks).items()}
    return SAMPLERS.get(config.mixing.name)(
        {unit: training_rows(config, task, available[unit]) for unit, task in units.items()},
        {unit: task.batch_size or config.batch_size for unit, task in units.items()},
        seed=config.seed,
        num_epochs=config.epochs,
        max_steps=config.max_steps,
        lengths=lengths,
        max_tokens=config.max_tokens,
        group_by_length=config.group_by_length if lengths is not None else None,
        tasks_per_step=config.tasks_per_step,
        **config.mixing.options,
    )


def needs_lengths(config: RunConfig) -> bool:
    """Whether batches depend on the rows' lengths; grouping changes which rows share a batch, not how many."""
    return config.max_tokens is not None or config.group_by_length is not None


def training_rows(config: RunConfig, task: TaskDef, available: int) -> int:
    """Number of a task's train rows that a run uses, after `max_rows` and the run's subset.

    Args:
        config: its `subset`.
        task: its `max_rows`.
        available: number of train rows.
    """
    kept = min(available, task.max_rows or available)
    part = config.subset.get(task.name)
    if part is None:
        return kept
    return part.rows if part.rows is not None else subset_size(kept, part.fraction or 1.0)


def rows_trained_on(config: RunConfig, task: TaskDef, ids: Sequence[str]) -> np.ndarray:
    """[rows], indices of the rows that `training_rows` counts: the same in every run.

    Args:
        config: its `subset`.
        task: its `max_rows`.
        ids: of the task's train rows.
    """
    rows = np.arange(len(ids))
    if task.max_rows is not None and task.max_rows < len(ids):
        rows = chosen_rows(ids, task.max_rows, seed=0)
    if (part := config.subset.get(task.name)) is not None:
        size = training_rows(config, task, len(ids))
        rows = rows[chosen_rows([ids[row] for row in rows.tolist()], size, seed=part.seed)]
    return rows


def train_part(store: Store, config: RunConfig, task: TaskDef) -> Store:
    """The rows of a task's train splits that a run trains on.

    Args:
        store: prepared rows.
        config: the run.
        task: its definition.
    """
    if training_rows(config, task, len(store)) == len(store):
        return store
    return store.select(rows_trained_on(config, task, store.ids))


def subset_faults(config: RunConfig, tasks: Mapping[str, TaskDef], available: Mapping[str, int]) -> list[Fault]:
    """Errors of subsets with no row, or with more rows than there are; keys as in the run's YAML.

    Args:
        config: its `subset`.
        tasks: the tasks it trains on.
        available: unit → train rows there are; tasks of other units are skipped.
    """
    found = []
    for name in (name for name in config.subset if name in tasks and available.get(tasks[name].unit)):
        rows = available[tasks[name].unit]
        part, kept = config.subset[name], min(rows, tasks[name].max_rows or rows)
        wrong = size_fault(kept, rows=part.rows, fraction=part.fraction)
        if wrong is not None:
            found.append(replace(wrong, key=f"subset.{name}.{wrong.key}"))
    return found


def prepared_sampler(config: RunConfig, tasks: Mapping[str, TaskDef]) -> Sampler:
    """The order of a run's batches on its prepared rows; lengths are read only if batches depend on them.

    Raises:
        ConfigError: see `run_sampler`.
        DataError: a task's train rows are not prepared.
    """
    units = {unit: [tasks[name] for name in names] for unit, names in row_units(tasks).items()}
    available = {unit: prepared_rows(config, *each) for unit, each in units.items()}
    if faults := subset_faults(config, tasks, available):
        raise ConfigError(faults)
    by_tokens = config.max_tokens is not None
    lengths = {unit: prepared_lengths(config, *each) for unit, each in units.items()} if by_tokens else None
    return run_sampler(config, tasks, available, lengths)


def prepared_rows(config: RunConfig, *tasks: TaskDef) -> int:
    """Number of train rows of a task in the run's prepared data, from the manifests; of several tasks that share rows,
    those with a label for any of them.

    Raises:
        DataError: a split is not prepared.
    """
    total = 0
    for split in tasks[0].splits.get("train", ()):
        folder = Path(config.data) / tasks[0].name / split
        manifest = read_manifest(folder)
        if manifest is None:
            fix = prepro_command(Path(config.data), tasks[0], None, None)
            raise DataError(fault(str(folder), "", "is not prepared", fix))
        together = manifest.labels.get("together")
        total += manifest.rows if together is None else labelled_rows(together, [task.name for task in tasks])
    return total


def prepared_lengths(config: RunConfig, *tasks: TaskDef) -> np.ndarray:
    """[rows], tokens of each row of a task, or of several that share rows, that a run trains on, in its prepared data.

    Raises:
        DataError: a split is not prepared, damaged, or made for another task block.
    """
    prepared_rows(config, *tasks)
    folders = (Path(config.data) / task.name / split for task in tasks for split in task.splits["train"])
    stamps = tuple(file_stamp(folder / "manifest.json") for folder in folders)
    blocks = tuple(task.model_dump_json() for task in tasks)
    return _lengths_once(_Part(config, tasks, (config.data, blocks, config.subset.get(tasks[0].name), stamps)))


@dataclass(frozen=True)
class _Part:
    """The rows that a run trains on, identified by `key`."""

    config: RunConfig = field(compare=False)
    tasks: tuple[TaskDef, ...] = field(compare=False)
    key: tuple[object, ...]


@lru_cache(maxsize=64)
def _lengths_once(part: _Part) -> np.ndarray:
    """Lengths of a part, read once for all cells of a study; do not modify them."""
    whole = {task.name: open_store(part.config.data, task, task.splits["train"]) for task in part.tasks}
    first = with_labels(whole)[part.tasks[0].name]
    return train_part(first, part.config, part.tasks[0]).lengths


def with_labels(stores: Mapping[str, Store]) -> dict[str, Store]:
    """Task → its store; of tasks that share rows, with only the rows that have a label for any of them.

    Args:
        stores: task → all its train rows, of tasks of one unit.
    """
    if not all(store.is_shared for store in stores.values()):
        return dict(stores)
    known = np.logical_or.reduce([store.labelled for store in stores.values()])
    return (
        dict(stores) if known.all() else {task: store.select(np.flatnonzero(known)) for task, store in stores.items()}
    )
