"""Prepared splits are written in a folder aside and renamed when whole: nothing half-written is taken for a store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mtdnn.data.arrow import DATA_FILE
from mtdnn.data.encode import Job
from mtdnn.data.manifest import Manifest, read_manifest
from mtdnn.errors import DataError, Fault, fault, is_full_disk

STAGING = ".staging"


FREE_PLACE = "Give another --out, or move it away."


def clean_staging(out: Path, jobs: list[Job], wanted: Mapping[tuple[str, str], Manifest]) -> None:
    """Remove what a killed run left, but for whole splits that are still wanted.

    Args:
        out: folder of the prepared rows.
        jobs: splits to prepare.
        wanted: the manifest that the split should have.
    """
    keep = {place for job in jobs if holds(place := staged_place(out / STAGING, job), job, wanted)}
    for folder in [*(out / STAGING).glob("*/*"), *(out / STAGING).glob("*.old")]:
        if folder not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def holds(folder: Path, job: Job, wanted: Mapping[tuple[str, str], Manifest]) -> bool:
    """Whether a folder holds the split, whole and made from the same things.

    Args:
        folder: of a split.
        job: a split of a task to prepare.
        wanted: the manifest that the split should have.
    """
    try:
        manifest = read_manifest(folder)
    except DataError:
        return False
    if manifest is None or manifest.differences(wanted[job.key]) or manifest.damage(folder / DATA_FILE):
        return False
    return job.labels == "allowed" or not manifest.labels.get("unlabelled")


def staged_place(root: Path, job: Job) -> Path:
    return root / job.task.name / job.split


def strangers(place: Path) -> list[Fault]:
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


def promote(out: Path, job: Job) -> None:
    """Put a staged split in its place; an older one there is removed."""
    staged, place = staged_place(out / STAGING, job), staged_place(out, job)
    if not staged.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    old = out / STAGING / f"{job.task.name}.{job.split}.old"
    if place.exists():
        place.rename(old)
    staged.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def partial_place(staging: Path, job: Job) -> Path:
    return staging / job.task.name / f"{job.split}.partial"


@contextmanager
def disk_room_reported(out: Path) -> Iterator[None]:
    """A full disk is told as a fault that the user can mend."""
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        fix = "Free disk space and run the same command again: finished splits are kept."
        raise DataError(fault(str(out), "", "no space left on the disk", fix)) from error
