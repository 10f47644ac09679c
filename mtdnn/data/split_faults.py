"""The errors in the rows of a split: errors of single rows and duplicate ids, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np

from mtdnn.data.encode import Job
from mtdnn.errors import MAX_REPORTED_ERRORS, Fault, first_of


class IdHashes:
    """Hashes of the ids of a split, [rows] uint64; in a temporary file if they are many.

    Args:
        folder: folder of that file; None: the system's temporary folder.
    """

    AT_ONCE = 1 << 20

    def __init__(self, folder: Path | None = None) -> None:
        place = None if folder is None else str(folder)
        self._file = SpooledTemporaryFile(8 * self.AT_ONCE, dir=place)  # noqa: SIM115  closed by `close`
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def add(self, hashes: np.ndarray) -> None:
        """Add the hashes of further rows."""
        self._file.write(hashes.tobytes())
        self._num += len(hashes)

    def duplicates(self) -> set[int]:
        """The hashes that occur more than once; about `AT_ONCE` are in memory at a time."""
        classes = -(-self._num // self.AT_ONCE)
        found: set[int] = set()
        for remainder in range(classes):
            alike = np.concatenate([each[each % classes == remainder] for each in self._blocks()])
            alike.sort()
            found.update(alike[1:][alike[1:] == alike[:-1]].tolist())
        return found

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def _blocks(self) -> Iterator[np.ndarray]:
        self._file.seek(0)
        while block := self._file.read(8 * self.AT_ONCE):
            yield np.frombuffer(block, np.uint64)


@dataclass
class SplitFaults:
    """The errors in the rows of a split, collected part by part.

    Attributes:
        faults, num_faults: the first errors of single rows, and the number of all.
        id_hashes: hashes of the ids of rows without an error.
    """

    faults: list[Fault] = field(default_factory=list)
    num_faults: int = 0
    id_hashes: IdHashes = field(default_factory=IdHashes)

    def add(self, faults: list[Fault], num_faults: int, id_hashes: np.ndarray) -> None:
        """Add the errors and ids of the next part.

        Args:
            faults: errors of single rows.
            num_faults: number of errors.
            id_hashes: [rows] uint64, of the rows without an error.
        """
        self.num_faults += num_faults
        self.faults += faults[: MAX_REPORTED_ERRORS - len(self.faults)]
        self.id_hashes.add(id_hashes)

    def collected(self, job: Job) -> list[Fault]:
        """Errors of rows and duplicate ids, or that there are no rows; may be called once."""
        duplicates = list(job.duplicates(self.id_hashes.duplicates()))
        self.id_hashes.close()
        found = self.of_rows(job) + first_of(duplicates, len(duplicates), job.rows.place, MAX_REPORTED_ERRORS)
        return found if found or len(self.id_hashes) else [job.rows.empty_fault()]

    def of_rows(self, job: Job) -> list[Fault]:
        """The errors of single rows."""
        return first_of(self.faults, self.num_faults, job.rows.place, MAX_REPORTED_ERRORS)
