"""Records → batches."""

import numpy as np
import torch

from mtdnn.batch import Batch
from mtdnn.config.tasks import task_def_from
from mtdnn.data.collate import collate
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.tokens.ragged import Ragged


def task_type(**block):
    task = task_def_from("toy", block)
    return TASK_TYPES.get(task.task_type)(task)


def records(**more):
    return {
        "id": ["a", "b"],
        "label": np.array([1, -100]),
        "input_ids": Ragged.from_rows([[5, 6, 7], [8]], np.int32),
        "token_type_ids": Ragged.from_rows([[0, 0, 1], [0]], np.int8),
        "truncated": np.array([False, True]),
        **more,
    }


def test_rows_are_padded_on_the_right_to_the_longest():
    batch = collate(records(), task_type(task_type="classification", labels=["x", "y"]), pad_token_id=9)
    assert batch.task == "toy" and batch.row_ids == ["a", "b"]
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.inputs["input_ids"].dtype == batch.inputs["token_type_ids"].dtype == torch.int64
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert batch.labels.tolist() == [1, -100]


def test_an_encoder_without_segments_gets_none():
    without = {name: column for name, column in records().items() if name != "token_type_ids"}
    batch = collate(without, task_type(task_type="classification", labels=["x", "y"]), pad_token_id=0)
    assert set(batch.inputs) == {"input_ids", "mask"}


def test_a_row_of_several_sequences_takes_as_many_lines():
    several = records(
        input_ids=Ragged.from_rows([[5, 6, 7, 8], [1, 2]], np.int32),
        token_type_ids=Ragged.from_rows([[0, 0, 0, 1], [0, 1]], np.int8),
        sequence_lengths=Ragged.from_rows([[3, 1], [2]], np.int32),
    )
    batch = collate(several, task_type(task_type="classification", labels=["x", "y"]), pad_token_id=0)
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0], [1, 2, 0]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert batch.extras["sequences"].tolist() == [2, 1]
    assert batch.row_of_sequence.tolist() == [0, 0, 1]


def test_the_task_type_completes_the_batch_with_the_seed_it_is_given(monkeypatch):
    kind = task_type(task_type="regression")
    seen = {}

    def complete(batch: Batch, given, *, seed):
        seen.update(seed=seed, columns=set(given))
        return batch

    monkeypatch.setattr(kind, "complete", complete)
    assert collate(records(), kind, pad_token_id=0, seed=17).labels is None
    assert seen["seed"] == 17 and {"label", "truncated"} <= seen["columns"]
