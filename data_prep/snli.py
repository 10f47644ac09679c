"""SNLI as distributed (nlp.stanford.edu/projects/snli): snli_1.0_<split>.jsonl or .txt → canonical rows.

`python -m data_prep.snli --input snli_1.0 --out data`. Pairs without a majority label (`-`) are dropped, and counted;
they go, with `-` as label, to `snli/<split>_nogold.tsv`. The labels of all annotators, of these pairs too, go to
`snli/<split>_annotators.tsv`: id, labels joined by commas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
    read_objects,
    run,
    text_of,
    write_rows,
)
from mtdnn.errors import DataError

LABELS = ("contradiction", "neutral", "entailment")
NO_GOLD = "-"
LABEL_COLUMNS = [f"label{number}" for number in range(1, 6)]


@dataclass(frozen=True)
class Pair:
    """One pair of the source; `annotators` are the labels people gave, the author's own first."""

    id: str
    label: str
    texts: tuple[str, str]
    annotators: tuple[str, ...]


def convert(source: Path, out: Path) -> list[Report]:
    """Convert every split that is there, from JSON lines before text.

    Raises:
        DataError: no split is there, or a file has another layout.
    """
    reports = []
    for split in ("train", "dev", "test"):
        if path := find_input(source, (f"snli_1.0_{split}.jsonl", f"snli_1.0_{split}.txt")):
            reports += convert_split(path, out / "snli", split)
    if not reports:
        raise DataError(f"{source}: no snli_1.0_<split>.jsonl or .txt. Name the folder snli_1.0 of the release.")
    return reports


def convert_split(path: Path, out: Path, split: str) -> list[Report]:
    """Write `<split>.tsv`; where any pair has no majority label `<split>_nogold.tsv`, and where any has two labels or
    more `<split>_annotators.tsv`."""
    reports = [write_rows(out / f"{split}.tsv", (gold_row(pair) for pair in read_pairs(path)))]
    if any(rows_without_gold(path)):
        reports.append(write_rows(out / f"{split}_nogold.tsv", rows_without_gold(path)))
    if any(isinstance(pair, Pair) and len(pair.annotators) > 1 for pair in read_pairs(path)):
        reports.append(write_rows(out / f"{split}_annotators.tsv", annotator_rows(path)))
    return reports


def gold_row(pair: Pair | Dropped) -> Row | Dropped:
    return pair if isinstance(pair, Dropped) else labelled_row(pair.id, pair.label, pair.texts, LABELS)


def rows_without_gold(path: Path) -> Iterator[Row | Dropped]:
    """The pairs left out of `<split>.tsv` as no label has a majority; to this project they are unlabelled rows."""
    for pair in read_pairs(path):
        if isinstance(pair, Pair) and pair.label == NO_GOLD:
            yield Row(pair.id, pair.label, pair.texts)


def annotator_rows(path: Path) -> Iterator[Row | Dropped]:
    """Id and labels of each pair; they are no examples, so there are no texts."""
    for pair in read_pairs(path):
        yield pair if isinstance(pair, Dropped) else Row(pair.id, ",".join(pair.annotators), ())


def read_pairs(path: Path) -> Iterator[Pair | Dropped]:
    """The pairs of a .jsonl or .txt file of SNLI or MultiNLI, which are laid out alike."""
    return read_json_pairs(path) if path.suffix == ".jsonl" else read_text_pairs(path)


def read_json_pairs(path: Path) -> Iterator[Pair | Dropped]:
    for number, row in read_objects(path):
        try:
            if row is None:
                raise KeyError
            texts = (text_of(row["sentence1"]), text_of(row["sentence2"]))
            annotators = row.get("annotator_labels", [])
            if not isinstance(annotators, list):
                raise TypeError
            labels = tuple(text_of(label) for label in annotators if label)
            yield Pair(text_of(row["pairID"]), str(row["gold_label"]), texts, labels)
        except LAYOUT_ERRORS:
            yield Dropped(
                "not a JSON object with sentence1, sentence2, gold_label, pairID and a list of annotator_labels",
                f"line {number}",
            )


def read_text_pairs(path: Path) -> Iterator[Pair | Dropped]:
    columns = ["pairID", "gold_label", "sentence1", "sentence2"]
    for number, values in read_columns(path, columns, optional=LABEL_COLUMNS):
        if values is None:
            yield Dropped(OTHER_COLUMNS, f"line {number}")
        else:
            yield Pair(values[0], values[1], (values[2], values[3]), tuple(label for label in values[4:] if label))


if __name__ == "__main__":
    run(convert, "SNLI as distributed → canonical rows")
