"""The one place where words in YAML become objects: a run's configuration → encoder, tasks, loaders, trainer."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import Named, TaskDef
from mtdnn.data.loaders import EvalLoader, TrainLoader
from mtdnn.data.prepro import refuse_faulty
from mtdnn.data.samplers import SAMPLERS, Sampler
from mtdnn.data.store import Store, open_store, open_train_store
from mtdnn.errors import ConfigError, DataError, fault
from mtdnn.execution.memory import freed_memory_kept
from mtdnn.files import sole_writer
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.proximal import PROXIMAL, Proximal
from mtdnn.rows.subset import chosen_rows, subset_size
from mtdnn.runs.faults import proximal_faults, regularizers_of, resolution_faults, run_tasks
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.initialisation import build_encoder, empty_encoder, encoder_place, start_heads
from mtdnn.runs.opened import Rows, Run
from mtdnn.task_types.base import TASK_TYPES, TaskType
from mtdnn.tokens.tokenizer import Tokenizer, load_tokenizer
from mtdnn.training.bar import ProgressBar
from mtdnn.training.checkpoint import (
    ENCODER,
    damage,
    keep_newest,
    load_weights,
    newest_whole,
    open_checkpoint,
    read_state,
    read_training,
    recover,
    save_checkpoint,
)
from mtdnn.training.distillation import averaged, with_soft_labels
from mtdnn.training.evaluation import Record, Results, measured, predict_rows, selection_score
from mtdnn.training.objective import Objective, run_precision
from mtdnn.training.optim import build_optimizer, build_schedule, parameter_groups
from mtdnn.training.recorder import Recorder
from mtdnn.training.trainer import OnStep, Plan, Trainer

logger = logging.getLogger(__name__)


def train(config: RunConfig, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Carry out a run.

    Args:
        resume: go on from the newest whole checkpoint in `config.output`, or from the start when there is none; a run
            that has come to its end is only evaluated.
        progress: show a bar on standard error.
    Returns:
        What `results.json` holds: task → split → metric → value; empty on other processes than the first.
    Raises:
        ConfigError, DataError: before anything is written; the rows of a resumed run may not have changed.
        NonFiniteLoss, Interrupted: see `Trainer.train`.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    setup = Setup.of(config)
    folder = RunFolder(config.output)
    is_main = setup.accelerator.is_main_process
    with sole_writer(folder.path, command="mtdnn train") if is_main else nullcontext():
        if is_main:
            folder.claim(config, setup.tasks, resume=resume)
        setup.accelerator.wait_for_everyone()
        if not (resume and is_finished(folder)):
            setup.carry_out(folder, resume=resume, progress=progress)
        if not is_main:
            return {}
        open_run(folder.path).evaluate(split=None)
        return folder.read_results()


def open_run(folder: str | Path, *, checkpoint: str = "best") -> Run:
    """A run's model at one of its checkpoints, ready to evaluate, predict and embed; needs nothing outside its folder.

    Args:
        checkpoint: best, last or step-N.
    Raises:
        ConfigError: the folder holds no run.
        DataError: the checkpoint is missing or damaged.
    """
    run = RunFolder(folder)
    config, tasks = run.read_config(), run.read_tasks()
    path = open_checkpoint(run.checkpoint(checkpoint))
    tokenizer = load_tokenizer(path / ENCODER)
    encoder = empty_encoder(path / ENCODER, config)
    model = MultiTaskModel(encoder, task_types_of(tasks, tokenizer))
    load_weights(path, model)
    device = Accelerator().device
    step = int(read_state(path)["step"])
    return Run(
        run, checkpoint, step, config, tasks, model.to(device).eval(), tokenizer, device, autocast_of(config, device)
    )


def soft_predictions(
    folders: Sequence[str | Path], tasks: Sequence[str], rows: Rows, *, checkpoint: str = "best"
) -> dict[str, list[Record]]:
    """Prediction records that hold the mean of what several runs predict, for each task: soft labels for `distill`.

    The runs are opened one after another. Labels are read by the task of the first of them.

    Args:
        folders: of one or several runs that have the tasks.
        rows, checkpoint: as for `Run.predict` and `open_run`.
    Raises:
        ConfigError: as `open_run`, or a task's type has no soft labels.
        DataError: as `Run.predict`, or a run's predictions are not of the same labels.
    """
    types: dict[str, TaskType] = {}
    found: dict[str, list[list[Record]]] = {task: [] for task in tasks}
    for folder in folders:
        run = open_run(folder, checkpoint=checkpoint)
        types = types or run.model.task_types
        unable = [task for task in tasks if task in types and not types[task].soft_labels]
        if unable:
            what = f"'{unable[0]}' is a task of {types[unable[0]].task.task_type}, which has no soft labels"
            raise ConfigError(fault("--soft", "", what, "Predict it without --soft."))
        for task, records in run.predict(tasks, rows).items():
            found[task].append(records)
    places = [str(folder) for folder in folders]
    return {task: averaged(of_runs, types[task], places=places) for task, of_runs in found.items()}


def is_finished(folder: RunFolder) -> bool:
    """Whether training has come to its end: the checkpoint `last`, which is written only then, is whole."""
    return damage(recover(folder.checkpoint("last"))) is None


def task_types_of(tasks: Mapping[str, TaskDef], tokenizer: Tokenizer) -> dict[str, TaskType]:
    """Each task seen through its type, bound to the tokenizer.

    Raises:
        ConfigError: every fault of every definition.
    """
    refuse_faulty(tasks, tokenizer)
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

    @classmethod
    def of(cls, config: RunConfig) -> Setup:
        """The parts of a run.

        Raises:
            ConfigError, DataError: whatever the run could not be carried out with.
        """
        accelerator = Accelerator()
        tasks, trained = run_tasks(config)
        regularizers = regularizers_of(config, {name: tasks[name] for name in trained})
        if faults := proximal_faults(config.proximal):
            raise ConfigError(faults)
        tokenizer = load_tokenizer(encoder_place(config.encoder))
        types = task_types_of(tasks, tokenizer)
        stores = {name: with_soft_labels(train_store(config, tasks[name], tokenizer), types[name]) for name in trained}
        dev_stores = {
            (name, split): open_store(config.data, task, split, tokenizer=tokenizer)
            for name, task in tasks.items()
            for split in task.splits.get("dev", ())
        }
        sampler = build_sampler(config, tasks, stores)
        plan = build_plan(config, sampler)
        model = build_model(config, types).to(accelerator.device)
        if config.compile:
            model.encoder.compile_layers()
        autocast = autocast_of(config, accelerator.device)
        proximal = build_proximal(config.proximal, model, plan.total_steps)
        precision = run_precision(model, autocast)
        if faults := resolution_faults(regularizers, tasks, config, model.encoder, precision):
            raise ConfigError(faults)
        objective = Objective(model, regularizers, proximal, seed=config.seed, autocast=autocast)
        loader = TrainLoader(
            stores,
            model.task_types,
            sampler,
            pad_token_id=tokenizer.pad_token_id,
            seed=config.seed,
            accumulate=config.accumulate,
            rank=accelerator.process_index,
            num_processes=accelerator.num_processes,
            prefetch=2 if accelerator.device.type == "cuda" else 0,
        )
        return cls(config, tasks, tokenizer, model, sampler, loader, stores, dev_stores, objective, plan, accelerator)

    def carry_out(self, folder: RunFolder, *, resume: bool, progress: bool) -> None:
        """Train in the run's folder, from its newest whole checkpoint when resumed.

        Raises:
            DataError: the train rows are others than those the checkpoint has learnt from.
        """
        start = newest_whole(folder.checkpoints) if resume else None
        step = int(read_state(start)["step"]) if start is not None else 0
        if start is not None:
            self._refuse_other_rows(start)
        main = self.accelerator.is_main_process
        for task in self.config.subset if main else ():
            folder.write_subset_ids(task, self.train_stores[task].ids)
        recorder = Recorder(folder.path, step=step) if main else None
        bar = ProgressBar(self.plan.total_steps, done=step, shown=progress and main)
        trainer = self.trainer(folder, recorder, bar)
        if start is not None:
            load_weights(start, self.model)
            trainer.load_state_dict(read_training(start))
        try:
            with freed_memory_kept():
                trainer.train()
        finally:
            bar.close()
            if recorder is not None:
                recorder.close()

    def _rows(self) -> dict[str, Any]:
        """task → what tells its train rows from others: their number, and the digests of the files they are from."""
        return {
            name: {"rows": len(store), "sha256": [manifest.source["sha256"] for manifest in store.manifests]}
            for name, store in self.train_stores.items()
        }

    def _refuse_other_rows(self, start: Path) -> None:
        """DataError for every task whose rows have changed since a checkpoint; older checkpoints do not tell."""
        before, now = read_state(start).get("rows", {}), self._rows()
        faults = []
        for name in (name for name in now if name in before and before[name] != now[name]):
            counts = f"{before[name]['rows']} then, {now[name]['rows']} now"
            found = f"the train rows are others than those {start} has learnt from ({counts})"
            fix = "Undo the change and run mtdnn prepro again, or give another --output."
            faults.append(fault(str(Path(self.config.data) / name), "", found, fix))
        if faults:
            raise DataError(faults)

    def trainer(
        self, folder: RunFolder, recorder: Recorder | None = None, on_step: OnStep = lambda progress, means: None
    ) -> Trainer:
        """The trainer of this run, at its first step; what it saves goes to `folder`."""
        config, encoder = self.config, self.model.encoder
        optimizer_config = config.optimizer
        groups = parameter_groups(
            self.model.named_parameters(),
            lr=optimizer_config.lr,
            weight_decay=optimizer_config.weight_decay,
            head_lr=optimizer_config.head_lr,
            layer_decay=optimizer_config.layer_decay,
            layer_of=encoder.layer_of,
            num_layers=encoder.num_layers,
        )
        settings = optimizer_config.model_dump(include={"name", "lr", "betas", "eps", "momentum"})
        optimizer = build_optimizer(settings.pop("name"), groups, **settings)
        shape = config.schedule.model_dump()
        return Trainer(
            model=self.model,
            objective=self.objective,
            loader=self.loader,
            optimizer=optimizer,
            scheduler=build_schedule(shape.pop("name"), optimizer, num_steps=self.plan.total_steps, **shape),
            accelerator=self.accelerator,
            plan=self.plan,
            evaluate=self._evaluate,
            save=partial(self._save, folder),
            recorder=recorder,
            clip_norm=config.clip_norm,
            on_step=on_step,
        )

    def _evaluate(self) -> tuple[Results, float | None]:
        """Dev metrics of every task, and the score that selects the best checkpoint; the same on every process."""
        autocast = autocast_of(self.config, self.accelerator.device)
        results: Results = {}
        for (name, split), store in self.dev_stores.items():
            task_type = self.model.task_types[name]
            loader = EvalLoader(store, task_type, self.config.eval_batch_size, self.tokenizer.pad_token_id)
            tune = name not in results  # a task chooses thresholds on the first of its dev splits
            found = predict_rows(
                self.model, loader, [name], device=self.accelerator.device, autocast=autocast, tune=tune
            )
            values = measured(found[name], task_type.metric_names, task_type.task.labels)
            results.setdefault(name, {})[split] = values
        main_metrics = {name: self.model.task_types[name].metric_names for name in results}
        return results, selection_score(results, main_metrics, self.config.select_by)

    def _save(self, folder: RunFolder, kind: Literal["best", "last", "step"], trainer: Trainer) -> None:
        """Write a checkpoint from the first process."""
        if self.accelerator.is_main_process:
            name = f"step-{trainer.progress.step}" if kind == "step" else kind
            save_checkpoint(
                folder.checkpoint(name),
                self.model,
                save_encoder=self._save_encoder,
                state={"step": trainer.progress.step, "seed": self.config.seed, "rows": self._rows()},
                training=trainer.state_dict() if kind == "step" else None,
            )
            keep_newest(folder.checkpoints, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _save_encoder(self, folder: Path) -> None:
        self.model.encoder.config.save_pretrained(folder)
        self.tokenizer.hf.save_pretrained(folder)


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
