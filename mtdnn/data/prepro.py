"""Rows × TaskDef × tokenizer → Arrow + manifest.json.

Every split is written to `<out>/.staging` and renamed when it is complete. All splits are moved to their final folders
together, if no task has an error. After a killed prepro, complete splits in `<out>/.staging` are reused, and the rest
is removed.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mtdnn.config.arguments import keywords_checked
from mtdnn.config.tasks import Definitions, TaskDef
from mtdnn.data.arrow import DATA_FILE, SplitWriter
from mtdnn.data.encode import EncodedPart, Job, LabelPolicy, StoredCounts, encode_part, map_parts
from mtdnn.data.jobs import wanted_manifest
from mtdnn.data.manifest import Manifest, length_summary, read_manifest
from mtdnn.data.on_ray import encoded_on_ray
from mtdnn.data.part_files import PartFiles, remove_parts
from mtdnn.data.plan import Plan, planned
from mtdnn.data.sharing import separate_jobs
from mtdnn.data.split_faults import IdHashes, SplitFaults
from mtdnn.data.staging import (
    STAGING,
    full_disk_reported,
    partial_folder,
    promote,
    split_folder,
    write_members,
)
from mtdnn.errors import ConfigError, DataError, Fault, fault, unknown
from mtdnn.execution.ray_cluster import imported_ray
from mtdnn.files import file_sha256, flush_folder, sole_writer
from mtdnn.registry import trusting
from mtdnn.rows.places import Data
from mtdnn.rows.source import OPTIONAL, RowSource
from mtdnn.tokens.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

LAUNCHERS = ("local", "ray")

Made = Generator[tuple[int, EncodedPart], None, None]
"""(number of the split, its next part), in the order of splits and parts."""


@keywords_checked()
@trusting
def prepare(
    tasks: Definitions,
    *,
    data: Data = None,
    encoder: str | Path,
    out: str | Path,
    only: Sequence[str] | None = None,
    num_workers: int | None = None,
    launcher: Literal["local", "ray"] = "local",
    progress: bool = False,
    trust: bool = False,
) -> dict[str, dict[str, Manifest]]:
    """Prepare every split of the tasks in `<out>/<task>/<split>`; a prepared split that is unchanged is kept.

    Args:
        tasks: a YAML file of task definitions, or task name → `TaskDef` or block.
        data: folder of the rows; or task → split → rows in memory: a `datasets.Dataset`, a pandas DataFrame or a list
            of dicts, with a column for each of the task's inputs, `label`, and `id` (default: the row's number). None
            if every task has a `source`.
        encoder: hub name or folder; only its tokenizer is loaded.
        out: folder of the prepared rows.
        only: names of the tasks to prepare; None: all.
        num_workers: number of processes; None: one per core.
        launcher: local: processes of this machine; ray: tasks of a Ray cluster, or of a local Ray.
        progress: show a progress bar on standard error.
        trust: allow dotted paths in the file, which import code.
    Returns:
        Task → split → its manifest: rows, labels, lengths.
    Raises:
        ConfigError: the encoder has no tokenizer, or blocks are invalid; reports every error of the blocks, and of the
            rows of valid blocks.
        DataError: rows are invalid, or a split's folder has other content; reports every error. If any task has an
            error, nothing is written.

    Example:
        >>> import mtdnn
        >>> made = mtdnn.prepare("tasks.yml", data="data", encoder="encoder", out="prepared")
        >>> made["rte"]["train"].rows
        8
        >>> stars = {"task_type": "regression", "inputs": ["review"], "splits": {"train": ["train"]}}
        >>> rows = [{"review": "It rained.", "label": 1}, {"review": "She sings.", "label": 4.5}]
        >>> made = mtdnn.prepare({"stars": stars}, data={"stars": {"train": rows}}, encoder="encoder", out="prepared")
        >>> made["stars"]["train"].rows
        2
    """
    require_launcher(launcher)
    plan = planned(tasks, data=data, encoder=encoder, out=out, only=only, num_workers=num_workers, progress=progress)
    with sole_writer(plan.out, command="mtdnn prepro"), full_disk_reported(plan.out):
        due = plan.due()
        parts = [job.parts() for job in due]
        if launcher == "ray":
            files = [PartFiles.of(plan.out, job, plan.wanted[job.key]) for job in due]
            made = encoded_on_ray(due, parts, plan.tokenizer, files, num_tasks=num_workers, progress=progress)
        else:
            made = map_parts(encode_part, due, parts, plan.tokenizer, num_workers=num_workers, progress=progress)
        complete(plan, due, [len(of_split) for of_split in parts], made)
        if launcher == "ray":
            remove_parts(plan.out, plan.jobs)
    return made_splits(plan, due)


def require_launcher(launcher: str) -> None:
    """Raise ConfigError for an unknown launcher, and for ray if it is not installed."""
    if launcher not in LAUNCHERS:
        raise ConfigError(fault("", "launcher", unknown("launcher", launcher, LAUNCHERS)))
    if launcher == "ray":
        imported_ray()


def complete(plan: Plan, due: list[Job], num_parts: Sequence[int], made: Made) -> None:
    """Write the splits from their encoded parts, and move them to their final folders if no row has an error.

    Args:
        plan: what is to be written.
        due: the splits that are.
        num_parts: number of parts of each.
        made: their encoded parts.
    Raises:
        DataError: rows are invalid; reports every error, and nothing is written.
    """
    written = _write_all(due, plan.wanted, num_parts, made, plan.out / STAGING)
    faults = [line for _, found in written for line in found]
    if not faults:
        for job in plan.jobs:
            promote(plan.out, job)
            write_members(plan.out, job, plan.tokenizer)
    shutil.rmtree(plan.out / STAGING, ignore_errors=True)
    if faults:
        raise DataError(faults)


def prepare_rows(
    rows: RowSource,
    task: TaskDef,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    labels: LabelPolicy = "allowed",
    num_workers: int = 1,
) -> Manifest:
    """Prepare the rows of one source as a split in `folder`, which is created here; `id` and `label` may be missing.

    Args:
        rows: the source of the rows.
        task: the task whose columns the rows have.
        tokenizer: the tokenizer of the encoder that will read the split.
        folder: folder of the split.
        labels: allowed, or ignored: rows are prepared as unlabelled.
        num_workers: number of processes.
    Raises:
        DataError: rows are invalid; reports every error, and nothing is written.
    """
    renamed = {"columns": columns_in(rows, task.columns)}
    job = Job(task.model_copy(update=renamed), folder.name, rows, labels, lenient=True)
    return prepare_job(job, tokenizer, folder, num_workers=num_workers)


def columns_in(rows: RowSource, columns: Mapping[str, str]) -> dict[str, str]:
    """A task's `columns`, without `id` and `label` where the rows have them under these names alone.

    Args:
        rows: given to a trained task, by people who may know our names and not those of its data.
        columns: our name → that of the task's data.
    """
    present = rows.names() if columns else ()
    ours = {name for name in OPTIONAL if name in present and columns.get(name) not in present}
    return {name: theirs for name, theirs in columns.items() if name not in ours}


def prepare_job(job: Job, tokenizer: Tokenizer, folder: Path, *, num_workers: int = 1) -> Manifest:
    """Prepare a split in `folder`, which is created here.

    Args:
        job: the split; its name is the folder's.
        tokenizer, folder, num_workers: as for `prepare_rows`.
    Raises:
        DataError: rows are invalid; reports every error, and nothing is written.
    """
    faults = job.rows.faults(job.columns)
    if faults:
        raise DataError(faults)
    wanted = wanted_manifest(job, tokenizer, None)
    parts = job.parts()
    made = map_parts(encode_part, [job], [parts], tokenizer, num_workers=num_workers)
    for _, found in _write_all([job], {job.key: wanted}, [len(parts)], made, folder.parent / STAGING):
        faults += found
    staged = split_folder(folder.parent / STAGING, job)
    if not faults:
        staged.rename(folder)
    shutil.rmtree(folder.parent / STAGING, ignore_errors=True)
    if faults:
        raise DataError(faults)
    return read_manifest(folder) or wanted


def made_splits(plan: Plan, due: list[Job]) -> dict[str, dict[str, Manifest]]:
    """Task → split → its manifest, each logged.

    Args:
        plan: what was to be written.
        due: the splits that were; the others are unchanged.
    """
    made: dict[str, dict[str, Manifest]] = {}
    renewed = {job.key for job in separate_jobs(due)}
    for job in separate_jobs(plan.jobs):
        manifest = read_manifest(split_folder(plan.out, job))
        if manifest is not None:
            made.setdefault(job.task.name, {})[job.split] = manifest
            unchanged = "" if job.key in renewed else " (unchanged)"
            logger.info("%s/%s: %s%s", job.task.name, job.split, manifest_line(manifest), unchanged)
    return made


def manifest_line(manifest: Manifest) -> str:
    """`2490 rows, 3 cut to 256 tokens, 7 unlabelled`."""
    words = [f"{manifest.rows} rows"]
    if manifest.truncated_rows:
        words.append(f"{manifest.truncated_rows} cut to {manifest.block['max_length']} tokens")
    if manifest.labels.get("unlabelled"):
        words.append(f"{manifest.labels['unlabelled']} unlabelled")
    return ", ".join(words)


@dataclass
class _Split:
    """A split being written."""

    writer: SplitWriter
    parts_left: int
    found: SplitFaults
    counts: StoredCounts = field(default_factory=StoredCounts)

    @classmethod
    def begun(cls, folder: Path, num_parts: int) -> _Split:
        """A split of which nothing is written; ids, if they are many, are in a temporary file next to the rows."""
        return cls(SplitWriter(folder), num_parts, SplitFaults(id_hashes=IdHashes(folder)))

    def add(self, part: EncodedPart) -> None:
        """Write a part; after the first error, only errors are collected."""
        self.parts_left -= 1
        self.found.add(part.faults, part.num_faults, part.id_hashes)
        if part.batch is not None and not self.found.num_faults:
            self.writer.write(part.batch)
            self.counts.add(part.counts)

    def abandon(self) -> None:
        """Remove what was written."""
        self.found.id_hashes.close()
        self.writer.abandon()


def _write_all(
    jobs: list[Job],
    wanted: Mapping[tuple[str, str], Manifest],
    num_parts: Sequence[int],
    made: Made,
    staging: Path,
) -> Iterator[tuple[Job, list[Fault]]]:
    """Write each split to the staging folder and yield it with its errors; a split with errors is removed."""
    being_written: dict[int, _Split] = {}
    try:
        for index, encoded in made:
            job = jobs[index]
            if index not in being_written:
                being_written[index] = _Split.begun(partial_folder(staging, job), num_parts[index])
            split = being_written[index]
            split.add(encoded)
            if split.parts_left == 0:
                yield job, _finish(job, split, wanted[job.key], staging)
                del being_written[index]
    finally:
        made.close()  # at once, and not when the error that ended this is forgotten
        for split in being_written.values():
            split.abandon()


def _finish(job: Job, split: _Split, wanted: Manifest, staging: Path) -> list[Fault]:
    """Close a split, write its manifest and rename it; if it has errors, remove it and return them."""
    faults = split.found.collected(job)
    if faults:
        split.abandon()
        return faults
    split.writer.close(wanted.source["sha256"])
    manifest = described(wanted, split.counts, job, split.writer.folder)
    if faults := job.unlabelled_faults(manifest):
        split.abandon()
        return faults
    manifest.write(split.writer.folder)
    flush_folder(split.writer.folder)
    split.writer.folder.rename(split_folder(staging, job))
    return []


def described(wanted: Manifest, counts: StoredCounts, job: Job, folder: Path) -> Manifest:
    """The manifest with the counts of the written split.

    Args:
        wanted: the manifest that the split should have.
        counts: counts of the stored rows.
        job: the split.
        folder: folder of the split.
    """
    return replace(
        wanted,
        rows=counts.lengths.total(),
        bytes=(folder / DATA_FILE).stat().st_size,
        sha256=file_sha256(folder / DATA_FILE),
        truncated_rows=counts.truncated,
        labels=job.label_summary(counts.labels),
        lengths=length_summary(counts.lengths),
    )
