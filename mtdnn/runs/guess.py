"""A file of rows → a task definition for it, with the reason for each of its keys."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mtdnn.config.yaml_source import Dumper
from mtdnn.errors import ConfigError, DataError, Fault, fault, first_of, printable, shortened, unknown
from mtdnn.rows.example import UNLABELLED, python_list
from mtdnn.rows.places import rows_of
from mtdnn.rows.source import RowColumns, RowSource
from mtdnn.rows.text import JsonlRows, PlainRows

LABEL_NAMES = (
    "label", "labels", "gold_label", "class", "category", "target", "y", "tag", "tags", "ner_tags", "sentiment",
    "score", "rating", "stars", "similarity", "answer",
)  # fmt: skip
ID_NAMES = ("id", "idx", "guid", "uid", "uuid", "key", "row_id", "index", "pairid")

MIN_ROWS = 10
MAX_REPORTED = 3
MAX_CLASSES = 200
MAX_WHOLE_CLASSES = 10  # more different whole numbers are taken for degrees, not for classes
SHORT_WORDS = 3.0
MAX_LENGTHS = (32, 64, 128, 256, 512)
TOKENS_PER_WORD = 1.5
MAX_LINE = 110
SMALL = 500  # rows, below which a fifth of them is used for dev


@dataclass
class ColumnValues:
    """What is known of a column: its values as texts, and whether they are lists.

    Attributes:
        name: in the file.
        values: of each row.
        lists: whether every value is a list, or a text that is written like one.
    """

    name: str
    values: list[str] = field(default_factory=list)
    lists: bool = True

    def add(self, value: Any) -> None:
        """Add the value of the next row."""
        is_list = isinstance(value, (list, tuple))
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


@dataclass
class Guess:
    """A task definition for a file of rows.

    Attributes:
        name: of the task.
        block: key → value, as in YAML.
        reasons: key → why it has its value.
        rows: number of rows in the file.
        separator: of the labels in a row; "": a row has one; None: labels are numbers, or rows have none.
    """

    name: str
    block: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    separator: str | None = None

    def set(self, key: str, value: Any, why: str) -> None:
        """Add a key of the block."""
        self.block[key], self.reasons[key] = value, why

    def as_yaml(self) -> str:
        """The block as YAML, with each reason as a comment: after its key, or above where the line would be long."""
        lines = [f"{self.name}:"]
        for key, value in self.block.items():
            line, reason = f"  {key}: {_flow(value)}", f"# {printable(self.reasons[key])}"
            lines += [f"{line}  {reason}"] if len(line) + len(reason) < MAX_LINE else [f"  {reason}", line]
        return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """A value in one line of YAML."""
    line: str = yaml.dump(
        [value], Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=1 << 20, sort_keys=False
    )
    return line.strip()[1:-1]


def guessed(path: Path, *, name: str | None = None, label: str | None = None, texts: Sequence[str] = ()) -> Guess:
    """The definition of a task for a file without splits, so that its rows can be prepared and trained on as they are.

    Args:
        path: .csv, .jsonl or .parquet with named columns; .tsv with `id, label, text` or `id, label, premise,
            hypothesis`; .txt with a text in each line.
        name: of the task; None: that of the file.
        label: the column of the labels; None: guessed.
        texts: the columns of the texts; empty: guessed.
    Raises:
        ConfigError: the file has no column of that name.
        DataError: the file cannot be read, or it does not show what is to be learnt.
    """
    source = _readable_source(path)
    guess = Guess(name or re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-_") or "task")
    columns = _columns(source, path)
    guess.rows = max((len(each.values) for each in columns.values()), default=0)
    if guess.rows < MIN_ROWS:
        raise DataError(
            fault(str(path), "", f"{guess.rows} rows", f"Give at least {MIN_ROWS}, to train and evaluate on.")
        )
    _refuse_unknown(columns, label, texts)
    if isinstance(source, PlainRows):
        guess.set("task_type", "masked_lm", "a text in each line, without labels")
        guess.set("inputs", ["text"], "lines have no columns")
        _add_length(guess, list(columns.values()))
        _add_splits(guess, path, stratify=False)
        return guess
    labels = _label_column(columns, texts, path) if label is None else columns[label]
    if isinstance(source, JsonlRows):
        labels = _unwrapped(labels)
    row_id = _id_column({name: each for name, each in columns.items() if name not in (labels.name, *texts)})
    taken = {labels.name, "" if row_id is None else row_id.name}
    inputs = [columns[each] for each in texts] or _text_columns(columns, taken, path)
    _add_type(guess, labels, inputs, path)
    _add_columns(guess, labels, row_id, inputs, named=source.has_names)
    _add_labels(guess, labels)
    _add_length(guess, inputs)
    _add_splits(guess, path, stratify=guess.separator == "")
    return guess


def _readable_source(path: Path) -> RowSource:
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


def _refuse_unknown(columns: Mapping[str, ColumnValues], label: str | None, texts: Sequence[str]) -> None:
    """Raise ConfigError for each column named by a flag that the file does not have."""
    named = [("--label", label)] if label is not None else []
    faults = [
        fault(flag, "", unknown("column", name, columns))
        for flag, name in [*named, *(("--text", each) for each in texts)]
        if name not in columns
    ]
    if faults:
        raise ConfigError(faults)


def _columns(source: RowSource, path: Path) -> dict[str, ColumnValues]:
    """Name → column of every row that can be read; what is nested in JSON is known by its path.

    Raises:
        DataError: the file as a whole cannot be read, or has no columns that could be known.
    """
    known = source.names() if source.has_names else _unnamed(source, path)
    names = [name for name in known if not any(each.startswith(f"{name}.") for each in known)]
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


def _label_column(columns: dict[str, ColumnValues], texts: Sequence[str], path: Path) -> ColumnValues:
    """The column of the labels: by its name, else the one with the fewest different short values.

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
        return columns[min(short, key=lambda name: (short[name], name))]
    found = f"no column of labels among {shortened(', '.join(columns), 200)}"
    fix = "Give --label COLUMN, or save the texts as .txt, one in each line, to learn from them without labels."
    raise DataError(fault(str(path), "", found, fix))


def _unwrapped(labels: ColumnValues) -> ColumnValues:
    """The labels themselves, where every row has a list of exactly one, as labelling tools write it."""
    lists = [_parts(value, ",") for value in labels.values] if labels.lists else [[]]
    if any(len(each) != 1 for each in lists):
        return labels
    return ColumnValues(f"{labels.name}.0", [each[0] for each in lists], lists=False)


def _id_column(columns: dict[str, ColumnValues]) -> ColumnValues | None:
    """The column of the rows' ids: one with such a name, and no value twice."""
    for name, each in columns.items():
        if name.lower() in ID_NAMES and "" not in each.values and len({*each.values}) == len(each.values):
            return each
    return None


def _text_columns(columns: dict[str, ColumnValues], taken: set[str], path: Path) -> list[ColumnValues]:
    """The one or two columns of texts, in the order of the file: those with more than a word in most rows.

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


def _add_type(guess: Guess, label: ColumnValues, texts: Sequence[ColumnValues], path: Path) -> None:
    """Add the task type.

    Raises:
        DataError: rows have no label, or the labels are neither classes nor numbers.
    """
    missing = [row for row, value in enumerate(label.values, 1) if value in UNLABELLED]
    if missing:
        found = f"{len(missing)} of {guess.rows} rows have no label, row {missing[0]} first"
        raise DataError(
            fault(
                str(path),
                label.name,
                found,
                "Label them, move them to a file of their own, or give --label with another column.",
            )
        )
    different, numbers = len({*label.values}), _numbers(label.values)
    shown = f"'{label.name}' has {different} different values in {guess.rows} rows"
    if _tags_words(label, texts):
        guess.separator = " "
        guess.set("task_type", "sequence_labeling", f"'{label.name}' has a tag for each word of '{texts[0].name}'")
    elif (sets := _sets(label)) is not None:
        guess.separator = ","
        guess.set("task_type", "multilabel", f"'{label.name}' has lists of {len({x for s in sets for x in s})} labels")
    elif numbers is not None and (different > MAX_WHOLE_CLASSES or any(not each.is_integer() for each in numbers)):
        guess.set("task_type", "regression", f"'{label.name}' has numbers, from {min(numbers):g} to {max(numbers):g}")
    elif 2 <= different <= min(MAX_CLASSES, guess.rows // 2):
        guess.separator = ""
        degrees = "; for degrees, write regression" if numbers is not None else ""
        guess.set("task_type", "classification", shown + degrees)
    else:
        found = f"{shown}: neither classes nor numbers"
        raise DataError(fault(str(path), label.name, found, "Give --label COLUMN."))


def _numbers(values: Sequence[str]) -> list[float] | None:
    """The values as finite numbers; None if one is not."""
    try:
        found = [float(value) for value in values]
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) else None


def _tags_words(label: ColumnValues, texts: Sequence[ColumnValues]) -> bool:
    """Whether each row has as many tags as words, most rows several."""
    if len(texts) != 1:
        return False
    tags, words = ([len(_parts(each, " ")) for each in column.values] for column in (label, texts[0]))
    return tags == words and sum(count > 1 for count in tags) > len(tags) / 2


def _sets(label: ColumnValues) -> list[list[str]] | None:
    """The labels of each row, if they are lists, or separated by commas and fewer in kind than their combinations."""
    sets = [_parts(value, ",") for value in label.values]
    kinds = {name for names in sets for name in names}
    several = any(len(names) > 1 for names in sets)
    if several and (label.lists or len(kinds) < len({*label.values})) and len(kinds) <= MAX_CLASSES:
        return sets
    return None


def _parts(value: str, separator: str) -> list[str]:
    """The items of a list written as one, or separated; `none` is the empty list."""
    if (items := python_list(value)) is not None:
        return [str(each).strip() for each in items]
    if value.startswith("[") and value.endswith("]"):
        value = value[1:-1]
    if separator == " ":
        return value.split()
    return [] if value == "none" else [each.strip() for each in value.split(separator)]


def _add_columns(
    guess: Guess, label: ColumnValues, row_id: ColumnValues | None, texts: Sequence[ColumnValues], *, named: bool
) -> None:
    """Add the inputs, and the names of columns that are named differently."""
    inputs = [each.name for each in texts]
    means = " and ".join(f"{each.mean_words:.0f}" for each in texts)
    guess.set("inputs", inputs, f"{means} words on average")
    renamed = {} if label.name == "label" else {"label": label.name}
    if row_id is not None and row_id.name != "id":
        renamed["id"] = row_id.name
    if renamed and named:
        why = f"labels are in '{label.name}'" + ("" if row_id is None else f", ids in '{row_id.name}'")
        guess.set("columns", renamed, why + ("; rows are numbered" if row_id is None else ""))


def _add_labels(guess: Guess, label: ColumnValues) -> None:
    """Add the labels of types that have them, with their counts, and metrics that suit these."""
    separator = guess.separator
    if separator is None:
        return
    parts = [each for value in label.values for each in _parts(value, separator)] if separator else label.values
    counts, numbers = Counter(parts), _numbers(list({*parts}))
    names = sorted(counts, key=(lambda name: (float(name), name)) if numbers is not None else None)
    guess.set("labels", names, ", ".join(f"{name} {counts[name]}" for name in names))
    largest = max(counts.values()) / sum(counts.values())
    if not separator and largest > 0.6:
        why = f"{largest:.0%} of the rows have one label, so that accuracy alone says little"
        guess.set("metrics", ["f1_macro", "accuracy"], why)


def _add_length(guess: Guess, texts: Sequence[ColumnValues]) -> None:
    """Add the number of tokens at which rows are cut."""
    words = sorted(map(sum, zip(*(each.words for each in texts), strict=True)))
    most = words[int(0.95 * (len(words) - 1))]
    length = next((each for each in MAX_LENGTHS if each >= most * TOKENS_PER_WORD + 4), MAX_LENGTHS[-1])
    guess.set("max_length", length, f"tokens; 95 of 100 rows have at most {most} words")


def _add_splits(guess: Guess, path: Path, *, stratify: bool) -> None:
    """Add a cut of the file into train and dev."""
    part = 0.9 if guess.rows >= SMALL else 0.8
    train = {"file": path.name, "part": part, **({"stratify": True} if stratify else {}), "seed": 1}
    share = f"{1 - part:.0%} of {guess.rows} rows for evaluation, chosen by their ids"
    guess.set("splits", {"train": train, "dev": {"rest": path.name}}, share)
