"""Encoded parts on disk, written by any number of processes and machines, from which one process writes the store.

`<out>/.parts/<task>/<split>/<settings>/<number>.arrow`: the rows of one part, and in the metadata of its schema the
hashes of their ids and the errors in its rows. `<settings>` is a hash of all that affects the content of the parts, so
that parts of other rows or settings are never mixed with these; `manifest.json` next to them has these settings.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mtdnn.data.arrow import columns_of
from mtdnn.data.encode import EncodedPart, Job, StoredCounts
from mtdnn.data.manifest import READ_WITH, Manifest, read_manifest
from mtdnn.errors import DataError, Fault, Place, fault
from mtdnn.files import flush, temporary_path

PARTS = ".parts"

HASHES, FAULTS = b"id_hashes", b"faults"
"""Keys of the metadata of a part's schema."""


@dataclass(frozen=True)
class PartFiles:
    """The files of the parts of one split.

    Attributes:
        folder: their folder, which exists.
        job: the split.
    """

    folder: Path
    job: Job

    @classmethod
    def of(cls, out: Path, job: Job, wanted: Manifest) -> PartFiles:
        """The files of a split in a folder of prepared rows.

        Args:
            out: folder of the prepared rows.
            job: the split.
            wanted: the manifest that the split should have.
        """
        folder = out / PARTS / job.task.name / job.split / settings_hash(wanted, job)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "manifest.json").exists():
            wanted.write(folder)
        return cls(folder, job)

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"{number:06d}.arrow"

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Those of these parts that have no file."""
        there = {path.name for path in self.folder.glob("*.arrow")}
        return [number for number in numbers if self.path(number).name not in there]

    def write(self, number: int, part: EncodedPart) -> None:
        """Write a part; its file is complete or absent."""
        path = self.path(number)
        temporary = temporary_path(path)
        try:
            write_part(temporary, part)
            flush(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, number: int) -> EncodedPart:
        """A part. Raises DataError if its file is damaged."""
        path = self.path(number)
        try:
            part = read_part(path)
        except (OSError, pa.ArrowException, ValueError, LookupError) as error:
            fix = "Remove this file, and encode the part again."
            raise DataError(fault(str(path), "", f"damaged: {error}", fix)) from error
        if part.batch is None:
            return part
        return replace(part, counts=StoredCounts.of(columns_of(part.batch), self.job))

    def others(self, wanted: Manifest) -> list[str]:
        """How parts of other settings that are in the same folder of prepared rows differ, one phrase for each."""
        found: list[str] = []
        for folder in sorted(self.folder.parent.iterdir()):
            manifest = read_manifest(folder) if folder != self.folder else None
            if manifest is not None and any(folder.glob("*.arrow")):
                found += manifest.differences(wanted) or [_other_version(manifest)]
        return list(dict.fromkeys(found))


def remove_parts(out: Path, jobs: Iterable[Job]) -> None:
    """Remove the parts of these splits, and their folders; parts of other tasks, which may be due, are kept.

    Args:
        out: folder of the prepared rows.
        jobs: splits that have been written.
    """
    root = out / PARTS
    for job in jobs:
        shutil.rmtree(root / job.task.name / job.split, ignore_errors=True)
        with suppress(OSError):  # there are other splits
            (root / job.task.name).rmdir()
    if not any(path.is_dir() for path in root.glob("*")):
        shutil.rmtree(root, ignore_errors=True)


def _other_version(manifest: Manifest) -> str:
    return f"it was made by mtdnn {manifest.mtdnn_version}, or with other splits in the role train"


def settings_hash(wanted: Manifest, job: Job) -> str:
    """A hash of all that affects the encoded rows of a split; paths do not.

    Args:
        wanted: the manifest that the split should have.
        job: the split.
    """
    read_with = {key: value for key, value in wanted.source.items() if key in ("sha256", *READ_WITH)}
    parts = [wanted.tokenizer["sha256"], wanted.block, read_with, wanted.store_format, wanted.mtdnn_version, job.labels]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def write_part(path: Path, part: EncodedPart) -> None:
    """Write the rows, hashes and errors of a part to an Arrow file."""
    faults = {"number": part.num_faults, "first": [asdict(each) for each in part.faults]}
    metadata = {HASHES: part.id_hashes.astype(np.uint64).tobytes(), FAULTS: json.dumps(faults).encode()}
    schema = pa.schema([]) if part.batch is None else part.batch.schema
    with pa.ipc.new_stream(str(path), schema.with_metadata(metadata)) as writer:
        if part.batch is not None:
            writer.write_batch(pa.RecordBatch.from_arrays(part.batch.columns, schema=schema.with_metadata(metadata)))


def read_part(path: Path) -> EncodedPart:
    """The part in a file, memory-mapped, without its counts."""
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        metadata = stream.schema.metadata
        batch = next(iter(stream), None)
    faults = json.loads(metadata[FAULTS])
    return EncodedPart(
        batch=None if batch is None else batch.replace_schema_metadata(None),
        counts=StoredCounts(),
        faults=[_fault_of(each) for each in faults["first"]],
        num_faults=faults["number"],
        id_hashes=np.frombuffer(metadata[HASHES], np.uint64),
    )


def _fault_of(values: dict[str, Any]) -> Fault:
    place = values["place"]
    return Fault(Place(**{**place, "flags": tuple(place["flags"])}), values["key"], values["found"], values["fix"])
