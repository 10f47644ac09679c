"""results.csv: one line per cell, task, split and metric, with the study's axes as columns.

Nothing in it depends on the clock, on the machine or on the order in which cells ran. A text that a spreadsheet
would take for a formula has a `'` before it, which `read_csv` removes. A cell of an axis is empty where the stage lacks
the axis; an axis value that is an empty text is `'` alone.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from mtdnn.errors import DataError, fault
from mtdnn.metrics.base import SCALES, Scale, Scales

FIXED = ("stage", "outcome", "task", "split", "train_rows", "metric", "value", "run")
FORMULA = re.compile(r"'*([=+\-@\t\r]|\Z)")
"""How a text begins that spreadsheets take for a formula, or that was such a text and has been guarded; or no text."""

SCALE = ("direction", "percent")
"""Columns of every study (`direction` and `percent` are missing in old files); no axis may have one of these names."""


@dataclass(frozen=True)
class Line:
    """One value of a metric.

    Attributes:
        axes: axis → value name, of the axes of its stage.
        outcome: finished, or diverged, with empty split and metric and a value of None.
        scale: of the metric.
        train_rows: training rows of the task in the run; None if the run was not trained on it.
        run: folder of the run, relative to the study's.
    """

    stage: str
    axes: Mapping[str, str]
    outcome: str
    task: str
    split: str
    train_rows: int | None
    metric: str
    value: float | None
    run: str
    scale: Scale


def lines_of(
    stage: str, axes: Mapping[str, str], outcome: Mapping[str, Any], *, run: str, lost: Sequence[str] = ()
) -> Iterator[Line]:
    """The lines of one finished cell, by task; a diverged cell has a line for each task in `lost`.

    A task's splits are in the order of its results, which is that of their roles: the dev split, on which axes are
    tuned, is first. Of a split's metrics the main one is first.

    Args:
        stage: name of the stage.
        axes: axis → value name.
        outcome: the cell's outcome.
        run: folder of the run.
        lost: tasks of a run that diverged.
    """
    if outcome["outcome"] == "diverged":
        for task in lost:
            yield Line(stage, axes, "diverged", task, "", None, "", None, run, Scale())
        return
    rows: Mapping[str, int] = outcome.get("rows", {})
    scales = Scales(outcome["results"].get(SCALES))
    for task in sorted(name for name in outcome["results"] if not name.startswith("_")):
        for split, values in outcome["results"][task].items():
            for metric, value in values.items():
                yield Line(stage, axes, "finished", task, split, rows.get(task), metric, value, run, scales[metric])


def to_csv(lines: Sequence[Line], axes: Sequence[str]) -> str:
    """The text of results.csv; numbers with all their digits."""
    rows: list[list[str | None]] = [["stage", *axes, *FIXED[1:], *SCALE], *(_cells(line, axes) for line in lines)]
    return "".join(f"{','.join(map(_cell, cells))}\n" for cells in rows)


def _cells(line: Line, axes: Sequence[str]) -> list[str | None]:
    rows = None if line.train_rows is None else str(line.train_rows)
    value = None if line.value is None else repr(line.value)
    scale = (line.scale.direction, str(line.scale.percent)) if line.metric else (None, None)
    values = [line.axes.get(axis) for axis in axes]
    split, metric = line.split or None, line.metric or None  # of a run that diverged
    return [line.stage, *values, line.outcome, line.task, split, rows, metric, value, line.run, *scale]


def _cell(text: str | None) -> str:
    """A text as a cell; Python's own writer leaves a carriage return without quotes, which its reader then refuses."""
    if text is None:
        return ""
    text = _guarded(text)
    return '"' + text.replace('"', '""') + '"' if re.search(r'[,"\r\n]', text) else text


def _guarded(text: str) -> str:
    """The text as a cell that no spreadsheet computes; numbers stay as they are."""
    return f"'{text}" if FORMULA.match(text) and not _is_number(text) else text


def _unguarded(cell: str) -> str:
    """The text of a cell; `_guarded` undone."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


REWRITE = "Run `mtdnn study` again, which writes this file."


def read_csv(path: Path) -> list[Line]:
    """The lines of a results.csv.

    Raises:
        DataError: the file does not exist, or is no results.csv.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a mark first
            records = list(csv.DictReader(file))
    except OSError as error:
        found = f"cannot be read: {error.strerror}"
        raise DataError(fault(str(path), "", found, "Run `mtdnn study` first.")) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(fault(str(path), "", f"damaged: {error}", REWRITE)) from error
    missing = [name for name in FIXED if records and name not in records[0]]
    if missing:
        raise DataError(fault(f"{path}:1", "", f"no column '{missing[0]}'", "Give a results.csv of `mtdnn study`."))
    if uneven := next(
        (number for number, record in enumerate(records, 2) if None in {*record, *record.values()}), None
    ):
        raise DataError(fault(f"{path}:{uneven}", "", "damaged: its cells are not those of the header", REWRITE))
    texts = [
        {_unguarded(name): _unguarded(cell) for name, cell in record.items() if cell or name in (*FIXED, *SCALE)}
        for record in records
    ]
    if strange := next((record["run"] for record in texts if not _is_within(record["run"])), None):
        raise DataError(fault(str(path), "run", f"{strange!r} is no run within this study", REWRITE))
    try:
        return [_line(record) for record in texts]
    except ValueError as error:
        raise DataError(fault(str(path), "", f"damaged: {error}", REWRITE)) from error


def _is_within(run: str) -> bool:
    """Whether the path of a run stays in the folder of its study, so that a report reads nothing else."""
    path = PurePath(run)
    return not path.is_absolute() and ".." not in path.parts


def _line(record: Mapping[str, str]) -> Line:
    axes = {name: value for name, value in record.items() if name not in (*FIXED, *SCALE)}
    value = float(record["value"]) if record["value"] else None
    if (value is None) != (not record["metric"]):
        raise ValueError("a metric without a value, or a value without a metric")
    if value is not None and not math.isfinite(value):
        raise ValueError(f"the value {record['value']!r} of {record['metric']} is not finite")
    return Line(
        stage=record["stage"], axes=axes, outcome=record["outcome"], task=record["task"], split=record["split"],
        train_rows=int(record["train_rows"]) if record["train_rows"] else None, metric=record["metric"],
        value=value, run=record["run"], scale=_scale(record),
    )  # fmt: skip


def _scale(record: Mapping[str, str]) -> Scale:
    """The scale in a line; for a line of an earlier version, this version's scale of the metric."""
    direction, percent = record.get("direction"), record.get("percent")
    is_percent = {"true": True, "false": False}.get((percent or "").lower())  # spreadsheets write TRUE
    if direction and is_percent is None:
        raise ValueError(f"percent is {percent!r}, neither True nor False")
    stored = {"direction": direction, "range": [None, None], "percent": is_percent}
    return Scales({record["metric"]: stored} if direction else {})[record["metric"]]
