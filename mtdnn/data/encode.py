"""Parts of rows → columns of token ids, computed by several processes, returned in order."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar, cast

import numpy as np
import pyarrow as pa

from mtdnn.columns import bar_settings
from mtdnn.config.tasks import TaskDef
from mtdnn.data.arrow import record_batch
from mtdnn.data.manifest import Manifest, stored_block
from mtdnn.errors import MAX_REPORTED_ERRORS, DataError, Fault, Place, fault, printable
from mtdnn.execution.machine import usable_cores
from mtdnn.rows.example import UNLABELLED, Example, RowError, marks_missing
from mtdnn.rows.source import OPTIONAL, Part, Row, RowColumns, RowSource
from mtdnn.task_types.base import TASK_TYPES, TaskType
from mtdnn.tokens.ragged import Column, Ragged
from mtdnn.tokens.tokenizer import Tokenizer

T = TypeVar("T")

LabelPolicy = Literal["required", "allowed", "ignored"]
"""Whether the rows of a split must have labels, may have them, or are taken as unlabelled."""

MAX_PARTS_AHEAD = 2  # per process: results that wait to be written


@dataclass(frozen=True)
class Job:
    """One split of a task to prepare.

    Attributes:
        task: the task's definition.
        split: name of the split.
        rows: source of the rows.
        labels: whether its rows must have labels.
        lenient: whether ids and labels may be missing even where the task's `columns` rename them.
    """

    task: TaskDef
    split: str
    rows: RowSource
    labels: LabelPolicy
    lenient: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Task and split."""
        return self.task.name, self.split

    @property
    def separate(self) -> tuple[Job, ...]:
        """The split as each of its tasks sees it."""
        return (self,)

    @cached_property
    def task_type(self) -> TaskType:
        """The task with its type."""
        return TASK_TYPES.get(self.task.task_type)(self.task)

    @property
    def columns(self) -> RowColumns:
        """The columns that its rows must have."""
        optional = ("id",) if self.labels == "required" and self.task.rows is None else OPTIONAL
        kind = self.task_type
        return RowColumns(kind.columns, kind.repeats_last, self.task.columns, optional, lenient=self.lenient)

    def parts(self) -> list[Part]:
        """The parts of its rows; a single part for a task that joins rows across the file."""
        parts = list(self.rows.parts())
        if self.task_type.group_by is None or len(parts) < 2:
            return parts
        return [Part(parts[0].start, parts[-1].stop, parts[0].first)]

    def examples(self, part: Part) -> Iterator[Example | Fault]:
        """The parsed rows of a part; in place of an invalid row, its error."""
        rows = self.rows.read(part, self.columns)
        column = self.task_type.group_by
        for group in ([row] for row in rows) if column is None else _groups(rows, column):
            yield self.parsed(group)

    def parsed(self, group: list[Row | Fault]) -> Example | Fault:
        """The example of one row, or of the rows that the task type joins into one."""
        row = group[0]
        if isinstance(row, Fault):
            return row
        try:
            rows = [self._without_mark(one.values) for one in group if isinstance(one, Row)]
            values = rows[0] if self.task_type.group_by is None else self.task_type.join(rows)
            example = self.task_type.read(values)
        except RowError as error:
            return fault(row.where, error.key, error.found, f"{error.fix} {self._hint(error)}".strip())
        if example.label is None and self.labels == "required" and self.task.rows is None:
            written = str(row.values.get("label") or "").strip()
            found = f"'{written}' marks a missing label" if written not in UNLABELLED else "none"
            return fault(row.where, "label", f"{found}, in a train split", "Give a label, or remove the row.")
        return example

    def _hint(self, error: RowError) -> str:
        """How to write a row without a label, if the split may have such rows and is not a dev split."""
        is_meant = (
            error.key == "label" and self.labels == "allowed" and self.split not in self.task.splits.get("dev", ())
        )
        return "Leave the label empty if the row has none." if is_meant else ""

    def _without_mark(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values of a row; the label is empty if it is ignored or marks a missing label."""
        label = values.get("label", "")
        if self.labels == "ignored" or marks_missing(label, self.task_type.missing_label_marks, self.task.labels):
            return {**values, "label": ""}
        return values

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer) -> dict[str, Column]:
        """The stored columns of some rows."""
        return encoded_by(self.task_type, examples, tokenizer)

    def label_counts(self, columns: Mapping[str, Any]) -> Counter[Any]:
        """Counts of the labels of some rows, from their columns; those of parts can be added."""
        return self.task_type.label_counts(columns["label"])

    def label_summary(self, counts: Counter[Any]) -> dict[str, Any]:
        """Summary of the labels of a split, as plain JSON values, from the counts of all rows."""
        return self.task_type.label_summary(counts)

    def block(self) -> dict[str, Any]:
        """What decides what is stored, as its manifest has it."""
        return stored_block(self.task)

    def manifests_of_tasks(self, stored: Manifest, tokenizer: Tokenizer) -> Iterator[tuple[Job, Manifest]]:
        """The jobs of tasks that share these rows, with the manifest of each; none for a task with rows of its own.

        Args:
            stored: the manifest of the shared rows.
            tokenizer: of the run's encoder.
        """
        return iter(())

    def unlabelled_faults(self, stored: Manifest) -> list[Fault]:
        """Errors that the counts of all labels show; of rows of its own each row's have been found before."""
        return []

    def duplicates(self, hashes: set[int]) -> Iterator[Fault]:
        """An error for every row with the id of an earlier row, among rows whose id has one of these hashes."""
        seen: dict[str, Place] = {}
        for part in self.rows.parts() if hashes else ():
            for row in self.rows.read(part, self.columns):
                if isinstance(row, Fault) or id_hash(name := str(row.values["id"])) not in hashes:
                    continue
                first = seen.setdefault(name, row.where)
                if first != row.where:
                    yield fault(row.where, "id", f"'{name}' is also the id of {first}", "Rename one of them.")


@dataclass
class StoredCounts:
    """Counts of stored rows that sum over parts, so that memory does not grow with the number of rows.

    Attributes:
        truncated: number of truncated rows.
        lengths: number of tokens → number of rows.
        labels: the task type's `label_counts`.
    """

    truncated: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    labels: Counter[Any] = field(default_factory=Counter)

    @classmethod
    def of(cls, columns: Mapping[str, Any], job: Job) -> StoredCounts:
        """The counts of some rows of a split, from their columns."""
        lengths = Counter(columns["input_ids"].lengths.tolist())
        return cls(int(np.count_nonzero(columns["truncated"])), lengths, job.label_counts(columns))

    def add(self, other: StoredCounts) -> None:
        """Add the counts of further rows."""
        self.truncated += other.truncated
        self.lengths.update(other.lengths)
        self.labels.update(other.labels)


@dataclass(frozen=True)
class EncodedPart:
    """The encoded rows of a part of a split, or its errors.

    Attributes:
        batch: the columns; None if there are errors, or the part was only read.
        counts: counts of the rows in `batch`.
        faults, num_faults: the first errors, and the number of all.
        id_hashes: [rows without an error] uint64.
    """

    batch: pa.RecordBatch | None
    counts: StoredCounts
    faults: list[Fault]
    num_faults: int
    id_hashes: np.ndarray


def encoded_by(task_type: TaskType, examples: Sequence[Example], tokenizer: Tokenizer) -> dict[str, Column]:
    """The stored columns of some rows of a task.

    Args:
        task_type: of the task; it is bound to the tokenizer.
        examples: what it read from the rows.
        tokenizer: the tokenizer of the run's encoder.
    Raises:
        ConfigError: the task type cannot use this tokenizer.
        DataError: a token has no word embedding in the encoder.
    """
    task_type.bind(tokenizer.hf)
    columns = task_type.encode(examples, tokenizer.cutting_at(task_type.task.max_length))
    tokenizer.require_embeddings(cast(Ragged, columns["input_ids"]).values)
    return columns


def _groups(rows: Iterator[Row | Fault], column: str) -> Iterator[list[Row | Fault]]:
    """Groups of rows with the same value in a column, in order of first occurrence; an error is its own group."""
    groups: dict[str, list[Row | Fault]] = {}
    for row in rows:
        if isinstance(row, Fault):
            yield [row]
        elif not isinstance(value := row.values[column], str):
            yield [fault(row.where, column, f"a {type(value).__name__}; expected a text", "Give a text.")]
        else:
            groups.setdefault(value, []).append(row)
    yield from groups.values()


def id_hash(text: str) -> int:
    """A 64-bit hash, the same in every process."""
    import xxhash

    return int(xxhash.xxh64_intdigest(text.encode()))


def encode_part(job: Job, part: Part, tokenizer: Tokenizer | None) -> EncodedPart:
    """The encoded rows of a part; without a tokenizer they are only read and checked.

    Args:
        job: the split to prepare.
        part: consecutive rows of the split.
        tokenizer: the tokenizer of the run's encoder, or None.
    """
    examples: list[Example] = []
    faults: list[Fault] = []
    for found in job.examples(part):
        if isinstance(found, Example):
            examples.append(found)
        else:
            faults.append(found)
    hashes = np.fromiter((id_hash(example.id) for example in examples), np.uint64, len(examples))
    batch, counts = None, StoredCounts()
    if tokenizer is not None and examples and not faults:
        columns = job.encode(examples, tokenizer)
        batch, counts = record_batch(columns), StoredCounts.of(columns, job)
    return EncodedPart(batch, counts, faults[:MAX_REPORTED_ERRORS], len(faults), hashes)


def map_parts(
    work: Callable[[Job, Part, Tokenizer | None], T],
    jobs: Sequence[Job],
    parts: Sequence[Sequence[Part]],
    tokenizer: Tokenizer | None,
    *,
    num_workers: int | None = None,
    progress: bool = False,
) -> Generator[tuple[int, T], None, None]:
    """(number of the job, result of `work` for its next part), in the order of jobs and parts.

    Args:
        work: a function defined at the top level of a module, so that other processes can import it.
        jobs: splits to prepare.
        parts: parts of each split, in order.
        tokenizer: the tokenizer of the run's encoder, or None.
        num_workers: number of processes; None: one per core that this process may use.
        progress: whether to show a progress bar on standard error.
    """
    order = [(index, part) for index, of_job in enumerate(parts) for part in of_job]
    workers = min(num_workers or usable_cores(), len(order))
    if workers > 1:
        made = _by_pool(work, jobs, order, tokenizer, workers)
    else:
        made = ((index, work(jobs[index], part, tokenizer)) for index, part in order)
    yield from with_bar(made, jobs, total=len(order), progress=progress)


def with_bar(
    made: Iterator[tuple[int, T]], jobs: Sequence[Job], *, total: int, progress: bool
) -> Generator[tuple[int, T], None, None]:
    """The same results, counted by a bar on standard error.

    Args:
        made: (number of the job, result).
        jobs: splits to prepare.
        total: the number of results.
        progress: whether to show the bar.
    """
    from tqdm import tqdm

    with tqdm(total=total, unit="part", disable=not progress or not total, **bar_settings()) as bar:
        for index, result in made:
            bar.set_description(printable("/".join(jobs[index].key)), refresh=False)
            bar.update()
            yield index, result


def _by_pool(
    work: Callable[[Job, Part, Tokenizer | None], T],
    jobs: Sequence[Job],
    order: Sequence[tuple[int, Part]],
    tokenizer: Tokenizer | None,
    workers: int,
) -> Iterator[tuple[int, T]]:
    """Results in order, computed only a few parts ahead of the consumer, so that memory stays bounded."""
    method = "fork" if sys.platform == "linux" else None  # forked workers share what is loaded, and start at once
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context(method),
        initializer=_start_worker,
        initargs=(work, jobs, tokenizer),
    )
    waiting: deque[tuple[int, Future[T]]] = deque()
    try:
        for index, part in order:
            waiting.append((index, pool.submit(_work, index, part)))
            if len(waiting) > MAX_PARTS_AHEAD * workers:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    except BrokenProcessPool as error:
        found = "a process was killed, as the system does when memory runs out"
        raise DataError(fault("mtdnn prepro", "", found, "Run it again with fewer --workers.")) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: dict[str, Any] = {}
"""In a process of the pool: what `_start_worker` was given, as the pool hands its functions nothing else."""


def _start_worker(*setup: Any) -> None:
    """Set up a process of the pool: a single thread, and an exit when the parent process ends."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gc.freeze()  # objects loaded before the fork are not collected, so that their pages stay shared with the parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    _worker["setup"] = setup


def _work(index: int, part: Part) -> Any:
    work, jobs, tokenizer = _worker["setup"]
    return work(jobs[index], part, tokenizer)
