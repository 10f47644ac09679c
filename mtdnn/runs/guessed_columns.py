"""A file of rows → its columns, and which of them has the labels, the ids and the texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtdnn.errors import DataError, Fault, fault, first_of, shortened
from mtdnn.rows.lists import written_list
from mtdnn.rows.places import rows_of
from mtdnn.rows.source import RowColumns, RowSource
from mtdnn.rows.text import ID_NAMES, PlainRows

LABEL_NAMES = (
    "label", "labels", "gold_label", "class", "category", "target", "y", "tag", "tags", "ner_tags", "sentiment",
    "score", "rating", "stars", "similarity", "answer",
)  # fmt: skip

MIN_ROWS = 10
MAX_REPORTED = 3
MAX_CLASSES = 200
SHORT_WORDS = 3.0


@dataclass
class ColumnValues:
    """What is known of a column: its values as texts, and whether they are lists.

    Attributes:
        name: in the file.
        values: of each row.
        lists: whether every value is a list, or a text that is written like one.
        nested: whether every value is a list, so that a path can lead into it.
    """

    name: str
    values: list[str] = field(default_factory=list)
    lists: bool = True
    nested: bool = True

    def add(self, value: Any) -> None:
        """Add the value of the next row."""
        is_list = isinstance(value, (list, tuple))
        self.nested = self.nested and is_list
        self.lists = self.lists and (is_list or (isinstance(value, str) and value.strip().startswith("[")))
        self.values.append(repr(list(value)) if is_list else str(value).strip())

    @property
    def words(self) -> list[int]:
        """[rows]: number of words of each value."""
        return [len(value.split()) for value in self.values]

    @property
    def mean_words(self) -> float:
        """Words of a value, on average."""
        return sum(self.words) / max(len(self.values), 1)


def readable_source(path: Path) -> RowSource:
    """The rows of a file.

    Raises:
        DataError: it is a folder or a file of another kind, or cannot be read as a whole.
    """
    if path.is_dir():
        fix = "Name a file of rows; a data set that the `datasets` library saved is a task's `source: {path: …}`."
        raise DataError(fault(str(path), "", "a folder", fix))
    source = rows_of(path)
    if found := source.faults(RowColumns(())):
        raise DataError(found)
    return source


def read_columns(source: RowSource, path: Path) -> dict[str, ColumnValues]:
    """Name → column of every row that can be read; what is nested in JSON is known by its path.

    Raises:
        DataError: the file as a whole cannot be read, or has no columns that could be known.
    """
    names = source.leaves() if source.has_names else _unnamed(source, path)
    wanted = RowColumns(tuple(names), optional=tuple(names))
    if found := source.faults(wanted):
        raise DataError(found)
    columns, unreadable = {name: ColumnValues(name) for name in names}, list[Fault]()
    for row in source.read_all(wanted):
        if isinstance(row, Fault):
            unreadable.append(row)
            continue
        for each in names:
            columns[each].add(row.values[each])
    read = max((len(each.values) for each in columns.values()), default=0)
    if read < MIN_ROWS and unreadable:
        raise DataError(first_of(unreadable, len(unreadable), str(path), MAX_REPORTED))
    return columns


def _unnamed(source: RowSource, path: Path) -> list[str]:
    """The columns of a file without a header, by their number in its first line.

    Raises:
        DataError: the first line is a header, or has another number of columns.
    """
    if isinstance(source, PlainRows):
        return ["text"]
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        cells = file.readline().rstrip("\r\n").split("\t")
    plain = [cell.strip().lower() for cell in cells]
    if plain[0] in ID_NAMES or {*plain} & {"label", "text", "sentence", "premise"}:
        found = f"the first line is a header ({shortened(', '.join(cells), 60)}), which a .tsv does not have"
        raise DataError(fault(f"{path}:1", "", found, "Remove it, or save the file as .csv with a header."))
    kinds = {3: ["id", "label", "text"], 4: ["id", "label", "premise", "hypothesis"]}
    if len(cells) not in kinds:
        found = f"{len(cells)} columns; a .tsv has id, label and one or two texts"
        raise DataError(fault(f"{path}:1", "", found, "Save the file as .csv with a header."))
    return kinds[len(cells)]


def label_column(columns: dict[str, ColumnValues], texts: Sequence[str], path: Path) -> ColumnValues:
    """The column of the labels: by its name, else the one with the fewest different short values, filled in every row
    if there is such a one.

    Args:
        columns: of the file.
        texts: names of those that are texts.
        path: the file, for messages.
    Raises:
        DataError: there is none.
    """
    columns = {name: each for name, each in columns.items() if name not in texts}
    lower = {name.lower().split(".")[-1]: name for name in reversed(columns)}
    for word in LABEL_NAMES:
        if word in lower:
            return columns[lower[word]]
    short = {
        name: len({*each.values})
        for name, each in columns.items()
        if each.mean_words <= SHORT_WORDS and 2 <= len({*each.values}) <= min(MAX_CLASSES, len(each.values) // 4)
    }
    if short and len(columns) > 1:
        return columns[min(short, key=lambda name: ("" in columns[name].values, short[name], name))]
    found = f"no column of labels among {shortened(', '.join(columns), 200)}"
    fix = "Give --label COLUMN, or save the texts as .txt, one in each line, to learn from them without labels."
    raise DataError(fault(str(path), "", found, fix))


def unwrapped(labels: ColumnValues) -> ColumnValues:
    """The labels themselves, where every row has a list of exactly one, as labelling tools write it."""
    lists = [items_of(value, ",") for value in labels.values] if labels.nested else [[]]
    if any(len(each) != 1 for each in lists):
        return labels
    return ColumnValues(f"{labels.name}.0", [each[0] for each in lists], lists=False, nested=False)


def id_column(columns: dict[str, ColumnValues]) -> ColumnValues | None:
    """The column of the rows' ids: one with such a name, and no value twice."""
    for name, each in columns.items():
        if name.lower() in ID_NAMES and "" not in each.values and len({*each.values}) == len(each.values):
            return each
    return None


def text_columns(columns: dict[str, ColumnValues], taken: set[str], path: Path) -> list[ColumnValues]:
    """The one or two columns of texts, in the order of the file: those with more than a word in most rows.

    Args:
        columns: of the file.
        taken: names of those that have labels or ids.
        path: the file, for messages.
    Raises:
        DataError: there is none, or a choice of more than two.
    """
    rest = [each for name, each in columns.items() if name not in taken and name.lower() not in ID_NAMES]
    rest = [each for each in rest if sum(map(bool, each.values)) == len(each.values)]
    texts = [each for each in rest if each.mean_words > 1.5] or sorted(rest, key=lambda each: -each.mean_words)[:1]
    if not texts or len(texts) > 2:
        kind = "without empty cells " if not texts else ""
        named = shortened(", ".join(each.name for each in texts or columns.values()), 200)
        found = f"{len(texts)} columns of texts {kind}({named}); one or two are expected"
        raise DataError(fault(str(path), "", found, "Name those to learn from, such as --text title,body."))
    return texts


def items_of(value: str, separator: str) -> list[str]:
    """The items of a list written as one, or separated; `none` is the empty list."""
    if (items := written_list(value)) is not None:
        return [str(each).strip() for each in items]
    if value.startswith("[") and value.endswith("]"):
        value = value[1:-1]
    if separator == " ":
        return value.split()
    return [] if value == "none" else [each.strip() for each in value.split(separator)]
