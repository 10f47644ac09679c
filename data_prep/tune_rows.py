"""A train split → rows to fit and rows to tune on, cut by id, so that nothing is chosen on the rows that are reported.

`python -m data_prep.tune_rows --input data/scitail/train.tsv --rows 1000 --seed 1000` writes `fit.tsv` and `tune.tsv`
next to the input. The tune rows are those that `mtdnn subset` draws for that seed, from the ids alone; rows that share
an id go to the same side.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.rows_out import (
    Report,
    errors_reported,
    path_of,
    print_reports,
    read_rows,
    require_other_file,
    write_rows,
)
from mtdnn.errors import DataError
from mtdnn.rows.subset import chosen_rows


def write_parts(source: Path, *, rows: int, seed: int) -> list[Report]:
    """Write `fit.tsv` and `tune.tsv` next to a file of rows.

    Args:
        source: canonical rows, a `.tsv` of id, label and texts.
        rows: how many distinct ids to tune on.
        seed: of the draws.
    Raises:
        DataError: no row would be left on one of the two sides, or a file with another layout.
    """
    for name in ("fit", "tune"):
        require_other_file(source.with_name(f"{name}.tsv"), source, flag="--input")
    all_rows = list(read_rows(source))
    ids = list(dict.fromkeys(row.id for row in all_rows))
    if not 0 < rows < len(ids):
        raise DataError(f"--rows: {rows} of {len(ids)} ids in {source}. Give 1 to {len(ids) - 1}.")
    tune = {ids[place] for place in chosen_rows(ids, rows, seed=seed)}
    sides = {
        "fit": [row for row in all_rows if row.id not in tune],
        "tune": [row for row in all_rows if row.id in tune],
    }
    return [write_rows(source.with_name(f"{name}.tsv"), side) for name, side in sides.items()]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Rows to fit and rows to tune on, cut from a train split.")
    parser.add_argument("--input", type=path_of, required=True, help="canonical rows, .tsv")
    parser.add_argument("--rows", type=int, required=True, help="how many rows to tune on")
    parser.add_argument("--seed", type=int, default=1000, help="of the draws (default 1000)")
    given = parser.parse_args()
    with errors_reported():
        reports = write_parts(given.input, rows=given.rows, seed=given.seed)
    print_reports(reports)


if __name__ == "__main__":
    main()
