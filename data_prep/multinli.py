"""MultiNLI as distributed (cims.nyu.edu/~sbowman/multinli): multinli_1.0_<split>.jsonl or .txt → canonical rows.

`python -m data_prep.multinli --input multinli_1.0 --out data`. The task is called mnli, as in GLUE. Pairs without a
majority label (`-`) are dropped, and counted, and go to `mnli/<split>_nogold.tsv`; the annotators' labels go to
`mnli/<split>_annotators.tsv`. The test files of the Kaggle competitions (multinli_0.9_test_*_unlabeled) are read too;
they have no labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.rows_out import UNLABELLED, Dropped, Report, Row, find_input, run, write_rows
from data_prep.snli import convert_split, read_pairs
from mtdnn.errors import DataError


def convert(source: Path, out: Path) -> list[Report]:
    """Convert every split that is there, from JSON lines before text.

    Raises:
        DataError: no split is there, or a file has another layout.
    """
    reports = []
    for split in ("train", "dev_matched", "dev_mismatched"):
        if path := find_input(source, (f"multinli_1.0_{split}.jsonl", f"multinli_1.0_{split}.txt")):
            reports += convert_split(path, out / "mnli", split)
    for split in ("test_matched", "test_mismatched"):
        stem = f"multinli_0.9_{split}_unlabeled"
        if path := find_input(source, (f"{stem}.jsonl", f"{stem}.txt")):
            reports.append(write_rows(out / "mnli" / f"{split}.tsv", unlabelled_rows(path)))
    if not reports:
        raise DataError(f"{source}: no multinli_1.0_<split>.jsonl or .txt. Name the folder of the release.")
    return reports


def unlabelled_rows(path: Path) -> Iterator[Row | Dropped]:
    for pair in read_pairs(path):
        yield pair if isinstance(pair, Dropped) else Row(pair.id, UNLABELLED, pair.texts)


if __name__ == "__main__":
    run(convert, "MultiNLI as distributed → canonical rows")
