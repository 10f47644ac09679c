"""Model + rows → predictions, and metrics over a whole split at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Protocol

import numpy as np
import torch

from mtdnn.batch import Batch
from mtdnn.execution.processes import Processes
from mtdnn.metrics.base import Record, metric_of
from mtdnn.metrics.stored import RecordsByRow
from mtdnn.model import MultiTaskModel
from mtdnn.networks.modes import evaluation_mode

EXCHANGED_RECORDS = 8192
"""Records that each process of a run gives the others at once."""

Results = dict[str, dict[str, dict[str, float]]]
"""task → split → metric → value; `rows` counts the labelled rows."""


class RowBatches(Protocol):
    """Batches in any order, each with the indices of its rows: of one task, or of each task that shares the rows."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[np.ndarray, Batch | Sequence[Batch]]]: ...


def predict_rows(
    model: MultiTaskModel,
    batches: RowBatches,
    tasks: Sequence[str],
    *,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
    tune: Collection[str] = (),
    processes: Processes | None = None,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Sequence[Record]]:
    """Prediction records of every row, in row order, for several tasks from one pass of the encoder.

    Many records are not held in memory, see `mtdnn.metrics.stored`.

    Args:
        tasks: names; of batches of one task, only records of that task have labels.
        tune: tasks that tune their thresholds on these rows (see `TaskType.settle`).
        processes: those that share the rows, each with batches of its own; all get the records of all rows.
        progress: called after each batch.
        model: encoder and heads.
        batches: of rows, in any order, with their indices.
        device: of the model.
        autocast: context of the run's precision.
    """
    found = {task: RecordsByRow() for task in tasks}
    with evaluation_mode(model), torch.inference_mode():
        for rows, batch in batches:
            with autocast():
                if isinstance(batch, Batch):
                    predictions = model.predict(batch.to(device), tasks)
                else:
                    predictions = model.predict_together([each.to(device) for each in batch])
            for task, records in predictions.items():
                found[task].add(rows.tolist(), records)
            progress()
    if processes is not None and processes.count > 1:
        found = _of_all(found, processes)
    return {
        task: model.task_types[task].settle(
            each.in_order(), model.head_of(task), tune=task in tune and task in model.heads
        )
        for task, each in found.items()
    }


def _of_all(own: Mapping[str, RecordsByRow], processes: Processes) -> dict[str, RecordsByRow]:
    """The records of all processes, on all of them; exchanged in parts, mostly one."""
    found = {task: RecordsByRow() for task in own}
    records = ((task, row, record) for task, each in own.items() for row, record in each.items())
    more = True
    while more:
        part = list(islice(records, EXCHANGED_RECORDS))
        parts = processes.gather((part, len(part) == EXCHANGED_RECORDS))
        for task, row, record in (each for given, _ in parts for each in given):
            found[task].add([row], [record])
        more = any(is_full for _, is_full in parts)
    return found


def main_score(metrics: Sequence[str], splits: Mapping[str, Mapping[str, float]]) -> float | None:
    """A task's main metric, the first of `metrics`, so that larger is better; None when no split has labels.

    The mean over the labelled splits of `Scale.comparable`, so that in a mean over tasks no metric outweighs another by
    its unit. A metric without a known range is in no mean over tasks and counts by its value.
    """
    scale = metric_of(metrics[0]).scale
    values = [values[metrics[0]] for values in splits.values() if metrics[0] in values]
    found = [scale.gain(value) if (place := scale.comparable(value)) is None else place for value in values]
    return sum(found) / len(found) if found else None


def selection_score(results: Results, main_metrics: Mapping[str, Sequence[str]], select_by: str) -> float | None:
    """The score that selects the best checkpoint: one task's main metric, or the mean over all tasks with labels.

    None when nothing could be measured.

    Args:
        results: task → split → metric → value.
        main_metrics: task → its metrics, the main one first.
        select_by: mean, or a task's name.
    """
    if select_by != "mean":
        return main_score(main_metrics[select_by], results[select_by])
    found = (main_score(main_metrics[task], splits) for task, splits in results.items())
    scores = [score for score in found if score is not None]
    return sum(scores) / len(scores) if scores else None
