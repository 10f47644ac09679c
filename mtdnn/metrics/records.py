"""Prediction records from the file they were written to. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mtdnn.errors import DataError, Fault, Place, fault
from mtdnn.files import named_file
from mtdnn.metrics.base import Record


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The prediction records in a JSON lines file.

    Raises:
        DataError: no such file, or lines that are no records or hold other things than numbers where scores and
            relevances are, with file:line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        found = f"cannot be read: {error}"
        raise DataError(fault(str(path), "", found, "Give a file that `mtdnn predict` wrote.")) from error
    records: list[dict[str, Any]] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and {"id", "prediction", "label"} <= record.keys():
            records.append(record)
            faults += _bad_values(record, Place(str(path), number))
        else:
            expected = 'Expected {"id": …, "prediction": …, "label": …}.'
            faults.append(fault(Place(str(path), number), "", "not a prediction record", expected))
    if faults:
        raise DataError(faults)
    return records


def _bad_values(record: Mapping[str, Any], where: Place) -> Iterator[Fault]:
    """A fault for each score or relevance that is no number, and each ranked candidate that is no name."""
    for key in ("scores", "label"):
        values = record.get(key)
        for name, value in values.items() if isinstance(values, dict) else ():
            if not isinstance(value, (int, float)):
                yield fault(where, key, f"{value!r} for '{name}' is no number", "Give one.")
    ranked = record["prediction"] if isinstance(record["label"], dict) else None
    for name in ranked if isinstance(ranked, list) else ():
        if not isinstance(name, str):
            yield fault(where, "prediction", f"{name!r} is no name of a candidate", "Give names alone.")


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Prediction records as JSON lines, whole or not at all."""
    with named_file(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
