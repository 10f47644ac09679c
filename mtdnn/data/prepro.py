"""Rows × TaskDef × tokenizer → Arrow + manifest.json.

Every split is written beside its place and renamed when whole; all go to their places together, when no task has a
fault. What a killed run leaves behind lies in `<out>/.staging`: whole splits there are used by the next run, the rest
is removed.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mtdnn.config.tasks import TaskDef
from mtdnn.data.arrow import DATA_FILE, SplitWriter
from mtdnn.data.encode import EncodedPart, Job, StoredCounts, encode_part, map_parts
from mtdnn.data.manifest import Manifest, length_summary, mtdnn_version, read_manifest, store_format, stored_block
from mtdnn.data.split_faults import IdHashes, SplitFaults
from mtdnn.errors import ConfigError, DataError, fault, is_full_disk
from mtdnn.files import sole_writer
from mtdnn.rows.places import open_split, rows_of
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.tokens.tokenizer import Tokenizer, load_tokenizer

logger = logging.getLogger(__name__)

STAGING = ".staging"
FREE_PLACE = "Give another --out, or move it away."


def prepare(
    tasks: Mapping[str, TaskDef],
    *,
    data: str | Path | None,
    encoder: str | Path,
    out: str | Path,
    num_workers: int | None = None,
    progress: bool = False,
    known_faults: Sequence[str] = (),
) -> dict[str, dict[str, Manifest]]:
    """Prepare every split of the tasks under `<out>/<task>/<split>`; a split that is there and unchanged is kept.

    Args:
        data: folder of the rows; None when every task has a `source`.
        encoder: hub name or folder; only its tokenizer is loaded.
        num_workers: processes; None takes one per core.
        progress: show a bar.
        known_faults: of blocks that could not be read, to be told with those found here.
    Returns:
        task → split → what was made.
    Raises:
        ConfigError: the encoder has no tokenizer; or every fault of the blocks, and of the rows of the sound ones.
        DataError: every fault of the rows, where the blocks have none; or what is no store stands in a split's place.
            As long as any task has a fault, nothing is written for any of them.
    """
    out, tokenizer = Path(out), _tokenizer_of(encoder, known_faults)
    sound, of_blocks = sound_tasks(tasks, tokenizer)
    jobs, missing = readable_jobs(sound, data)
    if known_faults or of_blocks or missing:
        faults = [*known_faults, *of_blocks, *missing, *row_faults(jobs, num_workers=num_workers, progress=progress)]
        raise (ConfigError if known_faults or of_blocks else DataError)(faults)
    strange = [line for job in jobs for line in _strangers(_place(out, job))]
    if strange:
        raise DataError(strange)
    with sole_writer(out, command="mtdnn prepro"), _room_told(out):
        wanted = {job.key: _wanted(job, tokenizer, data) for job in jobs}
        _clean_staging(out, jobs, wanted)
        due = [job for job in jobs if not any(_holds(_place(root, job), job, wanted) for root in (out / STAGING, out))]
        written = _write_all(due, wanted, tokenizer, out / STAGING, num_workers=num_workers, progress=progress)
        faults = [line for _, found in written for line in found]
        if not faults:
            for job in jobs:
                _promote(out, job)
        shutil.rmtree(out / STAGING, ignore_errors=True)
    if faults:
        raise DataError(faults)
    return _made(out, jobs, new={job.key for job in due})


def prepare_file(
    path: str | Path,
    task: TaskDef,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    labels: str = "allowed",
    num_workers: int = 1,
) -> Manifest:
    """Prepare the rows of one file, of any of the known formats, as a split in `folder`, which is made here.

    Args:
        labels: allowed, or ignored: rows are taken as unlabelled.
    Raises:
        DataError: every fault of the rows; nothing is written.
    """
    job = Job(task, Path(path).stem, rows_of(path), labels)
    faults = job.rows.faults(job.columns)
    if faults:
        raise DataError(faults)
    wanted = _wanted(job, tokenizer, None)
    for _, found in _write_all([job], {job.key: wanted}, tokenizer, folder.parent / STAGING, num_workers=num_workers):
        faults += found
    staged = _place(folder.parent / STAGING, job)
    if not faults:
        staged.rename(folder)
    shutil.rmtree(folder.parent / STAGING, ignore_errors=True)
    if faults:
        raise DataError(faults)
    return read_manifest(folder) or wanted


def _tokenizer_of(encoder: str | Path, known_faults: Sequence[str]) -> Tokenizer:
    """The encoder's tokenizer; faults known before are told with its own."""
    try:
        return load_tokenizer(encoder)
    except ConfigError as error:
        raise ConfigError([*known_faults, *error.faults]) from error


def refuse_faulty(tasks: Mapping[str, TaskDef], tokenizer: Tokenizer) -> None:
    """Raise ConfigError with every fault of the blocks that the task types and the tokenizer find."""
    _, faults = sound_tasks(tasks, tokenizer)
    if faults:
        raise ConfigError(faults)


def sound_tasks(tasks: Mapping[str, TaskDef], tokenizer: Tokenizer) -> tuple[dict[str, TaskDef], list[str]]:
    """The tasks whose types and the tokenizer can use their blocks, and every fault of the other blocks."""
    sound: dict[str, TaskDef] = {}
    faults: list[str] = []
    for name, task in tasks.items():
        found = block_faults(task, tokenizer)
        faults += found
        if not found:
            sound[name] = task
            for warning in tokenizer.length_warnings(task):
                logger.warning("%s", warning)
    return sound, faults


def block_faults(task: TaskDef, tokenizer: Tokenizer | None = None) -> list[str]:
    """What the task's type and the tokenizer cannot use of a block."""
    try:
        task_type = TASK_TYPES.get(task.task_type, where=task.where("task_type"), key=f"{task.name}.task_type")
    except ConfigError as error:
        return list(error.faults)
    return task_type.faults(task) + ([] if tokenizer is None else tokenizer.length_faults(task))


def readable_jobs(
    tasks: Mapping[str, TaskDef], data: str | Path | None, *, warn: Callable[[str], object] = logger.warning
) -> tuple[list[Job], list[str]]:
    """The splits whose rows can be read, and the faults of the others; a test split may be missing.

    Args:
        warn: told of a missing test split.
    """
    jobs: list[Job] = []
    faults: list[str] = []
    for task in tasks.values():
        for split in task.split_names:
            try:
                rows = open_split(task, split, data)
            except DataError as error:
                if split in optional_splits(task):
                    warn(f"{error} It is a test split, and left out.")
                else:
                    faults += error.faults
                continue
            job = Job(task, split, rows, "required" if split in task.splits.get("train", ()) else "allowed")
            found = rows.faults(job.columns)
            faults += found
            if not found:
                jobs.append(job)
    return jobs, faults


def optional_splits(task: TaskDef) -> set[str]:
    """Splits that only the role "test" names; they may be missing."""
    needed = {name for role, names in task.splits.items() if role != "test" for name in names}
    return set(task.split_names) - needed


def _wanted(job: Job, tokenizer: Tokenizer, data: str | Path | None) -> Manifest:
    """The manifest of a store that was made from these rows with this block and tokenizer."""
    return Manifest(
        task=job.task.name,
        split=job.split,
        tokenizer={"encoder": tokenizer.name, "sha256": tokenizer.sha256},
        block=stored_block(job.task),
        source={"path": job.rows.place, "sha256": job.rows.sha256(), "data": None if data is None else str(data)},
        store_format=store_format(job.task, tokenizer),
        mtdnn_version=mtdnn_version(),
    )


def _clean_staging(out: Path, jobs: list[Job], wanted: Mapping[tuple[str, str], Manifest]) -> None:
    """Remove what a killed run left, but for whole splits that are still wanted."""
    keep = {place for job in jobs if _holds(place := _place(out / STAGING, job), job, wanted)}
    for folder in [*(out / STAGING).glob("*/*"), *(out / STAGING).glob("*.old")]:
        if folder not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def _holds(folder: Path, job: Job, wanted: Mapping[tuple[str, str], Manifest]) -> bool:
    """Whether a folder holds the split, whole and made from the same things."""
    try:
        manifest = read_manifest(folder)
    except DataError:
        return False
    if manifest is None or manifest.differences(wanted[job.key]) or not manifest.is_whole(folder / DATA_FILE):
        return False
    return job.labels == "allowed" or not manifest.labels.get("unlabelled")


def _place(root: Path, job: Job) -> Path:
    return root / job.task.name / job.split


def _strangers(place: Path) -> list[str]:
    """The fault of a place that holds what no prepro wrote, and that would be lost; none of a store's or a free one."""
    if not place.exists() or (place / "manifest.json").is_file():
        return []
    if not place.is_dir():
        return [fault(str(place), "out", "a file stands where a split is to be written", FREE_PLACE)]
    names = sorted(path.name for path in place.iterdir())
    if not names:
        return []
    found = f"a folder that is no prepared split stands where one is to be written; it holds {', '.join(names[:5])}"
    return [fault(str(place), "out", found, FREE_PLACE)]


def _promote(out: Path, job: Job) -> None:
    """Put a staged split in its place; an older one there is removed."""
    staged, place = _place(out / STAGING, job), _place(out, job)
    if not staged.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    old = out / STAGING / f"{job.task.name}.{job.split}.old"
    if place.exists():
        place.rename(old)
    staged.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _made(out: Path, jobs: list[Job], *, new: set[tuple[str, str]]) -> dict[str, dict[str, Manifest]]:
    made: dict[str, dict[str, Manifest]] = {}
    for job in jobs:
        manifest = read_manifest(_place(out, job))
        if manifest is not None:
            made.setdefault(job.task.name, {})[job.split] = manifest
            unchanged = "" if job.key in new else " (unchanged)"
            logger.info("%s/%s: %s%s", job.task.name, job.split, told(manifest), unchanged)
    return made


def told(manifest: Manifest) -> str:
    """`2490 rows, 3 cut to 256 tokens, 7 unlabelled`."""
    words = [f"{manifest.rows} rows"]
    if manifest.truncated_rows:
        words.append(f"{manifest.truncated_rows} cut to {manifest.block['max_length']} tokens")
    if manifest.labels.get("unlabelled"):
        words.append(f"{manifest.labels['unlabelled']} unlabelled")
    return ", ".join(words)


def row_faults(jobs: list[Job], *, num_workers: int | None = None, progress: bool = False) -> list[str]:
    """Every fault of the rows of these splits, which are only read."""
    parts = [job.parts() for job in jobs]
    found = [SplitFaults() for _ in jobs]
    for index, part in map_parts(encode_part, jobs, parts, None, num_workers=num_workers, progress=progress):
        found[index].add(part.faults, part.num_faults, part.id_hashes)
    return [line for job, of_split in zip(jobs, found, strict=True) for line in of_split.told(job)]


@dataclass
class _Split:
    """A split being written."""

    writer: SplitWriter
    parts_left: int
    found: SplitFaults
    counts: StoredCounts = field(default_factory=StoredCounts)

    @classmethod
    def begun(cls, folder: Path, num_parts: int) -> _Split:
        """Nothing of it is written yet; ids, if they are many, lie beside the rows until it is whole."""
        return cls(SplitWriter(folder), num_parts, SplitFaults(id_hashes=IdHashes(folder)))

    def add(self, part: EncodedPart) -> None:
        """Write a part, unless a fault was seen: then only faults are gathered."""
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
    tokenizer: Tokenizer,
    staging: Path,
    *,
    num_workers: int | None,
    progress: bool = False,
) -> Iterator[tuple[Job, list[str]]]:
    """Write each split to its staged place; yields each with its faults, and leaves none that has any."""
    parts = [job.parts() for job in jobs]
    being_written: dict[int, _Split] = {}
    try:
        for index, encoded in map_parts(
            encode_part, jobs, parts, tokenizer, num_workers=num_workers, progress=progress
        ):
            job = jobs[index]
            if index not in being_written:
                being_written[index] = _Split.begun(_partial(staging, job), len(parts[index]))
            split = being_written[index]
            split.add(encoded)
            if split.parts_left == 0:
                yield job, _finish(job, split, wanted[job.key], staging)
                del being_written[index]
    finally:
        for split in being_written.values():
            split.abandon()


def _partial(staging: Path, job: Job) -> Path:
    return staging / job.task.name / f"{job.split}.partial"


def _finish(job: Job, split: _Split, wanted: Manifest, staging: Path) -> list[str]:
    """Close a split, write its manifest and rename it, or remove it when it has faults, which are returned."""
    faults = split.found.told(job)
    if faults:
        split.abandon()
        return faults
    split.writer.close(wanted.source["sha256"])
    described(wanted, split.counts, job, split.writer.folder).write(split.writer.folder)
    split.writer.folder.rename(_place(staging, job))
    return []


def described(wanted: Manifest, counts: StoredCounts, job: Job, folder: Path) -> Manifest:
    """The manifest with what the written split is like."""
    return replace(
        wanted,
        rows=counts.lengths.total(),
        bytes=(folder / DATA_FILE).stat().st_size,
        truncated_rows=counts.truncated,
        labels=job.task_type.label_summary(counts.labels),
        lengths=length_summary(counts.lengths),
    )


@contextmanager
def _room_told(out: Path) -> Iterator[None]:
    """A full disk is told as a fault that the user can mend."""
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        fix = "Make room and run the same command again: finished splits are kept."
        raise DataError(fault(str(out), "", "no space left on the disk", fix)) from error
