"""Errors in what a run's configuration names, found before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import TaskDef
from mtdnn.data.jobs import block_faults
from mtdnn.errors import ConfigError, Fault, MtdnnError
from mtdnn.networks.encoder import Encoder
from mtdnn.regularizers.base import Regularizer, RunPrecision
from mtdnn.runs.encoders import build_encoder, checkpoint_of
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.hub import run_place
from mtdnn.runs.initialisation import init_head_faults, kept_head_faults
from mtdnn.runs.named import named_regularizer, regularizers_of, with_teachers
from mtdnn.runs.parts import DTYPES
from mtdnn.task_types.base import TASK_TYPES
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
        known = RunFolder(run_place(config.encoder.run)).read_tasks()
        untrained = [name for name in config.also_evaluate if name in tasks]
        return init_head_faults(tasks, known) + kept_head_faults(tasks, known, untrained)
    except MtdnnError as error:
        return list(error.faults)


def soft_label_faults(tasks: Mapping[str, TaskDef], config: RunConfig) -> list[Fault]:
    """Errors of the tasks' teachers, for `check`: files of soft labels that cannot be used."""
    faults: list[Fault] = []
    for task in with_teachers(tasks, config).values():
        if task.distill is not None:
            faults += block_faults(task) or teacher_faults(TASK_TYPES.get(task.task_type)(task))
    return list(dict.fromkeys(faults))
