"""Adversarial NLI as distributed (github.com/facebookresearch/anli): R1, R2, R3/<split>.jsonl → canonical rows.

`python -m data_prep.anli --input anli_v1.0 --out data`. The splits are called r1_train, r1_dev, …; the one-letter
labels get their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.rows_out import LAYOUT_ERRORS, Dropped, Report, Row, labelled_row, read_objects, run, text_of, write_rows
from mtdnn.errors import DataError

LABELS = {"c": "contradiction", "n": "neutral", "e": "entailment"}


def convert(source: Path, out: Path) -> list[Report]:
    """Convert every split of every round that is there.

    Raises:
        DataError: none is there.
    """
    reports = []
    for round in ("R1", "R2", "R3"):
        for split in ("train", "dev", "test"):
            if (path := source / round / f"{split}.jsonl").is_file():
                target = out / "anli" / f"{round.lower()}_{split}.tsv"
                reports.append(write_rows(target, read_rows(path)))
    if not reports:
        raise DataError(f"{source}: no R1/train.jsonl or the like. Name the folder anli_v1.0 of the release.")
    return reports


def read_rows(path: Path) -> Iterator[Row | Dropped]:
    """Premise is `context` in version 0.1 and 1.0, `premise` in copies."""
    for number, row in read_objects(path):
        try:
            if row is None:
                raise KeyError
            texts = (text_of(row["context"] if "context" in row else row["premise"]), text_of(row["hypothesis"]))
            label = LABELS.get(str(row["label"]), str(row["label"]))
            yield labelled_row(text_of(row["uid"]), label, texts, tuple(LABELS.values()))
        except LAYOUT_ERRORS:
            yield Dropped("not a JSON object with uid, context, hypothesis and label", f"line {number}")


if __name__ == "__main__":
    run(convert, "Adversarial NLI as distributed → canonical rows")
