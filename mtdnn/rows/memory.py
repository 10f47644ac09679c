"""Rows that the caller holds: data sets of the `datasets` library, pandas DataFrames, lists of dicts.

A message names a row as it is reached in Python, counted from 1: `rows['rte']['train']:17`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from mtdnn.config.tasks import TaskDef
from mtdnn.errors import DataError, Fault, Place, did_you_mean, fault
from mtdnn.rows.source import PART_BYTES, Part, Row, RowColumns, RowSource, missing_columns, named_values
from mtdnn.rows.tables import ROWS_READ_AT_ONCE, HubRows, stretches

EXPECTED = "Give a datasets.Dataset, a pandas DataFrame or a list of dicts."
RENAME = "Rename the column, or name it in the task's `inputs`."


def rows_in_memory(task: TaskDef, split: str, rows: Mapping[str, Any]) -> RowSource:
    """The rows of one split of a task.

    Args:
        task: its definition.
        split: the split's name.
        rows: task → split → table.
    Raises:
        DataError: they are not there, or no table.
    """
    if task.name not in rows:
        found = f"no rows for task '{task.name}'; there are: {', '.join(map(str, rows)) or 'none'}"
        raise DataError(fault("rows", "", found, did_you_mean(task.name, map(str, rows)).strip()))
    splits, place = rows[task.name], f"rows['{task.name}']"
    if not isinstance(splits, Mapping):
        found = f"a {type(splits).__name__} in place of a mapping of splits"
        raise DataError(fault(place, "", found, "Give {'train': …, 'dev': …}."))
    if split not in splits:
        found = f"no rows for split '{split}'; there are: {', '.join(map(str, splits)) or 'none'}"
        fix = "Rename one, or name it in the task's `splits`."
        raise DataError(fault(place, "", found, fix))
    return table_rows(splits[split], place=f"{place}['{split}']")


def table_rows(table: Any, *, place: str) -> RowSource:
    """The rows of a table in memory.

    Args:
        table: a datasets.Dataset, a pandas DataFrame or a sequence of mappings.
        place: what messages call it.
    Raises:
        DataError: it is something else.
    """
    if _is_a(table, "datasets", "Dataset"):
        return DatasetRows(place, table.with_format(None), {})
    if _is_a(table, "pandas", "DataFrame"):
        return FrameRows(place, table)
    if isinstance(table, Sequence) and not isinstance(table, (str, bytes)):
        return ListRows(place, table)
    raise DataError(fault(place, "", f"a {type(table).__name__} in place of rows", EXPECTED))


def is_table(rows: object) -> bool:
    """Whether they are rows with named columns, and not the bare texts of each row."""
    return _is_a(rows, "datasets", "Dataset") or _is_a(rows, "pandas", "DataFrame") or _starts_with_mapping(rows)


def _is_a(value: object, module: str, name: str) -> bool:
    """Whether it is of a class of a library, which then has been imported by whoever made it."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _starts_with_mapping(rows: object) -> bool:
    return isinstance(rows, Sequence) and len(rows) > 0 and isinstance(rows[0], Mapping)


@dataclass(frozen=True, eq=False)
class TableRows(RowSource):
    """Rows of a table in memory: numbers as text, null and NaN as empty, `id` by default the row's number."""

    place: str  # type: ignore[misc]
    table: Any

    @abstractmethod
    def records(self, start: int, stop: int) -> Iterator[Any]:
        """Rows from `start` up to `stop`, counted from 0, each a mapping unless the caller gave something else."""

    def parts(self, size: int = PART_BYTES) -> Iterator[Part]:
        yield from stretches(len(self.table), size)

    def sha256(self) -> str:
        return content_sha256(self.records(0, len(self.table)))

    def read(self, part: Part, columns: RowColumns) -> Iterator[Row | Fault]:
        for number, record in enumerate(self.records(part.start, part.stop), part.first):
            yield _row(record, columns, Place(self.place, number))


class ListRows(TableRows):
    """Rows of a list of dicts."""

    def records(self, start: int, stop: int) -> Iterator[Any]:
        for record in self.table[start:stop]:
            yield _plain(record) if isinstance(record, Mapping) else record


class FrameRows(TableRows):
    """Rows of a pandas DataFrame; its index is no column."""

    def faults(self, columns: RowColumns) -> list[Fault]:
        missing = missing_columns(columns.needed, list(map(str, self.table.columns)))
        return super().faults(columns) + ([fault(self.place, "", missing, RENAME)] if missing else [])

    @cached_property
    def _whole(self) -> set[str]:
        """Columns of whole numbers that pandas holds as floats, as one of them is missing."""
        floats = self.table.select_dtypes("floating").items()
        return {str(name) for name, each in floats if each.hasnans and (each.dropna() % 1 == 0).all()}

    def records(self, start: int, stop: int) -> Iterator[Any]:
        for first in range(start, stop, ROWS_READ_AT_ONCE):
            block = self.table.iloc[first : min(first + ROWS_READ_AT_ONCE, stop)].astype(object)
            for record in block.where(block.notna(), None).to_dict("records"):
                values = _plain(record)
                yield values | {name: int(values[name]) for name in self._whole if values[name] is not None}


@dataclass(frozen=True, eq=False)
class DatasetRows(HubRows):
    """Rows of a `datasets.Dataset` in memory; class numbers are read as the names it gives them."""

    column_fix: ClassVar[str] = RENAME

    def sha256(self) -> str:
        """Of the content: a fingerprint of the library may come from how the rows were made, not from what they are."""
        plain = self.dataset.with_format("arrow")  # pictures and sound stay as they are stored
        blocks = plain.iter(ROWS_READ_AT_ONCE) if len(plain) else ()
        names = repr(self._class_names) if self._class_names else ""
        return content_sha256((row for block in blocks for row in block.to_pylist()), head=names)


def _row(record: Any, columns: RowColumns, where: Place) -> Row | Fault:
    if not isinstance(record, Mapping):
        return fault(where, "", f"a {type(record).__name__} in place of a dict of columns", EXPECTED)
    if missing := missing_columns(columns.needed, list(record)):
        return fault(where, "", missing, RENAME)
    values = named_values(record, columns, where.line)
    broken = [name for name, value in values.items() if not _is_text(value)]
    if broken:
        return fault(where, broken[0], "an unpaired surrogate ('\\ud8…' alone)", "Give both halves of the pair.")
    return Row(values, where)


def _is_text(value: Any) -> bool:
    """Whether a text, or every text in a list, can be written as UTF-8: a Python text may hold half of a character."""
    if isinstance(value, list):
        return all(map(_is_text, value))
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True


def _plain(record: Mapping[Any, Any]) -> dict[str, Any]:
    """The record with names as texts, tuples as lists, and the numbers and arrays of NumPy and its kin as Python's."""
    return {str(name): _plain_value(value) for name, value in record.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else value


def content_sha256(records: Iterable[Any], *, head: str = "") -> str:
    """SHA-256 of rows by what they hold, in hexadecimal: the same wherever and however they are held.

    Args:
        records: the rows.
        head: what else decides how they are read.
    """
    digest = hashlib.sha256(head.encode())
    for record in records:
        digest.update(json.dumps(record, sort_keys=True, default=repr).encode())
        digest.update(b"\n")
    return digest.hexdigest()
