"""Files in CoNLL columns → canonical rows: `python -m data_prep.conll --input FOLDER --out data`.

One word a line, its columns split by tabs or spaces; an empty line ends a sentence; lines that start with -DOCSTART-
are left out. Words are in the first column and tags in the last one, but where the first column counts the words
(CoNLL-U, GermEval, Universal NER): there words are in the second, and tags in the first column that holds tags of
entities or, in CoNLL-U, in the fourth. Comments are left out. `--word_column` and `--tag_column`, counted from 1, say
otherwise. A line that does not fit the other lines is an error. A word that holds a space, as a file with tabs may have
it, is kept whole: the row is then a list.

Tags in IOB1, as CoNLL-2003 has them (an entity begins with I- unless it touches one of its kind), are turned into IOB2
(every entity begins with B-). Splits are found by the usual names: eng.train, eng.testa, eng.testb (CoNLL-2003), or
train, dev or valid, test, with the ending .txt, .conll, .conllu, .tsv, .bio, .iob2 or none. A test split may have no
tags.

Source: Tjong Kim Sang and De Meulder 2003, cs/0306050; Tjong Kim Sang and Veenstra 1999 (IOB1, IOB2).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.conll_layout import OPTIONS, Table, read_table
from data_prep.rows_out import UNLABELLED, Dropped, Report, Row, find_input, run, write_rows
from mtdnn.errors import DataError, fault

ENDINGS = ("", ".txt", ".conll", ".conllu", ".tsv", ".bio", ".iob2")
NAMES = {
    "train": ("eng.train", *(f"train{ending}" for ending in ENDINGS)),
    "dev": ("eng.testa", *(f"{name}{ending}" for name in ("dev", "valid", "testa") for ending in ENDINGS)),
    "test": ("eng.testb", *(f"{name}{ending}" for name in ("test", "testb") for ending in ENDINGS)),
}
COLUMNS = {
    "word_column": "column of the words, counted from 1; by default found by what the columns hold",
    "tag_column": "column of the tags, counted from 1",
}


def convert(
    source: Path, out: Path, *, task: str = "conll2003", word_column: int | None = None, tag_column: int | None = None
) -> list[Report]:
    """Convert the splits that are there.

    Args:
        source, out: folders of the files and of the rows.
        task: name of the folder below `out`.
        word_column, tag_column: counted from 1; None: found by what the columns hold.
    Raises:
        DataError: none is there, or a file has lines that do not fit the others.
    """
    found = {split: path for split, names in NAMES.items() if (path := find_input(source, names)) is not None}
    if not found:
        known = ", ".join(names[0] for names in NAMES.values())
        raise DataError(f"{source}: none of {known}, train.txt, … is there. Name the folder of these files.")
    reports = []
    for split, path in found.items():
        table = read_table(path, word_column=word_column, tag_column=tag_column)
        if table.layout.tag is None and split != "test":
            raise DataError(fault(str(path), "", f"no column of tags, in a {split} split", OPTIONS))
        report = write_rows(out / task / f"{split}.tsv", rows_of(table, split))
        report.notes.append(str(table.layout))
        reports.append(report)
    return reports


def rows_of(table: Table, split: str) -> Iterator[Row | Dropped]:
    """A row for each sentence: tags joined by spaces, or none, and words."""
    for number, sentence in enumerate(table.sentences):
        words, tags = zip(*sentence, strict=True)
        label = UNLABELLED if table.layout.tag is None else " ".join(iob2(tags))
        yield Row(f"{split}-{number}", label, (joined(words),))


def joined(words: Sequence[str]) -> str:
    """Words as a row holds them: with spaces between or, where that would not give them back, as a list.

    >>> joined(["Ada", "left"]), joined(["New York"])
    ('Ada left', '["New York"]')
    """
    text = " ".join(words)
    is_plain = all(word.split() == [word] for word in words) and not (text.startswith("[") and text.endswith("]"))
    return text if is_plain else json.dumps(words, ensure_ascii=False)


def iob2(tags: Sequence[str]) -> list[str]:
    """The same entities with B- at the first word of each; other tags (O, parts of speech) as they are.

    >>> iob2(["I-LOC", "I-LOC", "O", "I-PER", "B-PER"])
    ['B-LOC', 'I-LOC', 'O', 'B-PER', 'B-PER']
    """
    changed = []
    for before, tag in zip(("O", *tags), tags, strict=False):
        goes_on = before[:2] in ("B-", "I-") and before[2:] == tag[2:]
        changed.append(f"B-{tag[2:]}" if tag.startswith("I-") and not goes_on else tag)
    return changed


if __name__ == "__main__":
    run(convert, __doc__ or "", columns=COLUMNS)
