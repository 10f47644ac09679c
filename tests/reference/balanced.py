"""An update of two tasks by a way to balance them, next to the gradients that each task has on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from mtdnn.balancing.base import BALANCERS
from mtdnn.batch import Batch
from mtdnn.model import MultiTaskModel
from mtdnn.training.objective import Objective
from mtdnn.training.plan import Plan
from mtdnn.training.trainer import Trainer

LR = 0.01
Gradients = dict[str, Tensor]
Made = tuple[MultiTaskModel, Objective]


def trainer_of(name: str, model: MultiTaskModel, objective: Objective) -> Trainer:
    """A trainer that balances so, and moves by plain gradient descent without clipping."""
    balancer = BALANCERS.get(name)({task: kind.logits_of for task, kind in model.task_types.items()})
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": LR}]
    if balancer.parameters():
        groups.append({"params": balancer.parameters(), "lr": 0.1})
    optimizer = torch.optim.SGD(groups)
    return Trainer(
        model=model,
        objective=objective,
        loader=(),  # type: ignore[arg-type]
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        accelerator=Accelerator(cpu=True),
        plan=Plan(total_steps=1),
        evaluate=lambda: ({}, None),
        save=lambda kind, trainer: None,
        balancer=balancer,
        clip_norm=None,
    )


def own_gradients(model: MultiTaskModel, objective: Objective, batch: Batch) -> Gradients:
    """Name → gradient of the sum of a task's losses, by a backward pass for each."""
    for part in objective.parts(batch, step=0):
        assert not part.then_update
        part.loss.backward()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def pcgrad_of_two(own: list[Gradients]) -> Gradients:
    """Yu et al. 2020, Algorithm 1, on the encoder's gradients of two tasks; every head has its own gradient."""
    names = sorted({name for each in own for name in each if not name.startswith("heads.")})
    zero = {name: torch.zeros_like(each[name]) for each in own for name in names if name in each}
    one, two = (torch.cat([each.get(name, zero[name]).flatten() for name in names]) for each in own)
    inner = min(float(one @ two), 0.0)
    factors = 1 - inner / float(one @ one), 1 - inner / float(two @ two)
    total: Gradients = {}
    for factor, each in zip(factors, own, strict=True):
        for name, gradient in each.items():
            total[name] = total.get(name, 0) + (1 if name.startswith("heads.") else factor) * gradient
    return total


def assert_pcgrad(make: Callable[[], Made], batches: list[Batch]) -> None:
    """An update of two tasks by `pcgrad` is that of their own gradients; in float64, sums in another order: 1e-8.

    Args:
        make: a model in float64 and its objective, the same at each call.
        batches: one of each task.
    """
    model, objective = make()
    expected = pcgrad_of_two([own_gradients(model, objective, batch) for batch in batches])
    model, objective = make()
    start = {name: each.detach().clone() for name, each in model.named_parameters()}
    trainer_of("pcgrad", model, objective).train_step(batches)
    for name, weight in model.named_parameters():
        moved = (start[name] - weight.detach()) / LR
        gradient = expected.get(name, torch.zeros_like(moved))
        torch.testing.assert_close(moved, gradient, rtol=1e-8, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")
