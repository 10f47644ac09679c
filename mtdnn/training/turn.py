"""One task's part of an update, on its way through its backward passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from torch import Tensor

from mtdnn.batch import Batch
from mtdnn.regularizers.shared_pass import SharedPass
from mtdnn.training.meter import LossWatch
from mtdnn.training.objective import LossPart


@dataclass
class Turn:
    """The batch of one task in an update.

    Attributes:
        task: its name.
        parts: the batch, in the parts it is computed in.
        passes: for each part, the pass of the encoder that it shares with other tasks; None: its own.
        coming: for each part, the losses that have not gone backward yet.
        watch: those that have.
        weight: the weight that the balancer gave the task last, under the name it is logged by.
        plain_loss: the label loss before the step, where the losses sent backward do not include it.
        loss: L_i over all ranks so far, for the balancer.
    """

    task: str
    parts: Sequence[Batch]
    passes: Sequence[SharedPass | None] = ()
    coming: list[Iterator[LossPart]] = field(default_factory=list)
    watch: LossWatch = field(default_factory=LossWatch)
    weight: dict[str, Tensor] = field(default_factory=dict)
    plain_loss: Tensor | None = None
    loss: Tensor | None = None

    @classmethod
    def of(cls, parts: Sequence[Batch]) -> list[Turn]:
        """The tasks of an update, from its batches, those of a task next to each other."""
        return [cls(task, list(own)) for task, own in groupby(parts, key=lambda part: part.task)]

    @property
    def shared(self) -> SharedPass | None:
        """The pass that its first part shares with other tasks."""
        return self.passes[0] if self.passes else None

    @property
    def ended(self) -> bool:
        """Whether all losses have gone backward."""
        return not self.coming

    def go_backward(self, factor: Tensor | None) -> None:
        """Send the losses backward, times a factor, up to one that asks for a move of the optimizer, or to the end."""
        while self.coming and not self.go_backward_part(factor):
            pass

    def go_backward_part(self, factor: Tensor | None) -> bool:
        """Send the losses of the next part backward, times a factor; whether one asks for a move of the optimizer."""
        for part in self.coming[0]:
            self.watch.observe(part.loss)
            (part.loss if factor is None else factor * part.loss).backward()
            self.watch.add(part.named)
            if part.then_update:
                return True
        self.coming.pop(0)
        return False

    def keep_first_loss(self, loss: Tensor) -> None:
        """Keep the loss of the step's first movement, which is that of the weights as they were before it."""
        if self.loss is None:
            self.loss = loss


def by_pass(turns: Sequence[Turn]) -> list[list[Turn]]:
    """The tasks of an update, those that share a pass of the encoder together."""
    groups: dict[int, list[Turn]] = {}
    for turn in turns:
        groups.setdefault(id(turn if turn.shared is None else turn.shared), []).append(turn)
    return list(groups.values())
