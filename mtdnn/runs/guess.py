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

from mtdnn.config.task import RESERVED
from mtdnn.config.yaml_source import Dumper
from mtdnn.errors import ConfigError, DataError, fault, printable, unknown
from mtdnn.rows.example import UNLABELLED
from mtdnn.rows.source import OPTIONAL
from mtdnn.rows.text import JsonlRows, PlainRows
from mtdnn.runs.guessed_columns import (
    MAX_CLASSES,
    MIN_ROWS,
    ColumnValues,
    id_column,
    items_of,
    label_column,
    read_columns,
    readable_source,
    text_columns,
    unwrapped,
)

MAX_WHOLE_CLASSES = 10  # more different whole numbers are taken for degrees, not for classes
MAX_LENGTHS = (32, 64, 128, 256, 512)
TOKENS_PER_WORD = 1.5
MAX_LINE = 110
NAMES_OF_TEXTS = ("text", "text_a", "text_b", "text_c")  # in place of names that the columns of every row have
SMALL = 500  # rows, below which a fifth of them is used for dev


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
        lines = [f"{_flow(self.name)}:"]
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
    source = readable_source(path)
    guess = Guess(name or _name_of(path))
    columns = read_columns(source, path)
    guess.rows = max((len(each.values) for each in columns.values()), default=0)
    if guess.rows < MIN_ROWS:
        raise DataError(
            fault(str(path), "", f"{guess.rows} rows", f"Give at least {MIN_ROWS}, to train and evaluate on.")
        )
    _refuse_unknown(columns, label, texts)
    if not source.has_names and (label is not None or texts):
        found = f"the columns of a {path.suffix} are known by their order: {', '.join(columns)}"
        fix = "Leave it out, or save the file as .csv with a header."
        raise ConfigError(fault("--label" if label is not None else "--text", "", found, fix))
    if isinstance(source, PlainRows):
        guess.set("task_type", "masked_lm", "a text in each line, without labels")
        guess.set("inputs", ["text"], "lines have no columns")
        _add_length(guess, list(columns.values()))
        _add_splits(guess, path, stratify=False)
        return guess
    labels = label_column(columns, texts, path) if label is None else columns[label]
    if isinstance(source, JsonlRows):
        labels = unwrapped(labels)
    row_id = id_column({name: each for name, each in columns.items() if name not in (labels.name, *texts)})
    taken = {labels.name, "" if row_id is None else row_id.name}
    inputs = [columns[each] for each in texts] or text_columns(columns, taken, path)
    _add_type(guess, labels, inputs, path)
    _add_columns(guess, labels, row_id, inputs, named=source.has_names)
    _add_labels(guess, labels)
    _add_length(guess, inputs)
    _add_splits(guess, path, stratify=guess.separator == "")
    return guess


def _name_of(path: Path) -> str:
    """A task's name from that of its file or, of a `train.csv` and other names that no task may have, its folder."""
    named = [re.sub(r"[^A-Za-z0-9_-]+", "-", each).strip("-_") for each in (path.stem, path.absolute().parent.name)]
    return next((each for each in named if each and each not in RESERVED), "task")


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
    if all(re.fullmatch(r"[+-]?\d+,\d+", each) for each in label.values):
        fix = "Write numbers with a point, such as 3.5, or sets of labels as lists, such as [3, 5]."
        raise DataError(fault(str(path), label.name, f"'{label.values[0]}': decimal commas, or two labels?", fix))
    different, numbers = len({*label.values}), _numbers(label.values)
    shown = f"'{label.name}' has {different} different values in {guess.rows} rows"
    if _tags_words(label, texts):
        guess.separator = " "
        guess.set("task_type", "sequence_labeling", f"'{label.name}' has a tag for each word of '{texts[0].name}'")
    elif (sets := _sets(label)) is not None:
        if (empty := next((row for row, names in enumerate(sets, 1) if "" in names), None)) is not None:
            found = f"'{label.values[empty - 1]}' has an empty label, in row {empty}"
            raise DataError(fault(str(path), label.name, found, "Remove the comma, or write the label."))
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
    tags, words = ([len(items_of(each, " ")) for each in column.values] for column in (label, texts[0]))
    return tags == words and sum(count > 1 for count in tags) > len(tags) / 2


def _sets(label: ColumnValues) -> list[list[str]] | None:
    """The labels of each row, if they are lists, or separated by commas and fewer in kind than their combinations."""
    sets = [items_of(value, ",") for value in label.values]
    kinds = {name for names in sets for name in names}
    several = any(len(names) > 1 for names in sets)
    if several and (label.lists or len(kinds) < len({*label.values})) and len(kinds) <= MAX_CLASSES:
        return sets
    return None


def _add_columns(
    guess: Guess, label: ColumnValues, row_id: ColumnValues | None, texts: Sequence[ColumnValues], *, named: bool
) -> None:
    """Add the inputs, and the names of columns that are named differently."""
    renamed = {} if label.name == "label" else {"label": label.name}
    if row_id is not None and row_id.name != "id":
        renamed["id"] = row_id.name
    inputs = [each.name for each in texts]
    for place, name in enumerate(inputs):
        if name in OPTIONAL:  # of a text, and so not the label or the id of a row
            inputs[place] = next(each for each in NAMES_OF_TEXTS if each not in inputs)
            renamed[inputs[place]] = name
    means = " and ".join(f"{each.mean_words:.0f}" for each in texts)
    guess.set("inputs", inputs, f"{means} words on average")
    if renamed and named:
        why = f"labels are in '{label.name}'" + ("" if row_id is None else f", ids in '{row_id.name}'")
        guess.set("columns", renamed, why + ("; rows are numbered" if row_id is None else ""))


def _add_labels(guess: Guess, label: ColumnValues) -> None:
    """Add the labels of types that have them, with their counts, and metrics that suit these."""
    separator = guess.separator
    if separator is None:
        return
    parts = [each for value in label.values for each in items_of(value, separator)] if separator else label.values
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
