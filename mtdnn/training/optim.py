"""Parameter groups, optimizers and learning-rate schedules.

An update rule is a function of the parameter groups, or a subclass of PyTorch's `Optimizer`; a schedule a function of
the optimizer. Their further parameters are their options. PyTorch is imported when one of them is built, so that
`check` and `--help` know the options without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from mtdnn.config.options import Options, option_values, options_of, takes_options
from mtdnn.config.run import OptimizerConfig
from mtdnn.deferred import deferred
from mtdnn.errors import ConfigError, fault
from mtdnn.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer, lr_scheduler
    from torch.optim.lr_scheduler import LRScheduler
else:
    torch = deferred("torch")
    lr_scheduler = deferred("torch.optim.lr_scheduler")

HEADS = "heads."
"""Prefix of the heads' parameters in `MultiTaskModel`; all others belong to the encoder."""

FUSED_DEVICES = frozenset({"cpu", "cuda"})
"""Devices on which PyTorch updates all parameters of AdamW or SGD in one kernel: the same numbers in less time."""

ROUNDING = 1e-9
"""Larger than the rounding error of steps × fraction, smaller than a step."""

ParameterGroup = dict[str, Any]

OPTIMIZERS: Registry[Callable[..., Optimizer]] = Registry(
    "optimizer", takes=("groups",), keywords=("lr",), makes=lambda: torch.optim.Optimizer
)
"""The words for `optimizer:` in a run: (parameter groups, *, lr, options) → optimizer."""

SCHEDULES: Registry[Callable[..., LRScheduler]] = Registry("schedule", takes=("optimizer",), keywords=("num_steps",))
"""The words for `schedule:` in a run: (optimizer, *, num_steps, options) → scheduler."""

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamOptions(Options):
    """Options of Adam and similar rules."""

    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay of the two moments.")
    eps: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")


class MomentumOptions(Options):
    """Options of `sgd`."""

    momentum: float = Field(0.0, ge=0, lt=1, description="Fraction of the previous update that is kept; 0 = none.")


class WarmupOptions(Options):
    """Options of the schedules with a warm-up."""

    warmup: float = Field(0.1, ge=0, lt=1, description="Fraction of the steps with a rising rate; 0 = none.")


class PolynomialOptions(WarmupOptions):
    """Options of `polynomial`."""

    power: float = Field(2.0, gt=0, description="Exponent of the fraction of steps left.")


class SlantedOptions(Options):
    """Options of `slanted_triangular`."""

    cut_fraction: float = Field(0.1, gt=0, lt=1, description="Fraction of the steps with a rising rate.")
    ratio: float = Field(32.0, gt=1, description="Peak rate divided by the lowest rate.")


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

    Biases and the weights of normalisation layers (all that are not matrices) have no weight decay. A frozen parameter
    is in no group: with a frozen encoder only the heads are trained.

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


def build_optimizer(name: str, groups: list[ParameterGroup], *, lr: float, **options: Any) -> Optimizer:
    """The named optimizer over groups with their own `lr` and `weight_decay`.

    Args:
        name: registered, or the dotted path of a function or of a subclass of PyTorch's `Optimizer`.
        groups: from `parameter_groups`.
        lr: of groups that have none.
        options: the optimizer's own.
    Raises:
        ConfigError: the name or an option is unknown, or the optimizer rejects a value.
    """
    rule = OPTIMIZERS.get(name, key="optimizer")
    values = option_values(options_of(OPTIMIZERS, rule, OptimizerConfig.model_fields), options)
    try:
        return rule(groups, lr=lr, **values)
    except (TypeError, ValueError) as error:
        raise ConfigError(fault("", "optimizer", f"{name} rejects its options: {error}", "Change them.")) from error


def build_schedule(name: str, optimizer: Optimizer, *, num_steps: int, **options: Any) -> LRScheduler:
    """The named learning-rate schedule, as a factor of each group's peak.

    Args:
        name: registered, or the dotted path of a function.
        optimizer: whose rates it sets.
        num_steps: optimizer steps of the whole run.
        options: the schedule's own.
    Raises:
        ConfigError: the name or an option is unknown, or the schedule rejects a value.
    """
    schedule = SCHEDULES.get(name, key="schedule")
    values = option_values(options_of(SCHEDULES, schedule), options)
    try:
        return schedule(optimizer, num_steps=num_steps, **values)
    except (TypeError, ValueError) as error:
        raise ConfigError(fault("", "schedule", f"{name} rejects its options: {error}", "Change them.")) from error


@OPTIMIZERS.register("adamw")
@takes_options(AdamOptions)
def adamw(groups: list[ParameterGroup], *, lr: float, betas: tuple[float, float], eps: float) -> Optimizer:
    """Adam with decoupled weight decay. Source: Loshchilov & Hutter 2019, arXiv 1711.05101.

    Args:
        groups: parameter groups with their own `lr` and `weight_decay`.
        lr: peak learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
    """
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=_can_fuse(groups))


@OPTIMIZERS.register("adamax")
@takes_options(AdamOptions)
def adamax(groups: list[ParameterGroup], *, lr: float, betas: tuple[float, float], eps: float) -> Optimizer:
    """Adam by the largest gradient; weight decay is added to the gradient. Source: Kingma & Ba 2015, section 7.1.

    Args:
        groups: parameter groups with their own `lr` and `weight_decay`.
        lr: peak learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
    """
    return torch.optim.Adamax(groups, lr=lr, betas=betas, eps=eps)


@OPTIMIZERS.register("radam")
@takes_options(AdamOptions)
def radam(groups: list[ParameterGroup], *, lr: float, betas: tuple[float, float], eps: float) -> Optimizer:
    """Rectified Adam with decoupled weight decay. Source: Liu et al. 2020, arXiv 1908.03265.

    Args:
        groups: parameter groups with their own `lr` and `weight_decay`.
        lr: peak learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
    """
    return torch.optim.RAdam(groups, lr=lr, betas=betas, eps=eps, decoupled_weight_decay=True)


@OPTIMIZERS.register("sgd")
@takes_options(MomentumOptions)
def sgd(groups: list[ParameterGroup], *, lr: float, momentum: float) -> Optimizer:
    """Stochastic gradient descent; weight decay is added to the gradient.

    Args:
        groups: parameter groups with their own `lr` and `weight_decay`.
        lr: peak learning rate.
        momentum: 0 turns it off.
    """
    fused = momentum == 0 and _can_fuse(groups)  # with momentum it fails for heads whose task has had no step yet
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=fused)


@SCHEDULES.register("linear")
@takes_options(WarmupOptions)
def linear(optimizer: Optimizer, *, num_steps: int, warmup: float) -> LRScheduler:
    """Linear decay to 0 after the warm-up.

    Args:
        optimizer: whose rate is scheduled.
        num_steps: optimizer steps of the run.
        warmup: fraction of the steps with a rising rate.
    """
    return _after_warmup("linear", optimizer, num_steps, warmup)


@SCHEDULES.register("cosine")
@takes_options(WarmupOptions)
def cosine(optimizer: Optimizer, *, num_steps: int, warmup: float) -> LRScheduler:
    """Cosine decay to 0 after the warm-up.

    Args:
        optimizer: whose rate is scheduled.
        num_steps: optimizer steps of the run.
        warmup: fraction of the steps with a rising rate.
    """
    return _after_warmup("cosine", optimizer, num_steps, warmup)


@SCHEDULES.register("constant")
@takes_options(WarmupOptions)
def constant(optimizer: Optimizer, *, num_steps: int, warmup: float) -> LRScheduler:
    """Constant at the peak after the warm-up.

    Args:
        optimizer: whose rate is scheduled.
        num_steps: optimizer steps of the run.
        warmup: fraction of the steps with a rising rate.
    """
    return _after_warmup("constant_with_warmup", optimizer, num_steps, warmup)


@SCHEDULES.register("polynomial")
@takes_options(PolynomialOptions)
def polynomial(optimizer: Optimizer, *, num_steps: int, warmup: float, power: float) -> LRScheduler:
    """Polynomial decay to 0 after the warm-up: the fraction of steps left, to the power of `power`.

    Args:
        optimizer: whose rate is scheduled.
        num_steps: optimizer steps of the run.
        warmup: fraction of the steps with a rising rate.
        power: exponent of the fraction of steps left.
    """
    return _after_warmup("polynomial", optimizer, num_steps, warmup, {"power": power, "lr_end": 0.0})


@SCHEDULES.register("slanted_triangular")
@takes_options(SlantedOptions)
def slanted_triangular(optimizer: Optimizer, *, num_steps: int, cut_fraction: float, ratio: float) -> LRScheduler:
    """A short linear rise from peak ∕ ratio to the peak, and a long linear fall back.

    Args:
        optimizer: whose rate is scheduled.
        num_steps: optimizer steps of the run.
        cut_fraction: fraction of the steps with a rising rate.
        ratio: peak rate divided by the lowest rate.
    Source: Howard & Ruder 2018, arXiv 1801.06146, eq. 3. There the fall is measured in cut·(1∕cut_fraction − 1) steps,
    which is the number of steps left only when the cut is a whole number; with few steps the rate would become
    negative. Here it is the number of steps left.
    """
    cut = max(1, math.floor(num_steps * cut_fraction + ROUNDING))

    def factor(step: int) -> float:
        share = step / cut if step < cut else max(0.0, 1 - (step - cut) / max(1, num_steps - cut))
        return (1 + share * (ratio - 1)) / ratio

    return lr_scheduler.LambdaLR(optimizer, factor)


def warmup_steps(num_steps: int, warmup: float) -> int:
    """The steps of the warm-up, rounded up as transformers' Trainer does (but 0.1 of 30 steps are 3, not 4)."""
    return math.ceil(num_steps * warmup - ROUNDING)


def _after_warmup(
    name: str, optimizer: Optimizer, num_steps: int, warmup: float, shape: dict[str, float] | None = None
) -> LRScheduler:
    from transformers import get_scheduler

    scheduler: LRScheduler = get_scheduler(
        name, optimizer, warmup_steps(num_steps, warmup), num_steps, scheduler_specific_kwargs=shape
    )
    return scheduler


def _can_fuse(groups: list[ParameterGroup]) -> bool:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(each.device.type in FUSED_DEVICES and each.is_floating_point() for each in parameters)
