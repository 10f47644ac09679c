"""Splits cut from one file, by the hashes of the rows' ids; see `mtdnn.rows.subset` for the choice."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from mtdnn.config.splits import Cut
from mtdnn.errors import Fault, Place, fault
from mtdnn.rows.source import PART_BYTES, Part, Row, RowColumns, RowSource
from mtdnn.rows.subset import hashed_order

if TYPE_CHECKING:
    import numpy as np

MAX_REPORTED = 20


class _Order(NamedTuple):
    """The rows of a file in the order from which they are cut.

    Attributes:
        lines: [rows] line, or number, of each row in the file.
        units: [rows] the unit of each row: rows of one unit are never separated.
        order: [units] the units, in the order of their hashes.
        faults: rows with the id of an earlier row, which may be in another split.
        unreadable: the error of the first row that cannot be read.
    """

    lines: np.ndarray
    units: np.ndarray
    order: np.ndarray
    faults: list[Fault]
    unreadable: Fault | None = None


class FileOrder:
    """A file that several splits are cut from; it is read once to put its rows into the order of their hashes.

    Args:
        rows: the file.
        cut: any of its cuts: they have the same seed, and all or none are stratified.
        unit: the column whose equal values keep rows together; `id`: every row for itself.
    """

    def __init__(self, rows: RowSource, cut: Cut, *, unit: str) -> None:
        self.rows, self.cut, self.unit = rows, cut, unit
        self._found: _Order | None = None

    def found(self, columns: RowColumns) -> _Order:
        """The order; read at the first call."""
        if self._found is None:
            self._found = self._read(columns)
        return self._found

    def _read(self, columns: RowColumns) -> _Order:
        import numpy as np

        lines, units, keys, labels = list[int](), list[int](), dict[str, int](), list[str]()
        firsts = list[int]()  # of each unit, the line of its first row
        faults: list[Fault] = []
        unreadable: Fault | None = None
        for row in self.rows.read_all(columns):
            if isinstance(row, Fault):
                unreadable = unreadable or row
                continue
            key, line = str(row.values[self.unit]), row.where.line or 0
            if self.unit == "id" and key in keys and len(faults) < MAX_REPORTED:
                first = Place(row.where.name, firsts[keys[key]])
                faults.append(fault(row.where, "id", f"'{key}' is also the id of {first}", "Rename one of them."))
            if key not in keys:
                firsts.append(line)
                labels.append(str(row.values.get("label", "")).strip())
            units.append(keys.setdefault(key, len(keys)))
            lines.append(line)
        strata = labels if self.cut.stratify else None
        order = hashed_order(list(keys), seed=self.cut.seed, strata=strata)
        return _Order(np.array(lines, np.int64), np.array(units, np.int64), order, faults, unreadable)


class CutRows(RowSource):
    """The rows of a split that is cut from a file.

    Rows that cannot be read are among those of the first split, so that each is reported once.

    Args:
        file: the file.
        cut: the part of it.
    """

    def __init__(self, file: FileOrder, cut: Cut) -> None:
        self.file, self.cut = file, cut
        self._lines: set[int] | None = None

    @property
    def place(self) -> str:  # type: ignore[override]
        return self.file.rows.place

    @property
    def has_names(self) -> bool:  # type: ignore[override]
        return self.file.rows.has_names

    def parts(self, size: int = PART_BYTES) -> Iterator[Part]:
        yield from self.file.rows.parts(size)

    def names(self) -> list[str]:
        return self.file.rows.names()

    def sha256(self) -> str:
        text = json.dumps([self.file.rows.sha256(), self.cut.as_json(), self.file.unit])
        return hashlib.sha256(text.encode()).hexdigest()

    def faults(self, columns: RowColumns) -> list[Fault]:
        """Errors of the file, ids that occur twice in it, or that this part of it has no row."""
        if found := self.file.rows.faults(columns):
            return found
        order = self.file.found(columns)
        if order.faults:
            return order.faults
        if not self.lines(columns) and order.unreadable is not None:
            return [] if self.cut.start == 0 else [order.unreadable]
        if not self.lines(columns):
            rows = len(order.order)
            share = f"{float(self.cut.stop - self.cut.start):.4g}"
            what = f"{share} of its {rows} rows is less than one"
            return [fault(self.place, "", what, "Add rows, or cut a larger part.")]
        return []

    def lines(self, columns: RowColumns) -> set[int]:
        """The lines, or numbers, of its rows in the file."""
        if self._lines is None:
            found = self.file.found(columns)
            first, last = (math.floor(len(found.order) * share) for share in (self.cut.start, self.cut.stop))
            chosen = set(found.order[first:last].tolist())
            self._lines = {
                line for line, unit in zip(found.lines.tolist(), found.units.tolist(), strict=True) if unit in chosen
            }
        return self._lines

    def read(self, part: Part, columns: RowColumns) -> Iterator[Row | Fault]:
        lines = self.lines(columns)
        for row in self.file.rows.read(part, columns):
            if isinstance(row, Fault):
                if self.cut.start == 0:
                    yield row
            elif row.where.line in lines:
                yield row
