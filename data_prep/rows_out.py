"""Canonical rows on disk: what every converter shares.

A converter reads a source file into `Row`s and `Dropped`s; `write_rows` turns them into `<out>/<task>/<split>.tsv` (id,
label, texts; UTF-8, tab separated, no header, no quoting), whole or not at all, and counts both.
"""

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mtdnn.config.arguments import home_expanded
from mtdnn.config.json_source import json_value, raw_lines
from mtdnn.errors import DataError, MtdnnError, Place, fault, printable, shortened, system_fault
from mtdnn.files import same_file, whole_file
from mtdnn.rows.source import RENAME_ALL_BUT_ONE, RowColumns, repeated_columns
from mtdnn.rows.text import TextRows, TsvRows

UNLABELLED = ""
OTHER_COLUMNS = "too few or too many columns"  # why a row is dropped
BREAKS = re.compile(r"[\t\r\n]")  # what would end a column or a row
SURROGATE = re.compile(r"[\ud800-\udfff]")
EXIT_ERROR = 2  # as of the commands
MAX_HEADER_CHARACTERS = 300  # of the header, in messages
MAX_VALUE_CHARACTERS = 40  # of an id or a value of another type, in messages
MAX_REASON_CHARACTERS = 120  # of why a row is dropped
MAX_REASONS = 10  # that are counted apart
OTHER_REASONS = "other reasons"

LAYOUT_ERRORS = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading a record of another layout raises: a missing key, a number in place of a list, `int(inf)`, …"""


@dataclass(frozen=True)
class Row:
    """One example: its label is a name, a number as text, or empty when the source has none."""

    id: str
    label: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Dropped:
    """One row of the source that is not passed on, and why."""

    reason: str
    id: str


@dataclass
class Report:
    """What became of one split: rows written, texts with a tab or line break replaced, rows dropped by reason.

    Attributes:
        notes: how the source was read, where it could have been read in several ways.
    """

    path: Path
    written: int = 0
    replaced: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)  # reason → the first few ids
    notes: list[str] = field(default_factory=list)

    def drop(self, row: Dropped) -> None:
        """Count a row by its reason; a reason that quotes the source is cut, and after some the others are one."""
        reason = shortened(row.reason, MAX_REASON_CHARACTERS)
        if reason not in self.dropped and len(self.dropped) >= MAX_REASONS:
            reason = OTHER_REASONS
        self.dropped[reason] += 1
        first = self.examples.setdefault(reason, [])
        if len(first) < 3:
            first.append(shortened(row.id, MAX_VALUE_CHARACTERS))

    def __str__(self) -> str:
        parts = [f"{self.path}: {self.written} rows written"]
        if self.replaced:
            parts.append(f"{self.replaced} texts with a tab or line break replaced by a space")
        for reason, count in sorted(self.dropped.items()):
            parts.append(f"{count} dropped, {reason} (first: {', '.join(self.examples[reason])})")
        return "; ".join([*parts, *self.notes])


def write_rows(path: Path, rows: Iterable[Row | Dropped]) -> Report:
    """Write a split beside its place, then rename it there; rows with an empty text are dropped.

    Raises:
        DataError: nothing at all is left to write; an older file stays as it was.
    """
    report = Report(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                if isinstance(row, Row):
                    row = clean(row, report)
                if isinstance(row, Dropped):
                    report.drop(row)
                    continue
                file.write("\t".join((row.id, row.label, *row.texts)) + "\n")
                report.written += 1
        if not report.written:
            raise DataError(f"{report}. Check that the input is the file this converter is for.")
    return report


def require_other_file(out: Path, source: Path, *, flag: str = "--out") -> None:
    """Raise DataError if a file would be written over the one that it is made from; `flag` is the one to change."""
    if same_file(out, source):
        raise DataError(f"{flag}: '{out}' would overwrite '{source}'. Name another file.")


def clean(row: Row, report: Report) -> Row | Dropped:
    """The row with every tab and line break in its texts turned into a space; `Dropped` if it cannot be written."""
    if any(SURROGATE.search(value) for value in (row.id, row.label, *row.texts)):
        return Dropped("an unpaired surrogate, which UTF-8 has no bytes for", row.id)
    if BREAKS.search(row.id) or BREAKS.search(row.label):
        return Dropped("a tab or line break in the id or the label", row.id)
    texts = tuple(text.strip() for text in row.texts)
    if not all(texts):
        return Dropped("empty text", row.id)
    cleaned = tuple(BREAKS.sub(" ", text) for text in texts)
    report.replaced += sum(before != after for before, after in zip(texts, cleaned, strict=True))
    return Row(row.id, row.label, cleaned)


def text_of(value: Any) -> str:
    """A value of a JSON object as a text: a number is written as one; null, a list and the like are none.

    Raises:
        TypeError: it is no text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"{shortened(json.dumps(value), MAX_VALUE_CHARACTERS)} in place of a text")


def labelled_row(id: str, label: str, texts: Sequence[str], labels: Sequence[str]) -> Row | Dropped:
    """The row, or `Dropped` when its label is none of the known ones; without known ones it must be a finite number."""
    if label == "-":
        return Dropped("no gold label (-)", id)
    if labels and label not in labels:
        return Dropped(f"label is none of {', '.join(labels)}", id)
    if not labels and not is_number(label):
        return Dropped("label is no number", id)
    return Row(id, label, tuple(texts))


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and line without its end; only a line feed ends a line, no other separator of Unicode.

    Raises:
        DataError: the file cannot be read, a line is not UTF-8, or a line is longer than any row.
    """
    for number, raw in raw_lines(path):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"not UTF-8 (byte {error.start + 1} of the line)"
            raise DataError(fault(Place(str(path), number), "", found, "Save the file as UTF-8.")) from error
        yield number, line.rstrip("\r\n")


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a canonical file: id, label and at least one text in each line.

    Raises:
        DataError: no such file; it is empty, in another encoding, or begins with a header; or a line with fewer
            columns, with its number.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file. Give canonical rows, as the converters write them.")
    source = TsvRows(path)
    found = TextRows.faults(source, RowColumns(()))
    if not found and (header := source.header_fault()):
        found = [replace(header, fix="Remove it.")]
    if found:
        raise DataError(found)
    for number, line in read_lines(path):
        values = line.split("\t")
        if len(values) < 3:
            raise DataError(f"{path}:{number}: {len(values)} columns; expected id, label and texts, tab separated.")
        yield Row(values[0], values[1], tuple(values[2:]))


def require_columns(path: Path, header: Sequence[str], columns: Sequence[str], *, optional: Sequence[str] = ()) -> None:
    """Raise DataError if a header lacks one of the columns, or has one of these or of the optional ones twice."""
    found, fix = "", "Check that this is the file as distributed."
    if missing := [column for column in columns if column not in header]:
        names = shortened(", ".join(header), MAX_HEADER_CHARACTERS)
        found = f"no column {missing[0]!r}; the columns are {names}"
    elif repeated := repeated_columns(RowColumns((*columns, *optional)), header):
        found, fix = repeated, RENAME_ALL_BUT_ONE
    if found:
        raise DataError(fault(Place(str(path), 1), "", found, fix))


def read_columns(
    path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()
) -> Iterator[tuple[int, list[str] | None]]:
    """Line number and named columns of each row of a tab-separated file with a header.

    In place of the columns None where a row is too short, or has more cells than the header and one of these is not
    empty: a text then holds a tab, and which one cannot be said.

    Args:
        columns: must be in the header.
        optional: come after them in each row, as empty texts where the header or the row lacks them.
    Raises:
        DataError: the header lacks one of the columns, or has one twice.
    """
    lines = read_lines(path)
    header = next(lines, (1, ""))[1].split("\t")
    require_columns(path, header, columns, optional=optional)
    places = [header.index(column) for column in columns]
    more = [header.index(column) for column in optional if column in header]
    for number, line in lines:
        values = line.split("\t")
        if len(values) <= max(places) or any(values[len(header) :]):
            yield number, None
        else:
            yield number, [values[place] for place in places] + [values[p] if p < len(values) else "" for p in more]


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Line number and JSON object of each line that is not empty; None where a line holds none."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            value = json_value(line, Place(str(path), number))
        except DataError:  # counted by the converter, as one bad line must not end the file
            value = None
        yield number, value if isinstance(value, dict) else None


def find_input(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of the names that is a file of the folder, or None."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def path_of(text: str) -> Path:
    """The path in a flag, with `~` as the home directory."""
    return home_expanded(Path(text))


def run(convert: Callable[..., list[Report]], description: str, *, columns: Mapping[str, str] | None = None) -> None:
    """The command line of a converter: `--input FOLDER --out FOLDER`; prints one line for each split.

    Args:
        convert: takes the two folders, and what else is in `columns` by name.
        description: for `--help`.
        columns: numbers it takes in addition, with what each means.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--input", type=path_of, required=True, help="folder with the files as distributed")
    parser.add_argument("--out", type=path_of, required=True, help="folder to write <task>/<split>.tsv to")
    for name, meaning in (columns or {}).items():
        parser.add_argument(f"--{name}", type=int, help=meaning)
    arguments = parser.parse_args()
    more = {name: getattr(arguments, name) for name in columns or {}}
    with errors_reported():
        reports = convert(arguments.input, arguments.out, **more)
    print_reports(reports)


@contextmanager
def errors_reported() -> Iterator[None]:
    """End the process as the commands do if the block raises an error of the user's: one line, exit status 2."""
    try:
        yield
    except MtdnnError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_ERROR) from error
    except (OSError, MemoryError) as error:
        found = system_fault(error, "data_prep")
        if found is None:
            raise
        print(found, file=sys.stderr)
        raise SystemExit(EXIT_ERROR) from error


def print_reports(reports: Iterable[Report]) -> None:
    """One line for each split, whatever characters its names have."""
    for report in reports:
        print(printable(str(report)))
