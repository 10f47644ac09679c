"""The outcome of `check`: errors, warnings, and statistics of the rows as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from textwrap import indent

import numpy as np

from mtdnn.columns import table
from mtdnn.config.tasks import TaskDef
from mtdnn.data.manifest import length_summary
from mtdnn.errors import Fault
from mtdnn.rows.summaries import number_summary
from mtdnn.runs.length import RunLength


@dataclass(frozen=True)
class TextTable:
    """Lines of cells; the first line names the columns."""

    title: str
    lines: list[list[str]]


@dataclass
class SplitFacts:
    """Statistics of the rows of a split; rows with errors do not count.

    Attributes:
        roles: train, dev, test.
        unlabelled, truncated: rows.
        words_without_token: words without a token.
        counts: of labels that are words, or of the words in list labels.
        numbers: of labels that are numbers, to four digits.
        lengths: of each row: tokens, truncated to max_length, if a tokenizer is given, else words between spaces.
        texts: a hash of each row's texts.
        labelled: [rows] bool, for tasks that share rows: whether a row has a label.
        ids: of the rows, if they decide which rows a run trains on and how long these are.
        whole: whether no row had an error.
    """

    task: TaskDef
    split: str
    roles: tuple[str, ...]
    rows: int = 0
    unlabelled: int = 0
    truncated: int = 0
    words_without_token: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    numbers: Counter[float] = field(default_factory=Counter)
    lengths: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    texts: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    labelled: np.ndarray = field(default_factory=lambda: np.empty(0, np.bool_))
    ids: list[str] = field(default_factory=list)
    whole: bool = True

    @property
    def name(self) -> str:
        """`task/split`."""
        return f"{self.task.name}/{self.split}"


@dataclass
class Report:
    """The outcome of a check.

    Attributes:
        faults: the errors, with file:line.
        warnings: what may be intended.
        splits: statistics of every split that could be read.
        lengths_in: "tokens" or "words".
        batches: task → batches in the first epoch under the run's mixing; empty if not all rows are known.
        length: of the run, if one is given and its rows are known.
        tasks: name → definition, of the blocks that could be read.
    """

    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    splits: list[SplitFacts] = field(default_factory=list)
    lengths_in: str = "words"
    batches: dict[str, int] = field(default_factory=dict)
    length: RunLength | None = None
    tasks: Mapping[str, TaskDef] = field(default_factory=dict)

    def tables(self) -> list[TextTable]:
        """Tables of rows and lengths, of labels, and of batches in an epoch; empty ones are left out."""
        tables = [self._rows(), self._labels(), self._batches()]
        return [table for table in tables if len(table.lines) > 1]

    def _rows(self) -> TextTable:
        names = ("min", "median", "q95", "max")
        head = ["split", "rows", "unlabelled", *(f"{name} {self.lengths_in}" for name in names)]
        cut = self.lengths_in == "tokens"
        lines = [[*head, "cut"] if cut else head]
        for facts in self.splits:
            lengths = length_summary(Counter(facts.lengths.tolist()))
            cells = [f"{lengths.get(name, 0):g}" for name in names]
            share = [f"{facts.truncated} ({facts.truncated / max(facts.rows, 1):.1%})"] if cut else []
            lines.append([facts.name, str(facts.rows), str(facts.unlabelled), *cells, *share])
        return TextTable("Rows", lines)

    def _labels(self) -> TextTable:
        lines = [["split", "labels"]]
        for facts in self.splits:
            shares = [f"{label}: {count} ({count / facts.counts.total():.1%})" for label, count in _in_order(facts)]
            if facts.numbers:
                shares += [f"{name}: {value:g}" for name, value in number_summary(facts.numbers).items()]
            if shares:
                lines.append([facts.name, ", ".join(shares)])
        return TextTable("Labels", lines)

    def _batches(self) -> TextTable:
        lines = [["task", "batches in the first epoch"]]
        lines += [[name, str(count)] for name, count in self.batches.items()]
        if self.batches:
            lines.append(["all", str(sum(self.batches.values()))])
        if self.length is not None:
            lines.append(["steps of the run", f"{self.length.steps} ({self.length.epochs:.4g} epochs)"])
        return TextTable("Training", lines)

    def __str__(self) -> str:
        """Warnings and tables, and after them the errors."""
        return "\n".join(filter(None, (self.text(), *map(str, self.faults))))

    def text(self) -> str:
        """Warnings and tables, for callers that report the errors themselves; empty if there are only errors."""
        parts = ["\n".join(f"warning: {line}" for line in self.warnings)] if self.warnings else []
        parts += [f"{each.title}\n{indent(table(each.lines), '  ')}" for each in self.tables()]
        return "\n\n".join(parts) if parts else "no errors found" if not self.faults else ""


def _in_order(facts: SplitFacts) -> list[tuple[str, int]]:
    """Labels in the task's order, including those that never occur; otherwise the most frequent first."""
    if facts.task.labels and facts.counts:
        return [(label, facts.counts[label]) for label in facts.task.labels]
    return facts.counts.most_common()
