"""Records → padded Batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mtdnn.batch import Batch
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
    if "soft" in records:
        extras["soft"] = torch.from_numpy(np.ascontiguousarray(records["soft"], dtype=np.float32))
    batch = Batch(task=task_type.task.name, inputs=inputs, labels=None, row_ids=records["id"], extras=extras)
    return task_type.complete(batch, records, seed=seed)
