"""The size of a study's cells, and an estimate of their time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtdnn.balancing.base import BALANCERS
from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import TaskDef, row_units
from mtdnn.errors import MtdnnError
from mtdnn.runs.length import RunLength, prepared_sampler
from mtdnn.runs.named import measured_tasks, regularizers_of, trained_tasks
from mtdnn.study.cells import Outcome
from mtdnn.study.grid import Cell

PLAIN_UNITS, FORWARD_UNITS, PROXIMAL_UNITS = 3.0, 1.0, 1.0
"""Cost in forward passes (forward 1, backward 2) of a plain step and of its forward pass, and the cost that a proximal
term adds."""


@dataclass(frozen=True)
class Size:
    """The size of a cell.

    Attributes:
        rows: task → training rows.
        steps: optimizer steps.
        examples: number of rows over all steps.
        units: forward passes of one row, over all examples; None if a regularizer does not define its cost.
    """

    rows: Mapping[str, int]
    steps: int
    examples: int
    units: float | None


def cell_size(cell: Cell) -> Size:
    """The size of a cell, from the manifests of the prepared rows.

    Raises:
        ConfigError: an invalid subset or mixing.
        DataError: a task's training rows are not prepared.
    """
    return run_size(cell.config, tasks_of(cell))


def finished_size(cell: Cell, outcome: Outcome) -> Size:
    """The size of a finished cell; from its outcome, with unknown cost, if its rows are no longer prepared."""
    try:
        return cell_size(cell)
    except MtdnnError:
        rows, steps, examples = outcome.get("rows", {}), outcome.get("steps", 0), outcome.get("examples", 0)
        return Size(rows=rows, steps=steps, examples=examples, units=None)


def tasks_of(cell: Cell) -> dict[str, TaskDef]:
    """The definitions of the tasks a cell trains on."""
    return trained_tasks(cell.config, cell.definitions)


def measured_by(cell: Cell) -> dict[str, TaskDef]:
    """The definitions of the tasks a cell has results for."""
    return measured_tasks(cell.config, cell.definitions)


def run_size(config: RunConfig, tasks: Mapping[str, TaskDef]) -> Size:
    """The size of a run on these tasks; every epoch is taken to have as many examples as the first."""
    length = RunLength.of(config, prepared_sampler(config, tasks))
    turns = length.sampler.batches_per_task(0)
    # Batches differ in size, the last of a pass at least: rows of a pass over its batches is the mean.
    examples = {
        each.name: length.epochs * turns[each.name] * each.num_rows / each.num_batches(0)
        for each in length.sampler.streams
    }
    costs = unit_costs(config, tasks)
    units = None if costs is None else sum(examples[name] * cost for name, cost in costs.items())
    return Size(rows=length.rows, steps=length.steps, examples=round(sum(examples.values())), units=units)


def unit_costs(config: RunConfig, tasks: Mapping[str, TaskDef]) -> dict[str, float] | None:
    """Unit (see `row_units`) → cost of a training row; tasks that share rows share a plain step, forward and backward,
    or forward alone where the balancer needs the gradient of each. None if a regularizer does not define its cost.

    Raises:
        ConfigError: as `row_costs`.
    """
    costs, kind = row_costs(config, tasks), BALANCERS.get(config.balance.name)
    if costs is None:
        return None
    shared = FORWARD_UNITS if kind.needs_apart() else PLAIN_UNITS
    return {
        unit: sum(costs[name] for name in names) - (len(names) - 1) * shared for unit, names in row_units(tasks).items()
    }


def row_costs(config: RunConfig, tasks: Mapping[str, TaskDef]) -> dict[str, float] | None:
    """Cost of a training row of each task in forward passes; None if a regularizer does not define its cost.

    Loads PyTorch only if there is a regularizer.

    Raises:
        ConfigError: a regularizer or one of its options is unknown.
    """
    added = PROXIMAL_UNITS if config.proximal is not None else 0.0
    if len(tasks) > 1 and BALANCERS.get(config.balance.name).measures_again:
        added += FORWARD_UNITS
    if config.regularizer is None and not any(task.regularizer for task in tasks.values()):
        return dict.fromkeys(tasks, PLAIN_UNITS + added)
    methods = regularizers_of(config, tasks)
    try:
        costs = {name: method.cost if method and method.weight else PLAIN_UNITS for name, method in methods.items()}
    except NotImplementedError:  # a class of a user
        return None
    return {name: cost + added for name, cost in costs.items()}


def estimated_seconds(
    cells: Sequence[Cell], sizes: Mapping[str, Size], outcomes: Mapping[str, Outcome], *, rate: float | None = None
) -> float | None:
    """Time of the unfinished cells, one after another; None if their speed or a cell's cost is not known.

    Args:
        rate: training examples per second of a plain step. Default: that of the finished cells, weighted by time.
        cells: those to run.
        sizes: cell → its size.
        outcomes: cell → its outcome.
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
        if "seconds" in outcome and (size := sizes.get(name)) is not None and size.units is not None
    ]
    units = sum(amount for _, amount in timed)
    return sum(seconds for seconds, _ in timed) / units if units else None
