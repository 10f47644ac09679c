"""Prediction records: reading, checking, scoring and writing. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtdnn.errors import DataError, Fault, Place, fault, keywords_checked
from mtdnn.files import named_file
from mtdnn.metrics.base import Record, applicable, measured
from mtdnn.registry import own_words


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
    if isinstance(predictions, (str, Path)):
        place, records = str(predictions), read_records(predictions)
    else:
        place, records = "predictions", checked_records(enumerate(predictions, 1), place="predictions")
    with own_words(list(metrics)):
        return _scored(place, records, list(metrics), labels)


def _scored(place: str, records: Sequence[Record], metrics: list[str], labels: Sequence[str]) -> dict[str, float]:
    """As `score`, for records that have been read."""
    names = metrics or applicable(records, labels)
    labelled = sum(record["label"] is not None for record in records)
    if not names and labelled:
        found = f"no metric can be computed from its {labelled} labelled predictions"
        raise DataError(fault(place, "", found, "Name one to see what it needs."))
    if not names:
        fix = "Predict rows with labels."
        raise DataError(fault(place, "", f"none of the {len(records)} predictions has a label", fix))
    return measured(records, names, labels)


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The prediction records in a JSON lines file.

    Raises:
        DataError: there is no such file, or a line is not a record or has scores or relevances that are not numbers;
            with file:line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        found = f"cannot be read: {error}"
        raise DataError(fault(str(path), "", found, "Give a file that `mtdnn predict` wrote.")) from error
    numbered = ((number, _json_value(line)) for number, line in enumerate(lines, 1) if line.strip())
    return checked_records(numbered, place=str(path))


def _json_value(text: str) -> Any:
    """The value of a JSON text; None if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def checked_records(numbered: Iterable[tuple[int, Any]], *, place: str) -> list[Record]:
    """The records, after a check of each.

    Args:
        numbered: (number, record); messages have the number.
        place: where the records are from, for messages.
    Raises:
        DataError: a value is not a record, or has scores or relevances that are not numbers.
    """
    records: list[Record] = []
    faults: list[Fault] = []
    for number, record in numbered:
        if isinstance(record, Mapping) and {"id", "prediction", "label"} <= record.keys():
            records.append(dict(record))
            faults += _bad_values(record, Place(place, number))
        else:
            expected = 'Expected {"id": …, "prediction": …, "label": …}.'
            faults.append(fault(Place(place, number), "", "not a prediction record", expected))
    if faults:
        raise DataError(faults)
    return records


def _bad_values(record: Mapping[str, Any], where: Place) -> Iterator[Fault]:
    """An error for each score or relevance that is not a number, and each ranked candidate that is not a name."""
    for key in ("scores", "label"):
        values = record.get(key)
        for name, value in values.items() if isinstance(values, dict) else ():
            if not isinstance(value, (int, float)):
                yield fault(where, key, f"{value!r} for '{name}' is not a number", "Give a number.")
    ranked = record["prediction"] if isinstance(record["label"], dict) else None
    for name in ranked if isinstance(ranked, list) else ():
        if not isinstance(name, str):
            yield fault(where, "prediction", f"{name!r} is not a candidate name", "Give names only.")


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write prediction records as JSON lines, atomically."""
    with named_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
