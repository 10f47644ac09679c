"""Store + sampler + collate → batches, for training and for evaluation."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import torch

from mtdnn.batch import IGNORED, Batch
from mtdnn.data.collate import collate
from mtdnn.data.row_stream import shard
from mtdnn.data.samplers import Sampler, Step
from mtdnn.data.store import Store
from mtdnn.seeding import derive_seed
from mtdnn.task_types.base import TaskType
from mtdnn.tokens.ragged import Column

T = TypeVar("T")


class TrainLoader:
    """The steps of each epoch, every one a batch of one task in the parts it is computed in.

    Args:
        stores: training rows of each task of the sampler.
        accumulate: parts of a batch; fewer where it has fewer rows.
        rank, num_processes: this process of a distributed run takes its share of the rows of every step.
        seed: the run's, for what task types draw.
        prefetch: steps assembled ahead by a thread; 0 assembles each when it is asked for.
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
    ) -> None:
        self.stores, self.task_types, self.sampler = stores, task_types, sampler
        self.pad_token_id, self.seed, self.accumulate, self.prefetch = pad_token_id, seed, accumulate, prefetch
        self.rank, self.num_processes = rank, num_processes

    def set_epoch(self, epoch: int) -> None:
        """Let `len()` and iteration be those of that epoch, counted from 0."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        return self.from_step(0)

    def from_step(self, step: int) -> Iterator[tuple[Batch, ...]]:
        """The steps of the epoch from number `step` on, exactly as a whole iteration would give them."""
        epoch = self.sampler.epoch
        steps = (
            self._parts(each, derive_seed(self.seed, "rows", epoch, number))
            for number, each in enumerate(self.sampler.steps_from(step), step)
        )
        return ahead(steps, self.prefetch) if self.prefetch else steps

    def _parts(self, step: Step, seed: int) -> tuple[Batch, ...]:
        """This process's rows of a step, in nearly equal parts, as many on every process.

        All have to take part in every exchange of gradients, of which some regularizers want one per part. Where a
        process has no row for a part, the step's first one stands in: it has no label, and weighs in no mean.
        """
        own = shard(step.rows, rank=self.rank, num_processes=self.num_processes)
        most = -(-len(step.rows) // self.num_processes)
        return tuple(
            self._batch(step.task, rows, seed) if len(rows) else self._stand_in(step, seed)
            for rows in np.array_split(own, min(self.accumulate, most))
        )

    def _batch(self, task: str, rows: np.ndarray, seed: int) -> Batch:
        store, task_type = self.stores[task], self.task_types[task]
        return collate(store.take(rows), task_type, pad_token_id=self.pad_token_id, seed=seed)

    def _stand_in(self, step: Step, seed: int) -> Batch:
        return replace(without_labels(self._batch(step.task, step.rows[:1], seed)), is_placeholder=True)


def without_labels(batch: Batch) -> Batch:
    """The batch with every label marked as "none", soft ones too."""
    extras = {
        name: torch.full_like(value, math.nan) if name == "soft" else value for name, value in batch.extras.items()
    }
    if batch.labels is None:
        return replace(batch, extras=extras)
    none = math.nan if batch.labels.is_floating_point() else IGNORED
    return replace(batch, labels=torch.full_like(batch.labels, none), extras=extras)


class EncodedRows(Protocol):
    """What evaluation needs of rows, wherever they lie."""

    @property
    def lengths(self) -> np.ndarray:
        """[rows], tokens of each row."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> Mapping[str, Column]:
        """The columns of the rows with these numbers, in their order."""


@dataclass(frozen=True)
class EvalLoader:
    """All rows once, the longest first, so that a batch has little padding and a lack of memory shows at once.

    Yields (row numbers, batch); `batch_size` changes no prediction.
    """

    store: EncodedRows
    task_type: TaskType
    batch_size: int
    pad_token_id: int

    def __len__(self) -> int:
        return -(-len(self.store) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, Batch]]:
        order = np.argsort(-self.store.lengths, kind="stable")
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield rows, collate(self.store.take(rows), self.task_type, pad_token_id=self.pad_token_id)


_END = object()


def ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items, up to `depth` of them made ahead by a thread; an error in it is raised here."""
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
