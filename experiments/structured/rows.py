"""Rows of the structured tasks from real data, in the sizes of this experiment.

    python -m experiments.structured.rows --data DATA --out runs/structured/rows

`DATA` holds rte, mrpc, cola, stsb, wikiqa and conll2003 as canonical rows, `squad2/dev_half.tsv` (id, answers, context,
question: articles of SQuAD 2.0's dev split, whole and in order) and `lm/{train,dev}.txt`.
"""

from __future__ import annotations

import argparse
import shutil
from itertools import groupby, islice
from pathlib import Path

AS_THEY_ARE = ("rte", "mrpc", "cola", "stsb", "wikiqa", "conll2003")
SPLITS = ("train", "dev")
FIRST_TEST_ARTICLE = "Warsaw (Polish: Warszawa"
"""Where the context of the first test article begins: 79 % of the questions come before it."""
LM_LINES = {"train": 20_000, "dev": 1_000}
MOST_CHOICES = 8


def write_rows(data: Path, out: Path) -> None:
    """All tasks' files below `out`."""
    for task in AS_THEY_ARE:
        for split in SPLITS:
            copy_lines(data / task / f"{split}.tsv", out / task / f"{split}.tsv")
    for split in SPLITS:
        pairs = data / "wikiqa" / f"{split}.tsv"
        copy_lines(pairs, out / "wikiqa_pairs" / f"{split}.tsv")
        write_choices(pairs, out / "wikiqa_choice" / f"{split}.tsv")
        copy_lines(data / "conll2003" / f"{split}.tsv", out / "conll2003_crf" / f"{split}.tsv")
        copy_lines(data / "lm" / f"{split}.txt", out / "lm" / f"{split}.txt", LM_LINES[split])
    write_questions(data / "squad2" / "dev_half.tsv", out / "squad2")


def copy_lines(source: Path, target: Path, count: int | None = None) -> None:
    """The first lines of a file; all without a count."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if count is None:
        shutil.copyfile(source, target)
        return
    with source.open(encoding="utf-8") as lines:
        target.write_text("".join(islice(lines, count)), encoding="utf-8")


def write_choices(pairs: Path, target: Path) -> None:
    """Questions with one right sentence: `id, number of the right one, question, sentence, sentence, …`."""
    rows = [line.split("\t") for line in pairs.read_text(encoding="utf-8").splitlines()]
    lines = []
    for question, found in groupby(rows, key=lambda row: row[2]):
        group = list(found)
        right = [number for number, row in enumerate(group) if row[1] == "1"]
        if len(right) == 1 and 2 <= len(group) <= MOST_CHOICES:
            lines.append("\t".join([group[0][0], str(right[0]), question, *(row[3] for row in group)]))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_questions(source: Path, folder: Path) -> None:
    """Train on the articles before `FIRST_TEST_ARTICLE`, test on the rest.

    Raises:
        ValueError: no context begins so.
    """
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    border = [number for number, line in enumerate(lines) if line.split("\t")[2].startswith(FIRST_TEST_ARTICLE)]
    if not border:
        raise ValueError(f"{source}: no context begins with '{FIRST_TEST_ARTICLE}'")
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in zip(SPLITS, (lines[: border[0]], lines[border[0] :]), strict=True):
        (folder / f"{split}.tsv").write_text("".join(part), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/structured/rows"))
    given = parser.parse_args()
    write_rows(given.data, given.out)


if __name__ == "__main__":
    main()
