"""Bytes that each of several processes holds of a model in training, with `sharding: none` and `full`.

    python -m benchmarks.sharding --shapes mini base --processes 1 2 4

An encoder of a shape with random weights and a head for three labels; processes on this machine over gloo. After a step
with AdamW each process counts what it holds between backward pass and update: weights, gradients and optimizer state,
and the proximal term's teacher in a second line. The most of any process is printed. During a pass a process also holds
the weights of two gathered layers, or of the word embeddings ("gathered"), and activations, which sharding leaves as
they are.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Iterable, Sequence
from multiprocessing import get_context
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.small_encoder import SHAPES
from mtdnn.batch import Batch
from mtdnn.config.tasks import task_def_from
from mtdnn.execution.sharding import Parts, own, units_of
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.regularizers.proximal import PROXIMAL
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.objective import Objective

MIB = 2**20


def make_model(shape: str) -> MultiTaskModel:
    """An encoder of a shape with random weights, and a head for three labels."""
    from transformers import BertConfig, BertModel

    block = {"task_type": "classification", "inputs": ["text"], "labels": ["a", "b", "c"]}
    task = task_def_from("task", block)
    return MultiTaskModel(
        Encoder(BertModel(BertConfig(**SHAPES[shape]))), {"task": TASK_TYPES.get(task.task_type)(task)}
    ).train()


def held_after_a_step(shape: str, *, sharded: bool, teacher: bool) -> dict[str, int]:
    """Bytes of this process between the backward pass and the update of its second step.

    Args:
        shape: of the encoder, a word of SHAPES.
        sharded: whether the model is divided among the processes.
        teacher: whether the proximal term is part of the objective.
    """
    model = make_model(shape)
    proximal = PROXIMAL.get("momentum")(model, total_steps=2) if teacher else None
    objective = Objective(model, {}, proximal, seed=0)
    if sharded:
        for each in (model, *([] if proximal is None else [proximal.teacher.module])):
            cast(MultiTaskModel, each).divide(device=torch.device("cpu"))
    parts = Parts(model)
    weights = [weight for _, weight in parts.named()]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)
    ids = torch.arange(2 * 16).view(2, 16) + 5
    inputs = {"input_ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool)}
    batch = Batch("task", inputs, torch.tensor([0, 1]), ["first", "second"])
    found: dict[str, int] = {}
    for step in range(2):
        for part in objective.parts(batch, step=step):
            part.loss.backward()
        parts.take_gradients()
        found = _held(weights, optimizer, proximal)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        objective.after_step()
    units = [sum(each.numel() * each.element_size() for each in unit.parameters()) for unit in units_of(model)]
    found["gathered"] = max(units[0], 2 * max(units[1:])) if units else 0
    return found


def _held(weights: Sequence[Tensor], optimizer: torch.optim.Optimizer, proximal: Any) -> dict[str, int]:
    states = [value for state in optimizer.state.values() for value in state.values()]
    teacher = [] if proximal is None else [own(each) for each in proximal.teacher.module.parameters()]
    return {
        "weights": _bytes(weights),
        "gradients": _bytes(each.grad for each in weights if each.grad is not None),
        "optimizer": _bytes(states),
        "teacher": _bytes(teacher),
    }


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def of_process(rank: int, count: int, port: int, shape: str, sharded: bool, teacher: bool) -> dict[str, int]:
    """What `held_after_a_step` finds in one of several processes; the most of any."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    found = held_after_a_step(shape, sharded=sharded, teacher=teacher)
    most = torch.tensor(list(found.values()))
    torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    torch.distributed.destroy_process_group()
    return dict(zip(found, most.tolist(), strict=True))


def measured(shape: str, count: int, *, sharded: bool, teacher: bool) -> dict[str, int]:
    """Bytes of the process that holds most, of so many.

    Args:
        shape: of the encoder.
        count: number of processes.
        sharded, teacher: as for `held_after_a_step`.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with get_context("spawn").Pool(count) as pool:
        return pool.starmap(of_process, [(rank, count, port, shape, sharded, teacher) for rank in range(count)])[0]


def main(words: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["mini", "base"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--teacher", choices=["no", "yes", "both"], default="both", help="the proximal term's")
    given = parser.parse_args(words)
    names = "shape, teacher, processes, sharding, weights, gradients, optimizer, teacher, all, ratio, gathered"
    print(f"| {names.replace(', ', ' | ')} |\n{'|---' * len(names.split(', '))}|")
    for shape in given.shapes:
        for teacher in {"no": (False,), "yes": (True,), "both": (False, True)}[given.teacher]:
            whole = 0
            for count in given.processes:
                found = measured(shape, count, sharded=count > 1, teacher=teacher)
                gathered = found.pop("gathered")
                whole = whole or sum(found.values())
                kind = "full" if count > 1 else "none"
                sizes = " | ".join(f"{value / MIB:,.0f}" for value in found.values())
                print(
                    f"| {shape} | {'yes' if teacher else 'no'} | {count} | {kind} | {sizes} | "
                    f"{sum(found.values()) / MIB:,.0f} | {sum(found.values()) / whole:.2f} | {gathered / MIB:,.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
