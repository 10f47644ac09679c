"""Which parameters move how fast: parameter groups, update rules and the learning rate over the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_scheduler

from mtdnn.registry import Registry

HEADS = "heads."
"""Names of the heads' parameters in `MultiTaskModel` begin so; all others belong to the encoder."""

FUSED_DEVICES = frozenset({"cpu", "cuda"})
"""Where PyTorch updates all parameters of AdamW or SGD in one kernel: the same numbers in less time."""

ROUNDING = 1e-9
"""More than the rounding of (steps × fraction), less than any step."""

ParameterGroup = dict[str, Any]

OPTIMIZERS: Registry[Callable[..., Optimizer]] = Registry("optimizer")
"""The words for `optimizer:` in a run: (parameter groups, *, lr, betas, eps, momentum) → optimizer."""

SCHEDULES: Registry[Callable[..., LRScheduler]] = Registry("schedule")
"""The words for `schedule:` in a run: (optimizer, *, num_steps, warmup, power, cut_fraction, ratio) → scheduler."""


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    weight_decay: float,
    head_lr: float | None = None,
    layer_decay: float = 1.0,
    layer_of: Callable[[str], int],
    num_layers: int,
) -> list[ParameterGroup]:
    """The trainable parameters, grouped by learning rate and weight decay.

    Biases and the weights of normalisation layers (all that is no matrix) have no weight decay. A frozen parameter is
    in no group: with a frozen encoder only the heads are left.

    Args:
        named_parameters: of a `MultiTaskModel`.
        lr: peak learning rate of the encoder's top layer.
        head_lr: that of the heads; None = lr.
        layer_decay: factor of the learning rate from one layer to the one below; 1 turns it off.
        layer_of: name of an encoder's parameter → its depth, 0 for embeddings up to num_layers.
        weight_decay: of matrices; 0 turns it off.
        num_layers: of the encoder.
    Raises:
        ValueError: nothing is trainable.
    """
    groups: dict[tuple[float, float], ParameterGroup] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        if name.startswith(HEADS):
            rate = lr if head_lr is None else head_lr
        else:
            rate = lr * layer_decay ** (num_layers - layer_of(name))
        decay = weight_decay if parameter.dim() > 1 else 0.0
        group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    if not groups:
        raise ValueError("no parameter is trainable")
    return list(groups.values())


def build_optimizer(
    name: str,
    groups: list[ParameterGroup],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum: float = 0.0,
) -> Optimizer:
    """The named update rule over groups that hold their own `lr` and `weight_decay`.

    Args:
        groups: from `parameter_groups`.
        lr: of groups that hold none.
        betas, eps: of adamw, adamax and radam.
        momentum: of sgd.
        name: the registered name.
    Raises:
        ConfigError: the name is unknown.
    """
    return OPTIMIZERS.get(name, key="optimizer.name")(groups, lr=lr, betas=betas, eps=eps, momentum=momentum)


def build_schedule(
    name: str,
    optimizer: Optimizer,
    *,
    num_steps: int,
    warmup: float = 0.1,
    power: float = 2.0,
    cut_fraction: float = 0.1,
    ratio: float = 32.0,
) -> LRScheduler:
    """The named course of the learning rate, as a factor of each group's own peak.

    Args:
        num_steps: optimizer steps of the whole run.
        warmup: fraction of them that rise from 0 to the peak (not of slanted_triangular).
        power: of polynomial.
        cut_fraction, ratio: of slanted_triangular.
        name: the registered name.
        optimizer: whose rate is scheduled.
    Raises:
        ConfigError: the name is unknown.
    """
    schedule = SCHEDULES.get(name, key="schedule.name")
    shape = {"power": power, "cut_fraction": cut_fraction, "ratio": ratio}
    return schedule(optimizer, num_steps=num_steps, warmup=warmup, **shape)


@OPTIMIZERS.register("adamw")
def adamw(groups: list[ParameterGroup], *, lr: float, betas: tuple[float, float], eps: float, **_: Any) -> Optimizer:
    """Adam with decoupled weight decay. Source: Loshchilov & Hutter 2019, arXiv 1711.05101.

    Args:
        groups: parameter groups with their own `lr` and `weight_decay`.
        lr: peak learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
    """
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=_can_fuse(groups))


@OPTIMIZERS.register("adamax")
def adamax(groups: list[ParameterGroup], *, lr: float, betas: tuple[float, float], eps: float, **_: Any) -> Optimizer:
    """Adam by the largest gradient; weight decay is added to the gradient. Source: Kingma & Ba 2015, section 7.1.

    Args:
        groups: parameter groups with their own `lr` and `weight_decay`.
        lr: peak learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
    """
    return torch.optim.Adamax(groups, lr=lr, betas=betas, eps=eps)


@OPTIMIZERS.register("radam")
def radam(groups: list[ParameterGroup], *, lr: float, betas: tuple[float, float], eps: float, **_: Any) -> Optimizer:
    """Rectified Adam with decoupled weight decay. Source: Liu et al. 2020, arXiv 1908.03265.

    Args:
        groups: parameter groups with their own `lr` and `weight_decay`.
        lr: peak learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
    """
    return torch.optim.RAdam(groups, lr=lr, betas=betas, eps=eps, decoupled_weight_decay=True)


@OPTIMIZERS.register("sgd")
def sgd(groups: list[ParameterGroup], *, lr: float, momentum: float, **_: Any) -> Optimizer:
    """Stochastic gradient descent; weight decay is added to the gradient.

    Args:
        groups: parameter groups with their own `lr` and `weight_decay`.
        lr: peak learning rate.
        momentum: 0 turns it off.
    """
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=_can_fuse(groups))


@SCHEDULES.register("linear")
def linear(optimizer: Optimizer, *, num_steps: int, warmup: float, **_: Any) -> LRScheduler:
    """Straight down to 0 after the warm-up.

    Args:
        optimizer: whose rate is scheduled.
        num_steps: optimizer steps of the run.
        warmup: fraction of the steps that rise.
    """
    return _after_warmup("linear", optimizer, num_steps, warmup)


@SCHEDULES.register("cosine")
def cosine(optimizer: Optimizer, *, num_steps: int, warmup: float, **_: Any) -> LRScheduler:
    """Half a cosine down to 0 after the warm-up.

    Args:
        optimizer: whose rate is scheduled.
        num_steps: optimizer steps of the run.
        warmup: fraction of the steps that rise.
    """
    return _after_warmup("cosine", optimizer, num_steps, warmup)


@SCHEDULES.register("constant")
def constant(optimizer: Optimizer, *, num_steps: int, warmup: float, **_: Any) -> LRScheduler:
    """The peak, after the warm-up.

    Args:
        optimizer: whose rate is scheduled.
        num_steps: optimizer steps of the run.
        warmup: fraction of the steps that rise.
    """
    return _after_warmup("constant_with_warmup", optimizer, num_steps, warmup)


@SCHEDULES.register("polynomial")
def polynomial(optimizer: Optimizer, *, num_steps: int, warmup: float, power: float, **_: Any) -> LRScheduler:
    """(What is left of the steps after the warm-up) to the power of `power`.

    Args:
        optimizer: whose rate is scheduled.
        num_steps: optimizer steps of the run.
        warmup: fraction of the steps that rise.
        power: of what is left of the steps.
    """
    return _after_warmup("polynomial", optimizer, num_steps, warmup, {"power": power, "lr_end": 0.0})


@SCHEDULES.register("slanted_triangular")
def slanted_triangular(
    optimizer: Optimizer, *, num_steps: int, cut_fraction: float, ratio: float, **_: Any
) -> LRScheduler:
    """A short straight rise to the peak and a long straight fall, both from and to peak ∕ ratio.

    Args:
        optimizer: whose rate is scheduled.
        num_steps: optimizer steps of the run.
        cut_fraction: fraction of the steps that rise.
        ratio: peak over lowest rate.
    Source: Howard & Ruder 2018, arXiv 1801.06146, eq. 3. There the fall is measured in cut·(1∕cut_fraction − 1) steps,
    which is the number of steps left only when the cut is a whole number; with few steps the rate would become
    negative. Here it is the number of steps left.
    """
    cut = max(1, math.floor(num_steps * cut_fraction + ROUNDING))

    def factor(step: int) -> float:
        share = step / cut if step < cut else max(0.0, 1 - (step - cut) / max(1, num_steps - cut))
        return (1 + share * (ratio - 1)) / ratio

    return LambdaLR(optimizer, factor)


def warmup_steps(num_steps: int, warmup: float) -> int:
    """The steps of the warm-up, rounded up as transformers' Trainer does (but 0.1 of 30 steps are 3, not 4)."""
    return math.ceil(num_steps * warmup - ROUNDING)


def _after_warmup(
    name: str, optimizer: Optimizer, num_steps: int, warmup: float, shape: dict[str, float] | None = None
) -> LRScheduler:
    scheduler: LRScheduler = get_scheduler(
        name, optimizer, warmup_steps(num_steps, warmup), num_steps, scheduler_specific_kwargs=shape
    )
    return scheduler


def _can_fuse(groups: list[ParameterGroup]) -> bool:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(each.device.type in FUSED_DEVICES and each.is_floating_point() for each in parameters)
