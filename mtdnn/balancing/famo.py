"""All losses fall at an equal rate, measured by what each step did to them.

Source: Liu, Feng, Stone, Liu 2023, "FAMO: Fast Adaptive Multitask Optimization", arXiv 2306.03792, Algorithm 1. TorchJD
has it for updates that hold every task and one graph for all losses; here losses go backward one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mtdnn.balancing.base import BALANCERS, Balancer
from mtdnn.config.options import Options
from mtdnn.deferred import deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = deferred("torch")

LEAST = 1e-8
"""Added to losses before the logarithm, as in the authors' code."""


class FAMOOptions(Options):
    """Options of `famo`."""

    lr: float = Field(0.025, gt=0, description="β, learning rate of Adam for the logits of the weights.")
    weight_decay: float = Field(1e-3, ge=0, description="γ, decay of the logits; 0 turns it off.")


@BALANCERS.register("famo")
class FAMO(Balancer):
    """c·Σ_i (z_i ∕ ℓ_i)·∇L_i, z = softmax(ξ), c = 1 ∕ Σ_i (z_i ∕ ℓ_i); ξ is moved by the fall of log ℓ in each step.

    After a step ξ ← ξ − β·(∇_ξ z)ᵀ(log ℓ − log ℓ′) by Adam with decay γ, ℓ′ being the loss of the same batch, with the
    same dropout masks, under the new weights. ℓ_i is the label loss: penalties are weighted as their task is. The
    softmax is over the tasks of the update; a task whose loss is 0 is left out.
    Cost: a forward pass per task in addition to `fixed`, and a second gradient of all weights in memory.
    """

    name = "famo"
    Options = FAMOOptions
    acts = "after"
    measures_again = True

    def __init__(self, tasks: Mapping[str, Any], *, device: torch.device | str = "cpu", **options: Any) -> None:
        super().__init__(tasks, device=device, **options)
        self.logits = {task: torch.nn.Parameter(torch.zeros((), device=device)) for task in tasks}
        rule = {"lr": self.options.lr, "weight_decay": self.options.weight_decay}
        self.optimizer = torch.optim.Adam(list(self.logits.values()), **rule)

    def weight_after(self, task: str, tasks: Sequence[str], loss: Tensor) -> Tensor:
        return self._weight(task, self._shares(tasks), loss)

    def common_factor(self, tasks: Sequence[str], losses: Mapping[str, Tensor]) -> Tensor:
        shares = self._shares(tasks)
        total = torch.stack([self._weight(task, shares, losses[task]) for task in tasks]).sum()
        return torch.where(total > 0, 1 / total, 1.0)

    def _weight(self, task: str, shares: Mapping[str, Tensor], loss: Tensor) -> Tensor:
        return torch.where(loss > 0, shares[task] / (loss + LEAST), 0.0)

    def _shares(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        logits = torch.stack([self.logits[task].detach() for task in tasks])
        return dict(zip(tasks, torch.softmax(logits, dim=0).unbind(), strict=True))

    def after_measuring(self, losses: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> None:
        tasks = list(losses)
        shares = self._shares(tasks)
        falls = {task: (losses[task] + LEAST).log() - (again[task] + LEAST).log() for task in tasks}
        mean = torch.stack([shares[task] * falls[task] for task in tasks]).sum()
        for task in tasks:  # (∇_ξ z)ᵀ d of a softmax: z_i·(d_i − Σ_j z_j d_j)
            self.logits[task].grad = (shares[task] * (falls[task] - mean)).to(self.logits[task].dtype)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        logits = {task: each.detach().cpu() for task, each in self.logits.items()}
        return {"logits": logits, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for task, value in state["logits"].items():
                self.logits[task].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
