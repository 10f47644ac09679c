"""What a report reads from the folder of a run: curves, predictions, and the texts of rows. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from mtdnn.config.json_source import json_lines
from mtdnn.data.manifest import read_manifest
from mtdnn.errors import MtdnnError
from mtdnn.metrics.base import Record
from mtdnn.rows.places import read_rows
from mtdnn.rows.source import Row, RowColumns
from mtdnn.runs.folder import LABELS, RunFolder

MAX_LABELS = 12  # of a confusion matrix
MAX_CHARACTERS = 240  # of a text among the worst errors
CHOICES = " / "  # between the choices of a row


@dataclass(frozen=True)
class Curves:
    """A run's log as curves.

    Attributes:
        losses: task → name in the log (`task`, `smart`, and what is told about them, `smart.…`) → [(step, value)].
        dev: task → split → metric → [(step, value)].
    """

    losses: dict[str, dict[str, list[tuple[int, float]]]]
    dev: dict[str, dict[str, dict[str, list[tuple[int, float]]]]]


Numbers = dict[str, float]


class LogRecord(TypedDict):
    """A line of log.jsonl, as far as curves look at it."""

    step: int
    train: NotRequired[dict[str, Numbers]]
    evaluation: NotRequired[dict[str, dict[str, Numbers]]]


def read_curves(run: Path) -> Curves:
    """The curves in a run's log.jsonl; empty where there is none.

    Raises:
        DataError: a line is no record of a log.
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


def _log_records(path: Path) -> Iterator[LogRecord]:
    """The lines of a log; a last one that was cut short is passed over, as a resumed run forgets it."""
    if path.exists():
        yield from (record for _, record in json_lines(path, LogRecord, fix="Remove this line.", cut_last=True))


def prediction_files(run: Path) -> dict[tuple[str, str], Path]:
    """(task, split) → file of every split whose predictions a run holds."""
    found = {}
    for path in sorted(RunFolder(run).predictions.glob("*.jsonl")):
        task, _, split = path.stem.partition(".")
        found[task, split] = path
    return found


def confusion_labels(run: Path, task: str, records: Sequence[Record]) -> list[str]:
    """The labels of a task whose confusions count, in its order: as its type said when the run was evaluated.

    Runs of the first versions do not say; of those it is seen from the records.

    Args:
        run: folder of the run.
        task: its name.
        records: predictions of the task.
    """
    stored = RunFolder(run).read_results().get(LABELS, {}).get(task)
    return stored if isinstance(stored, list) else label_names(records)


def label_names(records: Sequence[Record]) -> list[str]:
    """The labels that records of a classification have scores of; empty of other ones."""
    first = next((record.get("scores") for record in records if record.get("scores")), None)
    if not isinstance(first, Mapping):
        return []
    # a row of multiple choice has scores as well, but of its own choices
    alike = all((record.get("scores") or first).keys() == first.keys() for record in records)
    named = all(isinstance(record["prediction"], str) and record["prediction"] in first for record in records)
    return list(first) if alike and named else []


def confusion(records: Sequence[Record], labels: Sequence[str]) -> list[list[int]]:
    """[label][prediction] → rows."""
    counts = Counter((record["label"], record["prediction"]) for record in records if record["label"] is not None)
    return [[counts[label, prediction] for prediction in labels] for label in labels]


def most_frequent_share(records: Iterable[Record]) -> float | None:
    """Accuracy of always giving the most frequent label; None without labels that are words."""
    labels = [record["label"] for record in records if isinstance(record.get("label"), str)]
    return Counter(labels).most_common(1)[0][1] / len(labels) if labels else None


@dataclass(frozen=True)
class Mistake:
    """A row that runs got wrong.

    Attributes:
        size: probability given to the wrong label, or distance from the right number; mean over the runs.
        wrong, runs: how many of how many runs got it wrong.
    """

    row_id: str
    label: str
    prediction: str
    size: float
    wrong: int
    runs: int


def worst(runs: Sequence[Sequence[Record]], count: int) -> list[Mistake]:
    """The rows that most runs got wrong, and among them those got wrong most surely.

    Args:
        runs: records of the same split, one list per run.
    """
    by_row: dict[str, list[Record]] = {}
    for records in runs:
        for record in records:
            if record["label"] is not None:
                by_row.setdefault(str(record["id"]), []).append(record)
    mistakes = [mistake for row_id, records in by_row.items() if (mistake := _mistake(row_id, records)) is not None]
    return sorted(mistakes, key=lambda each: (-each.wrong / each.runs, -each.size, each.row_id))[:count]


def _mistake(row_id: str, records: Sequence[Record]) -> Mistake | None:
    """What went wrong with one row; None when nothing did, or its answers are neither words nor numbers."""
    label = records[0]["label"]
    if isinstance(label, str):
        wrong = [record for record in records if record["prediction"] != label]
        sizes = [(record.get("scores") or {}).get(record["prediction"], 1.0) for record in wrong]
        shown = Counter(record["prediction"] for record in wrong).most_common(1)[0][0] if wrong else ""
    elif isinstance(label, (int, float)) and all(isinstance(record["prediction"], (int, float)) for record in records):
        wrong = list(records)
        sizes = [abs(record["prediction"] - label) for record in records]
        shown = f"{sum(record['prediction'] for record in records) / len(records):.2f}"
    else:
        return None
    if not wrong:
        return None
    return Mistake(row_id, _shown(label), str(shown), sum(sizes) / len(wrong), len(wrong), len(records))


def _shown(label: str | float) -> str:
    return label if isinstance(label, str) else f"{label:.2f}"


def row_texts(run: Path, task: str, split: str, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Row id → input → its text, choices one after another; read from the file the rows were prepared from, and empty
    where it is not at hand.

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
        columns = RowColumns(("id", "label", *definition.inputs), repeats_last=True)  # as the choices of a row do
        for row in read_rows(manifest.source["path"], columns):
            if isinstance(row, Row) and row.values["id"] in wanted:
                found[row.values["id"]] = {name: _joined(row.values[name]) for name in definition.inputs}
        return found
    except (MtdnnError, OSError, KeyError):  # a report without texts is better than none
        return {}


def _joined(value: Any) -> str:
    return CHOICES.join(map(str, value)) if isinstance(value, list) else str(value)


def shortened(text: str, length: int = MAX_CHARACTERS) -> str:
    """The text, or its beginning up to a word's end and `…`, when it is longer than so many characters."""
    if len(text) <= length:
        return text
    start, space, _ = text[:length].rpartition(" ")
    return f"{start if space and len(start) > length // 2 else text[: length - 1]}…"
