"""Canonical rows → the same rows with small errors in their texts, to measure robustness without adversarial rows.

`python -m data_prep.typos --input data/scitail/dev.tsv --kind typos --rate 0.1 --seed 1 --out data/scitail/typos.tsv`

- typos: a word of four letters or more gets one error: two neighbouring letters swapped, a letter left out, a letter
  doubled, or a letter replaced by a neighbour on an English keyboard. The first letter stays, and so do the marks
  around a word; what has other characters within, such as `well-known`, is no such word.
- dropped: a word is left out; a text keeps at least one.
- swapped: a word changes places with the next one.

Each word is hit with the probability `rate`, by draws from (seed, kind, id, column) alone. Ids, labels and order stay,
in all columns of text; words are what white space separates, and one space separates them afterwards.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Sequence
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
from mtdnn.seeding import derive_seed

SHORTEST = 4  # letters of a word that gets a typo

KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS = {
    letter: "".join(row[place] for place in (at - 1, at + 1) if 0 <= place < len(row))
    for row in KEYBOARD
    for at, letter in enumerate(row)
}

WORD = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)
"""The marks before a word, the word, and the marks after it."""

Change = Callable[[list[str], float, random.Random], list[str]]


def with_typos(words: list[str], rate: float, rng: random.Random) -> list[str]:
    """The words, some of the longer ones with one error."""
    return [_maybe_mistyped(word, rate, rng) for word in words]


def _maybe_mistyped(word: str, rate: float, rng: random.Random) -> str:
    hit, found = rng.random() < rate, WORD.fullmatch(word)
    before, letters, after = found.groups() if found else ("", word, "")
    mistypable = hit and len(letters) >= SHORTEST and letters.isalpha()
    return f"{before}{mistyped(letters, rng)}{after}" if mistypable else word


def mistyped(word: str, rng: random.Random) -> str:
    """A word of letters with one error, always another word than before."""
    at = 1 + _below(len(word) - 2, rng)  # neither the first letter nor the last
    candidates = [
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
    ]
    near = NEIGHBOURS.get(word[at].lower(), "")
    if near:
        key = near[_below(len(near), rng)]
        candidates.append(word[:at] + (key.upper() if word[at].isupper() else key) + word[at + 1 :])
    candidates = [candidate for candidate in candidates if candidate != word]
    return candidates[_below(len(candidates), rng)]


def with_dropped_words(words: list[str], rate: float, rng: random.Random) -> list[str]:
    """The words without some of them, but for at least one."""
    kept = [word for word in words if rng.random() >= rate]
    return kept or words[:1]


def with_swapped_words(words: list[str], rate: float, rng: random.Random) -> list[str]:
    """The words, some of them in the place of the next one."""
    words, at = list(words), 0
    while at + 1 < len(words):
        if rng.random() < rate:
            words[at], words[at + 1] = words[at + 1], words[at]
            at += 1  # the pair is done: a word moves by one place at most
        at += 1
    return words


KINDS: dict[str, Change] = {"typos": with_typos, "dropped": with_dropped_words, "swapped": with_swapped_words}


def changed(row: Row, kind: str, *, rate: float, seed: int) -> Row:
    """A row with errors in its texts.

    Args:
        row: the row.
        kind: typos, dropped or swapped.
        rate: probability of each word to be hit, 0 to 1.
        seed: of the draws.
    """
    texts: list[str] = []
    for column, text in enumerate(row.texts):
        rng = random.Random(derive_seed(seed, kind, row.id, column))
        texts.append(" ".join(KINDS[kind](text.split(), rate, rng)))
    return replace(row, texts=tuple(texts))


def write_changed(source: Path, out: Path, *, kind: str, rate: float, seed: int) -> Report:
    """Write the rows with errors in their texts.

    Args:
        source: canonical rows, a `.tsv` of id, label and texts.
        out: the file to write.
        kind: typos, dropped or swapped.
        rate: probability of each word to be hit, 0 to 1.
        seed: of the draws.
    Raises:
        DataError: another kind, a rate outside 0 to 1, or a file with another layout.
    """
    if kind not in KINDS:
        raise DataError(f"--kind: unknown kind {kind!r}; known: {', '.join(KINDS)}.")
    if not 0 <= rate <= 1:
        raise DataError(f"--rate: {rate} is no share. Give a number from 0 to 1.")
    require_other_file(out, source)
    rows = list(read_rows(source))
    new = [changed(row, kind, rate=rate, seed=seed) for row in rows]
    report = write_rows(out, new)
    hit = sum(_words(before) != _words(after) for before, after in zip(rows, new, strict=True))
    report.notes.append(f"{hit} rows with {kind}")
    return report


def _words(row: Row) -> Sequence[list[str]]:
    return [text.split() for text in row.texts]


def _below(count: int, rng: random.Random) -> int:
    """A whole number from 0 to count − 1, from `random()` alone, whose numbers are the same in every Python."""
    return int(rng.random() * count)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Rows with typos, dropped or swapped words.")
    parser.add_argument("--input", type=path_of, required=True, help="canonical rows, .tsv")
    parser.add_argument("--out", type=path_of, required=True, help="file to write")
    parser.add_argument("--kind", choices=list(KINDS), required=True, help="of the errors")
    parser.add_argument("--rate", type=float, default=0.1, help="probability of each word to be hit (default 0.1)")
    parser.add_argument("--seed", type=int, default=1, help="of the draws (default 1)")
    given = parser.parse_args()
    with errors_reported():
        report = write_changed(given.input, given.out, kind=given.kind, rate=given.rate, seed=given.seed)
    print_reports([report])


if __name__ == "__main__":
    main()
