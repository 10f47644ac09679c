"""SciTail V1.1 as distributed (allenai.org/data/scitail), in any of its formats → canonical rows.

`python -m data_prep.scitail --input SciTailV1.1 --out data`. The release holds the same rows in four folders; the first
one that is there is read:

- snli_format: scitail_1.0_<split>.txt, JSON lines in spite of the name (.jsonl is read too), or SNLI's text columns;
- tsv_format: scitail_1.0_<split>.tsv, premise, hypothesis, label, without header and without quoting;
- predictor_format: scitail_1.0_structure_<split>.jsonl;
- dgem_format: scitail_1.0_structure_<split>.tsv, the columns of tsv_format and the structure of the hypothesis.

The two formats with a structure lack the few rows whose hypothesis has none. Reading the tsv files with quoting, as
a csv reader does by default, would glue about 500 rows of train to their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from data_prep.rows_out import (
    LAYOUT_ERRORS,
    OTHER_COLUMNS,
    Dropped,
    Report,
    Row,
    find_input,
    labelled_row,
    read_columns,
    read_lines,
    read_objects,
    run,
    text_of,
    write_rows,
)
from mtdnn.errors import DataError

LABELS = ("neutral", "entails")
SPLITS = ("train", "dev", "test")

Reader = Callable[[Path, str], Iterator[Row | Dropped]]


def convert(source: Path, out: Path) -> list[Report]:
    """Convert all splits of the first format that is there; `source` is the release, or one of its folders.

    Raises:
        DataError: no format is there, or a file has another layout.
    """
    for folder, (stem, endings, reader) in FORMATS.items():
        for place in (source / folder, source):
            names = {split: tuple(f"{stem}_{split}{ending}" for ending in endings) for split in SPLITS}
            found = {split: path for split in SPLITS if (path := find_input(place, names[split]))}
            if found:
                target = out / "scitail"
                return [write_rows(target / f"{split}.tsv", reader(path, split)) for split, path in found.items()]
    raise DataError(f"{source}: none of {', '.join(FORMATS)} with files of SciTail. Name the folder SciTailV1.1.")


def read_snli_format(path: Path, split: str) -> Iterator[Row | Dropped]:
    """JSON lines, or a table with SNLI's column names."""
    first = next((line for _, line in read_lines(path) if line.strip()), "")
    if first.lstrip().startswith("{"):
        yield from read_json(path, split)
        return
    for number, values in read_columns(path, ["gold_label", "sentence1", "sentence2"]):
        id = f"{split}-{number - 2}"
        yield labelled_row(id, values[0], values[1:], LABELS) if values else Dropped(OTHER_COLUMNS, id)


def read_json(path: Path, split: str) -> Iterator[Row | Dropped]:
    for number, row in read_objects(path):
        id = f"{split}-{number - 1}"
        try:
            if row is None:
                raise KeyError
            texts = (text_of(row["sentence1"]), text_of(row["sentence2"]))
            yield labelled_row(id, str(row["gold_label"]), texts, LABELS)
        except LAYOUT_ERRORS:
            yield Dropped("not a JSON object with sentence1, sentence2 and gold_label", id)


def read_plain(path: Path, split: str) -> Iterator[Row | Dropped]:
    for number, line in read_lines(path):
        id = f"{split}-{number - 1}"
        values = line.split("\t")
        yield labelled_row(id, values[2], values[:2], LABELS) if len(values) > 2 else Dropped(OTHER_COLUMNS, id)


FORMATS: dict[str, tuple[str, tuple[str, ...], Reader]] = {
    "snli_format": ("scitail_1.0", (".jsonl", ".txt"), read_snli_format),
    "tsv_format": ("scitail_1.0", (".tsv",), read_plain),
    "predictor_format": ("scitail_1.0_structure", (".jsonl",), read_json),
    "dgem_format": ("scitail_1.0_structure", (".tsv",), read_plain),
}


if __name__ == "__main__":
    run(convert, "SciTail as distributed → canonical rows")
