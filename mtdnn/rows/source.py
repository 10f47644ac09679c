"""What a source of rows is, wherever they lie.

A source is cut into parts of whole rows that different processes can read, each in memory of its own size.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from mtdnn.errors import Fault, Place, fault

PART_BYTES = 1 << 20
OPTIONAL = ("id", "label")  # columns that a format with named columns may lack


class Row(NamedTuple):
    """One row: column → value (text, or a list where JSON and Parquet have one), and its file and line."""

    values: dict[str, Any]
    where: Place


@dataclass(frozen=True)
class Part:
    """Consecutive whole rows of a source.

    Attributes:
        start, stop: bytes of a text file, rows of a table; `stop` is not included.
        first: number of the first line (text) or row (table), counted from 1.
    """

    start: int
    stop: int
    first: int


@dataclass(frozen=True)
class RowColumns:
    """What a row is asked to hold.

    Attributes:
        names: of its columns; in a file without header, their order.
        repeats_last: the last column may come any number of times, or holds a list; its value is a list.
    """

    names: tuple[str, ...]
    repeats_last: bool = False

    @property
    def needed(self) -> list[str]:
        """The columns that a format with named columns must have."""
        return [name for name in self.names if name not in OPTIONAL]


class RowSource(ABC):
    """Rows of one split, wherever they lie. Can be sent to another process.

    Attributes:
        place: path or data set name, for messages.
    """

    place: str

    @abstractmethod
    def parts(self, size: int = PART_BYTES) -> Iterator[Part]:
        """The source cut into parts of about `size` bytes, in order."""

    @abstractmethod
    def read(self, part: Part, columns: RowColumns) -> Iterator[Row | Fault]:
        """The rows of a part, or in place of a row that cannot be read the line that tells its fault."""

    @abstractmethod
    def sha256(self) -> str:
        """Hash of the content, to tell whether it changed."""

    def faults(self, columns: RowColumns) -> list[Fault]:
        """What is wrong with the source as a whole: it is empty, or lacks a column."""
        return [] if next(self.parts(), None) else [self.told_empty()]

    def told_empty(self) -> Fault:
        """The fault of a source that turned out to hold no row: a header alone, blank lines."""
        return fault(self.place, "", "no rows", "Add rows, or remove the split.")


def told_unreadable(place: str, error: OSError) -> Fault:
    """The fault of a file that is there and that the system does not let be read."""
    found = f"cannot be read: {error.strerror or error}"
    return fault(place, "", found, "Check its permissions, and the disk it lies on.")


def missing_columns(needed: Sequence[str], present: Sequence[str]) -> str:
    """What to say of columns that named rows lack; empty when all are there."""
    missing = [name for name in needed if name not in present]
    if not missing:
        return ""
    return f"no column '{missing[0]}'; present: {', '.join(map(str, present))}"


def named_values(values: Mapping[str, Any], columns: RowColumns, number: int | None) -> dict[str, Any]:
    """The asked columns of a row with names: numbers as text, null and NaN as empty, `id` by default its number.

    Args:
        values: column → value.
        columns: the columns that are asked for.
        number: of the row, from 1.
    """
    named = {name: _as_text(values.get(name)) for name in columns.names}
    if "id" in columns.names and is_missing(values.get("id")):
        named["id"] = str(number)
    if columns.repeats_last:
        named[columns.names[-1]] = _as_list(named[columns.names[-1]])
    return named


def _as_list(value: Any) -> list[Any]:
    """A list as it is; a text that is one in JSON, as in a cell of a .csv; anything else as a list of one."""
    if isinstance(value, str) and value.startswith("["):
        with suppress(ValueError):
            value = json.loads(value)
    return value if isinstance(value, list) else [value]


def is_missing(value: Any) -> bool:
    """Whether it stands for nothing: null, or NaN, by which pandas tells that nothing was there."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _as_text(value: Any) -> Any:
    if is_missing(value):
        return ""
    return str(value) if isinstance(value, (int, float)) else value
