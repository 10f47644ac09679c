"""Rows that a run is given to predict: a file, a table or texts → encoded for one task, or for several at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mtdnn.config.task import SharedRows, TaskDef
from mtdnn.data.encode import Job, LabelPolicy, encoded_by
from mtdnn.data.prepro import columns_in, prepare_job, prepare_rows
from mtdnn.data.sharing import SharedJob, can_share, columns_of_task, encoded
from mtdnn.data.store import Store, open_prepared
from mtdnn.errors import ConfigError, DataError, Place, fault
from mtdnn.rows.example import Example, RowError
from mtdnn.rows.memory import is_table, table_rows
from mtdnn.rows.places import as_task_sees, rows_of
from mtdnn.rows.source import RowSource
from mtdnn.runs.memory_rows import MemoryStore, Rows
from mtdnn.task_types.base import TaskType
from mtdnn.tokens.tokenizer import Tokenizer

SEEN_AS = ("inputs", "rows", "columns")
"""Keys of a definition that say how its rows are read; for rows of another task they are that task's."""


@dataclass(frozen=True)
class GivenRows:
    """The tasks of a run, as far as rows given to predict depend on them.

    Attributes:
        tasks: name → definition.
        types: name → the task seen through its type.
        tokenizer: of the run.
    """

    tasks: Mapping[str, TaskDef]
    types: Mapping[str, TaskType]
    tokenizer: Tokenizer

    def require_same_inputs(self, names: Sequence[str]) -> None:
        """ConfigError for a task that cannot be predicted for the rows of the first one."""
        first = self.tasks[names[0]]
        for name in names[1:]:
            task = self.tasks[name]
            if not self.types[first.name].predicts_with(self.types[name]):
                found = f"'{name}' has {len(task.inputs)} texts as {task.task_type}, '{first.name}' has others"
                raise ConfigError(fault("", "task", found, "Predict only tasks with the same inputs together."))
            if task.inputs != first.inputs and sorted(task.inputs) == sorted(first.inputs):
                orders = f"'{name}' has {', '.join(task.inputs)} and '{first.name}' {', '.join(first.inputs)}"
                raise ConfigError(fault("", "task", orders, "Predict tasks with another order of inputs separately."))

    def encoded_alike(self, names: Sequence[str]) -> list[list[str]]:
        """The tasks, in groups that read the same encoding of the rows."""
        groups: list[list[str]] = []
        for name in names:
            alike = next((group for group in groups if self._read_alike(group, name)), None)
            if alike is None:
                groups.append([name])
            else:
                alike.append(name)
        return groups

    def _read_alike(self, group: Sequence[str], name: str) -> bool:
        """Whether a task can read the same encoding as the tasks of a group."""
        types = [self.types[each] for each in (*group, name)]
        same_length = types[0].task.max_length == types[-1].task.max_length
        return types[0].encodes_like(types[-1]) or (same_length and can_share(types))

    def has_own_columns(self, group: Sequence[str], owner: TaskDef) -> bool:
        """Whether the tasks of a group need different columns of the rows of `owner`, and not only different heads."""
        kinds = {self.types[name].shared_sequences for name in group}
        sharing = [name for name in group if owner.rows is not None and self.tasks[name].unit == owner.unit]
        return len(kinds) > 1 or (len(group) > 1 and len(sharing) > 0)

    def store(
        self, task: str, rows: Rows, *, columns_of: str | None = None, labels: LabelPolicy = "allowed"
    ) -> AbstractContextManager[Store | MemoryStore]:
        """The rows, encoded for a task: rows with columns through a temporary folder, texts in memory.

        Args:
            task: its name.
            rows: as for `Run.predict`.
            columns_of: the task of the columns and labels; None = `task`.
            labels: "ignored" where they are not needed; those of another task always are.
        """
        owner = columns_of or task
        policy: LabelPolicy = labels if task == owner else "ignored"
        if isinstance(rows, (str, Path)):
            return self._stored_rows(task, rows_of(rows), owner, policy)
        if is_table(rows):
            return self._stored_rows(task, table_rows(rows, place="rows"), owner, policy)
        return self._stored_texts(task, cast(Sequence[Sequence[str]], rows))

    @contextmanager
    def _stored_rows(self, task: str, rows: RowSource, columns_of: str, labels: LabelPolicy) -> Iterator[Store]:
        owner = self.tasks[columns_of]
        task_def = self.tasks[task].model_copy(update={key: getattr(owner, key) for key in SEEN_AS})
        rows = as_task_sees(owner, rows)
        with tempfile.TemporaryDirectory(prefix="mtdnn-") as folder:
            place = Path(folder) / "rows" / "split"
            prepare_rows(rows, task_def, self.tokenizer, place, labels=labels)
            yield open_prepared(place)

    @contextmanager
    def shared_stores(self, tasks: Sequence[str], rows: Rows, *, columns_of: str) -> Iterator[Mapping[str, Any]]:
        """Task → the rows with its columns, encoded once for all of them.

        Args:
            tasks: their names; all can read the same encoding.
            rows: as for `Run.predict`.
            columns_of: the task of the columns and labels.
        """
        if not isinstance(rows, (str, Path)) and not is_table(rows):
            types = {name: self.types[name] for name in tasks}
            examples = {name: self._examples(name, cast(Sequence[Sequence[str]], rows)) for name in tasks}
            columns = encoded(examples, types, self.tokenizer)
            yield {name: MemoryStore(columns_of_task(columns, name)) for name in tasks}
            return
        source = rows_of(rows) if isinstance(rows, (str, Path)) else table_rows(rows, place="rows")
        owner, members = self.tasks[columns_of], []
        shared = owner.rows or SharedRows(file="rows", columns=columns_in(source, owner.columns))
        for name in sorted(tasks, key=lambda name: name != columns_of):
            own = self.tasks[name]
            of_file = owner.rows is not None and own.unit == owner.unit
            update: dict[str, Any] = {"inputs": owner.inputs, "rows": own.rows if of_file else shared, "columns": {}}
            labels: LabelPolicy = "allowed" if of_file or name == columns_of else "ignored"
            task = own.model_copy(update=update)
            members.append(Job(task, "split", as_task_sees(task, source), labels))
        with tempfile.TemporaryDirectory(prefix="mtdnn-") as folder:
            place = Path(folder) / "rows" / "split"
            prepare_job(SharedJob.of(members), self.tokenizer, place)
            store = open_prepared(place)
            yield {name: store.of_task(name) for name in tasks}

    @contextmanager
    def _stored_texts(self, task: str, rows: Sequence[Sequence[str]]) -> Iterator[MemoryStore]:
        yield MemoryStore(encoded_by(self.types[task], self._examples(task, rows), self.tokenizer))

    def _examples(self, task: str, rows: Sequence[Sequence[str]]) -> list[Example]:
        """The rows as examples of a task; their ids are their numbers, from 1.

        Raises:
            DataError: every row that has not the texts of the task.
        """
        task_type, task_def = self.types[task], self.tasks[task]
        examples, faults = [], []
        for number, texts in enumerate(rows, 1):
            where = Place("rows", number)
            if isinstance(texts, str) or not hasattr(texts, "__len__") or len(texts) != len(task_def.inputs):
                expected = f"Expected {len(task_def.inputs)}: {', '.join(task_def.inputs)}."
                faults.append(fault(where, "", f"{texts!r} is not a sequence of texts of this task", expected))
                continue
            values: dict[str, Any] = dict(zip(task_def.inputs, texts, strict=True))
            try:
                examples.append(task_type.read({"id": str(number), "label": "", **values}))
            except RowError as error:
                faults.append(fault(where, error.key, error.found, error.fix))
        if faults:
            raise DataError(faults)
        return examples
