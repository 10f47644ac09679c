"""One task's part of an update, on its way through its backward passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from torch import Tensor

from mtdnn.batch import Batch
from mtdnn.training.meter import LossWatch
from mtdnn.training.objective import LossPart


@dataclass
class Turn:
    """The batch of one task in an update.

    Attributes:
        task: its name.
        parts: the batch, in the parts it is computed in.
        coming: the losses that have not gone backward yet.
        ended: whether all have.
        watch: those that have.
        weight: the weight that the balancer gave the task last, under the name it is logged by.
        plain_loss: the label loss before the step, where the losses sent backward do not include it.
        loss: L_i over all ranks so far, for the balancer.
    """

    task: str
    parts: Sequence[Batch]
    coming: Iterator[LossPart] = field(default_factory=lambda: iter(()))
    ended: bool = False
    watch: LossWatch = field(default_factory=LossWatch)
    weight: dict[str, Tensor] = field(default_factory=dict)
    plain_loss: Tensor | None = None
    loss: Tensor | None = None

    @classmethod
    def of(cls, parts: Sequence[Batch]) -> list[Turn]:
        """The tasks of an update, from its batches, those of a task next to each other."""
        return [cls(task, list(own)) for task, own in groupby(parts, key=lambda part: part.task)]

    def go_backward(self, factor: Tensor | None) -> None:
        """Send the losses backward, times a factor, up to one that asks for a move of the optimizer, or to the end."""
        for part in self.coming:
            self.watch.observe(part.loss)
            (part.loss if factor is None else factor * part.loss).backward()
            self.watch.add(part.named)
            if part.then_update:
                return
        self.ended = True

    def add_loss(self, loss: Tensor) -> None:
        """Add the loss of one movement to those before it in this step."""
        self.loss = loss if self.loss is None else self.loss + loss
