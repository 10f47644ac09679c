"""Rows of Parquet files: what a damaged or hostile file may not do, and reading it part by part."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from mtdnn.errors import DataError, Fault, Place, fault, shortened
from mtdnn.files import file_sha256
from mtdnn.rows.arrow_values import (
    expanded_size,
    largest_dictionary,
    missing_paths,
    schema_leaves,
    schema_paths,
    text_size,
    texts_in_lists,
    values_of,
)
from mtdnn.rows.source import (
    MAX_ROW_BYTES,
    PART_BYTES,
    RENAME_ALL_BUT_ONE,
    RENAME_COLUMN,
    ROWS_PER_PART,
    ROWS_READ_AT_ONCE,
    Part,
    Row,
    RowColumns,
    RowSource,
    asked_for,
    long_row_fault,
    named_values,
    repeated_columns,
    roots,
    unreadable_fault,
    with_nested,
)

PARQUET_ERRORS = (OSError, ValueError, OverflowError, NotImplementedError, LookupError, TypeError)
"""What pyarrow raises for damaged pages; its own exceptions are subclasses of these."""

MAX_ERROR_CHARACTERS = 200

BATCH_BYTES = 64 << 20
"""Size of the rows decoded at once, by what the file states of its pages; a row that is larger is decoded alone."""

MAX_EXPANSION = 100
"""A column's size when read, relative to its size in the file; texts have at most 50."""

ANY_EXPANSION_BYTES = 256 << 20
"""What a column of a row group, or the rows of a file, may expand to however small the file is."""


@dataclass(frozen=True)
class ParquetRows(RowSource):
    """Rows of a Parquet file; a part is some of its row groups, or a slice of a large one."""

    path: Path
    _readers: list[_SequentialReader] = field(default_factory=list, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[ParquetRows], tuple[Path]]:
        return type(self), (self.path,)

    @property
    def place(self) -> str:  # type: ignore[override]
        return str(self.path)

    def _open(self) -> Any:
        import pyarrow.parquet

        try:
            metadata = pyarrow.parquet.read_metadata(self.path, memory_map=True)
            shared = texts_in_lists(metadata)
            self._refuse_expanding(metadata, shared)
            return pyarrow.parquet.ParquetFile(self.path, memory_map=True, metadata=metadata, read_dictionary=shared)
        except pyarrow.ArrowInvalid as error:
            found = f"not a Parquet file: {error}"
            raise DataError(fault(self.place, "", found, "Check how it was written.")) from error
        except OSError as error:
            raise DataError(unreadable_fault(self.place, error)) from error

    def _refuse_expanding(self, metadata: Any, in_lists: Container[str]) -> None:
        """Raise DataError for a column of a row group that would fill the memory: a kilobyte can hold gigabytes."""
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                path = column.path_in_schema
                expanded = expanded_size(column, in_lists=path in in_lists)
                self._refuse_expansion(column.total_compressed_size, expanded, column=path)

    def _refuse_expansion(self, stored: int, expanded: int, *, column: str = "") -> None:
        if expanded > ANY_EXPANSION_BYTES and expanded > MAX_EXPANSION * max(stored, 1):
            found = f"expands from {stored} bytes to {expanded >> 20} MiB or more"
            fix = "Check its texts; one of them is repeated or padded."
            raise DataError(fault(self.place, column, found, fix))

    def parts(self, size: int = PART_BYTES) -> Iterator[Part]:
        step, start, stop = max(1, size * ROWS_PER_PART // PART_BYTES), 0, 0
        for rows in _rows_in_groups(self._open()):
            if start < stop and stop + rows - start > step:
                yield Part(start, stop, start + 1)
                start = stop
            stop += rows
            while stop - start > step:
                yield Part(start, start + step, start + 1)
                start += step
        if start < stop:
            yield Part(start, stop, start + 1)

    def names(self) -> list[str]:
        return schema_paths(self._open().schema_arrow)

    def leaves(self) -> list[str]:
        return schema_leaves(self._open().schema_arrow)

    def sha256(self) -> str:
        return file_sha256(self.path)

    def faults(self, columns: RowColumns) -> list[Fault]:
        try:
            schema = self._open().schema_arrow
        except DataError as error:
            return list(error.faults)
        if repeated := repeated_columns(columns, schema.names):
            return [fault(self.place, "", repeated, RENAME_ALL_BUT_ONE)]
        missing = missing_paths(asked_for(columns, schema_paths(schema)), schema)
        return super().faults(columns) + ([fault(self.place, "", missing, RENAME_COLUMN)] if missing else [])

    def read(self, part: Part, columns: RowColumns) -> Iterator[Row | Fault]:
        reader = self._readers.pop() if self._readers else None  # of this process: parts are mostly consecutive
        if reader is None or reader.columns != columns:
            reader = _SequentialReader(self._open(), columns, self.path)
        try:
            for number, values in reader.rows(part):
                size = text_size(values)
                reader.count(number, size)
                self._refuse_expansion(reader.file_bytes, reader.characters)
                where = Place(self.place, number)
                long = size > MAX_ROW_BYTES
                nested = with_nested(values, columns)
                yield long_row_fault(where) if long else Row(named_values(nested, columns, number), where)
        except PARQUET_ERRORS as error:
            found = f"damaged: {shortened(str(error), MAX_ERROR_CHARACTERS)}"
            raise DataError(fault(self.place, "", found, "Write the file again.")) from error
        self._readers[:] = [reader]


class _SequentialReader:
    """Reads parts of a Parquet file; if the parts are in order, no row group is decoded twice.

    A row group can only be decoded from its start. The last decoded batch is kept, so that the next part continues
    there. Memory: one page of each column, and one batch of `BATCH_BYTES` or a single row.

    Attributes:
        characters: of the texts of all rows read, each counted once: splits cut from one file read it several times.
        file_bytes: size of the file.
    """

    def __init__(self, file: Any, columns: RowColumns, path: Path) -> None:
        self.columns = columns
        self.characters = 0
        self._counted = 0  # number of the last row counted
        self.file_bytes = path.stat().st_size
        self._file = file
        self._wanted = roots(map(columns.theirs, columns.names), file.schema_arrow.names)
        self._starts = list(
            accumulate(_rows_in_groups(file), initial=0)
        )  # first row of each group, then the number of rows
        with path.open("rb") as opened:
            largest = max(largest_dictionary(opened, file.metadata), _largest_mean_row(file.metadata))
        self._rows_at_once = max(1, min(ROWS_READ_AT_ONCE, BATCH_BYTES // largest))
        self._go_to_group(0)

    def count(self, number: int, characters: int) -> None:
        """Count a row, unless it or a later one is counted.

        Args:
            number: of the row, from 1.
            characters: of its texts.
        """
        if number > self._counted:
            self._counted, self.characters = number, self.characters + characters

    def _go_to_group(self, group: int) -> None:
        groups = list(range(group, self._file.num_row_groups))
        self._batches = self._file.iter_batches(self._rows_at_once, row_groups=groups, columns=self._wanted)
        self._first = self._starts[group]  # number, from 0, of the first row of the last decoded batch
        self._batch: Any = ()

    def rows(self, part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
        """(row number from 1, values) of the rows of a part."""
        group = bisect_right(self._starts, part.start) - 1
        if part.start < self._first or self._first + len(self._batch) < self._starts[group]:
            self._go_to_group(group)
        while True:
            first, behind = max(self._first, part.start), self._first + len(self._batch)
            if behind > first:
                chosen = self._batch.slice(first - self._first, part.stop - first)
                names, columns = chosen.schema.names, map(values_of, chosen.columns)
                rows = zip(*columns, strict=True) if names else ((),) * len(chosen)
                for number, values in enumerate(rows, first + 1):
                    yield number, dict(zip(names, values, strict=True))
            if behind >= part.stop:
                return
            self._first, self._batch = behind, next(self._batches)


def _largest_mean_row(metadata: Any) -> int:
    """Bytes of a row of all columns, in the row group where rows are the longest on average; at least 1."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    return max([1, *(group.total_byte_size // max(1, group.num_rows) for group in groups)])


def _rows_in_groups(file: Any) -> list[int]:
    return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
