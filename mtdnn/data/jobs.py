"""Which splits of which tasks can be prepared, and the errors of the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from mtdnn.config.tasks import PartialBlock, TaskDef
from mtdnn.data.encode import Job
from mtdnn.data.manifest import Manifest, Source, mtdnn_version, read_with, store_format
from mtdnn.data.sharing import sharing_faults
from mtdnn.errors import ConfigError, DataError, Fault
from mtdnn.rows.cut import CutRows, FileOrder
from mtdnn.rows.places import Data, open_split
from mtdnn.rows.source import RowSource
from mtdnn.task_types.base import TASK_TYPES, TaskType
from mtdnn.tokens.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

KEYS_WITHOUT_TYPE = frozenset(
    (
        "splits",
        "columns",
        "dropout",
        "weight",
        "batch_size",
        "max_rows",
        "regularizer",
        "head_of",
        "init_head",
        "source",
        "rows",
    )
)
"""Keys of a block that do not depend on the task type."""


def require_valid_tasks(tasks: Mapping[str, TaskDef], tokenizer: Tokenizer) -> None:
    """Raise ConfigError with every error that the task types and the tokenizer find in the blocks."""
    _, faults = valid_tasks(tasks, tokenizer)
    if faults:
        raise ConfigError(faults)


def valid_tasks(tasks: Mapping[str, TaskDef], tokenizer: Tokenizer) -> tuple[dict[str, TaskDef], list[Fault]]:
    """The tasks whose blocks are valid for their type and the tokenizer, and every error of the others."""
    valid: dict[str, TaskDef] = {}
    faults: list[Fault] = []
    for name, task in tasks.items():
        found = block_faults(task, tokenizer)
        faults += found
        if not found:
            valid[name] = task
            for warning in tokenizer.length_warnings(task):
                logger.warning("%s", warning)
    return valid, faults + sharing_faults(valid)


def block_faults(task: TaskDef, tokenizer: Tokenizer | None = None) -> list[Fault]:
    """The errors that the task's type and the tokenizer find in a block."""
    try:
        task_type = _type_of(task)
    except ConfigError as error:
        return list(error.faults)
    found = task_type.faults(task)
    if tokenizer is not None:
        found += tokenizer.length_faults(task) + decoder_faults(task, task_type, tokenizer)
    if tokenizer is not None and not found:
        found = tokenizer_faults(task, task_type, tokenizer) + target_faults(task, task_type, tokenizer)
    return found


def tokenizer_faults(task: TaskDef, task_type: type[TaskType], tokenizer: Tokenizer) -> list[Fault]:
    """What a valid task's type lacks in the tokenizer, such as a mask token."""
    try:
        task_type(task).bind(tokenizer.hf)
    except ConfigError as error:
        return list(error.faults)
    return []


def decoder_faults(task: TaskDef, task_type: type[TaskType], tokenizer: Tokenizer) -> list[Fault]:
    """An error for a task that needs a decoder, if the encoder is not half of an encoder-decoder."""
    if not task_type.needs_decoder or tokenizer.decodes:
        return []
    found = f"{task.task_type} needs a decoder, and {tokenizer.name} is an encoder without one"
    return [task.fault("task_type", found, "Choose an encoder-decoder, such as t5-small or facebook/bart-base.")]


def target_faults(task: TaskDef, task_type: type[TaskType], tokenizer: Tokenizer) -> list[Fault]:
    """Errors for targets of a valid task that may be longer than the positions of the decoder."""
    limit = tokenizer.max_positions
    return [
        task.fault(
            name,
            f"{length} tokens; the decoder of {tokenizer.name} takes at most {limit}",
            f"Set {name} to {limit} or less.",
        )
        for name, length in task_type(task).decoder_lengths.items()
        if limit is not None and length > limit
    ]


def part_faults(parts: Iterable[PartialBlock]) -> list[Fault]:
    """The errors that task types find in malformed blocks, in addition to the errors of form.

    If a refused key may affect the check of other keys, only the checks of single keys are made.
    """
    faults: list[Fault] = []
    for part in parts:
        try:
            task_type = _type_of(part.task)
        except ConfigError as error:
            faults += error.faults
            continue
        found = task_type.faults(part.task) if part.refused <= KEYS_WITHOUT_TYPE else task_type.key_faults(part.task)
        faults += [each for each in found if not {*each.key.split(".")} & part.refused]
    return faults


def _type_of(task: TaskDef) -> type[TaskType]:
    return TASK_TYPES.get(task.task_type, where=task.where("task_type"), key=f"{task.name}.task_type")


def readable_jobs(
    tasks: Mapping[str, TaskDef], data: Data, *, warn: Callable[[Fault], object] = logger.warning
) -> tuple[list[Job], list[Fault]]:
    """The splits whose rows can be read, and the errors of the others; a test split may be missing.

    Args:
        tasks: name → definition.
        data: folder of the rows, or rows in memory.
        warn: called for a missing test split.
    """
    jobs: list[Job] = []
    faults: list[Fault] = []
    for task in tasks.values():
        files: dict[str, FileOrder] = {}
        for split in task.split_names:
            try:
                rows = _open_split(task, split, data, files)
            except DataError as error:
                if split in optional_splits(task):
                    for each in error.faults:
                        warn(replace(each, fix=f"{each.fix} It is a test split and is skipped."))
                else:
                    faults += error.faults
                continue
            job = Job(task, split, rows, "required" if split in task.splits.get("train", ()) else "allowed")
            found = _unnamed_faults(task, rows) + rows.faults(job.columns)
            faults += found
            if not found:
                jobs.append(job)
    return jobs, list(dict.fromkeys(faults))


def _open_split(task: TaskDef, split: str, data: Data, files: dict[str, FileOrder]) -> RowSource:
    """The rows of a split, which may be cut from a file; `files` has those that splits of the task were cut from.

    Raises:
        DataError: as `open_split`.
    """
    cut = task.cuts.get(split)
    if cut is None:
        return open_split(task, split, data)
    if cut.file not in files:
        unit = _type_of(task)(task).group_by or "id"
        files[cut.file] = FileOrder(open_split(task, cut.file, data), cut, unit=unit)
    return CutRows(files[cut.file], cut)


def _unnamed_faults(task: TaskDef, rows: RowSource) -> list[Fault]:
    """An error if the task renames columns of a file that has no names of columns."""
    if not task.columns or rows.has_names:
        return []
    found = f"renames columns, and {rows.place} has no header: its columns are known by their order"
    return [task.fault("columns", found, "Remove the key, or give .csv, .jsonl or .parquet.")]


def optional_splits(task: TaskDef) -> set[str]:
    """Splits that are only in the role "test"; they may be missing."""
    needed = {name for role, names in task.splits.items() if role != "test" for name in names}
    return set(task.split_names) - needed


def wanted_manifest(job: Job, tokenizer: Tokenizer, data: Data) -> Manifest:
    """The manifest of a store made from these rows with this block and tokenizer.

    Args:
        job: the split to prepare.
        tokenizer: the tokenizer of the run's encoder.
        data: folder of the rows, or rows in memory.
    """
    source: Source = {"path": job.rows.place, "sha256": job.rows.sha256()}
    if isinstance(data, Mapping):
        source["in_memory"] = True
    else:
        source["data"] = None if data is None else str(data)
    source |= read_with(job.task, job.split)
    return Manifest(
        task=job.task.name,
        split=job.split,
        tokenizer={"encoder": tokenizer.name, "sha256": tokenizer.sha256},
        block=job.block(),
        source=source,
        store_format=max(store_format(each.task, tokenizer) for each in job.separate),
        mtdnn_version=mtdnn_version(),
    )
