"""The interface of a source of rows.

A source is split into parts of complete rows, which different processes can read; only one part is in memory at a time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple
from unicodedata import normalize

from mtdnn.config.json_source import json_value
from mtdnn.errors import NOWHERE, DataError, Fault, Place, fault, shortened
from mtdnn.rows.lists import written_list

PART_BYTES = 1 << 20
MAX_ROW_BYTES = 16 << 20
"""Longest row; tokenizers need several hundred bytes per character, and abort the process if memory runs out."""

ROWS_PER_PART = PART_BYTES // 200  # of a table; a pair of sentences is about 200 bytes
ROWS_READ_AT_ONCE = 1000

MAX_NAMES_CHARACTERS = 500  # of the names of columns, in messages
RENAME_COLUMN = "Rename the column, or name it in the task's `columns`."
RENAME_ALL_BUT_ONE = "Rename all but one."
OPTIONAL = ("id", "label")  # columns that may be missing in a format with named columns


class Row(NamedTuple):
    """One row: column → value (a text, or a list in JSON and Parquet), and its place (file and line)."""

    values: dict[str, Any]
    where: Place


@dataclass(frozen=True)
class Part:
    """Consecutive complete rows of a source.

    Attributes:
        start, stop: byte offsets in a text file, row numbers in a table; `stop` is not included.
        first: number of the first line (text) or row (table), counted from 1.
    """

    start: int
    stop: int
    first: int


@dataclass(frozen=True)
class RowColumns:
    """The columns that a row must have.

    Attributes:
        names: names of the columns; in a file without a header also their order.
        repeats_last: the last column may be repeated, or contain a list; its value is always a list.
        renamed: our column → its name in formats with named columns, where that differs.
        optional: those that may be missing in a format with named columns.
        lenient: whether these may be missing even where they are renamed.
    """

    names: tuple[str, ...]
    repeats_last: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = OPTIONAL
    lenient: bool = False

    def theirs(self, name: str) -> str:
        """The name of one of our columns in a format with named columns."""
        return self.renamed.get(name, name)

    @property
    def needed(self) -> list[str]:
        """The columns, by their names there, that a format with named columns must have."""
        required = {*self.names} - {*self.optional} | ({*()} if self.lenient else {*self.renamed})
        return [self.theirs(name) for name in self.names if name in required]


class RowSource(ABC):
    """Rows of one split, from a file, a data set or memory. Can be pickled for another process.

    Attributes:
        place: path or data set name, for messages.
        has_names: its columns have names, and are not known by their order.
    """

    place: str
    has_names: ClassVar[bool] = True

    @abstractmethod
    def parts(self, size: int = PART_BYTES) -> Iterator[Part]:
        """The source cut into parts of about `size` bytes, in order."""

    @abstractmethod
    def read(self, part: Part, columns: RowColumns) -> Iterator[Row | Fault]:
        """The rows of a part; in place of a row that cannot be read, its error."""

    def read_all(self, columns: RowColumns) -> Iterator[Row | Fault]:
        """All rows in order; in place of a row that cannot be read, its error."""
        for part in self.parts():
            yield from self.read(part, columns)

    @abstractmethod
    def sha256(self) -> str:
        """Hash of the content, to detect changes."""

    def names(self) -> list[str]:
        """The names of its columns, in JSON lines those of all rows; empty if they have none."""
        return []

    def leaves(self) -> list[str]:
        """As `names`, without the columns that hold others."""
        return self.names()

    def faults(self, columns: RowColumns) -> list[Fault]:
        """Errors of the source as a whole: it is empty, or lacks a column."""
        return [] if next(self.parts(), None) else [self.empty_fault()]

    def empty_fault(self) -> Fault:
        """The error of a source without rows, such as one with only a header or blank lines."""
        return fault(self.place, "", "no rows", "Add rows, or remove the split.")


def unreadable_fault(place: str, error: OSError) -> Fault:
    """The error of a file that exists but cannot be read."""
    found = f"cannot be read: {error.strerror or error}"
    return fault(place, "", found, "Check its permissions, and its disk.")


def long_row_fault(where: Place) -> Fault:
    """The error of a row that is too long to be tokenized."""
    return fault(where, "", f"a row of more than {MAX_ROW_BYTES >> 20} MiB", "Split it into several rows.")


def equal_parts(num_rows: int, size: int) -> Iterator[Part]:
    """Parts of a table with `num_rows` rows, each of about `size` bytes."""
    step = max(1, size * ROWS_PER_PART // PART_BYTES)
    for start in range(0, num_rows, step):
        yield Part(start, min(start + step, num_rows), start + 1)


def asked_for(columns: RowColumns, present: Iterable[str]) -> list[str]:
    """The columns, by their names there, that must be present: the needed ones, and optional ones under another name.

    A column `Label`, or ` label` after a comma and a space, would else be overlooked, and its rows be unlabelled; so
    would `label` in some of the rows of a file that has it under the task's own name in others. A row's `id` may be
    missing in any case.

    Args:
        columns: the columns of the task.
        present: names of those there.
    """
    present, needed = [*map(str, present)], columns.needed
    optional = {name: columns.theirs(name) for name in columns.names if name in columns.optional and name != "id"}
    absent = {name: theirs for name, theirs in optional.items() if theirs not in present and theirs not in needed}
    plain = {plain_name(name) for name in present} if absent else set()
    return [*needed, *(each for name, each in absent.items() if name in present or plain_name(each) in plain)]


def plain_name(name: str) -> str:
    """A column's name as it is compared with others: without case, and without spaces or marks around it."""
    return normalize("NFC", name).strip("\ufeff\u200b \t\r\n\u00a0\"'").casefold()


def repeated_columns(columns: RowColumns, present: Sequence[str]) -> str:
    """The message for a column of the task that comes more than once in a table; empty if none does."""
    repeated = [name for name in map(columns.theirs, columns.names) if present.count(name) > 1]
    return f"{present.count(repeated[0])} columns are named '{repeated[0]}'" if repeated else ""


def missing_columns(needed: Sequence[str], present: Sequence[str]) -> str:
    """The message for missing columns of rows with names; empty if none is missing."""
    missing = [name for name in needed if name not in present]
    if not missing:
        return ""
    names = shortened(", ".join(map(str, present)), MAX_NAMES_CHARACTERS)
    return f"no column '{missing[0]}'; present: {names or 'none'}"


def named_values(values: Mapping[str, Any], columns: RowColumns, number: int | None) -> dict[str, Any]:
    """The needed columns of a row: numbers become text, null and NaN empty; `id` is by default the row's number.

    Args:
        values: column → value.
        columns: the needed columns.
        number: number of the row, from 1.
    """
    named = {name: _as_text(values.get(columns.theirs(name))) for name in columns.names}
    if "id" in columns.names and is_missing(values.get(columns.theirs("id"))):
        named["id"] = str(number)
    if columns.repeats_last:
        named[columns.names[-1]] = _as_list(named[columns.names[-1]])
    return named


def with_nested(values: Mapping[str, Any], columns: RowColumns) -> Mapping[str, Any]:
    """The values of a record with, in addition, those of nested columns that are asked for, such as `data.text`.

    A path with a number goes into a list, counted from 0. Nothing is there where the path leads through null, an empty
    list or an empty mapping; a mapping that has other names lacks the column, so that a typing error is reported.
    """
    paths = [path for path in map(columns.theirs, columns.names) if "." in path and path not in values]
    if not paths:
        return values
    found = {path: _at(values, path.split(".")) for path in paths}
    lacking = any(value is LACKING for value in found.values())
    return {**(flat(values) if lacking else values), **{k: v for k, v in found.items() if v is not LACKING}}


def roots(paths: Iterable[str], present: Container[str]) -> list[str]:
    """The columns that paths are, or lead into, each once; those that are not there are left out.

    Args:
        paths: names, or names and numbers joined by dots.
        present: names of the columns.
    """
    found = (path if path in present else path.split(".")[0] for path in paths)
    return [name for name in dict.fromkeys(found) if name in present]


LACKING = object()


def _at(value: Any, names: Sequence[str]) -> Any:
    """The value that a path of names and numbers leads to; LACKING if a mapping has no such name."""
    for name in names:
        if value is None or value == [] or value == {}:
            return None
        if isinstance(value, Mapping):
            value = value.get(name, LACKING)
        elif isinstance(value, (list, tuple)) and name.isdecimal():
            value = value[int(name)] if int(name) < len(value) else None
        else:
            return LACKING
    return value


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a record by path, as `with_nested` takes them; of a list of mappings, those of the first one."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = {"0": value[0]} if isinstance(value, list) and value and isinstance(value[0], Mapping) else value
        if isinstance(inner, Mapping) and inner:
            found |= {f"{name}.{below}": each for below, each in flat(inner).items()}
        else:
            found[str(name)] = value
    return found


def paths(values: Mapping[str, Any]) -> list[str]:
    """The names in a record, and after them the paths to what is nested in it."""
    return list(dict.fromkeys([*map(str, values), *flat(values)]))


def paths_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names and paths in any of the records, in the order in which they are first seen."""
    return list(dict.fromkeys(path for record in records for path in paths(record)))


def leaves_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The paths in any of the records, without those that are empty wherever they do not lead to others."""
    filled: dict[str, bool] = {}
    for record in records:
        for path, value in flat(record).items():
            filled[path] = filled.get(path, False) or not (value is None or value in ([], {}))
    inner = {path[:place] for path in filled for place, character in enumerate(path) if character == "."}
    return [path for path, has_value in filled.items() if has_value or path not in inner]


def _as_list(value: Any) -> list[Any]:
    """A list unchanged; that in a text, as in a cell of a .csv, if it is JSON or has texts; others as a list of one."""
    if isinstance(value, str) and value.startswith("["):
        with suppress(DataError):
            return _as_list(json_value(value, NOWHERE))
        found = written_list(value)
        return found if found and any(isinstance(each, str) for each in found) else [value]
    return value if isinstance(value, list) else [value]


def is_missing(value: Any) -> bool:
    """Whether a value is missing: null, or NaN, which pandas uses for missing values."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _as_text(value: Any) -> Any:
    if is_missing(value):
        return ""
    return str(value) if isinstance(value, (int, float)) else value
