"""Everything a run needs, built and checked before its folder is touched: encoder, tasks, loaders, trainer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from accelerate import Accelerator
from torch import nn

from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import TaskDef
from mtdnn.data.loaders import TrainLoader
from mtdnn.data.samplers import Sampler
from mtdnn.data.store import Store
from mtdnn.errors import ConfigError
from mtdnn.execution.machine import fixed_order
from mtdnn.execution.memory import freed_memory_kept
from mtdnn.execution.processes import Processes
from mtdnn.execution.sharding import Parts, Whole, held_whole, units_of, whole_state, whole_values
from mtdnn.metrics.base import selection_faults
from mtdnn.model import MultiTaskModel
from mtdnn.runs.assembly import build_loader, build_objective, build_optimizer_for, divide, rows_and_length
from mtdnn.runs.encoders import encoder_place, refuse_other_base, write_parts
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.measure import dev_results, dev_score
from mtdnn.runs.named import regularizers_of, run_tasks, selecting_tasks
from mtdnn.runs.parts import (
    build_balancer,
    build_model,
    build_plan,
    measured_stores,
    task_types_of,
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
from mtdnn.training.evaluation import Results
from mtdnn.training.objective import Objective
from mtdnn.training.optim import build_schedule
from mtdnn.training.plan import Plan
from mtdnn.training.recorder import Recorder
from mtdnn.training.trackers import TENSORBOARD, Trackers, study_of, tracker_faults
from mtdnn.training.trainer import OnStep, Trainer

logger = logging.getLogger(__name__)

MOST_NAMED = 3
"""Most metrics that a message names one by one."""


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
        score_name = _selection(config, tasks, types)
        stores, length = rows_and_length(config, trained, types, tokenizer)
        dev_stores = measured_stores(config, tasks, tokenizer)
        plan = build_plan(config, length, score_name=score_name)
        model = build_model(config, types).to(accelerator.device)
        if config.compile:
            model.encoder.compile_layers()
        objective = build_objective(config, model, regularizers, plan, accelerator)
        pad_token_id = tokenizer.pad_token_id
        loader = build_loader(config, stores, model, length.sampler, pad_token_id=pad_token_id, accelerator=accelerator)
        average = None if config.ema is None else MovingAverage(model, config.ema)
        divide(config, objective, average, accelerator)
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
            in_order = self.config.execution.deterministic and self.accelerator.device.type != "cpu"
            with freed_memory_kept(), fixed_order(in_order):
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
        config, parts = self.config, Parts(self.model)
        trained = {name: self.model.task_types[name] for name in self.train_stores}
        balancer = build_balancer(config, trained, self.accelerator.device)
        optimizer = build_optimizer_for(config, self.model.encoder, parts, balancer)
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


def _selection(config: RunConfig, tasks: Mapping[str, TaskDef], types: Mapping[str, TaskType]) -> str:
    """What the best checkpoint is selected by, in words.

    Args:
        config: the run.
        tasks: those it measures.
        types: the same tasks, seen through their types.
    Raises:
        ConfigError: `select_by` cannot select, or a tracker cannot be used.
    """
    selecting = [name for name, task in selecting_tasks(config, tasks).items() if task.splits.get("dev")]
    main_metrics = {name: types[name].metric_names[0] for name in selecting}
    if faults := selection_faults(main_metrics, config.select_by) + tracker_faults(config.trackers):
        raise ConfigError(faults)
    metrics = [f"{metric} of {name}" for name, metric in main_metrics.items() if config.select_by in ("mean", name)]
    if len(metrics) > MOST_NAMED:
        return f"the mean of the main dev metrics of {len(metrics)} tasks"
    return f"the mean of dev {' and '.join(metrics)}" if len(metrics) > 1 else f"dev {''.join(metrics) or 'score'}"
