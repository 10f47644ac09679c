"""The data of the default final project of Stanford's CS224N (minBERT) → canonical rows.

`python -m data_prep.cs224n --input minbert-default-final-project/data --out data`. The files end in .csv, but their
columns are split by tabs, with quotation marks as in csv; the first column of the header is empty. Test files have no
labels.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.rows_out import UNLABELLED, Dropped, Report, Row, labelled_row, read_lines, run, write_rows
from mtdnn.config.json_source import MAX_LINE_BYTES
from mtdnn.errors import DataError, Place, fault


@dataclass(frozen=True)
class Layout:
    """The stem of a task's file names and its columns; no labels means that the label is a number."""

    stem: str
    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]


LAYOUTS = {
    "sst5": Layout("ids-sst", ("sentence",), "sentiment", ("0", "1", "2", "3", "4")),
    "cfimdb": Layout("ids-cfimdb", ("sentence",), "sentiment", ("0", "1")),
    "quora": Layout("quora", ("sentence1", "sentence2"), "is_duplicate", ("0", "1")),
    "sts": Layout("sts", ("sentence1", "sentence2"), "similarity", ()),
}
FILES = {"train": "train", "dev": "dev", "test": "test-student"}


def convert(source: Path, out: Path) -> list[Report]:
    """Convert every file that is there.

    Raises:
        DataError: none is there, or a file has another layout.
    """
    reports = []
    for task, layout in LAYOUTS.items():
        for split, ending in FILES.items():
            if (path := source / f"{layout.stem}-{ending}.csv").is_file():
                rows = read_rows(path, layout, labelled=split != "test")
                reports.append(write_rows(out / task / f"{split}.tsv", rows))
    if not reports:
        raise DataError(f"{source}: no ids-sst-train.csv or the like. Name the folder `data` of the project.")
    return reports


def read_rows(path: Path, layout: Layout, *, labelled: bool) -> Iterator[Row | Dropped]:
    """The rows of one file, a text over several lines in one; rows without some column are dropped."""
    wanted = ["id", *layout.texts, *([layout.label] if labelled else [])]
    for number, values in cells_of(path, wanted):
        if any(value is None for value in values):
            yield Dropped("too few columns", values[0] or f"line {number}")
            continue
        id, *texts = (str(value) for value in values[: 1 + len(layout.texts)])
        if labelled:
            yield labelled_row(id.strip(), plain(str(values[-1])), texts, layout.labels)
        else:
            yield Row(id.strip(), UNLABELLED, tuple(texts))


def cells_of(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str | None]]]:
    """Number of its last line and the named columns of each row; None for a cell that the row does not have.

    Raises:
        DataError: the header lacks a column, or the file is not UTF-8 or not quoted as in csv.
    """
    csv.field_size_limit(MAX_LINE_BYTES)  # Python's limit is 131,072 characters; longer lines are refused anyway
    table = csv.DictReader((f"{line}\n" for _, line in read_lines(path)), delimiter="\t")
    try:
        missing = [column for column in columns if column not in (table.fieldnames or ())]
        if missing:
            found, fix = f"no column {missing[0]!r}", "Check that this is the project's own file."
            raise DataError(fault(Place(str(path), 1), "", found, fix))
        for row in table:
            yield table.line_num, [row[column] for column in columns]
    except csv.Error as error:
        fix = "Close the quotes, and double quotes inside texts."
        place = Place(str(path), table.line_num + 1)  # the reader counts the lines before
        raise DataError(fault(place, "", f"not CSV: {error}", fix)) from error


def plain(label: str) -> str:
    """A whole number without its decimals: the Quora files say 1.0 for 1."""
    label = label.strip()
    return label[:-2] if label.endswith(".0") and label[:-2].isdigit() else label


if __name__ == "__main__":
    run(convert, "The data of CS224N's default project → canonical rows")
