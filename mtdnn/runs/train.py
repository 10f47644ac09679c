"""A run's configuration → a trained run in its folder."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from mtdnn.config.run import RunConfig
from mtdnn.files import sole_writer
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.opened import open_run
from mtdnn.runs.setup import Setup
from mtdnn.training.checkpoint import damage, recover


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
