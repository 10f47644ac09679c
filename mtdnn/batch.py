"""Rows of one task, ready for the model."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

IGNORED = -100  # a label that does not count: an unlabelled row, a sub-word without a tag, a padded candidate


@dataclass(frozen=True)
class Batch:
    """Rows of one task as tensors.

    Dimensions: B rows, N sequences (N = B unless a row holds several, as ranking's candidates), T tokens.

    Attributes:
        task: name of the task.
        inputs: input_ids [N, T] long; mask [N, T] bool, True = a real token; token_type_ids [N, T] where the encoder
            has segments.
        labels: by task type; None for unlabelled rows.
        row_ids: B ids as in the rows' file.
        extras: further tensors of the task type, first dimension B or N.
    """

    task: str
    inputs: dict[str, Tensor]
    labels: Tensor | None
    row_ids: list[str]
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def mask(self) -> Tensor:
        """[N, T] bool, True = a real token."""
        return self.inputs["mask"]

    @property
    def num_tokens(self) -> int:
        """Real tokens; a synchronisation with the device when the batch lies on one."""
        return int(self.mask.sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return Batch(
            task=self.task,
            inputs={name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()},
            labels=None if self.labels is None else self.labels.to(device, non_blocking=True),
            row_ids=self.row_ids,
            extras={name: tensor.to(device, non_blocking=True) for name, tensor in self.extras.items()},
        )
