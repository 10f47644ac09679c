"""Store + sampler + collate → batches, for training and for evaluation."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import torch

from mtdnn.batch import IGNORED, Batch
from mtdnn.data.collate import collate, collate_shared
from mtdnn.data.row_stream import shard
from mtdnn.data.samplers import Sampler, Step
from mtdnn.data.store import Store
from mtdnn.execution.processes import Processes
from mtdnn.seeding import derive_seed
from mtdnn.task_types.base import TaskType
from mtdnn.tokens.ragged import Column

T = TypeVar("T")


class TrainLoader:
    """The steps of each epoch; a step is a batch of one task, or of each of several, as a tuple of their parts.

    Args:
        stores: training rows of each task; those of tasks that share rows have the same rows.
        task_types: each task with its type.
        units: unit of the sampler → its tasks, several where they share rows; None: each task is one.
        sampler: the order of tasks and rows.
        pad_token_id: the padding of `input_ids`.
        seed: the run's seed, for random draws of task types.
        accumulate: number of parts of a batch; fewer if it has fewer rows.
        rank, num_processes: this process and their number in a distributed run; each takes its share of every step.
        prefetch: number of steps assembled ahead by a thread; 0: none.
        pin: whether batches are in pinned memory, for copies to a GPU that the host does not wait for.
    """

    def __init__(
        self,
        stores: Mapping[str, Store],
        task_types: Mapping[str, TaskType],
        sampler: Sampler,
        *,
        pad_token_id: int,
        seed: int,
        accumulate: int = 1,
        rank: int = 0,
        num_processes: int = 1,
        prefetch: int = 0,
        pin: bool = False,
        units: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.stores, self.task_types, self.sampler = stores, task_types, sampler
        self.pad_token_id, self.seed, self.accumulate, self.prefetch = pad_token_id, seed, accumulate, prefetch
        self.rank, self.num_processes, self.pin = rank, num_processes, pin
        self.units = units or {task: [task] for task in stores}

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, for `len()` and iteration."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        return self.from_step(0)

    def from_step(self, step: int) -> Iterator[tuple[Batch, ...]]:
        """The steps of the epoch from number `step` on, equal to those of a full iteration."""
        epoch = self.sampler.epoch
        steps = (
            tuple(part for each in update for part in self._parts(each, derive_seed(self.seed, "rows", epoch, number)))
            for number, update in enumerate(self.sampler.updates_from(step), step)
        )
        ready = map(pinned_parts, steps) if self.pin else steps
        return ahead(ready, self.prefetch) if self.prefetch else ready

    def _parts(self, step: Step, seed: int) -> Iterator[Batch]:
        """This process's rows of one unit of a step, in nearly equal parts, the same number on every process, task
        after task.

        All processes have to take part in every reduction of gradients, and some regularizers need one per part. If a
        process has no row for a part, it gets the step's first row without its label, which counts in no mean.
        """
        tasks = self._labelled(step)
        own = shard(step.rows, rank=self.rank, num_processes=self.num_processes)
        most = -(-len(step.rows) // self.num_processes)
        parts = [
            self._batches(tasks, rows, seed) if len(rows) else self._placeholders(tasks, step, seed)
            for rows in np.array_split(own, min(self.accumulate, most))
        ]
        for of_task in zip(*parts, strict=True):
            yield from of_task

    def _labelled(self, step: Step) -> list[str]:
        """The tasks of a unit that any row of the step has a label for, on any process."""
        tasks = self.units[step.task]
        if len(tasks) == 1:
            return list(tasks)
        return [task for task in tasks if self.stores[task].labelled[step.rows].any()]

    def _batches(self, tasks: Sequence[str], rows: np.ndarray, seed: int) -> list[Batch]:
        if len(tasks) == 1:
            columns, task_type = self.stores[tasks[0]].take(rows), self.task_types[tasks[0]]
            return [collate(columns, task_type, pad_token_id=self.pad_token_id, seed=seed)]
        records = {task: self.stores[task].take(rows) for task in tasks}
        types = [self.task_types[task] for task in tasks]
        return collate_shared(records, types, pad_token_id=self.pad_token_id, seed=seed)

    def _placeholders(self, tasks: Sequence[str], step: Step, seed: int) -> list[Batch]:
        batches = self._batches(tasks, step.rows[:1], seed)
        return [replace(without_labels(each), is_placeholder=True) for each in batches]


def pinned_parts(parts: Sequence[Batch]) -> tuple[Batch, ...]:
    """The parts of a step in pinned memory; those of tasks that share a pass of the encoder still do."""
    shared = {id(part.shared): part.shared.pin_memory() for part in parts if part.shared is not None}
    return tuple(replace(part.pin_memory(), shared=shared.get(id(part.shared))) for part in parts)


def without_labels(batch: Batch) -> Batch:
    """The batch with every label, also soft ones, replaced by the mark for a missing label."""
    extras = {
        name: torch.full_like(value, math.nan) if name == "soft" else value for name, value in batch.extras.items()
    }
    if batch.labels is None:
        return replace(batch, extras=extras)
    none = math.nan if batch.labels.is_floating_point() else IGNORED
    return replace(batch, labels=torch.full_like(batch.labels, none), extras=extras)


class EncodedRows(Protocol):
    """The interface of rows for evaluation, in a store or in memory."""

    @property
    def lengths(self) -> np.ndarray:
        """[rows], number of tokens of each row."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> Mapping[str, Column]:
        """The columns of the rows with these numbers, in the given order."""


@dataclass(frozen=True)
class EvalLoader:
    """All rows once, the longest first, for little padding and so that a lack of memory shows in the first batch.

    Yields (row numbers, batch); `batch_size` does not change predictions. With several processes, each has its share of
    the batches.
    """

    store: EncodedRows
    task_type: TaskType
    batch_size: int
    pad_token_id: int
    processes: Processes | None = None

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[tuple[np.ndarray, Batch]]:
        order = np.argsort(-self.store.lengths, kind="stable")
        for start in self._starts():
            rows = order[start : start + self.batch_size]
            yield rows, collate(self.store.take(rows), self.task_type, pad_token_id=self.pad_token_id)

    def _starts(self) -> range:
        return _starts_of(len(self.store), self.batch_size, self.processes)


def _starts_of(num_rows: int, batch_size: int, processes: Processes | None) -> range:
    """Number of the first row of each batch of this process, in the order of length."""
    rank, count = (0, 1) if processes is None else (processes.rank, processes.count)
    return range(rank * batch_size, num_rows, count * batch_size)


@dataclass(frozen=True)
class SharedEvalLoader:
    """All rows that several tasks share once, as `EvalLoader`; yields (row numbers, a batch for each task)."""

    stores: Mapping[str, EncodedRows]
    task_types: Mapping[str, TaskType]
    batch_size: int
    pad_token_id: int
    processes: Processes | None = None

    def __len__(self) -> int:
        return len(_starts_of(len(self._first), self.batch_size, self.processes))

    @property
    def _first(self) -> EncodedRows:
        return next(iter(self.stores.values()))

    def __iter__(self) -> Iterator[tuple[np.ndarray, list[Batch]]]:
        order = np.argsort(-self._first.lengths, kind="stable")
        types = [self.task_types[task] for task in self.stores]
        for start in _starts_of(len(order), self.batch_size, self.processes):
            rows = order[start : start + self.batch_size]
            records = {task: store.take(rows) for task, store in self.stores.items()}
            yield rows, collate_shared(records, types, pad_token_id=self.pad_token_id)


_END = object()


def ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items, up to `depth` of them computed ahead by a thread; its errors are raised here."""
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: object) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(_END)
        except BaseException as error:  # raised again where the items are used
            put(error)

    threading.Thread(target=work, daemon=True, name="batches").start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
