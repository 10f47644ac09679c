"""One parsed row: its texts and its label, before tokenization."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field
from typing import Any
from unicodedata import normalize

import numpy as np

from mtdnn.errors import fault
from mtdnn.rows.lists import is_broken

UNLABELLED = ("", "-")
MISSING_LABEL_MARKS = ("-1", "-100", "_")
"""Marks for a missing label in other tools: −1 on the hub, −100 that losses ignore, _ in files with columns."""


def declared(label: str, known: Collection[str]) -> str:
    """The known label for a label of a table: unchanged if known, else `1` for the number 1.0 and `true` for True.

    pandas stores whole numbers as floats if one of them is missing, and JSON and Parquet have booleans. An accent may
    be a character of its own (NFD, as macOS has it) or part of its letter (NFC): Unicode calls these the same text.
    """
    if label in known:
        return label
    plain = label.lower() if label in ("True", "False") else whole(label)
    if plain in known or label.isascii():
        return plain if plain in known else label
    composed = normalize("NFC", label)
    return next((each for each in known if normalize("NFC", each) == composed), label)


def whole(number: str) -> str:
    """A whole number written as `1.0` without its fraction; other texts unchanged."""
    digits, point, rest = number.partition(".")
    return digits if point and rest == "0" and digits.removeprefix("-").isdecimal() else number


def marks_missing(label: Any, marks: Container[str], known: Container[str]) -> bool:
    """Whether a label, or every item of a list of labels, is a mark for a missing label.

    Args:
        label: a cell of a table, or a list.
        marks: marks in addition to an empty cell and `-`.
        known: labels of the task; a known label is never a mark.
    """
    if isinstance(label, (list, tuple)):
        parts = ["" if part is None else str(part).strip() for part in label]
    else:
        text = str(label).strip()
        parts = [] if text in known else [part.strip("'\"") for part in re.split(r"[\s,]+", text.strip("[]")) if part]
    return bool(parts) and all(part not in known and (whole(part) in marks or part in UNLABELLED) for part in parts)


class RowError(Exception):
    """An invalid value in a row; the reader adds file and line."""

    def __init__(self, key: str, found: str, fix: str = "") -> None:
        self.key, self.found, self.fix = key, found, fix
        super().__init__(fault("", key, found, fix))


def refuse_broken_list(text: str, key: str) -> None:
    """Raise RowError for a text that is meant as a list of texts but is none, as NumPy shortens it with `...`."""
    if is_broken(text.strip()):
        raise RowError(key, "begins like a list of texts, but cannot be read as one", 'Write it as ["a", "b"].')


def refuse_beyond_32_bits(label: float) -> None:
    """Raise RowError for a finite label that would become infinite when stored as float32."""
    largest = float(np.finfo(np.float32).max)
    if abs(label) > largest:
        raise RowError("label", f"'{label:g}' is too large for float32", f"Give a number up to {largest:.1e}.")


@dataclass(frozen=True)
class Example:
    """One parsed row.

    Attributes:
        id: as in the file.
        texts: the texts in the order of the task's inputs; those of a repeated last column are at the end.
        label: depends on the task type; None if the row has none.
        values: further values of the row, by task type.
    """

    id: str
    texts: tuple[str, ...]
    label: Any
    values: Mapping[str, Any] = field(default_factory=dict)
