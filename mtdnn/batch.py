"""Rows of one task, ready for the model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mtdnn.deferred import deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")

IGNORED = -100  # a label that does not count: an unlabelled row, a sub-word without a tag, a padded candidate
NO_WORD = -1  # in `words`: a token that stands for no word, or not for its first sub-word


@dataclass(frozen=True)
class Batch:
    """Rows of one task as tensors.

    Dimensions: B rows, N sequences (N = B unless a row holds several, as ranking's candidates), T tokens.

    Attributes:
        task: name of the task.
        inputs: input_ids [N, T] long; mask [N, T] bool, True = a real token; token_type_ids [N, T] where the encoder
            has segments. The mask stays on the host: lengths are needed there, and asking a device for them would wait
            for it.
        labels: by task type; None for unlabelled rows.
        row_ids: B ids as in the rows' file.
        extras: further tensors of the task type, first dimension B or N; `sequences` [B] where N may differ from B;
            `segments` [N, T] where the texts of a pair cannot be told apart by token_type_ids; `soft` [B, C], soft
            labels by task type, NaN where a row has none.
        row_values: further values of the rows that stay on the host, B of each (texts to cut answers from, names).
        stands_in: its rows are another process's, here only so that this one takes part in a step: they do not count.
    """

    task: str
    inputs: dict[str, Tensor]
    labels: Tensor | None
    row_ids: list[str]
    extras: dict[str, Tensor] = field(default_factory=dict)
    row_values: dict[str, list[Any]] = field(default_factory=dict)
    stands_in: bool = False

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def mask(self) -> Tensor:
        """[N, T] bool, True = a real token; on the host."""
        return self.inputs["mask"]

    @property
    def num_tokens(self) -> int:
        """Real tokens."""
        return int(self.mask.sum())

    @property
    def row_of_sequence(self) -> Tensor:
        """[N] long: the number, 0 to B − 1, of the row each sequence belongs to."""
        rows = torch.arange(len(self), device=self.inputs["input_ids"].device)
        if "sequences" not in self.extras:
            return rows
        return rows.repeat_interleave(self.extras["sequences"], output_size=len(self.mask))

    @property
    def second_text(self) -> Tensor:
        """[N, T] bool, True = a token of the second text of a pair, or the special one that closes it.

        It lies where the segments do, on the batch's device.

        Raises:
            ValueError: the batch does not tell.
        """
        segments = self.extras.get("segments", self.inputs.get("token_type_ids"))
        if segments is None:
            raise ValueError(f"a batch of '{self.task}' does not tell the texts of its pairs apart")
        return (segments == 1) & self.mask.to(segments.device, non_blocking=True)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`, but for its mask."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items() if name != "mask"}
        return replace(
            self,
            inputs={**moved, "mask": self.mask},
            labels=None if self.labels is None else self.labels.to(device, non_blocking=True),
            extras={name: tensor.to(device, non_blocking=True) for name, tensor in self.extras.items()},
        )
