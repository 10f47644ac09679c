"""Canonical rows → the same rows with a share of their labels wrong, to see what a method learns from wrong labels.

`python -m data_prep.label_noise --input data/scitail/train.tsv --rate 0.3 --seed 1 --out data/scitail/train_noisy.tsv`

Each row draws from (seed, id) alone: it is flipped when its draw is below the rate, and its new label is one of the
file's other labels, all equally likely. So the rows flipped at a rate are also flipped at every higher rate of the same
seed, whatever else is in the file; of N rows about rate·N are flipped. Ids, texts and order stay, and rows without a
label (empty or `-`) stay as they are. The flipped rows are written next to the output, as `<name>.flipped.tsv`: id,
label before, label after.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.rows_out import (
    Report,
    Row,
    errors_reported,
    path_of,
    print_reports,
    read_rows,
    require_other_file,
    write_rows,
)
from mtdnn.errors import DataError
from mtdnn.rows.example import UNLABELLED
from mtdnn.seeding import derive_seed

LARGEST_SEED = 2**63  # derive_seed gives numbers below


def flipped_label(row: Row, labels: Sequence[str], *, rate: float, seed: int) -> str:
    """The label of a row after noise: its own, or one of the others.

    Args:
        row: a labelled row.
        labels: every label of the task.
        rate: probability of another label, 0 to 1.
        seed: of the draws.
    """
    if derive_seed(seed, "label noise", row.id) >= rate * LARGEST_SEED:
        return row.label
    others = [label for label in labels if label != row.label]
    return others[derive_seed(seed, "label noise", row.id, "label") % len(others)]


def write_noisy(source: Path, out: Path, *, rate: float, seed: int) -> list[Report]:
    """Write the rows with noise, and the list of the flipped ones.

    Args:
        source: canonical rows, a `.tsv` of id, label and texts.
        out: the file to write; `<name>.flipped.tsv` goes next to it.
        rate: share of the labels to flip, 0 to 1.
        seed: of the draws.
    Returns:
        One report of each of the two files; of the first alone where nothing is flipped.
    Raises:
        DataError: a rate outside 0 to 1, rows of fewer than two labels, or a file with another layout.
    """
    if not 0 <= rate <= 1:
        raise DataError(f"--rate: {rate} is no share. Give a number from 0 to 1.")
    listed = out.with_suffix(".flipped.tsv")
    for file in (out, listed):
        require_other_file(file, source)
    rows = list(read_rows(source))
    labels = sorted({row.label for row in rows if row.label not in UNLABELLED})
    if len(labels) < 2:
        raise DataError(f"{source}: {len(labels)} label in {len(rows)} rows. A flip needs a second one.")
    noisy = list(_noisy(rows, labels, rate=rate, seed=seed))
    flips = [Row(old.id, old.label, (new.label,)) for old, new in zip(rows, noisy, strict=True) if old != new]
    reports = [write_rows(out, noisy)]
    reports[0].notes.append(f"{len(flips)} labels flipped")
    if flips:
        return [*reports, write_rows(listed, flips)]
    listed.unlink(missing_ok=True)
    return reports


def _noisy(rows: Iterable[Row], labels: Sequence[str], *, rate: float, seed: int) -> Iterator[Row]:
    for row in rows:
        yield row if row.label in UNLABELLED else replace(row, label=flipped_label(row, labels, rate=rate, seed=seed))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Rows with a share of their labels flipped.")
    parser.add_argument("--input", type=path_of, required=True, help="canonical rows, .tsv")
    parser.add_argument("--out", type=path_of, required=True, help="file to write; <name>.flipped.tsv goes next to it")
    parser.add_argument("--rate", type=float, required=True, help="share of the labels to flip, 0 to 1")
    parser.add_argument("--seed", type=int, default=1, help="of the draws (default 1)")
    given = parser.parse_args()
    with errors_reported():
        reports = write_noisy(given.input, given.out, rate=given.rate, seed=given.seed)
    print_reports(reports)


if __name__ == "__main__":
    main()
