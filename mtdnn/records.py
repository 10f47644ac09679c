"""Prediction records from the file they were written to. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mtdnn.errors import DataError, fault


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The prediction records in a JSON lines file.

    Raises:
        DataError: no such file, or lines that are no records, with file:line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        found = f"cannot be read: {error}"
        raise DataError(fault(str(path), "", found, "Give a file that `mtdnn predict` wrote.")) from error
    records, faults = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and {"id", "prediction", "label"} <= record.keys():
            records.append(record)
        else:
            expected = 'Expected {"id": …, "prediction": …, "label": …}.'
            faults.append(fault(f"{path}:{number}", "", "not a prediction record", expected))
    if faults:
        raise DataError(faults)
    return records
