"""Prediction records: reading, checking, scoring and writing. Needs no torch."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

from mtdnn.config.arguments import keywords_checked
from mtdnn.config.json_source import json_value, raw_lines
from mtdnn.errors import MAX_REPORTED_ERRORS, NOWHERE, DataError, Fault, Place, fault, first_of, shortened
from mtdnn.files import named_file
from mtdnn.metrics.base import Record, applicable, measured, metric_of
from mtdnn.metrics.stored import kept
from mtdnn.registry import own_words

KINDS: dict[str, Any] = {"text": str, "list": (list, tuple), "mapping": Mapping}

PREDICTED = {"text": ("text",), "number": ("number",), "list": ("list", "text"), "mapping": ("list",)}
"""Kind of a label → kinds of predictions it can be compared with; a mapping has the relevances of candidates."""

MAX_NUMBER = int(sys.float_info.max)

MAX_SHOWN_CHARACTERS = 80


@keywords_checked()
def score(
    predictions: str | Path | Sequence[Record], *, metrics: Sequence[str] = (), labels: Sequence[str] = ()
) -> dict[str, float]:
    """Metrics of predictions; only the records are needed.

    Args:
        predictions: a JSON lines file written by `train`, `evaluate` or `predict`, or the records themselves: `id`,
            `prediction`, `label` and, for some metrics, `scores`.
        metrics: names of metrics; by default all that can be computed from the records.
        labels: the task's labels in declared order; by default the order of the first record's scores.
    Returns:
        Metric → value, rates as fractions, and `rows`, the number of records with a label.
    Raises:
        ConfigError: an unknown metric.
        DataError: the file cannot be read, a record is incomplete, no record has a label, or a metric cannot be
            computed from them.

    Example:
        >>> import mtdnn
        >>> values = mtdnn.score("runs/first/predictions/rte.dev.jsonl", metrics=["accuracy"])
        >>> values["rows"]
        4
        >>> mtdnn.score([{"id": "a", "prediction": 1.5, "label": 1.0}], metrics=["mae"])
        {'mae': 0.5, 'rows': 1}
    """
    records: Sequence[Record]
    if isinstance(predictions, (str, Path)):
        place, records = str(predictions), kept(RecordFiles(predictions))
    else:
        place, records = "predictions", checked_records(enumerate(predictions, 1), place="predictions")
    with own_words(list(metrics)), placed_at(place):
        return _scored(place, records, list(metrics), labels)


@contextmanager
def placed_at(place: str) -> Iterator[None]:
    """A context in which what metrics find in records is reported at the place of the records."""
    try:
        yield
    except DataError as error:
        raise DataError([each if each.place else each.at(Place(place)) for each in error.faults]) from error


def _scored(place: str, records: Sequence[Record], metrics: list[str], labels: Sequence[str]) -> dict[str, float]:
    """As `score`, for records that have been read."""
    for name in metrics:  # a misspelt one is reported, whatever the records are
        metric_of(name, key="metrics")
    labelled = sum(record["label"] is not None for record in records)
    if not labelled:
        fix = "Predict rows with labels."
        raise DataError(fault(place, "", f"none of the {len(records)} predictions has a label", fix))
    names = metrics or applicable(records, labels)
    if not names:
        found = f"no metric can be computed from its {labelled} labelled predictions"
        raise DataError(fault(place, "", found, "Name one to see what it needs."))
    return measured(records, names, labels)


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The prediction records in a JSON lines file.

    Raises:
        DataError: there is no such file, or a line is not a record or has scores or relevances that are not numbers;
            with file:line.
    """
    return list(RecordFiles(path))


class RecordFiles:
    """The prediction records of JSON lines files, read again line by line by each loop over them, never all at once.

    A loop raises DataError as `read_records` does. False if there is no record.

    Args:
        paths: the files.
        reopened: whether loops do not keep the files open, so that hundreds can be read side by side.
    """

    def __init__(self, *paths: str | Path, reopened: bool = False) -> None:
        self.paths, self.reopened = paths, reopened

    def __iter__(self) -> Iterator[Record]:
        for path in self.paths:
            lines = raw_lines(Path(path), reopened=self.reopened)
            values = ((number, _value_or_none(line)) for number, line in lines if line.strip())
            yield from _checked(values, place=str(path))

    def __bool__(self) -> bool:
        return any(True for _ in self)


def _value_or_none(line: bytes) -> Any:
    """The value of a line; None if it is not JSON, which is reported together with other lines that are not records."""
    try:
        return json_value(line, NOWHERE)
    except DataError:
        return None


def checked_records(numbered: Iterable[tuple[int, Any]], *, place: str) -> list[Record]:
    """The records, after a check of each.

    Args:
        numbered: (number, record); messages have the number.
        place: where the records are from, for messages.
    Raises:
        DataError: a value is not a record, or has scores or relevances that are not numbers.
    """
    return list(_checked(numbered, place=place))


def _checked(numbered: Iterable[tuple[int, Any]], *, place: str) -> Iterator[Record]:
    """The records up to the first that has an error; then DataError with the first errors and the number of others."""
    faults: list[Fault] = []
    count = 0
    for number, record in numbered:
        if found := _faults_of(record, Place(place, number)):
            count += len(found)
            faults += found[: MAX_REPORTED_ERRORS - len(faults)]
        elif not faults:
            yield dict(record)
    if faults:
        raise DataError(first_of(faults, count, place, MAX_REPORTED_ERRORS))


def _faults_of(record: object, where: Place) -> list[Fault]:
    if isinstance(record, Mapping) and {"id", "prediction", "label"} <= record.keys():
        return list(_bad_values(record, where)) or _bad_kinds(record, where)
    return [fault(where, "", "not a prediction record", 'Expected {"id": …, "prediction": …, "label": …}.')]


def _bad_values(record: Mapping[str, Any], where: Place) -> Iterator[Fault]:
    """An error for each score or relevance that is no finite number, and each ranked candidate that is not a name."""
    scores = record.get("scores")
    if not isinstance(scores, (dict, NoneType)):
        yield fault(where, "scores", f"{_shown(scores)} is not a mapping of names to numbers", "Give one, or none.")
    for key in ("scores", "label"):
        values = record.get(key)
        for name, value in values.items() if isinstance(values, dict) else ():
            if not _is_number(value) or not math.isfinite(value):
                found = "not finite" if _is_number(value) else "not a number"
                yield fault(where, key, f"{_shown(value)} for '{name}' is {found}", "Give a number.")
    ranked = record["prediction"] if isinstance(record["label"], dict) else None
    for name in ranked if isinstance(ranked, list) else ():
        if not isinstance(name, str):
            yield fault(where, "prediction", f"{name!r} is not a candidate name", "Give names only.")


def _bad_kinds(record: Mapping[str, Any], where: Place) -> list[Fault]:
    """An error for a value that cannot be a label, and for a prediction whose kind does not match its label."""
    label, prediction = _kind(record["label"]), _kind(record["prediction"])
    found = [
        fault(where, key, f"{_shown(record[key])} is not a label", "Give a text, a number, a list or a mapping.")
        for key, kind in (("label", label), ("prediction", prediction))
        if kind is None and record[key] is not None
    ]
    if not found and label is not None and prediction not in PREDICTED[label]:
        message = f"{_shown(record['prediction'])}, where the label is a {label}"
        found = [fault(where, "prediction", message, f"Give a {' or a '.join(PREDICTED[label])}.")]
    return found


def _kind(value: object) -> str | None:
    """`text`, `number`, `list` or `mapping`; None for other values, and for numbers too large for a float."""
    if isinstance(value, (int, float)):
        return "number" if _is_number(value) else None
    return next((kind for kind, type_ in KINDS.items() if isinstance(value, type_)), None)


def _is_number(value: object) -> bool:
    """Whether a value is a number in the range of floats; JSON allows numbers of any length."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= MAX_NUMBER)


def _shown(value: object) -> str:
    """The representation of a value, truncated, as it may be very long."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write numbers of more than 4,300 digits
        text = "a number of thousands of digits"
    return shortened(text, MAX_SHOWN_CHARACTERS)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write prediction records as JSON lines, atomically."""
    with named_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
