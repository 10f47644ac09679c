"""What is wrong with the rows of a split: faults of single rows, and ids that come twice, in memory that stays flat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np

from mtdnn.data.encode import FAULTS_TOLD, Job
from mtdnn.errors import Fault, first_of


class IdHashes:
    """Hashes of the ids of a split, [rows] uint64: in a temporary file when they are many.

    Args:
        folder: of that file; None takes the system's.
    """

    AT_ONCE = 1 << 20

    def __init__(self, folder: Path | None = None) -> None:
        place = None if folder is None else str(folder)
        self._file = SpooledTemporaryFile(8 * self.AT_ONCE, dir=place)  # noqa: SIM115  closed by `close`
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def add(self, hashes: np.ndarray) -> None:
        """Take in those of further rows."""
        self._file.write(hashes.tobytes())
        self._num += len(hashes)

    def twins(self) -> set[int]:
        """Those that come more than once, looked for among about `AT_ONCE` at a time."""
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
    """What is wrong with the rows of a split, gathered part by part.

    Attributes:
        faults, num_faults: of single rows: the first of them, and how many there are.
        id_hashes: of the rows without a fault.
    """

    faults: list[Fault] = field(default_factory=list)
    num_faults: int = 0
    id_hashes: IdHashes = field(default_factory=IdHashes)

    def add(self, faults: list[Fault], num_faults: int, id_hashes: np.ndarray) -> None:
        """Take in what was found in the next part.

        Args:
            faults: errors of single rows.
            num_faults: how many there are.
            id_hashes: [rows] uint64, of the rows without an error.
        """
        self.num_faults += num_faults
        self.faults += faults[: FAULTS_TOLD - len(self.faults)]
        self.id_hashes.add(id_hashes)

    def collected(self, job: Job) -> list[Fault]:
        """Faults of rows, ids that come twice, or that there is no row at all; to be asked for once."""
        twins = list(job.duplicates(self.id_hashes.twins()))
        self.id_hashes.close()
        kinds = ((self.faults, self.num_faults), (twins, len(twins)))
        found = [line for lines, number in kinds for line in first_of(lines, number, job.rows.place, FAULTS_TOLD)]
        return found if found or len(self.id_hashes) else [job.rows.empty_fault()]
