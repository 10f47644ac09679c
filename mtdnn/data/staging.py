"""Prepared splits are written to a staging folder and renamed when complete, so that no store is half-written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mtdnn.data.arrow import DATA_FILE
from mtdnn.data.encode import Job
from mtdnn.data.manifest import Manifest, read_manifest
from mtdnn.errors import DataError, Fault, fault, is_full_disk
from mtdnn.files import flush
from mtdnn.tokens.tokenizer import Tokenizer

STAGING = ".staging"


FIX = "Give another --out, or move it away."


def clean_staging(out: Path, jobs: list[Job], wanted: Mapping[tuple[str, str], Manifest]) -> None:
    """Remove what a killed prepro left, except complete splits that are still needed.

    Args:
        out: folder of the prepared rows.
        jobs: splits to prepare.
        wanted: (task, split) → the manifest that it should have.
    """
    keep = {place for job in jobs if holds(place := split_folder(out / STAGING, job), job, wanted)}
    for folder in [*(out / STAGING).glob("*/*"), *(out / STAGING).glob("*.old")]:
        if folder not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def holds(folder: Path, job: Job, wanted: Mapping[tuple[str, str], Manifest]) -> bool:
    """Whether a folder has the split, complete and made from the same rows, block and tokenizer.

    Args:
        folder: folder of a split.
        job: the split to prepare.
        wanted: (task, split) → the manifest that it should have.
    """
    try:
        manifest = read_manifest(folder)
    except DataError:
        return False
    if manifest is None or manifest.differences(wanted[job.key]) or manifest.damage(folder / DATA_FILE):
        return False
    return job.labels == "allowed" or not manifest.labels.get("unlabelled")


def split_folder(root: Path, job: Job) -> Path:
    """The folder of a split below a root: the prepared rows, or their staging folder."""
    return root / job.task.name / job.split


def foreign_content(place: Path) -> list[Fault]:
    """An error if the folder of a split has content that prepro did not write, which would be lost; else empty."""
    if not place.exists() or (place / "manifest.json").is_file():
        return []
    if not place.is_dir():
        return [fault(str(place), "out", "a file is where a split is to be written", FIX)]
    names = sorted(path.name for path in place.iterdir())
    if not names:
        return []
    found = f"a folder that is not a prepared split is where one is to be written; it contains {', '.join(names[:5])}"
    return [fault(str(place), "out", found, FIX)]


def promote(out: Path, job: Job) -> None:
    """Move a staged split to its final folder; an older one there is removed."""
    staged, place = split_folder(out / STAGING, job), split_folder(out, job)
    if not staged.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    old = out / STAGING / f"{job.task.name}.{job.split}.old"
    if place.exists():
        place.rename(old)
    staged.rename(place)
    flush(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_members(out: Path, job: Job, tokenizer: Tokenizer) -> None:
    """Write the manifest of each task that shares the rows of a prepared split; does nothing for other splits.

    Args:
        out: folder of the prepared rows.
        job: the split.
        tokenizer: of the run's encoder.
    """
    stored = read_manifest(split_folder(out, job))
    for member, manifest in job.manifests_of_tasks(stored, tokenizer) if stored is not None else ():
        if read_manifest(split_folder(out, member)) == manifest:
            continue
        staged = split_folder(out / STAGING, member)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        manifest.write(staged)
        promote(out, member)


def partial_folder(staging: Path, job: Job) -> Path:
    """Where a split is written until it is complete."""
    return staging / job.task.name / f"{job.split}.partial"


@contextmanager
def full_disk_reported(out: Path) -> Iterator[None]:
    """A context that reports a full disk as a DataError."""
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        fix = "Free disk space and run the same command again: finished splits are kept."
        raise DataError(fault(str(out), "", "no space left on the disk", fix)) from error
