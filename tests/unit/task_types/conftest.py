"""Task types made from a block, with a tokenizer of the words in their rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import mtdnn.task_types  # noqa: F401  registers them
from data_prep.demo import train_tokenizer
from mtdnn.batch import Batch
from mtdnn.config.tasks import task_def_from
from mtdnn.data.collate import collate
from mtdnn.rows.example import Example
from mtdnn.task_types.base import TASK_TYPES, TaskType
from mtdnn.tokens.ragged import Ragged


@dataclass
class Made:
    """A task seen through its type, and the columns of its store.

    Attributes:
        columns: as `encode` makes them.
        examples: the rows, understood.
    """

    type: Any
    tokenizer: Any
    examples: list[Example]
    columns: dict[str, Any]

    def batch(self, rows: Sequence[int] | None = None, *, seed: int = 0) -> Batch:
        """Some of the rows, or all, as they come to the model."""
        chosen = np.arange(len(self.examples)) if rows is None else np.array(rows)
        taken = {name: _take(column, chosen) for name, column in self.columns.items()}
        return collate(taken, self.type, pad_token_id=0, seed=seed)


def _take(column: Any, rows: np.ndarray) -> Any:
    if isinstance(column, Ragged):
        return column.take(rows)
    return [column[row] for row in rows] if isinstance(column, list) else column[rows]


def bare(block: dict[str, Any]) -> TaskType:
    """A type without tokenizer."""
    task = task_def_from("task", block)
    kind = TASK_TYPES.get(task.task_type)
    assert kind.faults(task) == []
    return kind(task)


@pytest.fixture
def make() -> Callable[..., Made]:
    """`make(block, rows)`: rows are TSV cells, or dicts of named values.

    `known` are the texts the tokenizer is made for, by default those of the rows; other words become several tokens.
    """

    def made(block: dict[str, Any], rows: Sequence[Sequence[str] | dict[str, Any]], known: Sequence[str] = ()) -> Made:
        task_type = bare(block)
        values = [row if isinstance(row, dict) else _named(task_type, row) for row in rows]
        examples = [task_type.read(each) for each in values]
        tokenizer = train_tokenizer(known or [text for each in examples for text in each.texts])
        task_type.bind(tokenizer)

        def tokenize(texts: Sequence[tuple[str, ...]]) -> dict[str, Any]:
            encoded = tokenizer([list(each) if len(each) > 1 else each[0] for each in texts])
            ids = Ragged.from_rows(encoded["input_ids"], np.int32)
            segments = Ragged.from_rows(encoded["token_type_ids"], np.int8)
            return {"input_ids": ids, "token_type_ids": segments, "truncated": np.zeros(len(ids), bool)}

        return Made(task_type, tokenizer, examples, task_type.encode(examples, tokenize))

    return made


def _named(task_type: TaskType, cells: Sequence[str]) -> dict[str, Any]:
    names = task_type.columns
    if task_type.repeats_last:
        cells = [*cells[: len(names) - 1], list(cells[len(names) - 1 :])]
    return dict(zip(names, cells, strict=True))
