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

from data_prep.rows_out import (
    OTHER_COLUMNS,
    UNLABELLED,
    Dropped,
    Report,
    Row,
    labelled_row,
    read_lines,
    require_columns,
    run,
    write_rows,
)
from mtdnn.config.json_source import MAX_LINE_BYTES
from mtdnn.errors import DataError, Place, fault
from mtdnn.rows.text import CSV_FIX


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
        if values is None:
            yield Dropped(OTHER_COLUMNS, f"line {number}")
            continue
        id, *texts = values[: 1 + len(layout.texts)]
        if labelled:
            yield labelled_row(id.strip(), plain(values[-1]), texts, layout.labels)
        else:
            yield Row(id.strip(), UNLABELLED, tuple(texts))


def cells_of(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str] | None]]:
    """Number of its first line and the named columns of each row; None for a row that has too few or too many cells.

    Raises:
        DataError: the header lacks a column, or the file is not UTF-8 or not quoted as in csv. Without that a quotation
            mark that is not closed would make the rows after it a part of its text.
    """
    csv.field_size_limit(MAX_LINE_BYTES)  # Python's limit is 131,072 characters; longer lines are refused anyway
    table = csv.reader((f"{line}\n" for _, line in read_lines(path)), delimiter="\t", strict=True)
    begins = 1
    try:
        header = next(table, [])
        require_columns(path, header, columns)
        places = [header.index(column) for column in columns]
        begins = table.line_num + 1
        for cells in table:
            if cells:  # else a blank line
                fits = len(cells) > max(places) and not any(cells[len(header) :])
                yield begins, [cells[place] for place in places] if fits else None
            begins = table.line_num + 1
    except csv.Error as error:
        raise DataError(fault(Place(str(path), begins), "", f"not CSV: {error}", CSV_FIX)) from error


def plain(label: str) -> str:
    """A whole number without its decimals: the Quora files say 1.0 for 1."""
    label = label.strip()
    return label[:-2] if label.endswith(".0") and label[:-2].isdigit() else label


if __name__ == "__main__":
    run(convert, "The data of CS224N's default project → canonical rows")
