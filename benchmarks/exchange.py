"""What a step of several processes takes, by how they exchange gradients: after the backward pass, during it, sharded.

    python -m benchmarks.exchange --shape mini --processes 2 --rows 16 --tokens 32 --steps 2 --repeats 9

Next to them the same model in PyTorch's DistributedDataParallel, with the same rows, optimizer and clipping, and each
process on its own, without an exchange. An encoder of a shape with random weights and a head for three labels;
processes on this machine over gloo, with one thread each. All ways take turns in the same processes, which wait for
each other before every turn; the seconds are those of the slowest process, and those of the processor of all together.
Operations are the exchanges of a step, for `full` without those of PyTorch's FSDP2, and for DistributedDataParallel not
counted.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from benchmarks.rounds import interleaved, median_and_spread, ratios
from benchmarks.sharding import make_model
from benchmarks.small_encoder import SHAPES
from mtdnn.batch import Batch
from mtdnn.execution.memory import freed_memory_kept
from mtdnn.execution.sharding import Named, Parts
from mtdnn.model import MultiTaskModel
from mtdnn.training.combination import Combination
from mtdnn.training.objective import Objective
from mtdnn.training.optim import ParameterGroup, build_optimizer, build_schedule, parameter_groups
from mtdnn.training.plan import Plan
from mtdnn.training.trainer import Trainer

ALONE, AFTER, DURING, SHARDED = "no exchange", "after the backward pass", "during it", "sharding: full"
PLAIN = "DistributedDataParallel"
WAYS = (AFTER, DURING, PLAIN, SHARDED, ALONE)
COUNT = "exchanges"


class Rows:
    """Batches of random rows of a process, as a loader gives them; a row has half of the tokens up to all of them."""

    def __init__(self, rows: int, tokens: int, rank: int) -> None:
        self.rows, self.tokens, self.generator = rows, tokens, torch.Generator().manual_seed(rank)

    def __len__(self) -> int:
        return 2**30

    def next(self) -> Batch:
        """The next batch."""
        lengths = torch.randint(self.tokens // 2, self.tokens + 1, (self.rows,), generator=self.generator)
        ids = torch.randint(5, 30_000, (self.rows, self.tokens), generator=self.generator)
        labels = torch.randint(3, (self.rows,), generator=self.generator)
        inputs = {"input_ids": ids, "mask": torch.arange(self.tokens) < lengths[:, None]}
        return Batch("task", inputs, labels, [str(row) for row in range(self.rows)])


def trainer_of(way: str, shape: str, loader: Any, accelerator: Any) -> Trainer:
    """A trainer that exchanges gradients in this way.

    Args:
        way: of WAYS; not DistributedDataParallel.
        shape: of the encoder, a word of SHAPES.
        loader: of this process's batches.
        accelerator: of this process.
    """
    torch.manual_seed(0)
    model = make_model(shape)
    if way == SHARDED:
        model.divide(device=torch.device("cpu"))
    if way == ALONE:
        accelerator = SimpleNamespace(
            device=accelerator.device, num_processes=1, process_index=0, is_main_process=accelerator.is_main_process
        )
    parts = Parts(model)
    optimizer = build_optimizer("adamw", _groups(parts.named(), model), lr=1e-5)
    trainer = Trainer(
        model=model,
        objective=Objective(model, seed=1),
        loader=loader,
        optimizer=optimizer,
        scheduler=build_schedule("linear", optimizer, num_steps=10_000),
        accelerator=accelerator,
        plan=Plan(10_000),
        evaluate=lambda: ({}, None),
        save=lambda kind, trainer: None,
        parts=parts,
    )
    updater = trainer.updater
    if way == AFTER:
        updater.combination = Combination(model, trainer.balancer, seed=1, reduce=updater.reduce)
    if updater.table_gradient is not None:  # several processes have none
        updater.table_gradient.close()
        updater.table_gradient = None
    return trainer


def _groups(named: Named, model: MultiTaskModel) -> list[ParameterGroup]:
    encoder = model.encoder
    return parameter_groups(named, lr=1e-5, weight_decay=0.01, layer_of=encoder.layer_of, num_layers=encoder.num_layers)


class PlainSteps:
    """The same model and rows, trained by PyTorch's DistributedDataParallel alone."""

    def __init__(self, shape: str) -> None:
        torch.manual_seed(0)
        self.model = make_model(shape)
        self.wrapped = nn.parallel.DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        self.optimizer = build_optimizer("adamw", _groups(self.model.named_parameters(), self.model), lr=1e-5)
        self.scheduler = build_schedule("linear", self.optimizer, num_steps=10_000)

    def take(self, batch: Batch) -> None:
        """One step."""
        assert batch.labels is not None
        nn.functional.cross_entropy(self.wrapped(batch), batch.labels).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()


def steps_of(way: str, shape: str, rows: Rows, accelerator: Any) -> tuple[Callable[[], object], Any]:
    """A function that takes a step in this way, and what counts its exchanges.

    Args:
        way: of WAYS.
        shape: of the encoder, a word of SHAPES.
        rows: of this process.
        accelerator: of this process.
    """
    if way == PLAIN:
        plain = PlainSteps(shape)
        return lambda: plain.take(rows.next()), SimpleNamespace(exchanges=0)
    trainer = trainer_of(way, shape, rows, accelerator)
    return lambda: trainer.train_step([rows.next()]), trainer.processes


def turn(step: Callable[[], object], counter: Any, steps: int) -> dict[str, float]:
    """Seconds of a step in the slowest process, of the processor in all of them, and its exchanges.

    Args:
        step: takes one.
        counter: counts its exchanges.
        steps: of this turn.
    """
    torch.distributed.barrier()
    before, started, used = counter.exchanges, time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    seconds = torch.tensor(time.perf_counter() - started, dtype=torch.float64)
    processor = torch.tensor(time.process_time() - used, dtype=torch.float64)
    torch.distributed.all_reduce(seconds, op=torch.distributed.ReduceOp.MAX)
    torch.distributed.all_reduce(processor)
    exchanges = (counter.exchanges - before) / steps
    return {"seconds": float(seconds) / steps, "processor": float(processor) / steps, COUNT: exchanges}


def of_process(rank: int, port: int, given: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Way → what each of its turns took; called in every process.

    Args:
        rank: of this process.
        port: where they find each other.
        given: the flags.
    """
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(given.processes), "MASTER_ADDR": "127.0.0.1",
        "LOCAL_WORLD_SIZE": str(given.processes), "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    accelerator = Accelerator(cpu=True)
    rows = Rows(given.rows // given.processes, given.tokens, rank)
    ways = {way: partial(turn, *steps_of(way, given.shape, rows, accelerator), given.steps) for way in given.ways}
    try:
        with freed_memory_kept():  # as `mtdnn train` does
            return interleaved(ways, given.repeats)
    finally:
        torch.distributed.destroy_process_group()


def measured(given: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Way → what each of its turns took, by so many processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with get_context("spawn").Pool(given.processes) as pool:
        return pool.starmap(of_process, [(rank, port, given) for rank in range(given.processes)])[0]


def report(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A Markdown line for each way; ratios, turn by turn, to the first way."""
    first = next(iter(rounds))
    columns = ["exchange", "operations", "step, s", f"ratio to {first}", "processor, s", "ratio"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for way, turns in rounds.items():
        cells = [way, "" if way in (PLAIN, ALONE) else f"{statistics.median(each[COUNT] for each in turns):.0f}"]
        for unit in ("seconds", "processor"):
            own, base = ([each[unit] for each in rounds[name]] for name in (way, first))
            cells += [f"{statistics.median(own):.3f}", median_and_spread(ratios(own, base))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="mini")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rows", type=int, default=16, help="of the whole batch")
    parser.add_argument("--tokens", type=int, default=32, help="of the longest row")
    parser.add_argument("--steps", type=int, default=2, help="of each way in a turn")
    parser.add_argument("--repeats", type=int, default=9, help="turns that count; one more warms up")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    print(report(measured(parsed(words))))


if __name__ == "__main__":
    main()
