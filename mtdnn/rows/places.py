"""Where the rows of a task lie, and in which format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtdnn.config.tasks import TaskDef
from mtdnn.errors import DataError, Fault, fault, unknown
from mtdnn.rows.memory import rows_in_memory
from mtdnn.rows.source import Row, RowColumns, RowSource, told_unreadable
from mtdnn.rows.tables import ParquetRows, hub_rows
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
    """The rows of a file, by its ending.

    Raises:
        DataError: no such file, or an ending that is none of ours.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        found = unknown("ending", path.suffix, SUFFIXES)
        raise DataError(fault(str(path), "", found))
    if not _is_file(path):
        raise DataError(fault(str(path), "", "no such file", "Check the path."))
    return FORMATS[path.suffix](path)


Data = str | Path | Mapping[str, Mapping[str, Any]] | None
"""Where rows are: a folder of files; or task → split → datasets.Dataset, pandas DataFrame or list of dicts."""


def open_split(task: TaskDef, split: str, data: Data) -> RowSource:
    """The rows of one split of a task, from memory, from its `source` or from files under `data`.

    Args:
        task: its definition.
        split: name of the split.
        data: folder of the rows, or rows in memory.
    Raises:
        DataError: there are none.
    """
    if isinstance(data, Mapping) and (task.name in data or task.source is None):
        return rows_in_memory(task, split, data)
    if task.source is not None:
        return hub_rows(task.source, split, where=task.where("source"))
    if data is None or isinstance(data, Mapping):
        raise DataError(
            task.fault("source", "no rows: no data folder was given and the task has no source", "Give --data.")
        )
    return rows_of(find_split(data, task.name, split))


def find_split(data: str | Path, task: str, split: str) -> Path:
    """The file of a split: `<data>/<task>/<split>.tsv` or `<data>/<task>_<split>.tsv`, or with another known ending.

    Args:
        data: folder of the rows.
        task: its name.
        split: name of the split.
    Raises:
        DataError: there is none, or more than one.
    """
    data = Path(data)
    places = [data / task / split, data / f"{task}_{split}"]
    found = [path for place in places for path in _with_suffixes(place) if _is_file(path)]
    if len(found) == 1:
        return found[0]
    where = str(places[0])
    if found:
        names = " and ".join(map(str, found))
        raise DataError(fault(where, "", f"more than one file for this split: {names}", "Keep one of them."))
    looked = f"{places[0]}.tsv, {places[1]}.tsv (or {', '.join(SUFFIXES[1:])})"
    raise DataError(fault(where, "", f"no rows for this split; looked for {looked}", _what_is_there(data, task)))


def _is_file(path: Path) -> bool:
    """Whether there is such a file; DataError when its folder may not be searched."""
    try:
        return path.is_file()
    except OSError as error:
        raise DataError(told_unreadable(str(path), error)) from error


def _with_suffixes(place: Path) -> list[Path]:
    return [place.with_name(place.name + suffix) for suffix in SUFFIXES]


def _what_is_there(data: Path, task: str) -> str:
    """The fix for a split that is missing: what the folder has instead."""
    if not data.is_dir():
        return f"There is no folder {data}."
    there = [*(data / task).glob("*.*"), *data.glob(f"{task}_*.*")]
    names = sorted(path.relative_to(data).as_posix() for path in there if path.suffix in SUFFIXES)
    if names:
        return f"There are: {', '.join(names)}. Rename a file, or name its split in the task's `splits`."
    return f"{data} has nothing for task '{task}'."


def read_rows(path: str | Path, columns: RowColumns) -> Iterator[Row | Fault]:
    """All rows of a file, one after another; in place of a row that cannot be read, the line that tells its fault.

    Raises:
        DataError: the file as a whole is unusable: missing, empty, another encoding, or without a column.
    """
    source = rows_of(path)
    found = source.faults(columns)
    if found:
        raise DataError(found)
    for part in source.parts():
        yield from source.read(part, columns)
