"""What a prepro is to write: the splits of its tasks, after every check that needs no encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mtdnn.config.tasks import Definitions, TaskDef, chosen_tasks, read_task_defs
from mtdnn.data.encode import Job, encode_part, map_parts
from mtdnn.data.jobs import part_faults, readable_jobs, valid_tasks, wanted_manifest
from mtdnn.data.manifest import Manifest
from mtdnn.data.sharing import joined_jobs
from mtdnn.data.split_faults import SplitFaults
from mtdnn.data.staging import STAGING, clean_staging, foreign_content, holds, split_folder
from mtdnn.errors import ConfigError, DataError, Fault
from mtdnn.rows.places import Data
from mtdnn.tokens.loading import load_tokenizer
from mtdnn.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Plan:
    """What a prepro is to write.

    Attributes:
        out: folder of the prepared rows.
        data: folder of the rows, or rows in memory.
        tokenizer: the encoder's.
        jobs: the splits to prepare; tasks that share rows are joined.
        separate: the splits of each task.
    """

    out: Path
    data: Data
    tokenizer: Tokenizer
    jobs: list[Job]
    separate: list[Job]

    @cached_property
    def wanted(self) -> dict[tuple[str, str], Manifest]:
        """(task, split) → the manifest that it should have; reads the rows for their hashes."""
        return {job.key: wanted_manifest(job, self.tokenizer, self.data) for job in self.jobs}

    def due(self) -> list[Job]:
        """The splits to write: not prepared yet, or of other rows or settings; removes what a killed call left."""
        clean_staging(self.out, self.jobs, self.wanted)
        roots = (self.out / STAGING, self.out)
        return [job for job in self.jobs if not any(self.holds(root, job) for root in roots)]

    def holds(self, root: Path, job: Job) -> bool:
        """Whether a split is prepared, complete and unchanged, in `out` or in its staging folder."""
        return holds(split_folder(root, job), job, self.wanted)


def planned(
    tasks: Definitions,
    *,
    data: Data,
    encoder: str | Path,
    out: str | Path,
    only: Sequence[str] | None,
    num_workers: int | None,
    progress: bool,
) -> Plan:
    """The plan of a prepro, after all checks that need no encoding. Args and Raises as for `prepare`."""
    chosen, known_faults = _chosen(tasks, only)
    out, tokenizer = Path(out), _tokenizer_of(encoder, known_faults)
    valid, of_blocks = valid_tasks(chosen, tokenizer)
    separate, missing = readable_jobs(valid, data)
    jobs = joined_jobs(separate)
    if known_faults or of_blocks or missing:
        faults = [*known_faults, *of_blocks, *missing, *row_faults(jobs, num_workers=num_workers, progress=progress)]
        raise (ConfigError if known_faults or of_blocks else DataError)(faults)
    folders = dict.fromkeys(split_folder(out, job) for job in (*jobs, *separate))
    occupied = [line for folder in folders for line in foreign_content(folder)]
    if occupied:
        raise DataError(occupied)
    return Plan(out, data, tokenizer, jobs, separate)


def _chosen(tasks: Definitions, only: Sequence[str] | None) -> tuple[dict[str, TaskDef], list[Fault]]:
    """The tasks to prepare, with those that share their rows; and the errors in their definitions."""
    blocks = read_task_defs(tasks)
    if blocks.faults:  # `only` may name a block that could not be read
        chosen = {name: task for name, task in blocks.tasks.items() if only is None or name in only}
    else:
        chosen = with_sharing(chosen_tasks(blocks.tasks, only, key="only"), blocks.tasks)
    of_parts = part_faults(each for each in blocks.parts if only is None or each.task.name in only)
    return chosen, [*blocks.faults, *of_parts]


def with_sharing(chosen: Mapping[str, TaskDef], tasks: Mapping[str, TaskDef]) -> dict[str, TaskDef]:
    """The chosen tasks and those that share rows with them, whose columns are stored in the same file.

    Args:
        chosen: name → definition.
        tasks: all definitions.
    """
    units = {task.unit for task in chosen.values() if task.rows is not None}
    return {name: task for name, task in tasks.items() if name in chosen or (task.rows and task.unit in units)}


def _tokenizer_of(encoder: str | Path, known_faults: Sequence[Fault]) -> Tokenizer:
    """The encoder's tokenizer; errors found before are reported together with its own."""
    try:
        return load_tokenizer(encoder)
    except ConfigError as error:
        raise ConfigError([*known_faults, *error.faults]) from error


def row_faults(jobs: list[Job], *, num_workers: int | None = None, progress: bool = False) -> list[Fault]:
    """Every error in the rows of these splits, which are only read.

    Args:
        jobs: the splits to read.
        num_workers: number of processes; None: one per core.
        progress: whether to show a progress bar on standard error.
    """
    parts = [job.parts() for job in jobs]
    found = [SplitFaults() for _ in jobs]
    for index, part in map_parts(encode_part, jobs, parts, None, num_workers=num_workers, progress=progress):
        found[index].add(part.faults, part.num_faults, part.id_hashes)
    return [line for job, of_split in zip(jobs, found, strict=True) for line in of_split.collected(job)]
