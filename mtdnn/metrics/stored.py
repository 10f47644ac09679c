"""Prediction records of a split as a sequence: a list of few, and of many a temporary file that is read in parts.

A million records of three labels are 0.5 GiB as Python objects and 65 MiB in such a file. Records are pickled, as those
of a plug-in may contain any value; only the process that wrote them reads them. The file is in `TMPDIR` and has no name
(on Windows it is removed when it is closed): nothing is left of it when the process ends, even if it is killed.
"""

from __future__ import annotations

import pickle
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain, islice
from operator import itemgetter
from tempfile import TemporaryFile
from typing import Any, TypeVar, overload

T = TypeVar("T")

Record = dict[str, Any]
"""One prediction: `id`, `prediction`, `label` (None: unknown), `scores` (may be empty or absent)."""

HELD_RECORDS = 20_000
"""Most records of a split that are kept as a list, about 10 MiB for three labels."""

READ_AT_ONCE = 256
"""Records of a file that are read together."""

MOST_RUNS = 32
"""Files of records in the order of their rows that are open at once, before they are merged into one."""


class Stored(Sequence[T]):
    """Items in a temporary file, in the order in which they are given; what is read is an object of its own.

    Args:
        items: any objects that can be pickled.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._file = TemporaryFile()  # noqa: SIM115  closed with this object
        weakref.finalize(self, self._file.close)
        self._ends, self._count, self._read_at_once = array("q", [0]), 0, READ_AT_ONCE
        self._last: tuple[int, list[T]] = (-1, [])
        others = iter(items)
        while part := list(islice(others, self._read_at_once)):
            encoded = pickle.dumps(part, pickle.HIGHEST_PROTOCOL)
            self._file.write(encoded)
            self._ends.append(self._ends[-1] + len(encoded))
            self._count += len(part)

    def _part(self, number: int) -> list[T]:
        """The items that are read together."""
        start, end = self._ends[number : number + 2]
        self._file.seek(start)
        part: list[T] = pickle.loads(self._file.read(end - start))
        return part

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        for number in range(len(self._ends) - 1):
            yield from self._part(number)

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> list[T]: ...

    def __getitem__(self, place: int | slice) -> T | list[T]:
        if isinstance(place, slice):
            return [self[each] for each in range(self._count)[place]]
        number, place = divmod(range(self._count)[place], self._read_at_once)
        if self._last[0] != number:
            self._last = (number, self._part(number))
        return self._last[1][place]


class RecordsByRow:
    """Records of a split that arrive in any order: in memory while they are few, then in temporary files.

    Each file has some of the records, sorted by row; they are merged when the records are read.
    """

    def __init__(self) -> None:
        self._held: dict[int, Record] = {}
        self._runs: list[Stored[tuple[int, Record]]] = []

    def add(self, rows: Sequence[int], records: Sequence[Record]) -> None:
        """Add the records of some rows, each row once.

        Raises:
            ValueError: there are more of the one than of the other.
        """
        self._held.update(zip(rows, records, strict=True))
        if len(self._held) > HELD_RECORDS:
            self._runs.append(Stored(sorted(self._held.items())))
            self._held = {}
        if len(self._runs) > MOST_RUNS:
            self._runs = [Stored(self.items())]

    def items(self) -> Iterator[tuple[int, Record]]:
        """(row, record), by row."""
        return merge(*self._runs, sorted(self._held.items()), key=itemgetter(0))

    def in_order(self) -> Sequence[Record]:
        """The records by row: a list, or in a file."""
        records = (record for _, record in self.items())
        return Stored(records) if self._runs else list(records)


def kept(records: Iterable[Record]) -> Sequence[Record]:
    """The records, in their order, to be read several times: a list, or from many on in a temporary file."""
    others = iter(records)
    first = list(islice(others, HELD_RECORDS + 1))
    return first if len(first) <= HELD_RECORDS else Stored(chain(first, others))
