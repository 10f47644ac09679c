"""The data of the default final project of Stanford's CS224N (minBERT) → canonical rows.

`python -m data_prep.cs224n --input minbert-default-final-project/data --out data`. The files end in .csv, but their
columns are split by tabs, with quotation marks as in csv; the first column of the header is empty. Test files have no
labels.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.rows_out import UNLABELLED, Dropped, Report, Row, labelled_row, run, write_rows
from mtdnn.errors import DataError


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
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, delimiter="\t")
        missing = [column for column in wanted if column not in (table.fieldnames or ())]
        if missing:
            raise DataError(f"{path}:1: no column {missing[0]!r}. Check that this is the project's own file.")
        for row in table:
            values = [row[column] for column in wanted]
            if any(value is None for value in values):
                yield Dropped("too few columns", values[0] or f"line {table.line_num}")
                continue
            id, texts = values[0].strip(), tuple(values[1 : 1 + len(layout.texts)])
            if labelled:
                yield labelled_row(id, plain(values[-1]), texts, layout.labels)
            else:
                yield Row(id, UNLABELLED, texts)


def plain(label: str) -> str:
    """A whole number without its decimals: the Quora files say 1.0 for 1."""
    label = label.strip()
    return label[:-2] if label.endswith(".0") and label[:-2].isdigit() else label


if __name__ == "__main__":
    run(convert, "The data of CS224N's default project → canonical rows")
