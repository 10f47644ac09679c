"""Where the rows of a task are, and in which format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtdnn.config.tasks import TaskDef
from mtdnn.errors import DataError, Fault, did_you_mean, fault, unknown
from mtdnn.rows.data_sets import hub_rows
from mtdnn.rows.memory import rows_in_memory
from mtdnn.rows.parquet import ParquetRows
from mtdnn.rows.shared import RenamedRows
from mtdnn.rows.source import Row, RowColumns, RowSource, unreadable_fault
from mtdnn.rows.text import CsvRows, JsonlRows, PlainRows, TsvRows

FORMATS: dict[str, type[TsvRows] | type[JsonlRows] | type[CsvRows] | type[ParquetRows] | type[PlainRows]] = {
    ".tsv": TsvRows,
    ".jsonl": JsonlRows,
    ".csv": CsvRows,
    ".parquet": ParquetRows,
    ".txt": PlainRows,
}
SUFFIXES = tuple(FORMATS)


def rows_of(path: str | Path) -> RowSource:
    """The rows of a file; the format follows from its ending.

    Raises:
        DataError: there is no such file, or its ending is unknown.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        found = unknown("ending", path.suffix, SUFFIXES)
        raise DataError(fault(str(path), "", found, "Rename the file."))
    if not _is_file(path):
        raise DataError(fault(str(path), "", "no such file", "Check the path."))
    return FORMATS[path.suffix](path)


Data = str | Path | Mapping[str, Mapping[str, Any]] | None
"""Where rows are: a folder of files; or task → split → datasets.Dataset, pandas DataFrame or list of dicts."""


def open_split(task: TaskDef, split: str, data: Data) -> RowSource:
    """The rows of one split of a task, from memory, from its `source` or from files under `data`.

    Args:
        task: the task's definition.
        split: name of the split.
        data: folder of the rows, or rows in memory.
    Raises:
        DataError: the rows are not found.
    """
    if isinstance(data, Mapping) and (task.unit in data or task.source is None):
        return as_task_sees(task, rows_in_memory(task, split, data))
    if task.source is not None:
        return hub_rows(task.source, split, where=task.where("source"))
    if data is None or isinstance(data, Mapping):
        raise DataError(
            task.fault("source", "no rows: no data folder was given and the task has no source", "Give --data.")
        )
    rows = rows_of(find_split(data, task.unit, split))
    if task.rows is not None and not rows.has_names:
        found = f"'{task.name}' shares these rows and names its columns, but this format has no names"
        raise DataError(fault(rows.place, "", found, "Give .jsonl, .csv or .parquet."))
    return as_task_sees(task, rows)


def as_task_sees(task: TaskDef, rows: RowSource) -> RowSource:
    """The rows under the task's names of columns, if it shares rows; else as they are."""
    if task.rows is None:
        return rows
    return RenamedRows(rows, task.rows.columns)


def find_split(data: str | Path, task: str, split: str) -> Path:
    """The file of a split: `<data>/<task>/<split>.tsv` or `<data>/<task>_<split>.tsv`, or with another known ending.

    Args:
        data: folder of the rows.
        task: name of the task.
        split: name of the split, or of a file in `data` with its ending.
    Raises:
        DataError: there is no such file, or more than one.
    """
    data = Path(data)
    if Path(split).suffix in SUFFIXES:
        return data / split
    places = [data / task / split, data / f"{task}_{split}"]
    found = [path for place in places for path in _with_suffixes(place) if _is_file(path)]
    if len(found) == 1:
        return found[0]
    where = str(places[0])
    if found:
        names = " and ".join(map(str, found))
        raise DataError(fault(where, "", f"more than one file for this split: {names}", "Keep one of them."))
    looked = f"{places[0]}.tsv, {places[1]}.tsv (or {', '.join(SUFFIXES[1:])})"
    raise DataError(fault(where, "", f"no rows for this split; looked for {looked}", _files_found(data, task, split)))


def _is_file(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        DataError: its folder may not be searched.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise DataError(unreadable_fault(str(path), error)) from error


def _with_suffixes(place: Path) -> list[Path]:
    return [place.with_name(place.name + suffix) for suffix in SUFFIXES]


def _files_found(data: Path, task: str, split: str) -> str:
    """What to do about a missing split: the message lists what the folder has instead, and the nearest name."""
    if not data.is_dir():
        return f"There is no folder {data}. Check the path."
    there = [*(data / task).glob("*.*"), *data.glob(f"{task}_*.*")]
    splits = {
        path.relative_to(data).as_posix(): path.stem.removeprefix(f"{task}_")
        for path in there
        if path.suffix in SUFFIXES
    }
    if splits:
        near = did_you_mean(split, splits.values())
        return f"There are: {', '.join(sorted(splits))}.{near} Rename a file, or name its split in the task's `splits`."
    return f"{data} has no files for task '{task}'. Add them, or remove the task."


def read_rows(path: str | Path, columns: RowColumns) -> Iterator[Row | Fault]:
    """All rows of a file in order; in place of a row that cannot be read, its error.

    Raises:
        DataError: the file as a whole cannot be used: it is missing, empty, not UTF-8, or lacks a column.
    """
    source = rows_of(path)
    found = source.faults(columns)
    if found:
        raise DataError(found)
    yield from source.read_all(columns)
