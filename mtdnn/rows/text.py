"""Rows of text files: .tsv, .jsonl, .csv, .txt, with file:line in every message."""

from __future__ import annotations

import csv
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mtdnn.config.json_source import json_value
from mtdnn.errors import DataError, Fault, Place, fault, shortened
from mtdnn.files import file_sha256
from mtdnn.rows.source import (
    MAX_ROW_BYTES,
    PART_BYTES,
    RENAME_ALL_BUT_ONE,
    RENAME_COLUMN,
    Part,
    Row,
    RowColumns,
    RowSource,
    asked_for,
    leaves_of,
    long_row_fault,
    missing_columns,
    named_values,
    paths_of,
    repeated_columns,
    unreadable_fault,
    with_nested,
)

BOM = b"\xef\xbb\xbf"
HEAD_BYTES = 1 << 16
SAVE_AS_UTF8 = "Save the file as UTF-8."

ID_NAMES = ("id", "idx", "guid", "uid", "uuid", "key", "row_id", "index", "pairid")
HEADER_NAMES = (
    "label", "labels", "gold_label", "score", "text", "sentence", "premise", "hypothesis", "question", "context",
    "answer", "candidate", "choice", "tokens", "words", "tags", "source", "target",
)  # fmt: skip

CSV_FIX = "Close the quotes, and double quotes inside texts."
SEPARATORS = (",", ";", "\t")
"""Between the columns of a .csv; spreadsheets write semicolons where a comma is the decimal point."""


class Header(NamedTuple):
    """The header of a .csv.

    Attributes:
        line: its number; the first line that is not blank.
        names: of the columns.
        separator: between them, the one that makes several columns of the header; a comma if none or several do.
    """

    line: int
    names: list[str]
    separator: str


@dataclass(frozen=True)
class TextRows(RowSource):
    """Rows of a text file in UTF-8; lines end with a line feed, with or without a carriage return before it."""

    path: Path

    @property
    def place(self) -> str:  # type: ignore[override]
        return str(self.path)

    def parts(self, size: int = PART_BYTES) -> Iterator[Part]:
        with self.path.open("rb") as file:
            start, line = 0, 1
            while block := file.read(size):
                block += file.readline(MAX_ROW_BYTES + 1)
                self._refuse_long_rows(block, line)
                yield Part(start, start + len(block), line)
                start += len(block)
                line += block.count(b"\n")

    def _refuse_long_rows(self, block: bytes, first: int) -> None:
        """Raise DataError if a line of a block is longer than a row may be; `first` is the number of its first line."""
        if len(block) <= MAX_ROW_BYTES:
            return
        for number, line in enumerate(block.split(b"\n"), first):
            if len(line) > MAX_ROW_BYTES:
                raise DataError(long_row_fault(Place(self.place, number)))

    def sha256(self) -> str:
        return file_sha256(self.path)

    def faults(self, columns: RowColumns) -> list[Fault]:
        try:
            with self.path.open("rb") as file:
                head = file.read(HEAD_BYTES)
        except OSError as error:
            return [unreadable_fault(self.place, error)]
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return [fault(Place(self.place, 1), "", "not UTF-8 but UTF-16 (byte order mark)", SAVE_AS_UTF8)]
        if b"\0" in head[:4]:
            return [fault(Place(self.place, 1), "", "not UTF-8 but UTF-16 or UTF-32 (a byte is zero)", SAVE_AS_UTF8)]
        if not head.removeprefix(BOM):
            return [fault(self.place, "", "the file is empty", "Add rows, or remove the split.")]
        if len(head) < HEAD_BYTES and b"\n" not in head and b"\r" in head.rstrip(b"\r"):
            found = "one line, as its lines end with a carriage return and no line feed"
            return [fault(self.place, "", found, "Save the file with line feeds at the ends of lines.")]
        return []

    def lines(self, part: Part) -> Iterator[tuple[int, str | UnicodeDecodeError]]:
        """(line number, text) of each line of a part; the error in place of a text that is not UTF-8."""
        with self.path.open("rb") as file:
            file.seek(part.start)
            raw = file.read(part.stop - part.start)
        if part.start == 0:
            raw = raw.removeprefix(BOM)
        raw = raw.removesuffix(b"\n")
        try:
            yield from enumerate(raw.decode("utf-8").split("\n"), part.first)
        except UnicodeDecodeError:
            for number, line in enumerate(raw.split(b"\n"), part.first):
                yield number, _decoded(line)


class LineRows(TextRows):
    """Rows of a file with one row per line."""

    def read(self, part: Part, columns: RowColumns) -> Iterator[Row | Fault]:
        for number, line in self.lines(part):
            where = Place(self.place, number)
            if not isinstance(line, str):
                yield _encoding_fault(line, where)
            elif (row := self.parse(line.removesuffix("\r"), where, columns)) is not None:
                yield row

    @abstractmethod
    def parse(self, line: str, where: Place, columns: RowColumns) -> Row | Fault | None:
        """The row of a line, or its error; None if the line has no row.

        Args:
            line: the text of the line.
            where: file and line.
            columns: the needed columns.
        """


class TsvRows(LineRows):
    """Rows of a .tsv file: tab-separated, no header, no quoting."""

    has_names = False

    def faults(self, columns: RowColumns) -> list[Fault]:
        if found := super().faults(columns):
            return found
        header = self.header_fault(columns.names)
        return [] if header is None else [header]

    def header_fault(self, names: Sequence[str] = ()) -> Fault | None:
        """The error of a file whose first line has names of columns, which would be read as a row.

        Args:
            names: of the columns of the task.
        """
        with self.path.open("rb") as file:
            line = file.readline(HEAD_BYTES).removeprefix(BOM).decode("utf-8", "replace")
        cells = line.rstrip("\r\n").split("\t")
        plain, known = [cell.strip().lower() for cell in cells], {*HEADER_NAMES, *map(str.lower, names)}
        are_names = [cell in ID_NAMES or cell.rstrip("_0123456789") in known or cell in known for cell in plain]
        if len(cells) < 2 or not (all(are_names) or (plain[0] in ID_NAMES and any(are_names[1:]))):
            return None
        found = f"the first line is a header ({shortened(', '.join(cells), 60)}), which a .tsv does not have"
        fix = "Remove it, or save the file as .csv with a header. A row without a label has an empty column."
        return fault(Place(self.place, 1), "", found, fix)

    def parse(self, line: str, where: Place, columns: RowColumns) -> Row | Fault:
        cells: list[Any] = line.split("\t")
        names = columns.names
        if columns.repeats_last and len(cells) >= len(names):
            cells[len(names) - 1 :] = [cells[len(names) - 1 :]]
        if len(cells) == len(names):
            return Row(dict(zip(names, cells, strict=True)), where)
        if not line.strip():
            return fault(where, "", "an empty line", "Remove it.")
        more = " or more" if columns.repeats_last else ""
        found = f"{len(cells)} columns; {len(names)}{more} expected: {', '.join(names)}"
        fix = "Columns are separated by one tab; a text has none."
        if "label" in names and len(cells) == len(names) - 1:
            fix = f"{fix} A row without a label has an empty column; the file has no header."
        return fault(where, "", found, fix)


class JsonlRows(LineRows):
    """Rows of a .jsonl file: one JSON object per line; blank lines are skipped."""

    def names(self) -> list[str]:
        return paths_of(self._records())

    def leaves(self) -> list[str]:
        return leaves_of(self._records())

    def _records(self) -> Iterator[dict[str, Any]]:
        """Every record that can be read: a column may be missing in any of them."""
        for part in self.parts():
            for number, line in self.lines(part):
                if isinstance(line, str) and line.strip():
                    with suppress(DataError):
                        values = json_value(line, Place(self.place, number))
                        if isinstance(values, dict):
                            yield values

    def parse(self, line: str, where: Place, columns: RowColumns) -> Row | Fault | None:
        if not line.strip():
            return None
        try:
            values = json_value(line, where, "One object per line is expected.", unique=True)
        except DataError as error:
            return error.faults[0]
        if not isinstance(values, dict):
            return fault(where, "", f"{type(values).__name__}, not a JSON object", "One object per line is expected.")
        values = with_nested(values, columns)
        missing = missing_columns(asked_for(columns, values), list(values))
        if missing:
            return fault(where, "", missing, RENAME_COLUMN)
        return Row(named_values(values, columns, where.line), where)


class PlainRows(TextRows):
    """Rows of a .txt file: one row per line that is not empty; its id is the line number."""

    has_names = False

    def faults(self, columns: RowColumns) -> list[Fault]:
        texts = [name for name in columns.names if name != "id"]
        if len(texts) > 1:
            found = f"a .txt file has no columns; {len(texts)} are needed: {', '.join(texts)}"
            return [fault(self.place, "", found, "Give .tsv, .jsonl, .csv or .parquet.")]
        return super().faults(columns)

    def read(self, part: Part, columns: RowColumns) -> Iterator[Row | Fault]:
        for number, line in self.lines(part):
            where = Place(self.place, number)
            if not isinstance(line, str):
                yield _encoding_fault(line, where)
            elif line.strip():
                yield Row({name: str(number) if name == "id" else line.strip() for name in columns.names}, where)


class CsvRows(TextRows):
    """Rows of a .csv file with a header, quoted as by `csv` and pandas; quoted texts may span lines.

    Columns are separated by commas, or by semicolons or tabs if only these separate the names in the header. Blank
    lines are skipped, as in pandas and the `datasets` library.
    """

    def parts(self, size: int = PART_BYTES) -> Iterator[Part]:
        """The file in parts of about `size` bytes, never split inside a quoted text."""
        separator = self._separator()
        with self.path.open("rb") as file:
            taken = [0, 0]  # bytes, lines

            def lines() -> Iterator[str]:
                while raw := file.readline(MAX_ROW_BYTES + 1):
                    self._refuse_long_rows(raw, taken[1] + 1)
                    taken[0] += len(raw)
                    taken[1] += 1
                    yield raw.decode("utf-8", "replace")

            start, first = 0, 1
            try:
                for _ in _cells(lines(), separator):
                    if taken[0] - start >= size:
                        yield Part(start, taken[0], first)
                        start, first = taken[0], taken[1] + 1
            except csv.Error:  # reported with its line when this last part is read
                taken[0] += sum(map(len, file))
            if taken[0] > start:
                yield Part(start, taken[0], first)

    def header(self) -> Header:
        """The header; without names if the file has no line that is not blank.

        Raises:
            DataError: the header is not CSV.
        """
        with self.path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(MAX_ROW_BYTES + 1), b""), 1):
                self._refuse_long_rows(raw, number)
                line = raw.removeprefix(BOM if number == 1 else b"").decode("utf-8", "replace")
                if line.strip():
                    return self._header(line, number)
        return Header(1, [], SEPARATORS[0])

    def _header(self, line: str, number: int) -> Header:
        try:
            by: dict[str, list[str]] = {separator: next(_cells([line], separator), []) for separator in SEPARATORS}
        except csv.Error as error:
            raise DataError(fault(Place(self.place, number), "", f"not CSV: {error}", CSV_FIX)) from error
        several = [separator for separator, names in by.items() if len(names) > 1]
        separator = several[0] if len(several) == 1 else SEPARATORS[0]
        return Header(number, by[separator], separator)

    def _separator(self) -> str:
        """The header's separator; a comma where the header is not CSV, which `faults` reports."""
        try:
            return self.header().separator
        except DataError:
            return SEPARATORS[0]

    def names(self) -> list[str]:
        return self.header().names

    def faults(self, columns: RowColumns) -> list[Fault]:
        found = super().faults(columns)
        if found:
            return found
        try:
            number, names, _ = self.header()
        except DataError as error:
            return list(error.faults)
        if repeated := repeated_columns(columns, names):
            return [fault(Place(self.place, number), "", repeated, RENAME_ALL_BUT_ONE)]
        missing = missing_columns(asked_for(columns, names), names)
        return [fault(Place(self.place, number), "", missing, RENAME_COLUMN)] if missing else []

    def read(self, part: Part, columns: RowColumns) -> Iterator[Row | Fault]:
        header = self.header()
        texts = list(self.lines(part))
        broken = [(number, line) for number, line in texts if not isinstance(line, str)]
        if broken:
            yield from (_encoding_fault(line, Place(self.place, number)) for number, line in broken)
            return
        reader = _cells((f"{line}\n" for _, line in texts), header.separator, strict=True)
        number = part.first
        try:
            for cells in reader:
                if number > header.line and str(texts[number - part.first][1]).strip():
                    yield self._row(cells, header, Place(self.place, number), columns)
                number = part.first + reader.line_num
        except csv.Error as error:
            yield fault(Place(self.place, number), "", f"not CSV: {error}", CSV_FIX)

    def _row(self, cells: list[str], header: Header, where: Place, columns: RowColumns) -> Row | Fault:
        names = header.names
        if len(cells) != len(names):
            found = f"{len(cells)} columns; the header has {len(names)}: {', '.join(names)}"
            between = {",": "commas", ";": "semicolons", "\t": "tabs"}[header.separator]
            return fault(where, "", found, f"Put texts with {between} in quotes.")
        return Row(named_values(dict(zip(names, cells, strict=True)), columns, where.line), where)


def _cells(lines: Iterable[str], separator: str, *, strict: bool = False) -> Any:
    """`csv.reader` for cells of any allowed length; raises Python's limit of 131,072 characters, which is global."""
    csv.field_size_limit(MAX_ROW_BYTES)
    return csv.reader(lines, delimiter=separator, strict=strict)


def _decoded(line: bytes) -> str | UnicodeDecodeError:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        return error


def _encoding_fault(error: UnicodeDecodeError, where: Place) -> Fault:
    found = f"not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start + 1} of the line"
    return fault(where, "", found, SAVE_AS_UTF8)
