"""Errors in what a run's configuration names, found before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch

from mtdnn.config.run import EncoderSource, RunConfig
from mtdnn.config.tasks import TaskDef
from mtdnn.data.jobs import block_faults
from mtdnn.errors import ConfigError, Fault, MtdnnError, fault
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.regularizers.base import Regularizer, RunPrecision
from mtdnn.runs.encoders import build_encoder, checkpoint_of, empty_encoder
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.hub import run_place
from mtdnn.runs.initialisation import (
    has_same_layers,
    head_weights,
    init_head_faults,
    kept_head_faults,
    other_layers,
)
from mtdnn.runs.named import named_regularizer, regularizers_of, with_teachers
from mtdnn.runs.parts import DTYPES
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.checkpoint import ENCODER
from mtdnn.training.distillation import teacher_faults


def objective_faults(tasks: Mapping[str, TaskDef], config: RunConfig, *, encoder: str | None = None) -> list[Fault]:
    """Errors of the tasks' regularizers, for `check`: names, options, task types, sizes too small to be resolved.

    Args:
        encoder: hub name or folder in place of the run's; its word embeddings decide which sizes can be resolved.
        tasks: name → definition.
        config: the run.
    """
    try:
        chosen = regularizers_of(config, tasks)
    except ConfigError as error:
        return list(error.faults)
    source = encoder or config.encoder
    if not source or not any(each is not None and each.needs_resolution for each in chosen.values()):
        return []
    precision = RunPrecision.of(DTYPES[config.precision])
    backbone = build_encoder(config.model_copy(update={"encoder": source, "adapter": None}))
    return resolution_faults(chosen, tasks, config, backbone, precision)


def resolution_faults(
    chosen: Mapping[str, Regularizer | None],
    tasks: Mapping[str, TaskDef],
    config: RunConfig,
    encoder: Encoder,
    precision: RunPrecision,
) -> list[Fault]:
    """Sizes of the chosen regularizers that the precision of their passes cannot resolve, with their places.

    Args:
        chosen: task → its regularizer.
        tasks: name → definition.
        config: the run.
        encoder: of the run.
        precision: the precision of the run.
    """
    methods = {name: each for name, each in chosen.items() if each is not None}
    if not methods:
        return []
    faults: list[Fault] = []
    embedding_rms = encoder.embedding_rms()  # once: it reads the whole table
    for name, each in methods.items():
        _, where, key = named_regularizer(config, tasks[name])
        if each.needs_embedding_block and not hasattr(encoder.backbone, "embeddings"):
            faults.append(fault(where, f"{key}.embeddings", "this encoder has no embedding block", "Give: word."))
        faults += each.precision_faults(
            where,
            key,
            embedding_rms=embedding_rms,
            embedding_size=encoder.embedding_size,
            precision=replace(precision, of_logits=not TASK_TYPES.get(tasks[name].task_type).float32_logits),
        )
    return list(dict.fromkeys(faults))


def source_faults(tasks: Mapping[str, TaskDef], config: RunConfig) -> list[Fault]:
    """Errors of the earlier run that encoder and heads start from, for `check`: missing, or without what is named.

    Args:
        tasks: name → definition.
        config: the run.
    """
    if isinstance(config.encoder, str):
        return init_head_faults(tasks, None)
    try:
        checkpoint_of(config.encoder)
        run = RunFolder(run_place(config.encoder.run))
        known, untrained = run.read_tasks(), [name for name in config.also_evaluate if name in tasks]
        faults = init_head_faults(tasks, known) + kept_head_faults(tasks, known, untrained)
        return faults or _kept_layer_faults({name: tasks[name] for name in untrained}, config, run)
    except MtdnnError as error:
        return list(error.faults)


def _kept_layer_faults(untrained: Mapping[str, TaskDef], config: RunConfig, run: RunFolder) -> list[Fault]:
    """Errors of tasks of `also_evaluate` whose heads have other layers than those that they would start from.

    Args:
        untrained: these tasks; each has a head of the same kind in the earlier run.
        config: the run.
        run: the earlier run.
    """
    checkpoint, known = checkpoint_of(cast(EncoderSource, config.encoder)), run.read_tasks()
    types = {name: TASK_TYPES.get(task.task_type)(task) for name, task in untrained.items() if not block_faults(task)}
    if not types:
        return []
    with torch.device("meta"):  # only shapes are compared
        heads = MultiTaskModel(empty_encoder(checkpoint / ENCODER, config), types).heads
    return [
        other_layers(untrained[name], run)
        for name, head in heads.items()
        if not has_same_layers(head, head_weights(checkpoint, known[name]))
    ]


def soft_label_faults(tasks: Mapping[str, TaskDef], config: RunConfig) -> list[Fault]:
    """Errors of the tasks' teachers, for `check`: files of soft labels that cannot be used."""
    faults: list[Fault] = []
    for task in with_teachers(tasks, config).values():
        if task.distill is not None:
            faults += block_faults(task) or teacher_faults(TASK_TYPES.get(task.task_type)(task))
    return list(dict.fromkeys(faults))
