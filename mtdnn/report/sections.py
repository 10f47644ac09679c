"""Sections of the reports of both a run and a study: tables and pictures from predictions and logs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtdnn.metrics.base import Record, labelled_records
from mtdnn.report.agreement import Agreement, by_agreement, usual_votes
from mtdnn.report.document import Block, Heading, Picture, Place, Table, Text, row
from mtdnn.report.pictures import Panel, Point, Series, bar_panels, line_panels
from mtdnn.report.read import (
    MAX_CHARACTERS,
    MAX_LABELS,
    confusion,
    cut_at_word,
    read_curves,
    row_texts,
    worst,
)
from mtdnn.study.statistics import Spread, spread
from mtdnn.task_types.base import TaskType

SHORT_ANSWER = 24  # characters of a label among the worst errors that stays on one line
LOSS_POINTS = 120  # of a curve; longer ones are averaged in equal stretches


def unknown_scales_note(names: Sequence[str]) -> list[Text]:
    """A note on metrics of unknown direction; empty without any."""
    if not names:
        return []
    note = (
        f"Whether larger is better is unknown for {', '.join(names)}: the results do not state it, and this version "
        "does not have the metric. The values are shown unchanged, and none is marked as the best."
    )
    return [Text(note, note=True)]


def is_loss(name: str) -> bool:
    """Whether a value of a task in the log is a loss: `task`, `proximal`, or a regularizer's name.

    The others are the count of steps, the norm of the whole gradient, and further values of a loss, `smart.…` or
    `gradient.…`.
    """
    return name not in ("steps", "gradient_norm") and "." not in name


def loss_section(runs: Mapping[str, Sequence[Path]]) -> list[Block]:
    """Loss curves per task.

    Args:
        runs: label → folders of runs, of different tasks. With one label, every named loss is drawn; with several, the
            task's own.
    """
    panels: dict[str, list[Series]] = {}
    for label, folders in runs.items():
        for task, losses in (pair for folder in folders for pair in read_curves(folder).losses.items()):
            for name, points in losses.items():
                if name == "task" or (len(runs) == 1 and is_loss(name)):
                    panels.setdefault(task, []).append(Series(label if len(runs) > 1 else name, _thinned(points)))
    if not panels:
        return []
    pictures = [Panel(task, series, x_label="step", y_label="loss") for task, series in panels.items()]
    caption = "Training loss of each task, mean over the steps between two lines of the log."
    return [Heading("Loss curves"), Picture("losses", line_panels(pictures, name="losses"), caption)]


def _thinned(points: Sequence[tuple[int, float]]) -> list[Point]:
    stretch = math.ceil(len(points) / LOSS_POINTS) or 1
    parts = [points[start : start + stretch] for start in range(0, len(points), stretch)]
    return [Point(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def confusion_section(
    splits: Mapping[tuple[str, str], Mapping[str, Iterable[Record]]],
    labels: Mapping[str, Sequence[str]],
    *,
    of: str = "",
) -> list[Block]:
    """A confusion matrix for each split of a task with single labels.

    Args:
        splits: (task, split) → label of a run → its records.
        labels: task → its labels whose confusions count, in order; empty or absent: none do.
        of: description of these runs.
    """
    blocks: list[Block] = []
    for (task, split), runs in splits.items():
        for label, records in runs.items():
            names = list(labels.get(task, ()))
            if 2 <= len(names) <= MAX_LABELS and any(record["label"] is not None for record in records):
                caption = ", ".join(part for part in (task, split, label) if part)
                blocks.append(_matrix(confusion(records, names), names, caption))
    if not blocks:
        return []
    note = f"Rows: the label; columns: the prediction{f'; {of}' if of else ''}."
    return [Heading("Confusion matrices"), Text(note, note=True), *blocks]


def label_section(splits: Mapping[tuple[str, str], Iterable[Record]], types: Mapping[str, TaskType]) -> list[Block]:
    """A table of scores per label, for each split of a task with sets of labels.

    Args:
        splits: (task, split) → its records.
        types: task → its type.
    """
    blocks: list[Block] = []
    for (task, split), records in splits.items():
        if task not in types or type(types[task]).label_scores is TaskType.label_scores:  # nothing to read them for
            continue
        labelled = labelled_records(records)
        found = types[task].label_scores(labelled) if labelled else {}
        columns = list(next(iter(found.values()), {}))
        rows = [row(name, *(_number(values[each]) for each in columns)) for name, values in found.items()]
        if rows:
            blocks.append(Table(["label", *columns], rows, caption=f"{task}, {split}"))
    return [Heading("Labels"), *blocks] if blocks else []


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _matrix(counts: Sequence[Sequence[int]], names: Sequence[str], caption: str) -> Table:
    rows = []
    for name, line in zip(names, counts, strict=True):
        total = max(1, sum(line))
        places = [Place(f"{count} ({100 * count / total:.0f} %)", heat=count / total) for count in line]
        rows.append([Place(name), *places])
    return Table(["", *names], rows, caption=caption, matrix=True)


Units = Sequence[Sequence[Iterable[Record]]]
"""Records of the runs of each unit; see `mtdnn.study.statistics.entries`."""


def agreement_section(
    tasks: Mapping[str, Mapping[str, Units]],
    annotators: Mapping[str, Sequence[str]],
    labels: Mapping[str, Sequence[str]],
) -> list[Block]:
    """Accuracy and cross-entropy by the annotators' agreement, for each task they annotated.

    Args:
        tasks: task, or task and split → label of a run → records of each of its runs, by unit.
        annotators: row id → labels.
        labels: the same keys → the task's labels, in order.
    """
    blocks: list[Block] = []
    for task, of_labels in tasks.items():
        measured = {label: _agreements(runs, annotators, labels[task]) for label, runs in of_labels.items()}
        found = {label: entries for label, entries in measured.items() if entries}
        if found:
            blocks += [Heading(task, 3), _agreement_picture(task, found), _agreement_table(found)]
    votes = usual_votes(annotators)
    if not blocks:
        return [Heading("Agreement of the annotators"), Text(_no_agreement(tasks, annotators, labels, votes))]
    explanation = (
        f"Rows that {votes} annotators voted on, by how their votes fall on the labels. Accuracy counts a prediction "
        "as right when no label has more votes; cross-entropy is that of the model's probabilities to the votes, in "
        "nats, as they are and at the temperature T that brings it to its least over all rows: what is left then is no "
        "matter of being more or less sure of everything. Means over the runs; lines on the bars: 95 % t "
        "intervals."
    )
    return [Heading("Agreement of the annotators"), Text(explanation), *blocks]


def _no_agreement(
    tasks: Mapping[str, Mapping[str, Units]],
    annotators: Mapping[str, Sequence[str]],
    labels: Mapping[str, Sequence[str]],
    votes: int,
) -> str:
    """The reason why there is nothing to show."""
    units = [unit for of_labels in tasks.values() for each in of_labels.values() for unit in each]
    runs = [records for unit in units for records in unit if records]
    if not runs:
        return "Nothing to show: no predictions of a classification into labels."
    if not votes:
        return f"Nothing to show: none of the {len(annotators)} rows of the annotators' file has more than one vote."
    known = {str(record["id"]) for records in runs for record in records} & annotators.keys()
    if not known:
        return "Nothing to show: no row of the annotators' file has the id of a predicted row."
    if not any(len(annotators[row_id]) == votes for row_id in known):
        return (
            f"Nothing to show: of the predicted rows none has {votes} votes, as most rows of the annotators' file have."
        )
    named = ", ".join(dict.fromkeys(f"`{name}`" for task in tasks for name in labels[task]))
    return f"Nothing to show: every row has a vote for a label that is none of the task's: {named}."


@dataclass(frozen=True)
class Agreements:
    """Results of one pattern of votes, over the units: of each the mean of its runs."""

    rows: Agreement
    accuracy: Spread
    cross_entropy: Spread
    tempered: Spread
    temperature: Spread


def _agreements(units: Units, annotators: Mapping[str, Sequence[str]], labels: Sequence[str]) -> dict[str, Agreements]:
    """Pattern → its numbers over the units."""
    groups: dict[str, list[list[Agreement]]] = {}
    for runs in units:
        of_unit: dict[str, list[Agreement]] = {}
        for records in runs:
            for entry in by_agreement(records, annotators, labels=labels):
                of_unit.setdefault(entry.pattern, []).append(entry)
        for name, found in of_unit.items():
            groups.setdefault(name, []).append(found)

    def over_units(found: list[list[Agreement]], name: str, scale: float = 1) -> Spread:
        given = [[value for entry in of_unit if (value := getattr(entry, name)) is not None] for of_unit in found]
        return spread([scale * statistics.fmean(values) for values in given if values])

    others = ("cross_entropy", "tempered", "temperature")
    return {
        name: Agreements(found[0][0], over_units(found, "accuracy", 100), *(over_units(found, each) for each in others))
        for name, found in groups.items()
    }


def _agreement_picture(task: str, found: Mapping[str, Mapping[str, Agreements]]) -> Picture:
    groups = list(dict.fromkeys(pattern for entries in found.values() for pattern in entries))
    panels = []
    for title, unit_name in (("accuracy", "%"), ("cross-entropy to the votes", "nats")):
        series = []
        for label, entries in found.items():
            points = []
            for pattern, entry in entries.items():
                each = entry.accuracy if unit_name == "%" else entry.cross_entropy
                points.append(Point(groups.index(pattern), each.mean, each.low, each.high))
            series.append(Series(label, points))
        panels.append(Panel(title, series, "votes", unit_name))
    caption = f"{task} by agreement of the annotators, from all votes for one label to divided ones."
    return Picture(f"agreement-{task}", bar_panels(panels, name=f"agreement-{task}", groups=groups), caption)


def _agreement_table(found: Mapping[str, Mapping[str, Agreements]]) -> Table:
    lines = [
        row(label, name, f"{each.rows.count}", f"{each.accuracy.mean:.1f}", _mean(each.cross_entropy, 3),
            _mean(each.tempered, 3), _mean(each.temperature, 2), f"{each.rows.entropy:.3f}")
        for label, entries in found.items()
        for name, each in entries.items()
    ]  # fmt: skip
    return Table(["", "votes", "rows", "accuracy, %", "cross-entropy", "at T", "T", "least possible"], lines)


def _mean(found: Spread, digits: int) -> str:
    """The mean of some values; a dash without any, as of predictions without probabilities."""
    return f"{found.mean:.{digits}f}" if found.count else "–"


def worst_section(
    splits: Mapping[tuple[str, str], Mapping[Path, Iterable[Record]]], types: Mapping[str, TaskType], *, count: int
) -> list[Block]:
    """The rows that most runs predicted wrongly, with their texts if the rows are available.

    Args:
        splits: (task, split) → folder of a run → its records.
        types: task → its type; tasks without one are left out.
        count: rows of each split.
    """
    blocks: list[Block] = []
    for (task, split), runs in splits.items():
        mistakes = worst(list(runs.values()), count, task_type=types[task]) if task in types else []
        if not mistakes:
            continue
        texts = row_texts(next(iter(runs)), task, split, [mistake.row_id for mistake in mistakes])
        inputs = list(next(iter(texts.values()), {}))
        lines = []
        for mistake in mistakes:
            found = texts.get(mistake.row_id, {})
            words = (*(found.get(name, "") for name in inputs), mistake.label, mistake.prediction)
            often = f"{mistake.wrong} of {mistake.runs}" if mistake.runs > 1 else ""
            places = row(mistake.row_id, *map(cut_at_word, words), f"{mistake.size:.2f}", often)
            lines.append(places if any(each.runs > 1 for each in mistakes) else places[:-1])
        head = ["row", *inputs, "label", "prediction", "off by"]
        head = [*head, "wrong in"] if len(lines[0]) > len(head) else head
        answers = range(1 + len(inputs), 3 + len(inputs))
        long = any(len(line[column].text) > SHORT_ANSWER for line in lines for column in answers)
        prose = range(1, answers.stop if long else answers.start)
        blocks += [Heading(f"{task}, {split}", 3), Table(head, lines, prose=prose)]
    if not blocks:
        return []
    note = (
        "Off by: the probability given to the wrong label, or the distance from the right number, mean over the runs "
        f"that got the row wrong. Texts end after {MAX_CHARACTERS} characters; choices are separated by a slash."
    )
    return [Heading("Worst errors"), Text(note, note=True), *blocks]
