"""Rows in memory for prediction: encoded rows without a file, and the task they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mtdnn.errors import ConfigError, DataError, fault, shortened
from mtdnn.rows.memory import is_table
from mtdnn.rows.places import SUFFIXES
from mtdnn.task_types.base import TaskType
from mtdnn.tokens.ragged import Column, Ragged

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame


@dataclass(frozen=True)
class MemoryStore:
    """Encoded rows in memory, with the interface of a `Store` for loaders."""

    columns: dict[str, Any]

    def __len__(self) -> int:
        return len(self.columns["id"])

    @property
    def lengths(self) -> np.ndarray:
        """[rows], tokens of each row."""
        lengths: np.ndarray = self.columns["input_ids"].lengths
        return lengths

    @property
    def ids(self) -> list[str]:
        """Ids of all rows."""
        return list(self.columns["id"])

    def take(self, rows: np.ndarray) -> dict[str, Column]:
        """The columns of the rows with these indices, in this order."""
        return {name: _chosen(column, rows) for name, column in self.columns.items()}


def _chosen(column: Column, rows: np.ndarray) -> Column:
    if isinstance(column, Ragged):
        return column.take(rows)
    return [column[row] for row in rows] if isinstance(column, list) else column[rows]


Rows: TypeAlias = (
    "str | Path | Sequence[str] | Sequence[Sequence[str]] | Sequence[Mapping[str, Any]] | Dataset | DataFrame"
)
"""A file of rows in a known format, the texts of each row, or rows with named columns in memory."""


def as_sequences(rows: Rows) -> Rows:
    """The rows, with each plain text as a row of that one text.

    Raises:
        DataError: a text in place of a file or a list of texts.
    """
    if isinstance(rows, str) and Path(rows).suffix not in SUFFIXES:
        fix = f"Give a list of texts, as [text], or a file: {', '.join(SUFFIXES)}."
        raise DataError(fault("rows", "", f"'{shortened(rows, 60)}' is no file of rows", fix))
    if isinstance(rows, (str, Path)) or is_table(rows):
        return rows
    return [(row,) if isinstance(row, str) else row for row in rows]


def task_of(rows: Rows, task_types: Mapping[str, TaskType]) -> str:
    """The task of these rows: the only one, or the first with as many columns as the first row.

    Formats with named columns, and empty input, count as the first task's.

    Raises:
        ConfigError: no task has this number of columns.
    """
    in_file, first = isinstance(rows, (str, Path)), next(iter(task_types))
    count = _num_columns(rows)
    if len(task_types) == 1 or count is None:
        return first
    columns = {name: each.columns if in_file else each.task.inputs for name, each in task_types.items()}
    open_ended = {name for name, each in task_types.items() if in_file and each.repeats_last}
    for name, names in columns.items():
        if count == len(names) or (name in open_ended and count > len(names)):
            return name
    counts = [f"{name}: {len(names)}{' or more' if name in open_ended else ''}" for name, names in columns.items()]
    what = "columns" if in_file else "texts"
    found = f"{count} {what} in a row; the run's tasks have other numbers ({', '.join(counts)})"
    raise ConfigError(fault("", "rows", found, "Name the task of these rows."))


def _num_columns(rows: Rows) -> int | None:
    """Number of columns of the first row of a .tsv, or of its texts; None if columns have names."""
    if is_table(rows):
        return None
    if not isinstance(rows, (str, Path)):
        return len(rows[0]) if len(rows) else None
    if Path(rows).suffix != ".tsv" or not Path(rows).is_file():
        return None
    with Path(rows).open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline().count("\t") + 1
