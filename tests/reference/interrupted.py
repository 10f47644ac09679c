"""A run that is stopped in the middle and resumed, in one process."""

from __future__ import annotations

from typing import Any

import pytest

from mtdnn.config.run import RunConfig
from mtdnn.runs.train import train
from mtdnn.training.signals import Interrupted
from mtdnn.training.trainer import Trainer


def stopped_and_resumed(config: RunConfig, *, step: int) -> dict[str, Any]:
    """Results of a run that a signal stops before its update number `step` (from 0), and that then goes on."""
    train_step = Trainer.train_step

    def stop(self: Trainer, parts: Any) -> None:
        if self.progress.step == step:
            raise Interrupted(step, 15)
        train_step(self, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", stop)
        with pytest.raises(Interrupted):
            train(config, progress=False)
    return train(config, resume=True, progress=False)
