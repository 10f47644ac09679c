"""Records → padded Batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mtdnn.batch import Batch, SharedInputs
from mtdnn.task_types.base import TaskType
from mtdnn.tokens.ragged import Ragged


def collate(records: Mapping[str, Any], task_type: TaskType, *, pad_token_id: int, seed: int = 0) -> Batch:
    """Rows as tensors, padded on the right to the longest sequence.

    Args:
        records: columns of the rows, as returned by `Store.take`.
        task_type: the task with its type.
        pad_token_id: the padding of `input_ids`; segments are padded with 0.
        seed: seed of random draws of the task type, see `TaskType.complete`.
    """
    if task_type.task.rows is not None:
        (batch,) = collate_shared({task_type.task.name: records}, [task_type], pad_token_id=pad_token_id, seed=seed)
        return replace(batch, shared=None)
    inputs, extras = _padded(records, pad_token_id)
    return _completed(records, task_type, inputs, extras, seed=seed)


def collate_shared(
    records: Mapping[str, Mapping[str, Any]], task_types: Sequence[TaskType], *, pad_token_id: int, seed: int = 0
) -> list[Batch]:
    """A batch for each of several tasks on the same rows, with the same sequences as `shared`.

    Args:
        records: task → columns of the rows; those of the tokens are taken from the first task.
        task_types: the tasks with their types.
        pad_token_id, seed: as for `collate`.
    """
    tokens = next(iter(records.values()))
    inputs, extras = _padded(tokens, pad_token_id)
    lengths, first = tokens.get("sequence_lengths"), None
    if lengths is not None and len(lengths.values) > len(lengths):
        first = torch.from_numpy(np.ascontiguousarray(lengths.offsets[:-1]))
    whole = SharedInputs(inputs, first)
    if all(each.shared_sequences == "first" for each in task_types):  # then no other sequence is encoded
        inputs, extras = _first_sequences(whole, extras)
        whole = SharedInputs(inputs)
    return [_of_task(records[each.task.name], each, whole, extras, seed) for each in task_types]


Tensors = dict[str, torch.Tensor]


def _first_sequences(whole: SharedInputs, extras: Mapping[str, torch.Tensor]) -> tuple[Tensors, Tensors]:
    """The inputs and extras of the first sequence of each row."""
    inputs, own = whole.inputs, {name: values for name, values in extras.items() if name != "sequences"}
    if whole.first is None:
        return inputs, own
    chosen = whole.first
    return (
        {name: values[chosen] for name, values in inputs.items()},
        {name: values[chosen] for name, values in own.items()},
    )


def _of_task(
    records: Mapping[str, Any], task_type: TaskType, whole: SharedInputs, extras: Mapping[str, torch.Tensor], seed: int
) -> Batch:
    """The batch of one task: of all sequences, or of the first of each row for a type that reads one per row."""
    inputs, own = whole.inputs, dict(extras)
    if task_type.shared_sequences == "first":
        inputs, own = _first_sequences(whole, extras)
    return replace(_completed(records, task_type, inputs, own, seed=seed), shared=whole)


def _completed(
    records: Mapping[str, Any], task_type: TaskType, inputs: Tensors, extras: Tensors, *, seed: int
) -> Batch:
    """The batch of one task, with its labels and what else the type adds."""
    if "soft" in records:
        extras = {**extras, "soft": torch.from_numpy(np.ascontiguousarray(records["soft"], dtype=np.float32))}
    name = task_type.task.name
    batch = Batch(task=name, inputs=inputs, labels=None, row_ids=records["id"], extras=extras)
    return task_type.complete(batch, records, seed=seed)


def _padded(records: Mapping[str, Any], pad_token_id: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The inputs of all sequences, and the extras that describe them."""
    sequences = records.get("sequence_lengths")
    ids: Ragged = records["input_ids"]
    lengths = ids.lengths if sequences is None else sequences.values
    by_sequence = Ragged.from_lengths(ids.values, lengths)
    inputs = {
        "input_ids": torch.from_numpy(by_sequence.padded(pad_token_id, np.int64)),
        "mask": torch.from_numpy(by_sequence.mask()),
    }
    extras = {} if sequences is None else {"sequences": torch.from_numpy(sequences.lengths)}
    for name, place in (("token_type_ids", inputs), ("segments", extras)):
        if name in records:
            segments = Ragged(records[name].values, by_sequence.offsets)
            place[name] = torch.from_numpy(segments.padded(0, np.int64))
    return inputs, extras
