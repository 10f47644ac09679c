"""Weights learned so that all tasks train at similar rates, judged by the gradients at the last shared layer.

Source: Chen, Badrinarayanan, Lee, Rabinovich 2018, "GradNorm", arXiv 1711.02257, equations 1 and 2 and Algorithm 1.
Added here: a weight stays above 0.001, where Adam's steps of one size would carry it below 0.
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

LEAST = 1e-3


class GradNormOptions(Options):
    """Options of `gradnorm`."""

    alpha: float = Field(1.5, ge=0, description="α, how strongly slow tasks are favoured; 0: norms are made equal.")
    lr: float = Field(0.025, gt=0, description="Peak learning rate of the weights, which follows the run's schedule.")


@BALANCERS.register("gradnorm")
class GradNorm(Balancer):
    """Weights w that minimize Σ_i |G_i − Ḡ·r_i^α|, scaled after each step to add up to the number of tasks.

    G_i is the norm of the gradient of w_i·L_i at the last shared layer, Ḡ their mean, r_i = L̃_i ∕ mean L̃ with
    L̃_i = L_i ∕ (its first value); means are over the tasks of the update, and Ḡ·r_i^α counts as constant. Hence
    ∂∕∂w_i = sign(G_i − Ḡ·r_i^α)·G_i ∕ w_i: no further backward pass.
    Cost: that of `fixed`, and the last layer's gradient of one task in memory.
    """

    name = "gradnorm"
    Options = GradNormOptions
    needs_norms = True

    def __init__(self, tasks: Mapping[str, Any], *, device: torch.device | str = "cpu", **options: Any) -> None:
        super().__init__(tasks, device=device, **options)
        self.factors = {task: torch.nn.Parameter(torch.ones((), device=device)) for task in tasks}
        self.first: dict[str, Tensor] = {}

    def parameters(self) -> list[nn.Parameter]:
        return list(self.factors.values())

    def weight(self, task: str) -> Tensor | float:
        return self.factors[task].detach().clone()

    def before_move(self, losses: Mapping[str, Tensor], norms: Mapping[str, Tensor]) -> None:
        for task, loss in losses.items():
            self.first.setdefault(task, loss.clone())
        ratios = {
            task: torch.where(self.first[task] > 0, loss / self.first[task], 1.0) for task, loss in losses.items()
        }
        mean_ratio = torch.stack(list(ratios.values())).mean()
        mean_norm = torch.stack([norms[task] for task in losses]).mean()
        for task, ratio in ratios.items():
            factor, norm = self.factors[task], norms[task]
            rate = torch.where(mean_ratio > 0, ratio / mean_ratio, 1.0)
            slope = (norm - mean_norm * rate**self.options.alpha).sign() * norm / factor.detach()
            factor.grad = slope.to(factor.dtype)

    def after_step(self, losses: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            kept = {task: factor.clamp(min=LEAST) for task, factor in self.factors.items()}
            total = torch.stack(list(kept.values())).sum()
            for task, value in kept.items():
                self.factors[task].copy_(value * len(kept) / total)

    def state_dict(self) -> dict[str, Any]:
        return {
            "factors": {task: each.detach().cpu() for task, each in self.factors.items()},
            "first": {task: each.cpu() for task, each in self.first.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for task, value in state["factors"].items():
                self.factors[task].copy_(value)
        self.first = {task: value.to(self.device) for task, value in state["first"].items()}
