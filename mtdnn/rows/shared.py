"""Rows that several tasks read, as one of these tasks sees them: under its own names of columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mtdnn.errors import Fault
from mtdnn.rows.source import OPTIONAL, PART_BYTES, Part, Row, RowColumns, RowSource


@dataclass(frozen=True)
class RenamedRows(RowSource):
    """Rows with the task's names of columns.

    Attributes:
        inner: the rows, with their own names.
        renamed: our column → theirs.
    """

    inner: RowSource
    renamed: Mapping[str, str]

    @property
    def place(self) -> str:  # type: ignore[override]
        return self.inner.place

    def parts(self, size: int = PART_BYTES) -> Iterator[Part]:
        return self.inner.parts(size)

    def names(self) -> list[str]:
        return self.inner.names()

    @property
    def has_names(self) -> bool:  # type: ignore[override]
        return self.inner.has_names

    def sha256(self) -> str:
        return self.inner.sha256()

    def faults(self, columns: RowColumns) -> list[Fault]:
        return self.inner.faults(self._theirs(columns))

    def read(self, part: Part, columns: RowColumns) -> Iterator[Row | Fault]:
        for row in self.inner.read(part, self._theirs(columns)):
            yield row if isinstance(row, Fault) else Row(self._ours(row, columns), row.where)

    def _theirs(self, columns: RowColumns) -> RowColumns:
        names = tuple(dict.fromkeys(self.renamed.get(name, name) for name in columns.names))
        optional = {*OPTIONAL, *(self.renamed.get(name, name) for name in columns.optional)}
        return RowColumns(names, columns.repeats_last, optional=tuple(sorted(optional)))

    def _ours(self, row: Row, columns: RowColumns) -> dict[str, Any]:
        values = {name: row.values.get(self.renamed.get(name, name), "") for name in columns.names}
        if "id" in columns.names and values["id"] == "":
            values["id"] = str(row.where.line)
        return values
