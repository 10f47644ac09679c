"""A run's configuration → a trained run in its folder."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from mtdnn.config.run import RunConfig
from mtdnn.errors import keywords_checked
from mtdnn.files import sole_writer
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.given import given_run
from mtdnn.runs.opened import open_run
from mtdnn.runs.setup import Setup
from mtdnn.training.checkpoint import damage, recover


@keywords_checked(more=lambda: RunConfig.model_fields)
def train(
    run: RunConfig | str | Path | None = None, *, resume: bool = False, progress: bool = True, **options: Any
) -> dict[str, Any]:
    """Train one encoder on the tasks of a run, and measure its best checkpoint.

    Args:
        run: a configuration, or its YAML file; None takes the options alone.
        resume: continue from the newest whole checkpoint in the run's folder, or from the start when there is none; a
            finished run is only evaluated.
        progress: show a bar on standard error.
        options: fields of `RunConfig`, laid over what `run` says: `epochs=3`, `optimizer={"lr": 3e-5}`,
            `**{"optimizer.lr": 3e-5}`. `tasks` may be a mapping from names to `TaskDef` or blocks; the run's folder
            then has a tasks.yml of them, and `open_run` needs nothing else.
    Returns:
        What `results.json` holds: task → split → metric → value; empty on other processes than the first.
    Raises:
        ConfigError, DataError: before anything is written; the rows of a resumed run may not have changed.
        NonFiniteLoss, Interrupted: see `Trainer.train`.

    Example:
        >>> import mtdnn
        >>> made = mtdnn.prepare("tasks.yml", data="data", encoder="encoder", out="prepared")
        >>> results = mtdnn.train(
        ...     tasks="tasks.yml", data="prepared", encoder="encoder", output="runs/second", max_steps=2, progress=False
        ... )
        >>> results["rte"]["dev"]["rows"]
        4
    """
    given = given_run(run, options)
    config = given.config
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    setup = Setup.of(config, given.tasks)
    folder = RunFolder(config.output)
    is_main = setup.accelerator.is_main_process
    with sole_writer(folder.path, command="mtdnn train") if is_main else nullcontext():
        if is_main:
            folder.claim(config, setup.tasks, resume=resume)
            folder.remove_leftovers()
        setup.accelerator.wait_for_everyone()
        if not (resume and is_finished(folder)):
            setup.carry_out(folder, resume=resume, progress=progress)
        if not is_main:
            return {}
        open_run(folder.path).evaluate(split=None)
        return folder.read_results()


def is_finished(folder: RunFolder) -> bool:
    """Whether training has come to its end: the checkpoint `last`, which is written only then, is whole."""
    return damage(recover(folder.checkpoint("last"))) is None
