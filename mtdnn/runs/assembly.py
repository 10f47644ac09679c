"""The parts of a run that are made of other parts: rows and length, objective, loader, optimizer; their division."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import cast

import torch
from accelerate import Accelerator
from torch.optim import Optimizer

from mtdnn.balancing.base import Balancer
from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import TaskDef, row_units
from mtdnn.data.loaders import TrainLoader
from mtdnn.data.samplers import Sampler
from mtdnn.data.store import Store
from mtdnn.errors import ConfigError
from mtdnn.execution.sharding import Parts
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.regularizers.base import Regularizer
from mtdnn.runs.faults import resolution_faults
from mtdnn.runs.length import RunLength, needs_lengths, run_length
from mtdnn.runs.parts import (
    autocast_as_written,
    autocast_of,
    build_proximal,
    keeps_precision,
    loss_scale_of,
    train_stores,
)
from mtdnn.task_types.base import TaskType
from mtdnn.tokens.tokenizer import Tokenizer
from mtdnn.training.average import MovingAverage
from mtdnn.training.distillation import with_soft_labels
from mtdnn.training.objective import Objective, run_precision
from mtdnn.training.optim import build_optimizer, parameter_groups
from mtdnn.training.plan import Plan

logger = logging.getLogger(__name__)


def rows_and_length(
    config: RunConfig, trained: Mapping[str, TaskDef], types: Mapping[str, TaskType], tokenizer: Tokenizer
) -> tuple[dict[str, Store], RunLength]:
    """Task → the rows it is trained on, with soft labels where there are some; and how long the run is.

    Args:
        config: the run.
        trained: tasks it trains on.
        types: of all its tasks; those that use counts of labels learn them.
        tokenizer: the tokenizer of its encoder.
    """
    chosen, available = train_stores(config, trained, tokenizer)
    stores = {name: with_soft_labels(store, types[name]) for name, store in chosen.items()}
    for name, store in stores.items():
        if types[name].reads_label_counts:
            types[name].learn_label_counts(types[name].label_counts(store.labels))
    lengths = None
    if needs_lengths(config):
        lengths = {unit: stores[names[0]].lengths for unit, names in row_units(trained).items()}
    return stores, run_length(config, trained, available, lengths)


def build_objective(
    config: RunConfig,
    model: MultiTaskModel,
    regularizers: Mapping[str, Regularizer | None],
    plan: Plan,
    accelerator: Accelerator,
) -> Objective:
    """What a run minimizes, in its precision on this device.

    Args:
        config: the run.
        model: on the device.
        regularizers: task → its regularizer.
        plan: of the run.
        accelerator: of this process.
    Raises:
        ConfigError: a regularizer is too fine for the precision.
    """
    device = accelerator.device
    autocast = autocast_of(config, device)
    if not keeps_precision(config, device):
        logger.info("precision: bf16: this processor is faster in float32, and the run is computed in it")
    proximal = build_proximal(config.proximal, model, plan.total_steps)
    precision = run_precision(model, autocast_as_written(config, device))
    tasks = {name: each.task for name, each in model.task_types.items()}
    if faults := resolution_faults(regularizers, tasks, config, model.encoder, precision):
        raise ConfigError(faults)
    scale = loss_scale_of(config, device, processes=accelerator.num_processes)
    return Objective(model, regularizers, proximal, seed=config.seed, autocast=autocast, loss_scale=scale)


def divide(config: RunConfig, objective: Objective, average: MovingAverage | None, accelerator: Accelerator) -> None:
    """Divide the model, its teacher and its average among the processes of a run with `sharding: full`.

    Args:
        config: the run.
        objective: holds the model and the teacher.
        average: of the weights, if the run has one.
        accelerator: of this process.
    """
    if config.sharding == "none":
        return
    if accelerator.num_processes == 1:
        logger.info("sharding: full has no effect in one process, which holds the whole model")
        return
    in_float32 = any(method.precision == "float32" for method in objective.regularizers.values())
    in_bf16 = config.precision == "bf16" and keeps_precision(config, accelerator.device) and not in_float32
    dtype = torch.bfloat16 if in_bf16 else None
    copies = [each.teacher.module for each in (objective.proximal, average) if each is not None]
    for model in (objective.model, *copies):
        cast(MultiTaskModel, model).divide(device=accelerator.device, gathered_as=dtype)


def build_loader(
    config: RunConfig,
    stores: Mapping[str, Store],
    model: MultiTaskModel,
    sampler: Sampler,
    *,
    pad_token_id: int,
    accelerator: Accelerator,
) -> TrainLoader:
    """The batches of a run, as this process computes them.

    Args:
        config: the run.
        stores: task → the rows it is trained on.
        model: encoder and heads.
        sampler: the order of the tasks' batches.
        pad_token_id: of the tokenizer.
        accelerator: of this process.
    """
    on_gpu = accelerator.device.type == "cuda"
    return TrainLoader(
        stores,
        model.task_types,
        sampler,
        pad_token_id=pad_token_id,
        seed=config.seed,
        accumulate=config.accumulate,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
        prefetch=2 if on_gpu else 0,
        pin=on_gpu,
        units=row_units({name: model.task_types[name].task for name in stores}),
    )


def build_optimizer_for(config: RunConfig, encoder: Encoder, parts: Parts, balancer: Balancer) -> Optimizer:
    """The optimizer of a run, over the model's weights and those that the balancer learns.

    Args:
        config: the run.
        encoder: knows the depth of its weights.
        parts: the weights of the model that this process has.
        balancer: of the run.
    """
    rule = config.optimizer
    groups = parameter_groups(
        parts.named(),
        lr=rule.lr,
        weight_decay=rule.weight_decay,
        head_lr=rule.head_lr,
        layer_decay=rule.layer_decay,
        layer_of=encoder.layer_of,
        num_layers=encoder.num_layers,
    )
    if learned := balancer.parameters():
        groups.append({"params": learned, "lr": balancer.lr, "weight_decay": 0.0})
    return build_optimizer(rule.name, groups, lr=rule.lr, **rule.options)
