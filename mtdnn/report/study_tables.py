"""The tables and curves of a study's report, from a `StudyView`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial

from mtdnn.metrics.base import Scale
from mtdnn.report.document import Block, Heading, Picture, Place, Table, row
from mtdnn.report.pictures import Panel, Point, Series, interval_panels, learning_curve
from mtdnn.report.study_view import StudyView, encoder_of, floor_of
from mtdnn.report.together import tasks_of_runs
from mtdnn.study.statistics import COUNTS, SAME, Entry, main_metrics, no_better_than_chance
from mtdnn.study.table import Line

BOLD = "Bold: the best mean of its column, each of them where several are equal; without a test against chance."


def task_across(view: StudyView, task: str) -> list[Block]:
    """A task's curve and table over the axis of the columns."""
    here = [entry for entry in view.main if entry.task == task]
    split, metric = view.first[task]
    floor = floor_of(view, task, split)
    blocks: list[Block] = [Heading(f"{task}: {metric} on {split}")]
    if view.labels_axis and all(entry.train_rows for entry in here if entry.spread.count):
        caption = (
            f"{task}: {metric} against the number of training rows (log axis). Bands: 95 % t intervals of the "
            "mean; small dots: single runs; dotted line: always the most frequent label."
        )
        svg = learning_curve(_curve_panel(here, metric, floor, compare=view.compare), name=f"curve-{task}")
        blocks.append(Picture(f"curve-{task}", svg, caption))
    columns = list(dict.fromkeys(entry.across for entry in here))
    rows_of = {entry.across: entry.train_rows for entry in here if entry.train_rows is not None}
    heads = [_column_name(value, rows_of.get(value)) for value in columns]
    caption = f"{here[0].scale.unit(metric)}; columns: {view.across} (training rows)."
    blocks.append(_table(here, columns, heads, key=lambda entry: entry.across, caption=caption, floors={task: floor}))
    return blocks


def _column_name(value: str, rows: float | None) -> str:
    return value if rows is None else f"{value} ({rows:,.0f})"


def _curve_panel(here: Sequence[Entry], metric: str, floor: float | None, *, compare: str) -> Panel:
    series = []
    for label in dict.fromkeys(entry.label for entry in here):
        points = [_point(entry) for entry in here if entry.label == label and entry.spread.count]
        series.append(Series(label, sorted(points, key=lambda point: point.x)))
    scale = here[0].scale
    floor = None if floor is None else scale.factor * floor
    return Panel("", series, "training rows", scale.unit(metric), floor=floor)


def _point(entry: Entry) -> Point:
    factor, spread = entry.scale.factor, entry.spread
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
        scale = next(entry.scale for entry in here if key(entry) == column)
        best[column] = _best(means, scale) if len(means) > 1 else set()
    lines = []
    for label in dict.fromkeys(entry.label for entry in here):
        found = {key(entry): entry for entry in here if entry.label == label}
        places = [_place(found.get(column), best[column], floors) for column in columns]
        lines.append([Place(label), *places])
    return Table(["", *heads], lines, caption=f"{caption} {BOLD}" if any(best.values()) else caption)


def _best(means: Mapping[str, float], scale: Scale) -> set[str]:
    """The labels of the best mean; several if they are equal, none for a metric of unknown direction."""
    if scale.direction == "unknown":
        return set()
    best = max(means.values(), key=scale.gain)
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
    """`87.5 ± 5.9 (2)`, or a dash if every run diverged."""
    spread, scale = entry.spread, entry.scale
    if not spread.count:
        return "–"
    if spread.std is None:
        return f"{scale.shown(spread.mean)} (1)"
    return f"{scale.shown(spread.mean)} ± {scale.shown(spread.std)} ({spread.count})"


def overview(view: StudyView) -> list[Block]:
    """All tasks in one table, as in papers, and as a picture."""
    tasks = list(dict.fromkeys(entry.task for entry in view.main))
    heads = [f"{task}: {view.first[task][1]}" for task in tasks]
    floors = {task: floor_of(view, task, view.first[task][0]) for task in tasks}
    panels = []
    for task, floor in floors.items():
        here = [entry for entry in view.main if entry.task == task and entry.spread.count]
        series = [Series(entry.label, [_point(entry)]) for entry in here]
        metric, scale = view.first[task][1], here[0].scale if here else Scale()
        panels.append(Panel(task, series, scale.unit(metric), floor=None if floor is None else scale.factor * floor))
    caption = (
        "Large dots: means; bars: 95 % t intervals; small dots: single runs; dotted line: always the most "
        "frequent label."
    )
    explanation = "Values with one decimal are in percent, others unchanged."
    return [
        Heading("Results"),
        _table(view.main, tasks, heads, key=lambda entry: entry.task, caption=explanation, floors=floors),
        Picture("overview", interval_panels(panels, name="overview"), caption),
    ]


def other_metrics(view: StudyView) -> list[Block]:
    """Metrics and splits other than the main ones."""
    rest = [entry for entry in view.table if (entry.split, entry.metric) != view.first[entry.task]]
    if not rest:
        return []
    lines = []
    for entry in rest:
        across = [entry.across] if view.across else []
        lines.append(row(entry.task, entry.split, *across, entry.label, entry.metric, _mean(entry)))
    head = ["task", "split", *([view.across] if view.across else []), view.compare, "metric", "value"]
    return [Heading("Other splits and metrics"), Table(head, lines, words=range(1, len(head) - 1))]


def starting_points(view: StudyView) -> list[Block]:
    """Main metrics of the stages that are not compared, from which the others start."""
    lines = [line for line in view.lines if view.compare not in line.axes and line.metric not in COUNTS]
    main = main_metrics(lines)
    lines = [line for line in lines if line.value is None or line.metric == main[line.task]]
    if not lines:
        return []
    places = [
        row(line.stage, ", ".join(f"{axis} {value}" for axis, value in line.axes.items()), line.task, line.split,
            line.metric, "diverged" if line.value is None else line.scale.shown(line.value))
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
    trained = tasks_of_runs(view.lines)
    encoder = cache(partial(encoder_of, view.folder))
    reference = [line for line in view.compared if line.axes[view.compare] == view.reference]
    alone: dict[tuple[object, ...], list[Line]] = {}
    for line in (*reference, *lines):
        if trained.get(line.run) == {line.task} and line.value is not None:
            alone.setdefault(_measured_on(line), []).append(line)

    def gain(line: Line) -> str:
        if line.value is None or line.train_rows is None or len(trained[line.run]) < 2:
            return ""
        same = [each for each in alone.get(_measured_on(line), ()) if encoder(each.run) == encoder(line.run) != ""]
        return _minus_mean(line, same, view.repeats)

    return [gain(line) for line in lines]


def _measured_on(line: Line) -> tuple[object, ...]:
    """What two values have in common that can be compared."""
    return line.task, line.split, line.metric, line.train_rows


def _minus_mean(line: Line, alone: Sequence[Line], repeats: Sequence[str]) -> str:
    """A value minus the mean of runs alone, and their number; empty without such runs.

    Empty, too, where they were trained in different ways, of which none is the one to compare with.
    """
    ways = {tuple((axis, value) for axis, value in each.axes.items() if axis not in repeats) for each in alone}
    if line.value is None or len(ways) != 1:
        return ""
    values = [each.value for each in alone if each.value is not None]
    return f"{line.scale.difference(line.value - sum(values) / len(values))} ({len(values)})"
