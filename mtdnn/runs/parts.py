"""A run's configuration → its parts: task types, model, train rows, sampler, proximal term, plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import torch

from mtdnn.balancing.base import BALANCERS, Balancer
from mtdnn.balancing.fixed import Fixed
from mtdnn.config.options import Named
from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import TaskDef, row_units
from mtdnn.data.jobs import require_valid_tasks
from mtdnn.data.store import Store, open_store
from mtdnn.errors import ConfigError, DataError, Fault
from mtdnn.execution.products import bf16_is_faster
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.proximal import PROXIMAL, Proximal
from mtdnn.runs.encoders import build_encoder
from mtdnn.runs.initialisation import init_heads
from mtdnn.runs.length import RunLength, subset_faults, train_part, with_labels
from mtdnn.task_types.base import TASK_TYPES, TaskType
from mtdnn.tokens.tokenizer import Tokenizer
from mtdnn.training.loss_scale import LossScale
from mtdnn.training.plan import Plan

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Word for a run's precision → the dtype of its products."""


def task_types_of(tasks: Mapping[str, TaskDef], tokenizer: Tokenizer) -> dict[str, TaskType]:
    """Each task seen through its type, bound to the tokenizer.

    Raises:
        ConfigError: every error in every definition.
    """
    require_valid_tasks(tasks, tokenizer)
    types = {name: TASK_TYPES.get(task.task_type)(task) for name, task in tasks.items()}
    for task_type in types.values():
        task_type.bind(tokenizer.hf)
    return types


def autocast_of(config: RunConfig, device: torch.device) -> Callable[[], AbstractContextManager]:
    """The context of a run's forward passes; see `keeps_precision`.

    It is PyTorch's own, since accelerate has one precision per process, and runs of different precision may follow one
    another in a notebook or a study.
    """
    if keeps_precision(config, device):
        return autocast_as_written(config, device)
    return partial(torch.autocast, device.type, enabled=False)


def autocast_as_written(config: RunConfig, device: torch.device) -> Callable[[], AbstractContextManager]:
    """The context of the run's `precision`, whatever the processor is fast in."""
    half = config.precision != "float32"
    return partial(torch.autocast, device.type, dtype=DTYPES[config.precision] if half else None, enabled=half)


def loss_scale_of(config: RunConfig, device: torch.device, *, processes: int) -> LossScale | None:
    """The loss scale of a run in fp16; None for one in another precision.

    Args:
        config: the run.
        device: of this process.
        processes: their number.
    """
    if config.precision != "fp16":
        return None
    if device.type == "cpu":
        logger.info("precision: fp16: meant for GPUs without bf16; on a CPU bf16 or float32 is faster")
    return LossScale(device, agreed=processes > 1 and config.sharding == "full")


def keeps_precision(config: RunConfig, device: torch.device) -> bool:
    """Whether the run is computed in its `precision`; False for bf16 on a CPU on which float32 is faster."""
    may_change = config.precision == "bf16" and device.type == "cpu" and config.execution.products == "fast"
    return not may_change or bf16_is_faster()


def build_model(config: RunConfig, task_types: Mapping[str, TaskType]) -> MultiTaskModel:
    """The model a run starts from: encoder, new heads, and heads initialised from an earlier run."""
    own_heads = [name for name, each in task_types.items() if each.task.head_of is None]
    model = MultiTaskModel(build_encoder(config, own_heads), task_types, seed=config.seed)
    tasks = {name: each.task for name, each in task_types.items()}
    init_heads(model, tasks, config.encoder, untrained=config.also_evaluate)
    return model


def train_stores(
    config: RunConfig, tasks: Mapping[str, TaskDef], tokenizer: Tokenizer
) -> tuple[dict[str, Store], dict[str, int]]:
    """Task → the train rows after `max_rows` and `subset`; and unit (see `row_units`) → their number without these.

    Of tasks that share rows, all have the same: those with a label for any of them.

    Args:
        config: the run.
        tasks: name → definition.
        tokenizer: of the run's encoder.
    Raises:
        ConfigError: a subset with no row, or with more rows than there are.
        DataError: every split that is damaged or not prepared for this tokenizer and these tasks.
    """
    whole, faults = dict[str, Store](), list[Fault]()
    for name, task in tasks.items():
        try:
            whole[name] = open_store(config.data, task, task.splits["train"], tokenizer=tokenizer)
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError(faults)
    units = row_units(tasks)
    for names in units.values():
        whole |= with_labels({name: whole[name] for name in names})
    available = {unit: len(whole[names[0]]) for unit, names in units.items()}
    if faults := subset_faults(config, tasks, available):
        raise ConfigError(faults)
    return {name: train_part(store, config, tasks[name]) for name, store in whole.items()}, available


def measured_stores(
    config: RunConfig, tasks: Mapping[str, TaskDef], tokenizer: Tokenizer
) -> dict[tuple[str, str], Store]:
    """(task, split) → rows of every dev split; prepared test splits, measured at the end, are only verified.

    Args:
        config: the run.
        tasks: name → definition.
        tokenizer: of the run's encoder.
    Raises:
        DataError: every split that is damaged or not prepared for this tokenizer and these tasks.
    """
    found: dict[tuple[str, str], Store] = {}
    faults: list[Fault] = []
    for name, task in tasks.items():
        tests = [split for split in task.splits.get("test", ()) if (Path(config.data) / name / split).is_dir()]
        for split in (*task.splits.get("dev", ()), *tests):
            try:
                found[name, split] = open_store(config.data, task, split, tokenizer=tokenizer)
            except DataError as error:
                faults += error.faults
    if faults:
        raise DataError(faults)
    return {
        (name, split): store for (name, split), store in found.items() if split in tasks[name].splits.get("dev", ())
    }


def build_proximal(named: Named | None, model: MultiTaskModel, steps: int) -> Proximal | None:
    """The run's Bregman term, or None.

    Args:
        named: name and options as YAML has them.
        model: encoder and heads.
        steps: optimizer steps of the run.
    """
    return None if named is None else PROXIMAL.get(named.name)(model, total_steps=steps, **named.options)


def build_balancer(config: RunConfig, task_types: Mapping[str, TaskType], device: torch.device) -> Balancer:
    """How the tasks of an update are combined; a run of one task has nothing to balance, and adds its losses up.

    Args:
        config: the run.
        task_types: those that it trains on.
        device: where the model is.
    """
    kind = BALANCERS.get(config.balance.name)
    if len(task_types) == 1 and kind is not Fixed:
        logger.info("balance: %s has one task and nothing to balance; fixed is used", config.balance.name)
        return Fixed({name: each.logits_of for name, each in task_types.items()}, device=device)
    return kind({name: each.logits_of for name, each in task_types.items()}, device=device, **config.balance.options)


def build_plan(config: RunConfig, length: RunLength, *, score_name: str) -> Plan:
    """When a run logs, evaluates, saves and stops.

    Args:
        config: the run.
        length: its steps.
        score_name: what selects its best checkpoint, for messages.
    """
    stopping = config.early_stopping
    return Plan(
        total_steps=length.steps,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
        log_gradients=config.log_gradients,
        log_conflicts=config.log_conflicts,
        log_affinity=config.log_affinity,
        patience=None if stopping is None else stopping.patience,
        min_delta=0.0 if stopping is None else stopping.min_delta,
        score_name=score_name,
    )
