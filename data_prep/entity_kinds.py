"""Sentences with IOB tags → sentences with the kinds of entities in them, rows of a multilabel task.

`python -m data_prep.entity_kinds --input data/ner/dev.tsv --out data/entity_kinds/dev.tsv`: the row
`1⇥B-PER O B-LOC⇥Ada in Norwich` becomes `1⇥LOC,PER⇥Ada in Norwich`; a sentence without entities has the label `none`.
"""

from __future__ import annotations

import argparse
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
from mtdnn.rows.example import UNLABELLED
from mtdnn.rows.lists import written_list


def kinds_of(tags: str) -> str:
    """The kinds of entities among tags such as `B-PER O I-LOC`, in alphabetical order; `none` if there is none.

    Tags may be written as a list. A row without tags has no label, which is not `none`.
    """
    if tags.strip() in UNLABELLED:
        return ""
    written = written_list(tags.strip())
    kinds = {str(tag).partition("-")[2] for tag in (tags.split() if written is None else written) if "-" in str(tag)}
    return ",".join(sorted(kinds)) or "none"


def convert(source: Path, target: Path) -> Report:
    """Write the rows of a file of `id, tags, tokens` with the kinds of their entities as labels.

    Raises:
        DataError: a file of another layout, or one that cannot be read or written.
    """
    require_other_file(target, source)
    return write_rows(target, [Row(row.id, kinds_of(row.label), row.texts) for row in read_rows(source)])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Sentences with IOB tags as rows of a multilabel task.")
    parser.add_argument("--input", type=path_of, required=True, help="rows of a tagging task, .tsv")
    parser.add_argument("--out", type=path_of, required=True, help="the file to write, .tsv")
    given = parser.parse_args()
    with errors_reported():
        report = convert(given.input, given.out)
    print_reports([report])


if __name__ == "__main__":
    main()
