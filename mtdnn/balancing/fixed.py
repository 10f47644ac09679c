"""Losses added up, each with a weight that stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeFloat

from mtdnn.balancing.base import BALANCERS, Balancer
from mtdnn.config.options import Options
from mtdnn.deferred import deferred
from mtdnn.errors import Fault, fault, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")


class FixedOptions(Options):
    """Options of `fixed`."""

    weights: dict[str, NonNegativeFloat] = Field(
        {}, description="Task → factor of its loss. Default: 1 for every task."
    )


@BALANCERS.register("fixed")
class Fixed(Balancer):
    """Σ_i w_i L_i, with w_i = 1 unless given.

    Cost: a forward and a backward pass per task; no memory beyond that of one task.
    """

    name = "fixed"
    Options = FixedOptions
    needs_several = False
    needs_losses = False

    @classmethod
    def faults(cls, options: Mapping[str, Any], tasks: Sequence[str]) -> list[Fault]:
        given = options.get("weights")
        strange = [name for name in given if name not in tasks] if isinstance(given, Mapping) else []
        return [fault("", "balance.weights", unknown("task", name, tasks)) for name in strange]

    def __init__(self, tasks: Mapping[str, Any], *, device: torch.device | str = "cpu", **options: Any) -> None:
        super().__init__(tasks, device=device, **options)
        self.factors = {task: torch.tensor(factor, device=device) for task, factor in self.options.weights.items()}

    def weight(self, task: str) -> Tensor | float:
        return self.factors.get(task, 1.0)
