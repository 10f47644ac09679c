"""Rows that several tasks share: tokenized and stored once, next to the columns of each task.

The file of shared rows has the columns of the tokens (`id`, `input_ids`, …) and, for each task, its own:
`<task>.label`, `<task>.labelled` (bool), and what its type adds. Each task has a manifest in its own folder, without a
file of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mtdnn.config.tasks import TaskDef, row_units
from mtdnn.data.arrow import SplitFile
from mtdnn.data.encode import Job, encoded_by
from mtdnn.data.manifest import Manifest, shared_folder, store_format, stored_block
from mtdnn.errors import Fault
from mtdnn.rows.example import Example
from mtdnn.rows.shared import RenamedRows
from mtdnn.rows.source import OPTIONAL, Part, Row, RowColumns
from mtdnn.task_types.base import TASK_TYPES, TaskType
from mtdnn.tokens.ragged import Column
from mtdnn.tokens.tokenizer import Tokenizer

LABELLED = "labelled"


def tokenizing_task(types: Mapping[str, TaskType]) -> str:
    """The task whose encoding all can read: one that reads all sequences of a row, or else the first."""
    return next((name for name, each in types.items() if each.shared_sequences == "all"), next(iter(types)))


def reads_all_sequences(task: TaskDef) -> bool:
    """Whether a task reads all sequences of a row, not only the first, where it shares rows."""
    return TASK_TYPES.get(task.task_type).shared_sequences == "all"


def can_share(types: Iterable[TaskType]) -> bool:
    """Whether one encoding of a row serves all these tasks, up to the number of tokens that they cut it to."""
    types = list(types)
    of_all = [each for each in types if each.shared_sequences == "all"]
    alike = all(each.stored_options == of_all[0].stored_options for each in of_all)
    return alike and all(each.shared_sequences is not None for each in types)


def sharing_faults(tasks: Mapping[str, TaskDef]) -> list[Fault]:
    """An error for each task with options that make its encoding differ from that of the tasks it shares rows with.

    Args:
        tasks: name → definition, of valid blocks.
    """
    faults = []
    for names in row_units(tasks).values():
        types = [TASK_TYPES.get(tasks[name].task_type)(tasks[name]) for name in names]
        of_all = [each for each in types if each.shared_sequences == "all"]
        for each in of_all[1:]:
            if each.stored_options != of_all[0].stored_options:
                found = f"its rows are encoded differently from those of '{of_all[0].task.name}', which shares them"
                faults.append(each.task.fault("rows", found, "Give both tasks the same options."))
    return faults


def encoded(examples: Mapping[str, Sequence[Example]], types: Mapping[str, TaskType], tokenizer: Tokenizer) -> Any:
    """The columns of some rows: those of the tokens, and those of each task under `<task>.<column>`.

    Args:
        examples: task → its examples of the rows.
        types: each task with its type.
        tokenizer: the tokenizer of the run's encoder.
    """
    first = tokenizing_task(types)
    whole = encoded_by(types[first], examples[first], tokenizer)
    own = {name: each.own_columns(examples[name], whole) for name, each in types.items()}
    columns: dict[str, Column] = {name: column for name, column in whole.items() if name not in own[first]}
    for name, found in own.items():
        columns |= {f"{name}.{column}": values for column, values in found.items()}
        columns[f"{name}.{LABELLED}"] = np.array([each.label is not None for each in examples[name]], dtype=bool)
    return columns


def columns_of_task(columns: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The columns of the tokens and those of one task, from all."""
    own = f"{task}."
    return {name.removeprefix(own): each for name, each in columns.items() if "." not in name or name.startswith(own)}


@dataclass(frozen=True)
class SharedJob(Job):
    """One split of rows that several tasks share, to prepare.

    Attributes:
        task: the first task's definition, under the name of the rows' folder.
        members: the same split as each of the tasks sees it.
    """

    members: tuple[Job, ...] = ()

    @classmethod
    def of(cls, members: Sequence[Job]) -> SharedJob:
        """The split of these tasks, whose sources of rows are the same."""
        first = members[0]
        rows = first.rows
        if not isinstance(rows, RenamedRows) or first.task.rows is None:
            raise TypeError(f"'{first.task.name}' has rows of its own")
        task = first.task.model_copy(update={"name": shared_folder(first.task.rows.file)})
        theirs_id = {"id": first.task.their_column("id")}
        return cls(task, first.split, RenamedRows(rows.inner, theirs_id), "allowed", members=tuple(members))

    @property
    def separate(self) -> tuple[Job, ...]:
        return self.members

    @cached_property
    def types(self) -> dict[str, TaskType]:
        """Task → the task with its type."""
        return {each.task.name: each.task_type for each in self.members}

    @property
    def columns(self) -> RowColumns:
        ours = [(each.task, name) for each in self.members for name in each.task_type.columns if name != "id"]
        names = dict.fromkeys(task.their_column(name) for task, name in ours)
        labels = {task.their_column(name) for task, name in ours if name == "label"}
        return RowColumns(("id", *names), optional=(*OPTIONAL, *sorted(labels)))

    def parts(self) -> list[Part]:
        return list(self.rows.parts())

    def examples(self, part: Part) -> Iterator[Example | Fault]:
        """The parsed rows, each with the examples of all tasks as its `values`; in place of an invalid row, its errors,
        each once."""
        for row in self.rows.read(part, self.columns):
            if isinstance(row, Fault):
                yield row
                continue
            found = {each.task.name: each.parsed([_as_seen(row, each)]) for each in self.members}
            faults = list(dict.fromkeys(each for each in found.values() if isinstance(each, Fault)))
            examples = {name: each for name, each in found.items() if isinstance(each, Example)}
            if faults:
                yield from faults
            else:
                first = examples[tokenizing_task(self.types)]
                yield Example(first.id, first.texts, None, examples)

    def encode(self, examples: Sequence[Example], tokenizer: Tokenizer) -> dict[str, Column]:
        of_tasks = {name: [each.values[name] for each in examples] for name in self.types}
        return encoded(of_tasks, self.types, tokenizer)

    def label_counts(self, columns: Mapping[str, Any]) -> Counter[Any]:
        """(task, label) → rows with it, for every task; ("", tasks that have a label) → rows."""
        found: Counter[Any] = Counter()
        for name, each in self.types.items():
            counts = each.label_counts(columns[f"{name}.label"])
            found.update({(name, label): rows for label, rows in counts.items()})
        known = np.stack([columns[f"{name}.{LABELLED}"] for name in self.types], axis=1)
        names = np.array(list(self.types))
        for pattern, rows in zip(*np.unique(known, axis=0, return_counts=True), strict=True):
            found["", tuple(names[pattern].tolist())] += int(rows)
        return found

    def label_summary(self, counts: Counter[Any]) -> dict[str, Any]:
        """`tasks`: task → summary of its labels; `together`: [tasks that have a label, rows] of every combination."""
        own = {
            name: each.label_summary(Counter({key[1]: rows for key, rows in counts.items() if key[0] == name}))
            for name, each in self.types.items()
        }
        return {"tasks": own, "together": [[list(key[1]), rows] for key, rows in counts.items() if key[0] == ""]}

    def block(self) -> dict[str, Any]:
        return {
            **super().block(),
            "options": {each.task.name: stored_block(each.task) for each in self.members},
        }

    def manifests_of_tasks(self, stored: Manifest, tokenizer: Tokenizer) -> Iterator[tuple[Job, Manifest]]:
        for member in self.members:
            yield (
                member,
                replace(
                    stored,
                    task=member.task.name,
                    block=member.block(),
                    labels={**stored.labels["tasks"][member.task.name], "together": stored.labels["together"]},
                    store_format=store_format(member.task, tokenizer),
                ),
            )

    def unlabelled_faults(self, stored: Manifest) -> list[Fault]:
        """An error for each task that trains on this split and has no label in it: its column is misspelt, perhaps."""
        return [
            unlabelled_fault(each.task, self.split)
            for each in self.members
            if each.labels == "required" and not labelled_rows(stored.labels["together"], [each.task.name])
        ]


def unlabelled_fault(task: TaskDef, split: str) -> Fault:
    """The error of a train split of shared rows in which a task has no label."""
    column = task.their_column("label")
    found = f"no row of '{task.unit}/{split}' has a label in column '{column}'"
    return task.fault("rows", found, "Name the column under `rows.columns.label`.")


def labelled_rows(together: Iterable[Sequence[Any]], tasks: Iterable[str]) -> int:
    """Number of rows that have a label for at least one of the tasks.

    Args:
        together: [tasks that have a label, rows] of every combination.
        tasks: names.
    """
    wanted = set(tasks)
    return sum(rows for names, rows in together if wanted.intersection(names))


def joined_jobs(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, with those of tasks that share rows joined, split by split."""
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((shared_folder(job.task.unit) if job.task.rows else job.task.name, job.split), []).append(job)
    return [each[0] if each[0].task.rows is None else SharedJob.of(each) for each in groups.values()]


def separate_jobs(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, with each that several tasks share in the form of one for each task."""
    return [member for job in jobs for member in job.separate]


def _as_seen(row: Row, job: Job) -> Row:
    """A row with the task's names of columns."""
    values = {
        name: row.values["id"] if name == "id" else row.values.get(job.task.their_column(name), "")
        for name in job.task_type.columns
    }
    return Row(values, row.where)


@dataclass(frozen=True)
class TaskColumns:
    """The rows of a file that several tasks share, with the columns of one of them, as `SplitFile` has them."""

    file: SplitFile
    task: str

    def __len__(self) -> int:
        return len(self.file)

    def take(self, rows: np.ndarray) -> dict[str, Any]:
        """The columns of the tokens, and those of the task, of the chosen rows in the given order."""
        return columns_of_task(self.file.take(rows, self._names), self.task)

    def column(self, name: str) -> Any:
        """One column of all rows, in memory."""
        own = f"{self.task}.{name}"
        return self.file.column(own if own in self.file.names else name)

    def lengths(self) -> np.ndarray:
        """[rows] int32: tokens of each row."""
        return self.file.lengths()

    @cached_property
    def _names(self) -> list[str]:
        return list(columns_of_task({name: name for name in self.file.names}, self.task).values())
