"""A slower copy of a model: the teacher of the proximal term, and the moving average of a run's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mtdnn.execution.sharding import own


class Teacher(nn.Module):
    """A copy of a model in evaluation mode, which shares with it the weights that are frozen.

    Args:
        model: nothing of it is changed.
    Attributes:
        module: the copy.
        shared: names of the weights that both have.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        frozen = {name: weight for name, weight in model.named_parameters() if not weight.requires_grad}
        self.module = copy.deepcopy(model, {id(weight): weight for weight in frozen.values()})
        self.shared = frozen.keys()
        self.eval().requires_grad_(False)

    def pairs(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """The weights that are trained, of the copy and of the model."""
        copied = [each.detach() for name, each in self.module.named_parameters() if name not in self.shared]
        return copied, [each.detach() for name, each in model.named_parameters() if name not in self.shared]

    def move_weights(self, model: nn.Module, share: float) -> None:
        """As `move`; buffers stay."""
        copied, weights = self.pairs(model)
        torch._foreach_lerp_([own(each) for each in copied], [own(each) for each in weights], share)

    def move(self, model: nn.Module, share: float) -> None:
        """θ̃ ← θ̃ + share · (θ − θ̃), in place; buffers are copied."""
        self.move_weights(model, share)
        for copied, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
            copied.copy_(theirs)
