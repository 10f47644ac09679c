"""Weights learned as the noise of each task.

Source: Kendall, Gal, Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses", arXiv 1705.07115, equations
7 and 10; s = log σ² is learned in place of σ, as its section 3.2 recommends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mtdnn.balancing.base import BALANCERS, Balancer
from mtdnn.config.options import Options
from mtdnn.deferred import deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = deferred("torch")


class UncertaintyOptions(Options):
    """Options of `uncertainty`."""

    lr: float = Field(1e-2, gt=0, description="Peak learning rate of log σ², which follows the run's schedule.")


@BALANCERS.register("uncertainty")
class Uncertainty(Balancer):
    """Σ_i exp(−s_i)·L_i + s_i ∕ 2, and ½·exp(−s_i)·L_i + s_i ∕ 2 for regression, s_i = log σ_i² learned from 0.

    At its optimum a task has σ² = 2·L, in regression σ² = L: its weight is the inverse of its loss. The gradient of s_i
    is written in closed form, ½ − weight·L_i, so that losses go backward one by one.
    Cost: that of `fixed`.
    """

    name = "uncertainty"
    Options = UncertaintyOptions
    needs_several = False

    def __init__(self, tasks: Mapping[str, Any], *, device: torch.device | str = "cpu", **options: Any) -> None:
        super().__init__(tasks, device=device, **options)
        self.log_variances = {task: torch.nn.Parameter(torch.zeros((), device=device)) for task in tasks}

    def parameters(self) -> list[nn.Parameter]:
        return list(self.log_variances.values())

    def weight(self, task: str) -> Tensor:
        half = 0.5 if self.tasks[task] == "number" else 1.0
        return half * (-self.log_variances[task].detach()).exp()

    def before_move(self, losses: Mapping[str, Tensor], norms: Mapping[str, Tensor]) -> None:
        for task, loss in losses.items():
            weight = self.log_variances[task]
            weight.grad = (0.5 - self.weight(task) * loss).to(weight.dtype)

    def state_dict(self) -> dict[str, Any]:
        return {"log_variances": {task: each.detach().cpu() for task, each in self.log_variances.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for task, value in state["log_variances"].items():
                self.log_variances[task].copy_(value)
