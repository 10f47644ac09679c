"""Everything a run needs, built and checked before its folder is touched: encoder, tasks, loaders, trainer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, cast

import torch
from accelerate import Accelerator
from torch import nn

from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import TaskDef, row_units
from mtdnn.data.loaders import TrainLoader
from mtdnn.data.samplers import Sampler
from mtdnn.data.store import Store
from mtdnn.errors import ConfigError
from mtdnn.execution.memory import freed_memory_kept
from mtdnn.execution.processes import Processes
from mtdnn.execution.sharding import Parts, Whole, held_whole, units_of, whole_state, whole_values
from mtdnn.metrics.base import selection_faults
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.base import Regularizer
from mtdnn.runs.encoders import encoder_place, refuse_other_base, write_parts
from mtdnn.runs.faults import resolution_faults
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.length import RunLength, needs_lengths, run_length
from mtdnn.runs.measure import dev_results, dev_score
from mtdnn.runs.named import regularizers_of, run_tasks, selecting_tasks
from mtdnn.runs.parts import (
    autocast_as_written,
    autocast_of,
    build_balancer,
    build_model,
    build_plan,
    build_proximal,
    keeps_precision,
    loss_scale_of,
    measured_stores,
    task_types_of,
    train_stores,
)
from mtdnn.runs.resumption import require_same_run, resume_point, settings_of
from mtdnn.task_types.base import TaskType
from mtdnn.tokens.loading import load_tokenizer
from mtdnn.tokens.tokenizer import Tokenizer
from mtdnn.training.average import MovingAverage
from mtdnn.training.bar import ProgressBar
from mtdnn.training.checkpoint import (
    TaskRows,
    damage,
    keep_newest,
    load_weights,
    newest_whole,
    read_state,
    read_training,
    recover,
    save_checkpoint,
)
from mtdnn.training.distillation import with_soft_labels
from mtdnn.training.evaluation import Results
from mtdnn.training.objective import Objective, run_precision
from mtdnn.training.optim import build_optimizer, build_schedule, parameter_groups
from mtdnn.training.plan import Plan
from mtdnn.training.recorder import Recorder
from mtdnn.training.trackers import TENSORBOARD, Trackers, study_of, tracker_faults
from mtdnn.training.trainer import OnStep, Trainer

logger = logging.getLogger(__name__)


@dataclass
class Setup:
    """Everything a run needs, checked and built, before its folder is touched."""

    config: RunConfig
    tasks: dict[str, TaskDef]
    tokenizer: Tokenizer
    model: MultiTaskModel
    sampler: Sampler
    loader: TrainLoader
    train_stores: dict[str, Store]
    dev_stores: dict[tuple[str, str], Store]
    objective: Objective
    plan: Plan
    accelerator: Accelerator
    average: MovingAverage | None = None

    @classmethod
    def of(cls, config: RunConfig, definitions: Mapping[str, TaskDef] | None = None) -> Setup:
        """The parts of a run.

        Args:
            config: the run.
            definitions: its task definitions; None = those in its file.
        Raises:
            ConfigError, DataError: any error in the configuration or the prepared rows.
        """
        accelerator = Accelerator()
        tasks, names = run_tasks(config, definitions)
        trained = {name: tasks[name] for name in names}
        regularizers = regularizers_of(config, trained)
        tokenizer = load_tokenizer(encoder_place(config.encoder))
        types = task_types_of(tasks, tokenizer)
        _refuse_selection(config, tasks, types)
        stores, length = _rows_and_length(config, trained, types, tokenizer)
        dev_stores = measured_stores(config, tasks, tokenizer)
        plan = build_plan(config, length)
        model = build_model(config, types).to(accelerator.device)
        if config.compile:
            model.encoder.compile_layers()
        objective = _objective(config, model, regularizers, plan, accelerator)
        on_gpu = accelerator.device.type == "cuda"
        loader = TrainLoader(
            stores,
            model.task_types,
            length.sampler,
            pad_token_id=tokenizer.pad_token_id,
            seed=config.seed,
            accumulate=config.accumulate,
            rank=accelerator.process_index,
            num_processes=accelerator.num_processes,
            prefetch=2 if on_gpu else 0,
            pin=on_gpu,
            units=row_units(trained),
        )
        average = None if config.ema is None else MovingAverage(model, config.ema)
        _divide(config, objective, average, accelerator)
        parts = (config, tasks, tokenizer, model, length.sampler, loader, stores, dev_stores, objective, plan)
        return cls(*parts, accelerator, average)

    @property
    def measured_model(self) -> MultiTaskModel:
        """The model that is evaluated and stored: the average of the weights, if the run has one."""
        return self.model if self.average is None else self.average.model

    @cached_property
    def processes(self) -> Processes:
        """The processes of this run."""
        return Processes(self.accelerator)

    def carry_out(self, folder: RunFolder, *, resume: bool, progress: bool) -> None:
        """Train in the run's folder, from its newest whole checkpoint if resumed.

        Args:
            folder: of the run.
            resume: continue from the newest whole checkpoint.
            progress: whether to show a bar on standard error.
        Raises:
            DataError: the frozen weights below an adapter are not those of the checkpoint.
        """
        start = resume_point(folder) if resume else None
        step = int(read_state(start)["step"]) if start is not None else 0
        main = self.accelerator.is_main_process
        for task in self.config.subset if main else ():
            folder.write_subset_ids(task, self.train_stores[task].ids)
        with ExitStack() as opened:
            recorder = self._recorder(folder, step) if main else None
            if recorder is not None:
                opened.callback(recorder.close)
            bar = ProgressBar(self.plan.total_steps, done=step, shown=progress and main)
            opened.callback(bar.close)
            trainer = self.trainer(folder, recorder, bar)
            if start is not None:
                refuse_other_base(self.model.encoder, start)
                load_weights(start, self.model, left_out=self.model.frozen_weights())
                trainer.load_state_dict(read_training(start))
            with freed_memory_kept():
                trainer.train()

    def _recorder(self, folder: RunFolder, step: int) -> Recorder:
        """The run's log from a step on, with its trackers."""
        config = self.config
        trackers = Trackers(
            config.trackers,
            folder.path,
            settings=config.model_dump(mode="json", by_alias=True),
            group=study_of(folder.path),
            resumed=step > 0,
        )
        events = any(each.name == TENSORBOARD for each in config.trackers)
        return Recorder(folder.path, step=step, events=events, trackers=trackers)

    def require_same_run(self, folder: RunFolder) -> None:
        """Require that the run has the settings that the checkpoints in its folder were trained with.

        Raises:
            ConfigError, DataError: see `resumption.require_same_run`.
        """
        last = folder.checkpoint("last")
        trained = last if damage(recover(last)) is None else newest_whole(folder.checkpoints)
        if trained is not None:
            require_same_run(trained, self.config, self.tasks, self._rows())

    def _rows(self) -> dict[str, TaskRows]:
        """Task → what identifies its train rows: their number, and the digests of the files they are from."""
        return {
            name: {"rows": len(store), "sha256": [manifest.source["sha256"] for manifest in store.manifests]}
            for name, store in self.train_stores.items()
        }

    def trainer(
        self, folder: RunFolder, recorder: Recorder | None = None, on_step: OnStep = lambda progress, means: None
    ) -> Trainer:
        """The trainer of this run, before its first step; it saves to `folder`.

        Args:
            folder: of the run.
            recorder: writes log and timing; None = nothing is written.
            on_step: called after each step.
        """
        config, encoder = self.config, self.model.encoder
        rule = config.optimizer
        parts = Parts(self.model)
        groups = parameter_groups(
            parts.named(),
            lr=rule.lr,
            weight_decay=rule.weight_decay,
            head_lr=rule.head_lr,
            layer_decay=rule.layer_decay,
            layer_of=encoder.layer_of,
            num_layers=encoder.num_layers,
        )
        trained = {name: self.model.task_types[name] for name in self.train_stores}
        balancer = build_balancer(config, trained, self.accelerator.device)
        if learned := balancer.parameters():
            groups.append({"params": learned, "lr": balancer.lr, "weight_decay": 0.0})
        optimizer = build_optimizer(rule.name, groups, lr=rule.lr, **rule.options)
        schedule, num_steps = config.schedule, self.plan.total_steps
        return Trainer(
            model=self.model,
            objective=self.objective,
            loader=self.loader,
            optimizer=optimizer,
            scheduler=build_schedule(schedule.name, optimizer, num_steps=num_steps, **schedule.options),
            accelerator=self.accelerator,
            plan=self.plan,
            evaluate=self._evaluate,
            save=partial(self._save, folder),
            recorder=recorder,
            balancer=balancer,
            average=self.average,
            parts=parts,
            seed=config.seed,
            clip_norm=config.clip_norm,
            on_step=on_step,
        )

    def _evaluate(self) -> tuple[Results, float | None]:
        """Dev metrics of every task, and the score that selects the best checkpoint; the same on every process."""
        model = self.measured_model
        with held_whole(model):  # processes have unequal numbers of batches
            results = dev_results(
                model,
                self.dev_stores,
                self.config,
                tokenizer=self.tokenizer,
                device=self.accelerator.device,
                processes=self.processes,
            )
        return results, dev_score(results, model, self.config, self.tasks)

    def _save(self, folder: RunFolder, kind: Literal["best", "last", "step"], trainer: Trainer) -> None:
        """Write a checkpoint from the first process; the others only give their parts of what is divided."""
        main, divided = self.accelerator.is_main_process, bool(units_of(self.model))
        weights: nn.Module = self.measured_model
        training = trainer.state_dict() if kind == "step" and (main or divided) else None
        if divided:
            weights, training = Whole(whole_state(weights, kept=main)), whole_values(training, kept=main)
        if main:
            name = f"step-{trainer.progress.step}" if kind == "step" else kind
            run, tasks = settings_of(self.config, self.tasks)
            trained_with = {"seed": self.config.seed, "rows": self._rows(), "run": run, "tasks": tasks}
            save_checkpoint(
                folder.checkpoint(name),
                weights,
                left_out=self.model.frozen_weights(),
                save_encoder=self._save_encoder,
                state={"step": trainer.progress.step, **trained_with},
                training=training,
            )
            keep_newest(folder.checkpoints, self.config.keep_checkpoints)
        self.processes.wait()

    def _save_encoder(self, folder: Path) -> None:
        self.model.encoder.config.save_pretrained(folder)
        self.tokenizer.hf.save_pretrained(folder)
        write_parts(folder, self.model)


def _refuse_selection(config: RunConfig, tasks: Mapping[str, TaskDef], types: Mapping[str, TaskType]) -> None:
    """Raise ConfigError for a `select_by` that cannot select, and for trackers that cannot be used."""
    selecting = [name for name, task in selecting_tasks(config, tasks).items() if task.splits.get("dev")]
    main_metrics = {name: types[name].metric_names[0] for name in selecting}
    if faults := selection_faults(main_metrics, config.select_by) + tracker_faults(config.trackers):
        raise ConfigError(faults)


def _rows_and_length(
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


def _objective(
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


def _divide(config: RunConfig, objective: Objective, average: MovingAverage | None, accelerator: Accelerator) -> None:
    """Divide the model, its teacher and its average among the processes of a run, if it says so.

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
