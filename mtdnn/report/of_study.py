"""The folder of a study → its report: tables as in papers, curves, tests against the reference, errors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from mtdnn.errors import DataError, MtdnnError, fault
from mtdnn.metrics.records import read_records
from mtdnn.report.document import Block, Document, Heading, Picture, Place, Table, Text, row
from mtdnn.report.pictures import Panel, Point, Series, interval_panels, learning_curve
from mtdnn.report.read import label_names, most_frequent_share
from mtdnn.report.sections import (
    agreement_section,
    confusion_section,
    difference,
    is_percent,
    loss_section,
    scale,
    shown,
    unit,
    worst_section,
)
from mtdnn.runs.folder import RunFolder
from mtdnn.study.statistics import COUNTS, SAME, Entry, best_of, entries, main_metrics, no_better_than_chance
from mtdnn.study.table import Line, read_csv

SIGNIFICANT = 0.05
BOLD = (
    "Bold: the best mean of its column, each of them where several are equal; whether chance explains it is not asked."
)


@dataclass
class StudyView:
    """A study as the report sees it.

    Attributes:
        lines: of results.csv.
        compared: those of the compared runs, counts left out; where axes were tuned, of their best values alone.
        table: every place of its tables.
        cells: as in study.json.
    """

    folder: Path
    lines: list[Line]
    compared: list[Line]
    table: list[Entry]
    cells: list[dict[str, Any]]
    compare: str
    reference: str
    across: str | None
    repeats: str
    labels_axis: bool

    @property
    def main(self) -> list[Entry]:
        """The entries of each task's main metric on its first split."""
        return [entry for entry in self.table if (entry.split, entry.metric) == self.first[entry.task]]

    @property
    def first(self) -> dict[str, tuple[str, str]]:
        """Task → its first split and main metric."""
        found: dict[str, tuple[str, str]] = {}
        for entry in self.table:
            found.setdefault(entry.task, (entry.split, entry.metric))
        return found

    @property
    def columns(self) -> list[str]:
        """Values of `across`, in the order of the study; one empty one without it."""
        return list(dict.fromkeys(entry.across for entry in self.main))

    def outcome(self, name: str) -> dict[str, Any]:
        """outcome.json of a cell; empty when it is not finished."""
        path = self.folder / "cells" / name / "outcome.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def study_document(folder: Path, *, annotators: Mapping[str, Sequence[str]], worst: int) -> Document:
    """The report of a study.

    Raises:
        DataError: no cell of it is finished.
    """
    view = read_study(folder)
    document = Document(f"Study {folder.resolve().name}")
    document.add(*_about(view))
    if not view.main:
        document.add(Text(f"No run that `{view.compare}` is compared over has a result yet."))
    elif not view.across:
        document.add(*_overview(view))
    for task in dict.fromkeys(entry.task for entry in view.main) if view.across else ():
        document.add(*_task_across(view, task))
    document.add(*_tests(view), *_other_metrics(view), *_starting_points(view))
    runs = _representatives(view)
    document.add(*loss_section(_by_label(runs)))
    predictions = _predictions(view, runs)
    document.add(*confusion_section(predictions, of=_which(view)))
    if annotators:
        document.add(*agreement_section(_records_of_runs(view), annotators))
    document.add(*worst_section(_all_predictions(view), count=worst))
    return document


def read_study(folder: Path) -> StudyView:
    """What the folder of a study holds."""
    plan = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    lines = read_csv(folder / "results.csv")
    if not any(line.value is not None for line in lines):
        raise DataError(fault(str(folder), "", "no cell is finished", "Let `mtdnn study` run first."))
    wanted = plan["study"].get("report") or _by_default(lines)
    compare, across = wanted["compare"], wanted.get("across")
    best_over = wanted.get("best_over") or ()
    reference = wanted.get("reference") or next((line.axes[compare] for line in lines if compare in line.axes), "")
    repeats = wanted.get("repeats") or "seed"
    compared = [line for line in lines if compare in line.axes and line.metric not in COUNTS]
    compared = best_of(compared, compare=compare, across=across, best_over=best_over)
    table = entries(compared, compare=compare, reference=reference, across=across, repeats=repeats, best_over=best_over)
    return StudyView(
        folder, lines, compared, table, plan["cells"], compare, reference, across, repeats,
        wanted.get("labels_axis", False),
    )  # fmt: skip


def _by_default(lines: Sequence[Line]) -> dict[str, Any]:
    """Compare the first axis of the last stage that is not the seed."""
    axes = [axis for axis in lines[-1].axes if axis != "seed"]
    return {"compare": axes[0] if axes else "seed", "repeats": "seed"}


def _about(view: StudyView) -> list[Block]:
    found = {cell["name"]: view.outcome(cell["name"]) for cell in view.cells}
    finished = [outcome for outcome in found.values() if outcome]
    diverged = sum(outcome["outcome"] == "diverged" for outcome in finished)
    made_by = [outcome["results"].get("_run", {}) for outcome in finished if outcome["results"]]
    commits = {each.get("commit", "unknown") for each in made_by}
    hours = sum(outcome.get("seconds", 0.0) for outcome in finished) / 3600
    told = f"{len(finished)} of {len(view.cells)} cells finished, {diverged} of them diverged; {hours:.1f} h of runs."
    told = f"{told} Commit {', '.join(f'`{commit}`' for commit in sorted(commits))}."
    if not view.main:
        return [Text(told)]
    method = (
        f"Values are mean ± sample standard deviation over `{view.repeats}`, with the number of runs in brackets. "
        f"Intervals are 95 % bootstrap intervals of the mean; tests are paired by `{view.repeats}` against "
        f"`{view.reference}`."
    )
    return [Text(told), Text(method, note=True)]


def _task_across(view: StudyView, task: str) -> list[Block]:
    """A task's curve and table over the axis of the columns."""
    here = [entry for entry in view.main if entry.task == task]
    split, metric = view.first[task]
    floor = _floor(view, task, split)
    blocks: list[Block] = [Heading(f"{task}: {metric} on {split}")]
    if view.labels_axis and all(entry.train_rows for entry in here if entry.spread.count):
        caption = (
            f"{task}: {metric} against the number of training rows (log axis). Bands: 95 % bootstrap intervals of the "
            "mean; small dots: single runs; dotted line: always the most frequent label."
        )
        svg = learning_curve(_curve_panel(here, metric, floor, compare=view.compare), name=f"curve-{task}")
        blocks.append(Picture(f"curve-{task}", svg, caption))
    columns = list(dict.fromkeys(entry.across for entry in here))
    rows_of = {entry.across: entry.train_rows for entry in here if entry.train_rows is not None}
    heads = [_column_name(value, rows_of.get(value)) for value in columns]
    caption = f"{unit(metric)}; columns: {view.across} (training rows)."
    blocks.append(_table(here, columns, heads, key=lambda entry: entry.across, caption=caption, floors={task: floor}))
    return blocks


def _column_name(value: str, rows: float | None) -> str:
    return value if rows is None else f"{value} ({rows:,.0f})"


def _curve_panel(here: Sequence[Entry], metric: str, floor: float | None, *, compare: str) -> Panel:
    series = []
    for label in dict.fromkeys(entry.label for entry in here):
        points = [_point(entry) for entry in here if entry.label == label and entry.spread.count]
        series.append(Series(label, sorted(points, key=lambda point: point.x)))
    return Panel("", series, "training rows", unit(metric), floor=None if floor is None else scale(metric) * floor)


def _point(entry: Entry) -> Point:
    factor, spread = scale(entry.metric), entry.spread
    low, high = (None if bound is None else factor * bound for bound in (spread.low, spread.high))
    return Point(entry.train_rows or 0.0, factor * spread.mean, low, high, [factor * v for v in entry.values.values()])


def _table(
    here: Sequence[Entry],
    columns: Sequence[str],
    heads: Sequence[str],
    *,
    key: Callable[[Entry], str],
    caption: str,
    floors: Mapping[str, float | None],
) -> Table:
    """Labels × columns: mean ± deviation (runs), the best means of each column in bold."""
    best = {}
    for column in columns:
        means = {entry.label: entry.spread.mean for entry in here if key(entry) == column and entry.spread.count}
        metric = next(entry.metric for entry in here if key(entry) == column)
        best[column] = _best(means, larger=is_percent(metric)) if len(means) > 1 else set()
    lines = []
    for label in dict.fromkeys(entry.label for entry in here):
        found = {key(entry): entry for entry in here if entry.label == label}
        places = [_place(found.get(column), best[column], floors) for column in columns]
        lines.append([Place(label), *places])
    return Table(["", *heads], lines, caption=f"{caption} {BOLD}" if any(best.values()) else caption)


def _best(means: Mapping[str, float], *, larger: bool) -> set[str]:
    """The labels of the best mean; several where they tie."""
    best = (max if larger else min)(means.values())
    return {label for label, mean in means.items() if math.isclose(mean, best, rel_tol=SAME, abs_tol=SAME)}


def _place(entry: Entry | None, best: Collection[str], floors: Mapping[str, float | None]) -> Place:
    if entry is None:
        return Place("")
    notes, floor = [], floors[entry.task]
    if entry.diverged:
        notes.append(f"{entry.diverged} diverged")
    if floor is not None and (failed := no_better_than_chance(entry, floor)):
        notes.append(f"{failed} at chance")
    text = _mean(entry)
    return Place(f"{text} [{', '.join(notes)}]" if notes else text, strong=entry.label in best)


def _mean(entry: Entry) -> str:
    """`87.5 ± 5.9 (2)`, or a dash where every run diverged."""
    spread, metric = entry.spread, entry.metric
    if not spread.count:
        return "–"
    if spread.std is None:
        return f"{shown(metric, spread.mean)} (1)"
    return f"{shown(metric, spread.mean)} ± {shown(metric, spread.std)} ({spread.count})"


def _overview(view: StudyView) -> list[Block]:
    """All tasks in one table, as papers have it, and the same as a picture."""
    tasks = list(dict.fromkeys(entry.task for entry in view.main))
    heads = [f"{task}: {view.first[task][1]}" for task in tasks]
    floors = {task: _floor(view, task, view.first[task][0]) for task in tasks}
    panels = []
    for task, floor in floors.items():
        here = [entry for entry in view.main if entry.task == task and entry.spread.count]
        series = [Series(entry.label, [_point(entry)]) for entry in here]
        metric = view.first[task][1]
        panels.append(Panel(task, series, unit(metric), floor=None if floor is None else scale(metric) * floor))
    caption = (
        "Large dots: means; bars: 95 % bootstrap intervals; small dots: single runs; dotted line: always the most "
        "frequent label."
    )
    told = "Rates and correlations in percent; errors and losses as they are."
    return [
        Heading("Results"),
        _table(view.main, tasks, heads, key=lambda entry: entry.task, caption=told, floors=floors),
        Picture("overview", interval_panels(panels, name="overview"), caption),
    ]


def _tests(view: StudyView) -> list[Block]:
    """Each method minus the reference, per task."""
    lines = []
    for entry in _in_order(view):
        if entry.comparison is None:
            continue
        found, metric = entry.comparison.difference, entry.metric
        better = found.mean > 0 if is_percent(metric) else found.mean < 0
        sure = entry.comparison.t_p is not None and entry.comparison.t_p < SIGNIFICANT
        interval = "" if found.low is None or found.high is None else (
            f"{difference(metric, found.low)} … {difference(metric, found.high)}"
        )  # fmt: skip
        places = row(entry.task, *([entry.across] if view.across else []), entry.label)
        trend = ("up" if better else "down") if sure else ""
        places.append(Place(difference(metric, found.mean), strong=sure, trend=trend))
        places += row(interval, str(found.count), _p(entry.comparison.t_p), _p(entry.comparison.wilcoxon_p))
        lines.append(places)
    if not lines:
        return []
    across = [view.across] if view.across else []
    minus = f"minus {view.reference}"
    head = ["task", *across, view.compare, minus, "95 % interval", "pairs", "t-test p", "Wilcoxon p"]
    note = (
        f"Bold and coloured: p below {SIGNIFICANT} in the paired t-test, without correction for the number of tests. "
        "With n pairs Wilcoxon's p cannot be below 2/2ⁿ. The t-test has no p where all differences are the same."
    )
    title = f"Difference to {view.reference}, per task"
    return [Heading(title), Table(head, lines, words=[1, 2] if view.across else [1]), Text(note, note=True)]


def _in_order(view: StudyView) -> list[Entry]:
    """The main entries by task, then by column, then by label, each in the study's own order."""
    if not view.main:
        return []
    tasks, columns, labels = (
        {name: place for place, name in enumerate(dict.fromkeys(names))}
        for names in zip(*((entry.task, entry.across, entry.label) for entry in view.main), strict=True)
    )
    return sorted(view.main, key=lambda entry: (tasks[entry.task], columns[entry.across], labels[entry.label]))


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _other_metrics(view: StudyView) -> list[Block]:
    """Metrics and splits beside the main ones."""
    rest = [entry for entry in view.table if (entry.split, entry.metric) != view.first[entry.task]]
    if not rest:
        return []
    lines = []
    for entry in rest:
        across = [entry.across] if view.across else []
        lines.append(row(entry.task, entry.split, *across, entry.label, entry.metric, _mean(entry)))
    head = ["task", "split", *([view.across] if view.across else []), view.compare, "metric", "value"]
    return [Heading("Other splits and metrics"), Table(head, lines, words=range(1, len(head) - 1))]


def _starting_points(view: StudyView) -> list[Block]:
    """Main metrics of the stages that are not compared: what the others start from."""
    lines = [line for line in view.lines if view.compare not in line.axes and line.metric not in COUNTS]
    main = main_metrics(lines)
    lines = [line for line in lines if line.value is None or line.metric == main[line.task]]
    if not lines:
        return []
    places = [
        row(line.stage, ", ".join(f"{axis} {value}" for axis, value in line.axes.items()), line.task, line.split,
            line.metric, "diverged" if line.value is None else shown(line.metric, line.value))
        for line in lines
    ]  # fmt: skip
    head, caption = ["stage", "cell", "task", "split", "metric", "value"], ""
    gains = _minus_alone(view, lines)
    if any(gains):
        places = [[*each, Place(gain)] for each, gain in zip(places, gains, strict=True)]
        head.append("minus alone")
        caption = (
            "Minus alone: minus the mean of the runs (their number in brackets) that trained that task alone, from the "
            "same encoder and on as many rows."
        )
    return [Heading("Runs the others start from"), Table(head, places, caption=caption, words=range(1, 5))]


def _minus_alone(view: StudyView, lines: Sequence[Line]) -> list[str]:
    """For each line of a multi-task run its difference to the same task trained alone; empty without such runs.

    Of the compared runs only the reference's count.
    """
    trained: dict[str, set[str]] = {}
    for line in view.lines:
        if line.train_rows is not None:
            trained.setdefault(line.run, set()).add(line.task)
    encoder = cache(partial(_encoder_of, view.folder))
    reference = [line for line in view.compared if line.axes[view.compare] == view.reference]
    alone = [line for line in (*reference, *lines) if trained.get(line.run) == {line.task} and line.value is not None]

    def gain(line: Line) -> str:
        if line.value is None or line.train_rows is None or len(trained[line.run]) < 2:
            return ""
        same = [
            other
            for other in alone
            if (other.task, other.split, other.metric, other.train_rows)
            == (line.task, line.split, line.metric, line.train_rows)
            and encoder(other.run) == encoder(line.run) != ""
        ]
        kinds = {tuple((axis, value) for axis, value in other.axes.items() if axis != view.repeats) for other in same}
        if len(kinds) != 1:  # none, or different ways of training it, of which none is the one to compare with
            return ""
        values = [other.value for other in same if other.value is not None]
        return f"{difference(line.metric, line.value - sum(values) / len(values))} ({len(values)})"

    return [gain(line) for line in lines]


def _encoder_of(folder: Path, run: str) -> str:
    """The encoder a run started from; empty when that is another run's, or not known any more."""
    try:
        encoder = RunFolder(folder / run).read_config().encoder
    except (MtdnnError, OSError):
        return ""
    return encoder if isinstance(encoder, str) else ""


def _floor(view: StudyView, task: str, split: str) -> float | None:
    """Accuracy of always giving the most frequent label, where accuracy is the main metric."""
    if view.first[task][1] != "accuracy":
        return None
    for line in view.compared:
        path = RunFolder(view.folder / line.run).prediction_file(task, split)
        if line.task == task and path.exists():
            return most_frequent_share(read_records(path))
    return None


def _representatives(view: StudyView) -> dict[tuple[str, str], Path]:
    """(task, label) → one run: the first repeat at the last column."""
    columns = view.columns
    found: dict[tuple[str, str], tuple[int, Path]] = {}
    for line in view.compared:
        if line.value is not None:
            place = columns.index(line.axes.get(view.across or "", columns[0])) if view.across else 0
            key = (line.task, line.axes[view.compare])
            if key not in found or place > found[key][0]:
                found[key] = (place, view.folder / line.run)
    return {key: path for key, (_, path) in found.items()}


def _which(view: StudyView) -> str:
    """Which runs stand for all."""
    return (
        f"first run of each at {view.across} {view.columns[-1]}" if view.across and view.main else "first run of each"
    )


def _by_label(runs: Mapping[tuple[str, str], Path]) -> dict[str, list[Path]]:
    """Label → runs, each once."""
    found: dict[str, list[Path]] = {}
    for (_, label), run in runs.items():
        if run not in found.setdefault(label, []):
            found[label].append(run)
    return found


def _predictions(view: StudyView, runs: Mapping[tuple[str, str], Path]) -> dict[tuple[str, str], dict[str, Any]]:
    """(task, first split) → label → records, of the representatives."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for (task, label), run in runs.items():
        split = view.first.get(task, ("", ""))[0]
        path = RunFolder(run).prediction_file(task, split)
        if path.exists():
            found.setdefault((task, split), {})[label] = read_records(path)
    return found


def _records_of_runs(view: StudyView) -> dict[str, dict[str, list[Any]]]:
    """Task → label → records of all splits, of each compared run at the last column."""
    columns = view.columns
    runs: dict[tuple[str, str], list[str]] = {}
    for line in view.compared:
        if not view.across or line.axes.get(view.across) == columns[-1]:
            folders = runs.setdefault((line.task, line.axes[view.compare]), [])
            folders += [line.run] if line.run not in folders else []
    found: dict[str, dict[str, list[Any]]] = {}
    for (task, label), folders in runs.items():
        for folder in folders:
            paths = sorted(RunFolder(view.folder / folder).predictions.glob(f"{task}.*.jsonl"))
            records = [record for path in paths for record in read_records(path)]
            if label_names(records):
                found.setdefault(task, {}).setdefault(label, []).append(records)
    return found


def _all_predictions(view: StudyView) -> dict[tuple[str, str], dict[Path, Any]]:
    """(task, first split) → run → records, of every compared run."""
    found: dict[tuple[str, str], dict[Path, Any]] = {}
    for line in view.compared:
        place = (line.task, line.split)
        if view.first.get(line.task, ("",))[0] == line.split:
            path = RunFolder(view.folder / line.run).prediction_file(*place)
            if path.exists() and view.folder / line.run not in found.get(place, {}):
                found.setdefault(place, {})[view.folder / line.run] = read_records(path)
    return found
