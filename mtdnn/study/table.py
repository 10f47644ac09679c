"""results.csv: one line per cell, task, split and metric, with the study's axes as columns.

Nothing in it depends on the clock, on the machine or on the order in which cells were run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtdnn.errors import DataError, fault
from mtdnn.metrics.base import SCALES, Scale, Scales

FIXED = ("stage", "outcome", "task", "split", "train_rows", "metric", "value", "run")
SCALE = ("direction", "percent")
"""Columns that every study has, the first versions without the last two; no axis may have one of these names."""


@dataclass(frozen=True)
class Line:
    """One number.

    Attributes:
        axes: axis → value name; an axis its stage does not have is missing.
        outcome: finished, or diverged: then split and metric are empty and the value is None.
        scale: of the metric.
        train_rows: training rows of that task in that run; None where it was not trained on.
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
    """The lines of one finished cell, by task; a diverged one has a line for each task in `lost`.

    A task's splits come in the order of its results, which is that of their roles: what is tuned and shown first is the
    dev split, whatever its name. Of a split's metrics the main one comes first.

    Args:
        stage: name of the stage.
        axes: axis → value name.
        outcome: what the cell found.
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
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["stage", *axes, *FIXED[1:], *SCALE])
    for line in lines:
        values = [line.axes.get(axis, "") for axis in axes]
        rows = "" if line.train_rows is None else line.train_rows
        value = "" if line.value is None else repr(line.value)
        scale = (line.scale.direction, line.scale.percent) if line.metric else ("", "")
        writer.writerow(
            [line.stage, *values, line.outcome, line.task, line.split, rows, line.metric, value, line.run, *scale]
        )
    return out.getvalue()


def read_csv(path: Path) -> list[Line]:
    """The lines of a results.csv.

    Raises:
        DataError: no such file, or it is something else.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            records = list(csv.DictReader(file))
    except OSError as error:
        found = f"cannot be read: {error.strerror}"
        raise DataError(fault(str(path), "", found, "Run `mtdnn study` first.")) from error
    missing = [name for name in FIXED if records and name not in records[0]]
    if missing:
        raise DataError(fault(f"{path}:1", "", f"no column '{missing[0]}'", "Give a results.csv of `mtdnn study`."))
    return [_line(record) for record in records]


def _line(record: Mapping[str, str]) -> Line:
    axes = {name: value for name, value in record.items() if name not in (*FIXED, *SCALE) and value != ""}
    return Line(
        stage=record["stage"], axes=axes, outcome=record["outcome"], task=record["task"], split=record["split"],
        train_rows=int(record["train_rows"]) if record["train_rows"] else None, metric=record["metric"],
        value=float(record["value"]) if record["value"] else None, run=record["run"], scale=_scale(record),
    )  # fmt: skip


def _scale(record: Mapping[str, str]) -> Scale:
    """The scale in a line; of a line of an earlier version that which this version knows for the metric's name."""
    direction, percent = record.get("direction"), record.get("percent")
    stored = {"direction": direction, "range": [None, None], "percent": percent == "True"}
    return Scales({record["metric"]: stored} if direction else {})[record["metric"]]
