"""Time and memory of every regularizer's step relative to the plain step on the same batch, beside its floor.

    python -m benchmarks.smart_cost --encoder models/all-MiniLM-L6-v2 --repeats 11 [--device cuda] [--bf16]

Time is that of forward and backward passes (and of the teacher's move), without the optimizer's, which all share and
which would make every ratio look better. Rounds are interleaved: each measures every method once, in a new order.
Memory is the peak above what the model holds, one process per method. The floor counts forward units: a forward pass
is 1, its backward pass 2, to the input alone 1, so that a plain step is 3.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.plain_loop import wait_for
from benchmarks.processes import forget_peak, peak_resident, resident
from mtdnn.batch import Batch
from mtdnn.config.tasks import task_def_from
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.proximal import PROXIMAL
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.objective import Objective

STEPS = 2  # in one measurement, so that `every: 2` has both kinds
PLAIN_UNITS = 3.0


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    regularizer: Mapping[str, Any] | None = None
    proximal: str | None = None

    @property
    def units(self) -> float:
        """Forward units of a step."""
        own = PLAIN_UNITS
        if self.regularizer is not None:
            options = dict(self.regularizer)
            own = REGULARIZERS.get(options.pop("name"))(**options).cost
        return own + (self.proximal is not None)


METHODS = {
    "plain": Method(),
    "smart": Method({"name": "smart"}),
    "smart, every 2": Method({"name": "smart", "every": 2}),
    "smart + momentum": Method({"name": "smart"}, "momentum"),
    "momentum alone": Method(None, "momentum"),
    "smart-mtdnn-release": Method({"name": "smart-mtdnn-release"}),
    "vat": Method({"name": "vat"}),
    "r_drop": Method({"name": "r_drop"}),
    "r3f": Method({"name": "r3f"}),
    "adversarial, K=3": Method({"name": "adversarial"}),
    "free_lb, K=3": Method({"name": "free_lb"}),
    "free_at, m=3": Method({"name": "free_at"}),
}


def make_model(encoder: str, device: str) -> MultiTaskModel:
    """The encoder with a head for two texts and three labels, in training mode."""
    block = {"task_type": "classification", "inputs": ["premise", "hypothesis"], "labels": ["a", "b", "c"]}
    task = task_def_from("task", block)
    types = {"task": TASK_TYPES.get(task.task_type)(task)}
    return MultiTaskModel(Encoder.from_pretrained(encoder), types).to(device).train()


def make_batch(model: MultiTaskModel, *, rows: int, tokens: int, device: str) -> Batch:
    """Random tokens; rows from half of `tokens` long to all of it."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(tokens // 2, tokens + 1, (rows, 1), generator=generator)
    mask = torch.arange(tokens) < lengths
    ids = torch.randint(1000, model.encoder.config.vocab_size, (rows, tokens), generator=generator) * mask
    labels = torch.randint(0, 3, (rows,), generator=generator)
    inputs = {"input_ids": ids, "mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return Batch("task", inputs, labels, [str(row) for row in range(rows)]).to(device)


def objective_of(method: Method, model: MultiTaskModel, *, bf16: bool) -> Objective:
    """A method's objective over the shared model."""
    regularizer = None
    if method.regularizer is not None:
        options = dict(method.regularizer)
        regularizer = REGULARIZERS.get(options.pop("name"))(**options)
    proximal = None if method.proximal is None else PROXIMAL.get(method.proximal)(model, total_steps=1000)
    device = next(model.parameters()).device.type
    autocast = partial(torch.autocast, device, dtype=torch.bfloat16, enabled=bf16)
    return Objective(model, {"task": regularizer}, proximal, seed=1, autocast=autocast)


def run_steps(objective: Objective, batch: Batch) -> None:
    """All that is computed in some steps but the optimizer's move."""
    for step in range(STEPS):
        objective.model.zero_grad(set_to_none=True)
        for part in objective.parts(batch, step=step):
            part.loss.backward()
        objective.after_step()


def seconds(objective: Objective, batch: Batch) -> float:
    """Of one step."""
    device = batch.inputs["input_ids"].device  # the mask stays on the host
    wait_for(device)
    start = time.perf_counter()
    run_steps(objective, batch)
    wait_for(device)
    return (time.perf_counter() - start) / STEPS


def measure_time(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of a step for each method, one number per round, after one round to warm up."""
    model = make_model(arguments.encoder, arguments.device)
    batch = make_batch(model, rows=arguments.rows, tokens=arguments.tokens, device=arguments.device)
    objectives = {name: objective_of(METHODS[name], model, bf16=arguments.bf16) for name in arguments.methods}
    rounds: dict[str, list[float]] = {name: [] for name in objectives}
    order, shuffle = list(objectives), random.Random(0).shuffle
    for repeat in range(arguments.repeats + 1):
        shuffle(order)
        for name in order:
            gc.collect()
            elapsed = seconds(objectives[name], batch)
            if repeat:
                rounds[name].append(elapsed)
    return rounds


def measure_memory(arguments: argparse.Namespace, name: str) -> float:
    """MiB that a step of one method needs at its peak, above what lies in memory before it."""
    command = [sys.executable, "-m", "benchmarks.smart_cost", "--memory-of", name, "--encoder", arguments.encoder]
    for option in ("rows", "tokens", "device", "threads"):
        command += [f"--{option}", str(getattr(arguments, option))]
    command += ["--bf16"] if arguments.bf16 else []
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_mebibytes(arguments: argparse.Namespace) -> float:
    """The measurement itself, in a process of its own."""
    model = make_model(arguments.encoder, arguments.device)
    batch = make_batch(model, rows=arguments.rows, tokens=arguments.tokens, device=arguments.device)
    objective = objective_of(METHODS[arguments.memory_of], model, bf16=arguments.bf16)
    if arguments.device == "cuda":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run_steps(objective, batch)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    forget_peak()
    before = resident()
    run_steps(objective, batch)
    return (peak_resident() - before) / 2**20


def table(rounds: Mapping[str, Sequence[float]], memory: Mapping[str, float]) -> str:
    """Markdown: medians over rounds, the spread of the ratio between rounds, and how far above the floor."""
    lines = [
        "| method | units | floor | time | quartiles | above floor | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, times in rounds.items():
        ratios = [mine / plain for mine, plain in zip(times, rounds["plain"], strict=True)]
        ratio, floor = statistics.median(ratios), METHODS[name].units / PLAIN_UNITS
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        used = f"{memory[name] / memory['plain']:.2f}×" if memory else ""
        lines.append(
            f"| {name} | {METHODS[name].units:g} | {floor:.2f} | {ratio:.2f}× | {low:.2f} … {high:.2f} "
            f"| {100 * (ratio / floor - 1):+.1f} % | {used} |"
        )
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="hub name or folder")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="of the longest row")
    parser.add_argument("--repeats", type=int, default=11, help="rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--no-memory", action="store_true", help="measure time alone")
    parser.add_argument("--output", type=Path, help="also write all numbers as JSON")
    parser.add_argument("--memory-of", choices=list(METHODS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if "plain" not in arguments.methods:
        arguments.methods = ["plain", *arguments.methods]
    return arguments


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(peak_mebibytes(arguments))
        return
    rounds = measure_time(arguments)
    memory = {} if arguments.no_memory else {name: measure_memory(arguments, name) for name in arguments.methods}
    used = f", {memory['plain']:.0f} MiB" if memory else ""
    plain = f"plain step: {statistics.median(rounds['plain']):.3f} s{used}"
    print(
        f"{plain}; {arguments.rows} rows of up to {arguments.tokens} tokens, "
        f"{'bf16' if arguments.bf16 else 'float32'} on {arguments.device}"
    )
    print(table(rounds, memory))
    if arguments.output:
        arguments.output.write_text(json.dumps({"seconds": rounds, "mebibytes": memory}, indent=1))


if __name__ == "__main__":
    main()
