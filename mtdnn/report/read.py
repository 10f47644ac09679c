"""Reads the folder of a run for its report: curves, predictions, and texts of rows. Needs no PyTorch."""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ValidationError
from typing_extensions import TypedDict

from mtdnn.config.json_source import json_lines
from mtdnn.data.manifest import read_manifest
from mtdnn.errors import MtdnnError
from mtdnn.metrics.base import Record
from mtdnn.rows.places import read_rows
from mtdnn.rows.source import Row, RowColumns
from mtdnn.runs.folder import RunFolder
from mtdnn.task_types.base import TASK_TYPES, Predictor, TaskType

logger = logging.getLogger(__name__)

MAX_LABELS = 12  # of a confusion matrix
MAX_CHARACTERS = 240  # of a text among the worst errors
CHOICES = " / "  # between the choices of a row


@dataclass(frozen=True)
class Curves:
    """A run's log as curves.

    Attributes:
        losses: task → name in the log (`task`, `smart`, and further values, `smart.…`) → [(step, value)].
        dev: task → split → metric → [(step, value)].
    """

    losses: dict[str, dict[str, list[tuple[int, float]]]]
    dev: dict[str, dict[str, dict[str, list[tuple[int, float]]]]]


Numbers = dict[str, float]


@dataclass(frozen=True)
class TaskAgreement:
    """How the tasks of a run agree, by the lines of its log.

    Attributes:
        tasks: names, in the order they first come.
        cosines: (task, other) → the cosine of their gradients at each logged step.
        affinities: (task, other) → by what share a step on the first lowered the loss of the second.
    """

    tasks: list[str]
    cosines: dict[tuple[str, str], list[float]]
    affinities: dict[tuple[str, str], list[float]]


class ConflictsRecord(TypedDict):
    """Tasks, and the cosine of each pair's gradients."""

    tasks: list[str]
    cosine: list[list[float]]


def _of_pairs(conflicts: ConflictsRecord) -> ConflictsRecord:
    """The conflicts, whose matrix has a row and a column for each task."""
    tasks, rows = conflicts["tasks"], conflicts["cosine"]
    if len(rows) != len(tasks) or any(len(row) != len(tasks) for row in rows):
        raise ValueError(f"expected a matrix of {len(tasks)} by {len(tasks)} numbers, as there are {len(tasks)} tasks")
    return conflicts


class LogRecord(TypedDict):
    """A line of log.jsonl, with the fields used by curves."""

    step: int
    train: NotRequired[dict[str, Numbers]]
    evaluation: NotRequired[dict[str, dict[str, Numbers]]]
    conflicts: NotRequired[Annotated[ConflictsRecord, AfterValidator(_of_pairs)]]
    affinity: NotRequired[dict[str, Numbers]]


def read_curves(run: Path) -> Curves:
    """The curves in a run's log.jsonl; empty if there is none.

    Raises:
        DataError: a line is not a log record.
    """
    curves = Curves({}, {})
    for record in _log_records(run / "log.jsonl"):
        for task, values in record.get("train", {}).items():
            for name, value in values.items():
                curves.losses.setdefault(task, {}).setdefault(name, []).append((record["step"], value))
        for task, splits in record.get("evaluation", {}).items():
            for split, metrics in splits.items():
                for name, value in metrics.items():
                    found = curves.dev.setdefault(task, {}).setdefault(split, {})
                    found.setdefault(name, []).append((record["step"], value))
    return curves


def read_agreement(run: Path) -> TaskAgreement:
    """The conflicts and affinities in a run's log.jsonl; empty if there are none.

    Raises:
        DataError: a line is not a log record.
    """
    found = TaskAgreement([], {}, {})
    tasks = dict[str, None]()
    for record in _log_records(run / "log.jsonl"):
        if "conflicts" in record:
            names, rows = record["conflicts"]["tasks"], record["conflicts"]["cosine"]
            tasks |= dict.fromkeys(names)
            for task, row in zip(names, rows, strict=True):
                for other, value in zip(names, row, strict=True):
                    found.cosines.setdefault((task, other), []).append(value)
        for task, others in record.get("affinity", {}).items():
            tasks |= dict.fromkeys([task])
            for other, value in others.items():
                found.affinities.setdefault((task, other), []).append(value)
    return TaskAgreement(list(tasks), found.cosines, found.affinities)


def _log_records(path: Path) -> Iterator[LogRecord]:
    """The lines of a log; an incomplete last line is skipped, as a resumed run removes it."""
    if path.exists():
        yield from (record for _, record in json_lines(path, LogRecord, fix="Remove this line.", cut_last=True))


def prediction_files(run: Path) -> dict[tuple[str, str], Path]:
    """(task, split) → prediction file, for every split predicted by a run."""
    found = {}
    for path in sorted(RunFolder(run).predictions.glob("*.jsonl")):
        task, _, split = path.stem.partition(".")
        found[task, split] = path
    return found


def types_of_tasks(run: Path) -> dict[str, TaskType]:
    """Task → its type, which knows the labels and the mistakes; without types whose code is not available."""
    try:
        tasks = RunFolder(run).read_tasks()
    except (MtdnnError, OSError):  # a report without them is still useful
        return {}
    found = {}
    for name, task in tasks.items():
        try:
            found[name] = TASK_TYPES.get(task.task_type, where=task.where("task_type"), key=f"{name}.task_type")(task)
        except (MtdnnError, ValidationError) as error:
            logger.warning("left out of confusions and errors: %s", error)
    return found


def confusion(records: Iterable[Record], labels: Sequence[str]) -> list[list[int]]:
    """[label][prediction] → rows; predictions that are not single labels are not counted."""
    pairs = ((record["label"], record["prediction"]) for record in records)
    counts = Counter(pair for pair in pairs if all(isinstance(answer, str) for answer in pair))
    return [[counts[label, prediction] for prediction in labels] for label in labels]


def most_frequent_share(records: Iterable[Record], labels: Sequence[str]) -> float | None:
    """Accuracy of always predicting the most frequent label; None if no record has a label."""
    counts = Counter(record["label"] for record in records if record["label"] in labels)
    return counts.most_common(1)[0][1] / counts.total() if counts else None


@dataclass(frozen=True)
class Mistake:
    """A row that runs got wrong.

    Attributes:
        size: probability of the wrong label, or distance from the right number; mean over the runs.
        wrong, runs: number of runs that got it wrong, and number of all runs.
    """

    row_id: str
    label: str
    prediction: str
    size: float
    wrong: int
    runs: int


def worst(runs: Sequence[Iterable[Record]], count: int, *, task_type: Predictor) -> list[Mistake]:
    """The rows that most runs predicted wrongly, the most confident errors first.

    Args:
        runs: records of the same split, from each run.
        count: largest number of rows.
        task_type: the type of their task.
    """
    found = (_mistake(str(records[0]["id"]), records, task_type) for records in _by_row(runs))
    mistakes = (mistake for mistake in found if mistake is not None)
    return heapq.nsmallest(count, mistakes, key=lambda each: (-each.wrong / each.runs, -each.size, each.row_id))


def _by_row(runs: Sequence[Iterable[Record]]) -> Iterator[list[Record]]:
    """The labelled records of each row, from all runs; row by row if the runs have the same rows in the same order."""
    apart: dict[str, list[Record]] = {}
    for records in zip_longest(*runs):
        given = [record for record in records if record is not None]
        labelled = [record for record in given if record["label"] is not None]
        if not apart and len(given) == len(runs) and len({str(record["id"]) for record in given}) == 1:
            if labelled:
                yield labelled
            continue
        for record in labelled:
            apart.setdefault(str(record["id"]), []).append(record)
    yield from apart.values()


def _mistake(row_id: str, records: Sequence[Record], task_type: Predictor) -> Mistake | None:
    """The errors of all runs on one row; None if there are none."""
    sizes = [(record["prediction"], size) for record in records if (size := task_type.mistake(record)) is not None]
    if not sizes:
        return None
    return Mistake(
        row_id,
        label=task_type.shown([records[0]["label"]]),
        prediction=task_type.shown([prediction for prediction, _ in sizes]),
        size=sum(size for _, size in sizes) / len(sizes),
        wrong=len(sizes),
        runs=len(records),
    )


def row_texts(run: Path, task: str, split: str, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Row id → input → its text, choices one after another; read from the file the rows were prepared from; empty if
    that cannot be read.

    Args:
        run: folder of the run.
        task: its name.
        split: name of the split.
        ids: ids of the rows.
    """
    folder = RunFolder(run)
    try:
        definition = folder.read_tasks()[task]
        manifest = read_manifest(Path(folder.read_config().data) / task / split)
        if manifest is None:
            return {}
        wanted, found = set(ids), {}
        task_type = TASK_TYPES.get(definition.task_type)(definition)
        columns = RowColumns(task_type.columns, task_type.repeats_last, definition.columns)
        for row in read_rows(manifest.source["path"], columns):
            if isinstance(row, Row) and row.values["id"] in wanted:
                found[row.values["id"]] = {name: _joined(row.values[name]) for name in definition.inputs}
        return found
    except (MtdnnError, OSError, KeyError, ValidationError):  # a report without texts is still useful
        return {}


def _joined(value: Any) -> str:
    return CHOICES.join(map(str, value)) if isinstance(value, list) else str(value)


def cut_at_word(text: str, length: int = MAX_CHARACTERS) -> str:
    """The text; if longer than `length` characters, its beginning up to the end of a word, and `…`."""
    if len(text) <= length:
        return text
    start, space, _ = text[:length].rpartition(" ")
    return f"{start if space and len(start) > length // 2 else text[: length - 1]}…"
