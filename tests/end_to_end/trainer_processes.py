"""Trains a small classifier with RegularizedTrainer in as many processes as torchrun starts, and saves its weights."""

import sys
from pathlib import Path

import torch
from torch.utils.data import SequentialSampler

from mtdnn.integrations.trainer import RegularizedTrainer
from tests.unit.integrations.test_trainer import MOMENTUM, SMART, arguments, collate, model, rows


class Ordered(RegularizedTrainer):
    """Takes the rows in their order."""

    def _get_train_sampler(self, *args):
        return SequentialSampler(self.train_dataset)


def main(folder, batch_size):
    changes = {"per_device_train_batch_size": int(batch_size), "max_steps": 2, "optim": "sgd", "max_grad_norm": 0.0}
    trainer = Ordered(
        model(),
        arguments(Path(folder), **changes),
        train_dataset=rows(),
        data_collator=collate,
        regularizer=SMART,
        proximal=MOMENTUM,
    )
    trainer.train()
    if trainer.args.process_index == 0:
        (line,) = [line for line in trainer.state.log_history if "smart" in line]
        logged = {f"logged {name}": torch.tensor(line[name]) for name in ("task", "smart", "proximal")}
        state = {**trainer.model.state_dict(), **logged, "steps": torch.tensor(trainer._terms.step)}
        torch.save(state, Path(folder) / "weights.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
