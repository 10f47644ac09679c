"""Takes some updates in every way that there is, in each of the processes that a launcher started: `FOLDER`.

The first process writes what it ends with; every process has its share of the rows. Weights have 64 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

import mtdnn.balancing  # registers them
import mtdnn.regularizers  # noqa: F401  registers them
from mtdnn.balancing.base import BALANCERS
from mtdnn.batch import Batch
from mtdnn.config.options import Named
from mtdnn.data.loaders import EvalLoader
from mtdnn.execution.processes import Processes
from mtdnn.model import MultiTaskModel
from mtdnn.networks.adapters import Adapter
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.runs.memory_rows import MemoryStore
from mtdnn.tokens.ragged import Ragged
from mtdnn.training.evaluation import predict_rows
from mtdnn.training.loss_scale import LossScale
from mtdnn.training.trainer import Trainer
from tests.reference.tiny import make_batch, make_model, slice_batch
from tests.unit.training.test_no_waiting import trainer_of

TASKS = ("nli", "similarity")
STEPS = 3
"""The first shows which weights have a gradient, so that their sums begin during the second backward pass."""

NUM_ROWS = (0, 1, 2, 3, 7)
WAYS: dict[str, Mapping[str, Any]] = {
    "plain": {},
    **{f"regularizer {name}": {"regularizer": name} for name in REGULARIZERS.names()},
    **{f"balance {name}": {"balance": name} for name in BALANCERS},
    "in parts": {"regularizer": "smart", "parts": 2},
    "proximal and average": {"mu": 1.0, "ema": 0.5},
    "loss scale": {"regularizer": "smart", "scaled": True},
    "adapter": {"regularizer": "smart", "adapter": "shared"},
    "adapter of each task": {"balance": "fixed", "adapter": "task"},
}


def model_of(adapter: str | None) -> MultiTaskModel:
    """A model without dropout, whose masks every process draws for its own rows."""
    model = make_model(scale=1.0)
    if adapter is not None:
        named = Named(name="lora", scope=adapter, dropout=0.0, rank=2)
        model.encoder.adapt(Adapter(named, TASKS), base="encoder", seed=0)
    return model.double().train()


def trainer_in(way: Mapping[str, Any], accelerator: Accelerator) -> Trainer:
    """The trainer of one of WAYS."""
    model = model_of(way.get("adapter"))
    given: dict[str, Any] = {name: way[name] for name in ("mu", "ema") if name in way}
    if "regularizer" in way:
        given["regularizers"] = {"nli": REGULARIZERS.get(way["regularizer"])()}
    if "balance" in way:
        logits = {task: kind.logits_of for task, kind in model.task_types.items()}
        given["balancer"] = BALANCERS.get(way["balance"])(logits)
    if way.get("scaled"):
        given["loss_scale"] = LossScale(accelerator.device, start=2.0**10)
    return trainer_of(model, accelerator, **given)


def batches_of(way: Mapping[str, Any], step: int, processes: Processes) -> Iterator[Batch]:
    """This process's rows of a step, in its parts; six of each task."""
    for task in TASKS if "balance" in way else TASKS[:1]:
        whole = make_batch(task, rows=6, seed=step)
        own = slice_batch(whole, slice(processes.rank, None, processes.count))
        parts = way.get("parts", 1)
        yield from (slice_batch(own, slice(part, None, parts)) for part in range(parts))


def updated(way: Mapping[str, Any], accelerator: Accelerator) -> dict[str, Any]:
    """The weights after some updates, the exchanges of each, and the mean losses."""
    trainer, exchanges = trainer_in(way, accelerator), []
    for step in range(STEPS):
        before = trainer.processes.exchanges
        trainer.train_step(list(batches_of(way, step, trainer.processes)))
        exchanges.append(trainer.processes.exchanges - before)
    weights = {name: each.detach() for name, each in trainer.model.named_parameters() if each.requires_grad}
    return {"weights": weights, "exchanges": exchanges, "losses": trainer.meter.take()}


def predicted(num_rows: int, accelerator: Accelerator) -> list[str]:
    """The records of so many rows, in batches of two."""
    model, processes = model_of(None), Processes(accelerator)
    lengths = np.arange(num_rows) % 3 + 3
    ids = Ragged.from_lengths(np.arange(lengths.sum(), dtype=np.int32) % 30 + 5, lengths)
    store = MemoryStore({"id": [str(row) for row in range(num_rows)], "label": np.zeros(num_rows), "input_ids": ids})
    loader = EvalLoader(store, model.task_types["similarity"], 2, 0, processes)
    given: dict[str, Any] = {"device": accelerator.device, "autocast": partial(torch.autocast, "cpu", enabled=False)}
    records: Sequence[Any] = predict_rows(model, loader, ["similarity"], processes=processes, **given)["similarity"]
    return [f"{record['id']} {record['prediction']:.9f}" for record in records]


def everything() -> dict[str, Any]:
    """What this process ends with."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    found = {name: updated(way, accelerator) for name, way in WAYS.items()}
    return {**found, "predictions": [predicted(number, accelerator) for number in NUM_ROWS]}


if __name__ == "__main__":
    own = everything()
    torch.save(own, Path(sys.argv[1]) / f"{Accelerator().process_index}.pt")
