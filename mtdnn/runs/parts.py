"""Words of a run's configuration → its parts: task types, model, train rows, sampler, proximal term, plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

import torch

from mtdnn.config.options import Named
from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import TaskDef
from mtdnn.data.jobs import require_sound_tasks
from mtdnn.data.samplers import SAMPLERS, Sampler
from mtdnn.data.store import Store, open_train_store
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.proximal import PROXIMAL, Proximal
from mtdnn.rows.subset import chosen_rows, subset_size
from mtdnn.runs.initialisation import build_encoder, start_heads
from mtdnn.task_types.base import TASK_TYPES, TaskType
from mtdnn.tokens.tokenizer import Tokenizer
from mtdnn.training.plan import Plan


def task_types_of(tasks: Mapping[str, TaskDef], tokenizer: Tokenizer) -> dict[str, TaskType]:
    """Each task seen through its type, bound to the tokenizer.

    Raises:
        ConfigError: every fault of every definition.
    """
    require_sound_tasks(tasks, tokenizer)
    types = {name: TASK_TYPES.get(task.task_type)(task) for name, task in tasks.items()}
    for task_type in types.values():
        task_type.bind(tokenizer.hf)
    return types


def autocast_of(config: RunConfig, device: torch.device) -> Callable[[], AbstractContextManager]:
    """The context of a run's forward passes.

    PyTorch's own rather than accelerate's, whose precision is one for the whole process: runs of different precision
    may follow one another in a notebook or a study.
    """
    return partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")


def build_model(config: RunConfig, task_types: Mapping[str, TaskType]) -> MultiTaskModel:
    """The model a run starts from: encoder, new heads, and heads started from an earlier run's."""
    model = MultiTaskModel(build_encoder(config), task_types, seed=config.seed)
    start_heads(model, {name: each.task for name, each in task_types.items()}, config.encoder)
    return model


def train_store(config: RunConfig, task: TaskDef, tokenizer: Tokenizer) -> Store:
    """The training rows of a task, or the part of them that `subset` names."""
    store = open_train_store(config.data, task, tokenizer=tokenizer)
    part = config.subset.get(task.name)
    if part is None:
        return store
    size = part.rows if part.rows is not None else subset_size(len(store), part.fraction or 1.0)
    return store.select(chosen_rows(store.ids, size, seed=part.seed))


def build_sampler(config: RunConfig, tasks: Mapping[str, TaskDef], stores: Mapping[str, Store]) -> Sampler:
    """The order of training under the run's `mixing`."""
    kind = SAMPLERS.get(config.mixing.name, key="mixing")
    needs_lengths = config.max_tokens is not None or config.group_by_length is not None
    return kind(
        {name: len(store) for name, store in stores.items()},
        {name: tasks[name].batch_size or config.batch_size for name in stores},
        seed=config.seed,
        num_epochs=config.epochs,
        max_steps=config.max_steps,
        lengths={name: store.lengths for name, store in stores.items()} if needs_lengths else None,
        max_tokens=config.max_tokens,
        group_by_length=config.group_by_length,
        **config.mixing.options,
    )


def total_steps(config: RunConfig, sampler: Sampler) -> int:
    """Optimizer steps of the run: `max_steps`, or those of its epochs, a last fraction rounded up."""
    if config.max_steps is not None:
        return config.max_steps
    whole = int(config.epochs)
    steps = sum(sampler.num_steps(epoch) for epoch in range(whole))
    return max(1, steps + math.ceil((config.epochs - whole) * sampler.num_steps(whole) - 1e-9))


def build_proximal(named: Named | None, model: MultiTaskModel, steps: int) -> Proximal | None:
    """The run's Bregman term, or None."""
    return None if named is None else PROXIMAL.get(named.name)(model, total_steps=steps, **named.options)


def build_plan(config: RunConfig, sampler: Sampler) -> Plan:
    """When a run logs, evaluates, saves and stops."""
    stopping = config.early_stopping
    return Plan(
        total_steps=total_steps(config, sampler),
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
        log_gradients=config.log_gradients,
        patience=None if stopping is None else stopping.patience,
        min_delta=0.0 if stopping is None else stopping.min_delta,
    )
