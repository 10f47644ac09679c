"""One row, understood: its texts and its label, before any tokenizer."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtdnn.errors import fault

UNLABELLED = ("", "-")
MARKS_OF_NONE = ("-1", "-100", "_")
"""What others write where a row has no label: the hub's −1, the −100 that losses skip, the _ of files in columns."""


def declared(label: str, known: Container[str]) -> str:
    """The known label that is meant by one of a table: itself, or `1` by the number 1.0 and `true` by the value True.

    pandas makes floats of whole numbers where one of them is missing, and JSON and Parquet have truth values.
    """
    if label in known:
        return label
    plain = label.lower() if label in ("True", "False") else whole(label)
    return plain if plain in known else label


def whole(number: str) -> str:
    """A whole number that is written as `1.0` without what stands behind the point; other texts as they are."""
    digits, point, rest = number.partition(".")
    return digits if point and rest == "0" and digits.removeprefix("-").isdecimal() else number


def says_none(label: Any, marks: Container[str], known: Container[str]) -> bool:
    """Whether a label, or every part of one that is a list, is a mark that there is none.

    Args:
        label: a cell of a table, or a list.
        marks: other than an empty cell and `-`.
        known: labels of the task, which are labels whatever they look like.
    """
    if isinstance(label, (list, tuple)):
        parts = ["" if part is None else str(part).strip() for part in label]
    else:
        text = str(label).strip()
        parts = [] if text in known else [part.strip("'\"") for part in re.split(r"[\s,]+", text.strip("[]")) if part]
    return bool(parts) and all(part not in known and (whole(part) in marks or part in UNLABELLED) for part in parts)


class RowError(Exception):
    """One value of one row that cannot be used; the reader adds file and line."""

    def __init__(self, key: str, found: str, fix: str = "") -> None:
        self.key, self.found, self.fix = key, found, fix
        super().__init__(fault("", key, found, fix))


def refuse_beyond_32_bits(label: float) -> None:
    """Raise RowError for a finite label that would be stored, in 32 bits, as an infinite one."""
    largest = float(np.finfo(np.float32).max)
    if abs(label) > largest:
        raise RowError("label", f"'{label:g}' is beyond the numbers of 32 bits", f"Give one up to {largest:.1e}.")


@dataclass(frozen=True)
class Example:
    """One row, understood.

    Attributes:
        id: as in the file.
        texts: the texts, in the order of the task's inputs; those of a repeated last column come at the end.
        label: by task type; None when the row has none.
        values: whatever else the row holds, by task type.
    """

    id: str
    texts: tuple[str, ...]
    label: Any
    values: Mapping[str, Any] = field(default_factory=dict)
