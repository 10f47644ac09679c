"""The folder of a study as read for its report: lines, tables' places, representative runs and their predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mtdnn.errors import DataError, MtdnnError, fault
from mtdnn.metrics.records import RecordFiles
from mtdnn.report.read import most_frequent_share, types_of_tasks
from mtdnn.runs.folder import RunFolder
from mtdnn.study.cells import read_outcome_file
from mtdnn.study.grid import PlannedCell, PlannedReport, read_plan
from mtdnn.study.statistics import COUNTS, MARGIN, Entry, best_of, entries, labels_of
from mtdnn.study.table import Line, read_csv
from mtdnn.task_types.base import TaskType


@dataclass
class StudyView:
    """A study as read for its report.

    Attributes:
        lines: of results.csv.
        compared: those of the compared runs, counts left out; where axes were tuned, of their best values alone.
        table: every place of its tables.
        cells: as in study.json.
        compare, reference, across, repeats, labels_axis, margin, best_over: as in the study's `report`.
    """

    folder: Path
    lines: list[Line]
    compared: list[Line]
    table: list[Entry]
    cells: list[PlannedCell]
    compare: str
    reference: str
    across: str | None
    repeats: tuple[str, ...]
    labels_axis: bool
    margin: float = MARGIN
    best_over: tuple[str, ...] = ()

    @cached_property
    def label_of(self) -> Callable[[Line], str]:
        """The label of a line of the compared runs in tables."""
        hidden = (self.across, *self.repeats, *self.best_over)
        return labels_of(self.compared, compare=self.compare, hidden=hidden)

    @cached_property
    def main(self) -> list[Entry]:
        """The entries of each task's main metric on its first split."""
        return [entry for entry in self.table if (entry.split, entry.metric) == self.first[entry.task]]

    @cached_property
    def first(self) -> dict[str, tuple[str, str]]:
        """Task → its first split and main metric."""
        found: dict[str, tuple[str, str]] = {}
        for entry in self.table:
            found.setdefault(entry.task, (entry.split, entry.metric))
        return found

    @cached_property
    def columns(self) -> list[str]:
        """Values of `across`, in the order of the study; one empty one without it."""
        return list(dict.fromkeys(entry.across for entry in self.main))

    @property
    def of_unknown_scale(self) -> list[str]:
        """Metrics of which neither its results.csv nor this version knows whether larger is better."""
        measured = [line for line in self.lines if line.metric and line.metric not in COUNTS]
        return list(dict.fromkeys(line.metric for line in measured if line.scale.direction == "unknown"))

    @cached_property
    def types(self) -> dict[str, TaskType]:
        """Task → its type, as the first run that measured it has it."""
        runs = {line.task: line.run for line in reversed(self.compared) if line.value is not None}
        read = {run: types_of_tasks(self.folder / run) for run in dict.fromkeys(runs.values())}
        return {task: read[run][task] for task, run in runs.items() if task in read[run]}

    @cached_property
    def labels(self) -> dict[str, Sequence[str]]:
        """Task → its labels whose confusions count, in order."""
        return {task: task_type.confusion_labels for task, task_type in self.types.items()}

    def outcome(self, name: str) -> dict[str, Any]:
        """outcome.json of a cell; empty when it is not finished."""
        return read_outcome_file(self.folder / "cells" / name / "outcome.json") or {}


def read_study(folder: Path) -> StudyView:
    """The content of a study's folder."""
    plan = read_plan(folder)
    lines = read_csv(folder / "results.csv")
    if not any(line.value is not None for line in lines):
        raise DataError(fault(str(folder), "", "no cell is finished", "Let `mtdnn study` run first."))
    wanted = plan["study"].get("report") or _by_default(lines)
    compare, across = wanted["compare"], wanted.get("across")
    best_over = wanted.get("best_over") or ()
    reference = wanted.get("reference") or next((line.axes[compare] for line in lines if compare in line.axes), "")
    repeats, margin = _words(wanted.get("repeats")) or ("seed",), wanted.get("margin", MARGIN)
    compared = [line for line in lines if compare in line.axes and line.metric not in COUNTS]
    compared = best_of(compared, compare=compare, across=across, best_over=best_over, repeats=repeats)
    table = entries(
        compared, compare=compare, reference=reference, across=across, repeats=repeats, margin=margin,
        best_over=best_over,
    )  # fmt: skip
    return StudyView(
        folder, lines, compared, table, plan["cells"], compare, reference, across, repeats,
        wanted.get("labels_axis", False), margin, tuple(best_over),
    )  # fmt: skip


def _words(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """The axes of `repeats`, which earlier versions wrote as one word."""
    return (value,) if isinstance(value, str) else tuple(value or ())


def _by_default(lines: Sequence[Line]) -> PlannedReport:
    """Compare the first axis of the last stage that is not the seed."""
    axes = [axis for axis in lines[-1].axes if axis != "seed"]
    return {"compare": axes[0] if axes else "seed", "repeats": "seed"}


def in_order(view: StudyView) -> list[Entry]:
    """The main entries by task, then by column, then by label, each in the study's own order."""
    if not view.main:
        return []
    tasks, columns, labels = (
        {name: place for place, name in enumerate(dict.fromkeys(names))}
        for names in zip(*((entry.task, entry.across, entry.label) for entry in view.main), strict=True)
    )
    return sorted(view.main, key=lambda entry: (tasks[entry.task], columns[entry.across], labels[entry.label]))


def encoder_of(folder: Path, run: str) -> str:
    """The encoder a run started from; empty when that is another run's, or not known any more."""
    try:
        encoder = RunFolder(folder / run).read_config().encoder
    except (MtdnnError, OSError):
        return ""
    return encoder if isinstance(encoder, str) else ""


def floor_of(view: StudyView, task: str, split: str) -> float | None:
    """Accuracy of always giving the most frequent label, where accuracy is the main metric.

    Args:
        view: the study as its report sees it.
        task: its name.
        split: name of the split.
    """
    if view.first[task][1] != "accuracy":
        return None
    for line in view.compared:
        path = RunFolder(view.folder / line.run).prediction_file(task, split)
        if line.task == task and path.exists():
            return most_frequent_share(RecordFiles(path), view.labels.get(task, ()))
    return None


def representatives(view: StudyView) -> dict[tuple[str, str], Path]:
    """(task, label) → one run: the first repeat at its last column."""
    found: dict[tuple[str, str], Path] = {}
    for line in lines_at_last_column(view):
        found.setdefault((line.task, line.axes[view.compare]), view.folder / line.run)
    return found


def lines_at_last_column(view: StudyView) -> list[Line]:
    """The measured lines of the compared runs, of each task and label those at its last column."""
    last, column = last_columns(view), view.across or ""
    measured = [line for line in view.compared if line.value is not None]
    return [line for line in measured if line.axes.get(column, "") == last[line.task, line.axes[view.compare]]]


def last_columns(view: StudyView) -> dict[tuple[str, str], str]:
    """(task, label) → the last column at which it has a run; empty without columns."""
    places = {column: place for place, column in enumerate(view.columns)}
    found: dict[tuple[str, str], str] = {}
    for line in view.compared:
        if line.value is not None:
            key, column = (line.task, line.axes[view.compare]), line.axes.get(view.across or "", "")
            found[key] = max(found.get(key, column), column, key=lambda each: places.get(each, -1))
    return found


def which_runs(view: StudyView) -> str:
    """The note on the representative runs."""
    columns = dict.fromkeys(last_columns(view).values())
    if not (view.across and view.main):
        return "first run of each"
    if len(columns) > 1:
        return f"first run of each at the last {view.across} it has"
    return f"first run of each at {view.across} {next(iter(columns))}"


def by_label(runs: Mapping[tuple[str, str], Path]) -> dict[str, list[Path]]:
    """Label → runs, each once."""
    found: dict[str, list[Path]] = {}
    for (_, label), run in runs.items():
        if run not in found.setdefault(label, []):
            found[label].append(run)
    return found


def predictions_of(view: StudyView, runs: Mapping[tuple[str, str], Path]) -> dict[tuple[str, str], dict[str, Any]]:
    """(task, first split) → label → records, of the representatives."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for (task, label), run in runs.items():
        split = view.first.get(task, ("", ""))[0]
        path = RunFolder(run).prediction_file(task, split)
        if path.exists():
            found.setdefault((task, split), {})[label] = RecordFiles(path)
    return found


def records_of_runs(view: StudyView) -> dict[tuple[str, str], dict[str, list[list[RecordFiles]]]]:
    """(task, split) → label → unit → records of its compared runs at their last column.

    Splits of which no two have a row of the same id are one, of an empty name: the votes of a row belong to one split.
    """
    runs: dict[str, dict[str, dict[str, dict[str, None]]]] = {}
    for line in lines_at_last_column(view):
        if view.labels.get(line.task):
            units = runs.setdefault(line.task, {}).setdefault(view.label_of(line), {})
            units.setdefault(line.axes.get(view.repeats[0], ""), {})[line.run] = None
    found: dict[tuple[str, str], dict[str, list[list[RecordFiles]]]] = {}
    for task, of_labels in runs.items():
        first = next(iter(next(iter(next(iter(of_labels.values())).values()))))
        for split, names in _splits_apart(RunFolder(view.folder / first), task).items():
            for label, units in of_labels.items():
                found.setdefault((task, split), {})[label] = [
                    [_records(RunFolder(view.folder / run), task, names) for run in folders]
                    for folders in units.values()
                ]
    return found


def _splits_apart(run: RunFolder, task: str) -> dict[str, list[str]]:
    """Split → itself, of those with predictions; if no id is in two of them, an empty name → all."""
    names = [path.name.removeprefix(f"{task}.").removesuffix(".jsonl") for path in _prediction_files(run, task)]
    ids = [{str(record["id"]) for record in _records(run, task, [name])} for name in names]
    return {"": names} if len(set().union(*ids)) == sum(map(len, ids)) else {name: [name] for name in names}


def _prediction_files(run: RunFolder, task: str) -> list[Path]:
    return sorted(run.predictions.glob(f"{task}.*.jsonl"))


def _records(run: RunFolder, task: str, splits: Sequence[str]) -> RecordFiles:
    paths = (run.prediction_file(task, split) for split in splits)
    return RecordFiles(*(path for path in paths if path.exists()))


def all_predictions(view: StudyView) -> dict[tuple[str, str], dict[Path, Any]]:
    """(task, first split) → run → records, of every compared run."""
    found: dict[tuple[str, str], dict[Path, Any]] = {}
    runs = {(line.task, line.split, line.run): None for line in view.compared if line.value is not None}
    for task, split, run in runs:
        path = RunFolder(view.folder / run).prediction_file(task, split)
        if view.first[task][0] == split and path.exists():
            found.setdefault((task, split), {})[view.folder / run] = RecordFiles(path, reopened=True)
    return found
