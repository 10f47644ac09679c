"""Files in CoNLL columns → canonical rows: `python -m data_prep.conll --input FOLDER --out data`.

One word a line, its columns split by space or tab, the tag in the last one; an empty line ends a sentence; lines that
start with -DOCSTART- are left out. Tags in IOB1, as CoNLL-2003 has them (an entity begins with I- unless it touches one
of its kind), are turned into IOB2 (every entity begins with B-). Splits are found by the usual names: eng.train,
eng.testa, eng.testb (CoNLL-2003), or train, dev or valid, test, with the ending .txt, .conll, .tsv, .bio or none.

Source: Tjong Kim Sang and De Meulder 2003, cs/0306050; Tjong Kim Sang and Veenstra 1999 (IOB1, IOB2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.rows_out import Dropped, Report, Row, find_input, read_lines, run, write_rows
from mtdnn.errors import DataError

ENDINGS = ("", ".txt", ".conll", ".tsv", ".bio")
NAMES = {
    "train": ("eng.train", *(f"train{ending}" for ending in ENDINGS)),
    "dev": ("eng.testa", *(f"{name}{ending}" for name in ("dev", "valid", "testa") for ending in ENDINGS)),
    "test": ("eng.testb", *(f"{name}{ending}" for name in ("test", "testb") for ending in ENDINGS)),
}


def convert(source: Path, out: Path, *, task: str = "conll2003") -> list[Report]:
    """Convert the splits that are there.

    Raises:
        DataError: none is, or a line has no tag.
    """
    found = {split: path for split, names in NAMES.items() if (path := find_input(source, names)) is not None}
    if not found:
        raise DataError(f"{source}: none of {', '.join(names[0] for names in NAMES.values())}, train.txt, … is there.")
    return [write_rows(out / task / f"{split}.tsv", read(path, split)) for split, path in found.items()]


def read(path: Path, split: str) -> Iterator[Row | Dropped]:
    """A row for each sentence: words and tags, each joined by spaces."""
    for number, sentence in enumerate(sentences(path)):
        words, tags = zip(*sentence, strict=True)
        yield Row(f"{split}-{number}", " ".join(iob2(tags)), (" ".join(words),))


def sentences(path: Path) -> Iterator[list[tuple[str, str]]]:
    """(word, tag) of each word, sentence by sentence."""
    sentence: list[tuple[str, str]] = []
    for number, line in read_lines(path):
        cells = re.split(r"[ \t]+", line.strip(" \t")) if line.strip() else []
        if cells and not line.startswith("-DOCSTART-"):
            if len(cells) < 2:
                raise DataError(f"{path}:{number}: '{line}' has no tag; a word and its columns are expected.")
            sentence.append((cells[0], cells[-1]))
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


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
    run(convert, __doc__ or "")
