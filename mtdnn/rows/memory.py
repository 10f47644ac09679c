"""Rows in memory: data sets of the `datasets` library, pandas DataFrames, lists of dicts.

Messages name a row by its Python expression and its number, counted from 1: `rows['rte']['train']:17`.
"""

from __future__ import annotations

import hashlib
import sys
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from mtdnn.config.json_source import sorted_json
from mtdnn.config.tasks import TaskDef
from mtdnn.errors import DataError, Fault, Place, did_you_mean, fault
from mtdnn.rows.data_sets import HubRows
from mtdnn.rows.source import (
    PART_BYTES,
    RENAME_ALL_BUT_ONE,
    RENAME_COLUMN,
    ROWS_READ_AT_ONCE,
    Part,
    Row,
    RowColumns,
    RowSource,
    asked_for,
    equal_parts,
    missing_columns,
    named_values,
    paths_of,
    repeated_columns,
    roots,
    with_nested,
)

EXPECTED = "Give a datasets.Dataset, a pandas DataFrame or a list of dicts."


def rows_in_memory(task: TaskDef, split: str, rows: Mapping[str, Any]) -> RowSource:
    """The rows of one split of a task, from tables in memory.

    Args:
        task: the task's definition.
        split: name of the split.
        rows: task → split → table.
    Raises:
        DataError: the task or split is missing, or its value is not a table.
    """
    if task.unit not in rows:
        found = f"no rows for task '{task.unit}'; there are: {', '.join(map(str, rows)) or 'none'}"
        raise DataError(fault("rows", "", found, did_you_mean(task.unit, map(str, rows)).strip()))
    splits, place = rows[task.unit], f"rows['{task.unit}']"
    if not isinstance(splits, Mapping):
        found = f"a {type(splits).__name__}; expected a mapping of splits"
        raise DataError(fault(place, "", found, "Give {'train': …, 'dev': …}."))
    if split not in splits:
        near = did_you_mean(split, map(str, splits))
        found = f"no rows for split '{split}'; there are: {', '.join(map(str, splits)) or 'none'}.{near}"
        fix = "Rename one, or name it in the task's `splits`."
        raise DataError(fault(place, "", found, fix))
    return table_rows(splits[split], place=f"{place}['{split}']")


def table_rows(table: Any, *, place: str) -> RowSource:
    """The rows of a table in memory.

    Args:
        table: a datasets.Dataset, a pandas DataFrame or a sequence of mappings.
        place: its name in messages.
    Raises:
        DataError: the table is of another type.
    """
    if _is_a(table, "datasets", "Dataset"):
        return DatasetRows(place, table.with_format(None), {})
    if _is_a(table, "pandas", "DataFrame"):
        return FrameRows(place, table)
    if isinstance(table, Sequence) and not isinstance(table, (str, bytes)):
        return ListRows(place, table)
    raise DataError(fault(place, "", f"a {type(table).__name__}; expected rows", EXPECTED))


def is_table(rows: object) -> bool:
    """Whether the rows have named columns, and are not plain texts."""
    return _is_a(rows, "datasets", "Dataset") or _is_a(rows, "pandas", "DataFrame") or _starts_with_mapping(rows)


def _is_a(value: object, module: str, name: str) -> bool:
    """Whether a value is an instance of a library's class; if so, the library has been imported by the caller."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _starts_with_mapping(rows: object) -> bool:
    return isinstance(rows, Sequence) and len(rows) > 0 and isinstance(rows[0], Mapping)


@dataclass(frozen=True, eq=False)
class TableRows(RowSource):
    """Rows of a table in memory: numbers become text, null and NaN empty; `id` is by default the row's number."""

    place: str  # type: ignore[misc]
    table: Any

    @abstractmethod
    def records(self, start: int, stop: int) -> Iterator[Any]:
        """Rows `start` to `stop` − 1, counted from 0; each is a mapping, unless the caller gave something else."""

    def parts(self, size: int = PART_BYTES) -> Iterator[Part]:
        yield from equal_parts(len(self.table), size)

    def names(self) -> list[str]:
        return paths_of(each for each in self.records(0, len(self.table)) if isinstance(each, Mapping))

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
    """Rows of a pandas DataFrame; its index is not a column."""

    def faults(self, columns: RowColumns) -> list[Fault]:
        present = list(map(str, self.table.columns))
        if repeated := repeated_columns(columns, present):
            return [fault(self.place, "", repeated, RENAME_ALL_BUT_ONE)]
        asked = asked_for(columns, present)
        needed = [path for path in asked if not roots([path], present)]  # of the others, rows are looked into
        missing = missing_columns(needed, list(dict.fromkeys([*present, *self.names()]))) if needed else ""
        return super().faults(columns) + ([fault(self.place, "", missing, RENAME_COLUMN)] if missing else [])

    @cached_property
    def _whole(self) -> set[str]:
        """Columns of whole numbers that pandas stores as floats because a value is missing."""
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
    """Rows of a `datasets.Dataset` in memory; class numbers are read as class names."""

    column_fix: ClassVar[str] = RENAME_COLUMN

    def sha256(self) -> str:
        """Hash of the content: the library's fingerprint may depend on how the rows were made."""
        plain = self.dataset.with_format("arrow")  # images and audio stay encoded
        blocks = plain.iter(ROWS_READ_AT_ONCE) if len(plain) else ()
        names = repr(self._class_names) if self._class_names else ""
        return content_sha256((row for block in blocks for row in block.to_pylist()), head=names)


def _row(record: Any, columns: RowColumns, where: Place) -> Row | Fault:
    if not isinstance(record, Mapping):
        return fault(where, "", f"a {type(record).__name__}; expected a dict of columns", EXPECTED)
    record = with_nested(record, columns)
    if missing := missing_columns(asked_for(columns, record), list(record)):
        return fault(where, "", missing, RENAME_COLUMN)
    values = named_values(record, columns, where.line)
    broken = [name for name, value in values.items() if not _is_text(value)]
    if broken:
        return fault(where, broken[0], "an unpaired surrogate ('\\ud8…' alone)", "Give both halves of the pair.")
    return Row(values, where)


def _is_text(value: Any) -> bool:
    """Whether a text, or every text in a list, can be encoded as UTF-8: a Python text may have unpaired surrogates."""
    if isinstance(value, list):
        return all(map(_is_text, value))
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True


def _plain(record: Mapping[Any, Any]) -> dict[str, Any]:
    """The record as plain Python values: names as texts, tuples as lists, NumPy-like numbers and arrays converted."""
    return {str(name): _plain_value(value) for name, value in record.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain(value)
    plain = value.tolist() if hasattr(value, "tolist") else value
    return [_plain_value(each) for each in plain] if isinstance(plain, (list, tuple)) else plain


def content_sha256(records: Iterable[Any], *, head: str = "") -> str:
    """SHA-256 of the content of rows, in hexadecimal; it does not depend on the kind of table.

    Args:
        records: the rows.
        head: text hashed before the rows: what else affects how they are read.
    """
    digest = hashlib.sha256(head.encode())
    for record in records:
        digest.update(sorted_json(record, default=repr, ascii=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()
