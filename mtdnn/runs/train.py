"""A run's configuration → a trained run in its folder."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mtdnn.config.arguments import keywords_checked
from mtdnn.config.other_names import ours
from mtdnn.config.run import RunConfig
from mtdnn.data.prepro import prepare
from mtdnn.execution.machine import threads_set
from mtdnn.execution.processes import Processes
from mtdnn.files import sole_writer
from mtdnn.registry import own_words, trusting
from mtdnn.runs.encoders import encoder_place
from mtdnn.runs.environment import refuse_other_settings
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.given import GivenRun, given_run, keys_in
from mtdnn.runs.named import run_tasks
from mtdnn.runs.opened import open_run
from mtdnn.runs.resumption import is_finished, restore_best
from mtdnn.runs.setup import Setup


@keywords_checked(more=lambda: RunConfig.model_fields, instead=ours)
@trusting
def train(
    run: RunConfig | str | Path | Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    trust: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Train one encoder on the tasks of a run, and measure its best checkpoint.

    Args:
        run: a configuration, its YAML file, or the mapping that would be in one; or only its tasks, a mapping from
            names to `TaskDef` or blocks. None = the options alone.
        resume: continue from the newest whole checkpoint in the run's folder, or from the start when there is none; a
            finished run is only evaluated.
        progress: show a bar on standard error.
        trust: files may name code by dotted paths, which is imported; `options` may do so anyway.
        options: fields of `RunConfig` that replace those of `run`: `epochs=3`, `optimizer={"lr": 3e-5}`,
            `**{"optimizer.lr": 3e-5}`. `tasks` may be a mapping from names to `TaskDef` or blocks; the run's folder
            then has a tasks.yml of them, and `open_run` needs no other file. `data`, a folder made by `prepare`, may be
            a mapping from tasks to splits to rows, as for `prepare`; they are first prepared in the run's folder.
    Returns:
        The content of `results.json`: task → split → metric → value; empty on other processes than the first.
    Raises:
        ConfigError, DataError: before anything is written; run.yml, tasks and rows of a resumed run may not change.
        NonFiniteLoss, Interrupted: see `Trainer.train`.

    Example:
        >>> import mtdnn
        >>> made = mtdnn.prepare("tasks.yml", data="data", encoder="encoder", out="prepared")
        >>> results = mtdnn.train(
        ...     tasks="tasks.yml", data="prepared", encoder="encoder", output="runs/second", max_steps=2, progress=False
        ... )
        >>> results["rte"]["dev"]["rows"]
        4
        >>> rows = [{"text": "It rained.", "label": "wet"}, {"text": "He sings.", "label": "dry"}]
        >>> results = mtdnn.train(
        ...     tasks={"weather": {"task_type": "classification", "labels": ["wet", "dry"]}},
        ...     data={"weather": {"train": rows, "dev": rows}},
        ...     encoder="encoder", output="runs/weather", epochs=3, progress=False,
        ... )
        >>> results["weather"]["dev"]["rows"]
        2
    """
    if isinstance(run, Mapping):
        options, run = {**keys_in(run), **options}, None
    with own_words({name: value for name, value in options.items() if name not in ("tasks", "data")}):
        given = given_run(run, options)
        with threads_set(given.config.threads):
            return _trained(given, resume=resume, progress=progress)


def _trained(given: GivenRun, *, resume: bool, progress: bool) -> dict[str, Any]:
    """Carry out a run that was read; see `train`."""
    config = given.config
    refuse_other_settings(config)
    folder = RunFolder(config.output)
    if given.rows is not None:
        _prepare_rows(given, given.rows, folder, resume=resume, progress=progress)
    setup = Setup.of(config, given.tasks)
    is_main = setup.processes.is_first
    with sole_writer(folder.path, command="mtdnn train") if is_main else nullcontext():
        if is_main:
            folder.claim(config, setup.tasks, resume=resume)
            setup.require_same_run(folder)
            folder.remove_leftovers()
            restore_best(folder)
        setup.processes.wait()
        if not (resume and is_finished(folder)):
            setup.carry_out(folder, resume=resume, progress=progress)
        processes = setup.processes
        del setup  # the model and its teacher, before the run is opened with a model of its own
        gc.collect()
        replace(open_run(folder.path), processes=processes).evaluate(split=None)
        return folder.read_results() if is_main else {}


def _prepare_rows(
    given: GivenRun, rows: Mapping[str, Mapping[str, Any]], folder: RunFolder, *, resume: bool, progress: bool
) -> None:
    """Prepare rows in memory in the run's folder, by the first process, unless it contains another run."""
    folder.require_no_other_run(resume=resume)
    config, processes = given.config, Processes(Accelerator())
    tasks, _ = run_tasks(config, given.tasks)
    if processes.is_first:
        encoder = encoder_place(config.encoder)
        prepare(tasks, data=rows, encoder=encoder, out=folder.prepared, progress=progress)
    processes.wait()
