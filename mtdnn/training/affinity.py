"""What a step on one task does to the losses of the others.

Source: Fifty et al. 2021, "Efficiently Identifying Task Groupings for Multi-Task Learning", arXiv 2109.04617, eq. 1:
Z_{i→j} = 1 − L_j(θ|i) ∕ L_j(θ), θ|i being the shared weights after a step on task i alone, on the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mtdnn.balancing.base import Gradient

Losses = Callable[[], Mapping[str, Tensor]]


def affinities(
    weights: Sequence[nn.Parameter], gradients: Mapping[str, Gradient], losses: Losses, optimizer: Optimizer
) -> dict[str, dict[str, float]]:
    """Task i → task j → Z_{i→j}; above 0: a step on i lowers the loss of j.

    The step is the optimizer's without its momentum: −lr·g ∕ √v̂ with Adam's second moment, −lr·g where there is none.
    Costs a forward pass per pair of tasks, and a copy of the shared weights.

    Args:
        weights: the shared ones; as they were when this returns.
        gradients: task → its gradient by shared weight.
        losses: task → label loss of its batch with the weights as they are, without gradient.
        optimizer: the run's, before its step.
    """
    before, kept = losses(), [weight.detach().clone() for weight in weights]
    found = {}
    for task, gradient in gradients.items():
        with torch.no_grad():
            for weight, each in zip(weights, gradient, strict=True):
                if each is not None:
                    weight.sub_(_step(weight, each, optimizer))
            after = losses()
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(value)
        found[task] = {other: _fall(before[other], after[other]) for other in before}
    return found


def _fall(before: Tensor, after: Tensor) -> float:
    return 1 - float(after) / float(before) if float(before) > 0 else 0.0


def _step(weight: nn.Parameter, gradient: Tensor, optimizer: Optimizer) -> Tensor:
    """What the optimizer would take off a weight for this gradient alone."""
    group = next(group for group in optimizer.param_groups if any(each is weight for each in group["params"]))
    state = optimizer.state.get(weight, {})
    if "exp_avg_sq" not in state or "betas" not in group:
        return float(group["lr"]) * gradient
    steps, beta = float(state["step"]), group["betas"][1]
    second = state["exp_avg_sq"] / (1 - beta**steps)
    return float(group["lr"]) * gradient / (second.sqrt() + group["eps"])
