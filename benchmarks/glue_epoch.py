"""Time of one epoch of all of GLUE, by its shape alone: no data, random weights; plain, SMART, SMART + momentum.

Next to them `transformers`: a plain loop over the same rows with autocast, PyTorch's attention, AdamW in one kernel,
and rows grouped by length 50 batches at a time, whatever `--group-by-length` says.

    python -m benchmarks.glue_epoch --device cuda --shape base --precision bf16 --max-tokens 16384 --group-by-length 50
    python -m benchmarks.glue_epoch --shape tiny --share 0.002 --steps 5 --repeats 1        the same code as a check

Rows have random token ids and labels; how many tokens is drawn from the quantiles of each task below, or from the
manifests of a prepared GLUE (`--prepared`). All eight tasks are mixed as `round_robin` does. Each round gives every way
some steps from where the epoch stands, after one round that warms up; the epoch is all real tokens of its rows at the
median rate of real tokens, so that it does not matter whether those steps drew long batches or short ones.

MFU is what the real tokens need of the device's rate of matrix products, which `--peak-tflops` gives and is measured in
this run otherwise: in forward units (a plain step has 3, see docs/smart.md) times 2 operations per token and weight of
the layers and, per layer, 4·H·length² for the attention of an example. `padded` computes whole rectangles, as plain
transformers code does. Attention runs in the kernel for ragged batches on CUDA in bf16 without dropout on the attention
weights, which therefore is 0 unless `--attention-dropout` says otherwise. Memory is the most that PyTorch handed out in
a round above what lay there before it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import BertConfig, BertModel, get_linear_schedule_with_warmup

from benchmarks.plain_loop import autocast, decayed_and_not, wait_for
from benchmarks.rounds import interleaved, median_and_spread, ratios
from benchmarks.small_encoder import SHAPES
from benchmarks.train_throughput import matmul_rate, with_peak
from mtdnn.batch import Batch
from mtdnn.columns import table
from mtdnn.config.execution import Execution
from mtdnn.config.tasks import TaskDef, load_task_defs
from mtdnn.data.loaders import TrainLoader
from mtdnn.data.samplers import SAMPLERS
from mtdnn.data.store import Store
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.proximal import PROXIMAL
from mtdnn.runs.memory_rows import MemoryStore
from mtdnn.task_types.base import TASK_TYPES, TaskType
from mtdnn.tokens.ragged import Ragged
from mtdnn.training.objective import Objective
from mtdnn.training.optim import build_optimizer, build_schedule, parameter_groups
from mtdnn.training.plan import Plan
from mtdnn.training.trainer import Trainer

TASKS = "task_defs/glue.yml"
GROUPED = 50
"""Batches that rows are grouped by length within in the plain loop, as transformers' Trainer does it."""

QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
QUANTILE_NAMES = ("min", "q05", "q25", "median", "q75", "q95", "max")


@dataclass(frozen=True)
class TaskShape:
    """A task's training rows by number and length.

    Attributes:
        lengths: tokens of a row at each of `QUANTILES`.
    """

    rows: int
    lengths: tuple[float, ...]


GLUE = {
    "cola": TaskShape(8_551, (4, 6, 9, 10, 13, 20, 47)),
    "sst2": TaskShape(67_349, (3, 4, 6, 10, 18, 34, 63)),
    "mrpc": TaskShape(3_668, (19, 32, 44, 53, 62, 74, 103)),
    "stsb": TaskShape(5_749, (10, 15, 19, 23, 31, 60, 125)),
    "qqp": TaskShape(363_846, (11, 17, 22, 27, 35, 55, 173)),
    "mnli": TaskShape(392_702, (5, 16, 27, 37, 50, 74, 256)),
    "qnli": TaskShape(104_743, (15, 27, 38, 48, 60, 87, 250)),
    "rte": TaskShape(2_490, (13, 29, 43, 56, 85, 157, 256)),
}
"""Rows as published; lengths by BERT's uncased WordPiece, cut at 256: of up to 10,000 train rows, QNLI's of its dev."""


@dataclass(frozen=True)
class Way:
    """A row of the table."""

    regularizer: Mapping[str, Any] | None = None
    proximal: str | None = None
    execution: str | Execution = "auto"
    is_ours: bool = True

    @property
    def units(self) -> float:
        """Forward units of a step."""
        return (3.0 if self.regularizer is None else _regularizer(self.regularizer).cost) + (self.proximal is not None)


def _regularizer(named: Mapping[str, Any]) -> Any:
    options = dict(named)
    return REGULARIZERS.get(options.pop("name"))(**options)


COARSE = {"name": "smart", "epsilon": {"relative": 0.01}, "eta": {"relative": 0.01}, "noise": {"relative": 0.01}}
WAYS = {
    "transformers": Way(is_ours=False),
    "padded": Way(execution="padded"),
    "plain": Way(),
    "plain, attention: kernel": Way(execution=Execution(attention="kernel")),
    "plain, attention: squares": Way(execution=Execution(attention="squares")),
    "smart": Way(COARSE),
    "smart + momentum": Way(COARSE, "momentum"),
    "smart, published sizes": Way({"name": "smart"}),
}
"""Published sizes are below the resolution of bf16: their steps compute in float32. `COARSE` is held by bf16."""


@dataclass(frozen=True)
class Speed:
    """What some steps took.

    Attributes:
        squares: sum of the squared lengths of the examples.
        memory: bytes at the peak above what lay there before; 0 on a CPU.
    """

    examples: int
    tokens: int
    squares: int
    seconds: float
    memory: int = 0


def shapes_from(prepared: Path) -> dict[str, TaskShape]:
    """Shapes of GLUE's tasks by the manifests of their train splits."""
    found = {}
    for task in GLUE:
        manifest = json.loads((prepared / task / "train" / "manifest.json").read_text(encoding="utf-8"))
        found[task] = TaskShape(manifest["rows"], tuple(manifest["lengths"][name] for name in QUANTILE_NAMES))
    return found


def drawn_lengths(shape: TaskShape, rows: int, generator: np.random.Generator) -> np.ndarray:
    """[rows] int64: lengths whose quantiles are those of the shape, linear between them."""
    return np.interp(generator.random(rows), QUANTILES, shape.lengths).round().astype(np.int64)


def random_store(task: TaskDef, lengths: np.ndarray, vocabulary: int, generator: np.random.Generator) -> MemoryStore:
    """Rows of these lengths; the second half of a pair's tokens is its second text."""
    ids = generator.integers(1000 % vocabulary, vocabulary, int(lengths.sum()), dtype=np.int32)
    rows = Ragged.from_lengths(ids, lengths)
    places = np.arange(len(ids)) - np.repeat(rows.offsets[:-1], lengths)
    second = (2 * places >= np.repeat(lengths, lengths)) if len(task.inputs) == 2 else np.zeros(len(ids), bool)
    labels = generator.integers(0, len(task.labels), len(lengths)) if task.labels else generator.random(len(lengths))
    columns = {
        "id": [str(number) for number in range(len(lengths))],
        "label": labels,
        "input_ids": rows,
        "token_type_ids": Ragged(second.astype(np.int8), rows.offsets),
    }
    return MemoryStore(columns)


def forward_operations(config: BertConfig, tokens: int, squares: int) -> float:
    """Operations of matrix products in one forward pass over real tokens, embeddings and heads left out."""
    h, inner = config.hidden_size, config.intermediate_size
    return config.num_hidden_layers * (2 * tokens * (4 * h * h + 2 * h * inner) + 4 * h * squares)


class Work:
    """Training in one way, ready to be measured again and again."""

    def __init__(self, way: Way, config: BertConfig, stores: Mapping[str, MemoryStore], given: argparse.Namespace):
        types = task_types(stores)
        torch.manual_seed(0)
        encoder = Encoder(BertModel(config), execution=way.execution)
        self.accelerator = Accelerator(cpu=given.device == "cpu")
        self.device = self.accelerator.device
        model = MultiTaskModel(encoder, types).to(self.device).train()
        self.loader = loader_of(stores, types, given, self.device, group_by_length=given.group_by_length)
        self.trainer = self._trainer(way, model, len(self.loader), bf16=given.precision == "bf16")
        self.batches = endless(self.loader)

    def _trainer(self, way: Way, model: MultiTaskModel, total_steps: int, *, bf16: bool) -> Trainer:
        autocast = partial(torch.autocast, self.device.type, dtype=torch.bfloat16, enabled=bf16)
        method = None if way.regularizer is None else _regularizer(way.regularizer)
        proximal = None if way.proximal is None else PROXIMAL.get(way.proximal)(model, total_steps=total_steps)
        regularizers = dict.fromkeys(model.task_types, method)
        groups = parameter_groups(
            model.named_parameters(),
            lr=5e-5,
            weight_decay=0.01,
            layer_of=model.encoder.layer_of,
            num_layers=model.encoder.num_layers,
        )
        optimizer = build_optimizer("adamw", groups, lr=5e-5)
        return Trainer(
            model=model,
            objective=Objective(model, regularizers, proximal, seed=1, autocast=autocast),
            loader=self.loader,
            optimizer=optimizer,
            scheduler=build_schedule("linear", optimizer, num_steps=total_steps),
            accelerator=self.accelerator,
            plan=Plan(total_steps),
            evaluate=lambda: ({}, 0.0),
            save=lambda kind, trainer: None,
        )

    def measure(self, steps: int) -> Speed:
        """The next steps."""
        return speed_of(self.trainer.train_step, self.batches, steps, self.device)


class PlainWork:
    """The same rows, grouped by length, trained by code that knows transformers alone."""

    def __init__(self, config: BertConfig, stores: Mapping[str, MemoryStore], given: argparse.Namespace):
        types = task_types(stores)
        self.device, self.bf16 = torch.device(given.device), given.precision == "bf16"
        torch.manual_seed(0)
        model = BertModel(config)
        outputs = {task: max(1, len(each.task.labels)) for task, each in types.items()}
        model.heads = nn.ModuleDict({task: nn.Linear(config.hidden_size, size) for task, size in outputs.items()})
        self.model = model.to(self.device).train()
        loader = loader_of(stores, types, given, self.device, group_by_length=GROUPED)
        self.optimizer = torch.optim.AdamW(decayed_and_not(self.model, 0.01), lr=5e-5, fused=True)
        self.scheduler = get_linear_schedule_with_warmup(self.optimizer, len(loader) // 10, len(loader))
        self.batches = endless(loader)

    def measure(self, steps: int) -> Speed:
        """The next steps."""
        return speed_of(self._step, self.batches, steps, self.device)

    def _step(self, parts: Sequence[Batch]) -> None:
        for part in parts:
            inputs = {name: each.to(self.device, non_blocking=True) for name, each in part.inputs.items()}
            assert part.labels is not None
            labels, mask = part.labels.to(self.device, non_blocking=True), inputs.pop("mask").long()
            with autocast(self.device, self.bf16):
                pooled = self.model(**inputs, attention_mask=mask).pooler_output
                logits = self.model.heads[part.task](nn.functional.dropout(pooled, 0.1))
            if labels.is_floating_point():
                nn.functional.mse_loss(logits.squeeze(-1).float(), labels).backward()
            else:
                nn.functional.cross_entropy(logits.float(), labels).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()


def task_types(names: Iterable[str]) -> dict[str, TaskType]:
    """GLUE's tasks with their types."""
    definitions = load_task_defs(TASKS)
    return {task: TASK_TYPES.get(definitions[task].task_type)(definitions[task]) for task in names}


def loader_of(
    stores: Mapping[str, MemoryStore],
    types: Mapping[str, TaskType],
    given: argparse.Namespace,
    device: torch.device,
    *,
    group_by_length: int | None,
) -> TrainLoader:
    """Batches of all tasks by turns, assembled ahead for a GPU."""
    sampler = SAMPLERS.get("round_robin")(
        {task: len(store) for task, store in stores.items()},
        dict.fromkeys(stores, given.batch_size),
        seed=1,
        lengths={task: store.lengths for task, store in stores.items()},
        max_tokens=given.max_tokens,
        group_by_length=group_by_length,
    )
    on_gpu = device.type == "cuda"
    rows = cast(Mapping[str, Store], stores)  # what a MemoryStore lacks is asked of tasks that share rows
    return TrainLoader(rows, types, sampler, pad_token_id=0, seed=1, prefetch=2 * on_gpu, pin=on_gpu)


def endless(loader: TrainLoader) -> Iterator[Sequence[Batch]]:
    """The steps of epoch after epoch."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader.from_step(0)
        epoch += 1


def speed_of(
    step: Callable[[Sequence[Batch]], object], batches: Iterator[Sequence[Batch]], steps: int, device: torch.device
) -> Speed:
    """The speed and the peak of memory of the next steps."""

    def train() -> Speed:
        examples = tokens = squares = 0
        wait_for(device)
        started = time.perf_counter()
        for _ in range(steps):
            parts = next(batches)
            lengths = np.concatenate([part.mask.sum(1).numpy() for part in parts])
            examples += len(lengths)
            tokens += int(lengths.sum())
            squares += int((lengths**2).sum())
            step(parts)
        wait_for(device)
        return Speed(examples, tokens, squares, time.perf_counter() - started)

    speed, memory = with_peak(device.type, train)
    return replace(speed, memory=memory)


def report(
    rounds: Mapping[str, Sequence[Speed]], config: BertConfig, *, tokens: int, examples: int, peak: float
) -> str:
    """A line per way.

    Args:
        tokens, examples: of the whole epoch.
        peak: operations per second that are 100 % of MFU.
    """
    first = next(iter(rounds))
    columns = ["way", "units", "examples/s", "real tokens/s", f"ratio to {first}", "MFU", "GLUE epoch, s"]
    lines = [[*columns, "peak memory of a step, MiB"]]
    for name, speeds in rounds.items():
        rates = [each.tokens / each.seconds for each in speeds]
        utilised = [
            WAYS[name].units * forward_operations(config, each.tokens, each.squares) / each.seconds / peak
            for each in speeds
        ]
        rate = statistics.median(rates)
        ratio = median_and_spread(ratios(rates, [each.tokens / each.seconds for each in rounds[first]]))
        memory = max(each.memory for each in speeds) / 2**20
        lines.append([
            name, f"{WAYS[name].units:g}", f"{rate * examples / tokens:,.1f}", median_and_spread(rates, 0), ratio,
            f"{statistics.median(utilised):.1%}", f"{tokens / rate:,.1f}", f"{memory:,.0f}" if memory else "",
        ])  # fmt: skip
    return table(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="base", help="of the encoder")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="bf16")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--prepared", type=Path, help="prepared GLUE whose manifests give rows and lengths")
    parser.add_argument("--share", type=float, default=1.0, help="of the rows of each task that are made")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, help="as in a run; replaces the batch size")
    parser.add_argument("--group-by-length", type=int, help="as in a run")
    parser.add_argument("--attention-dropout", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=50, help="of each way in a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count; one more warms up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak-tflops", type=float, help="of the device at this precision; default: measured")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shapes = GLUE if given.prepared is None else shapes_from(given.prepared)
    config = BertConfig(**SHAPES[given.shape], attention_probs_dropout_prob=given.attention_dropout)
    definitions, generator = load_task_defs(TASKS), np.random.default_rng(0)
    stores = {}
    for task, shape in shapes.items():
        lengths = drawn_lengths(shape, max(1, round(given.share * shape.rows)), generator)
        stores[task] = random_store(definitions[task], lengths, config.vocab_size, generator)
    works = {}
    for name in given.ways:
        way = WAYS[name]
        work = Work(way, config, stores, given) if way.is_ours else PlainWork(config, stores, given)
        works[name] = partial(work.measure, given.steps)
    rounds = interleaved(works, given.repeats)
    dtype = torch.bfloat16 if given.precision == "bf16" else torch.float32
    measured = matmul_rate(dtype, given.device)
    peak = given.peak_tflops * 1e12 if given.peak_tflops else measured
    examples = sum(shape.rows for shape in shapes.values())
    made = sum(len(store) for store in stores.values())
    tokens = sum(int(store.lengths.sum()) for store in stores.values()) * examples / made
    print(report(rounds, config, tokens=round(tokens), examples=examples, peak=peak))
    print(
        f"\nBERT-{given.shape}, {given.precision} on {given.device}; {examples:,} examples, {tokens:,.0f} real tokens; "
        f"{given.repeats} rounds of {given.steps} steps; MFU of {peak / 1e12:.2f} Tflop/s, "
        f"matrix products measured at {measured / 1e12:.2f}; dropout on attention {given.attention_dropout:g}"
    )


if __name__ == "__main__":
    main()
