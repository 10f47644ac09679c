"""Training speed beside a plain transformers loop: the same rows, batch size and update rule, in one process.

    python -m benchmarks.train_throughput --encoder FOLDER --data DIR [--tasks rte,mrpc] [--steps 20] [--repeats 5]
    python -m benchmarks.train_throughput --device cuda …          on a GPU; also tells the peak memory of each

`DIR` holds canonical rows. Plain is `benchmarks.plain_loop`, with its default collation (random batches, padded) and
with rows grouped by length; mtdnn trains with packed tokens in random order. Each round runs all of them one after
another for the same number of steps of each task. Examples and real tokens per second are medians over the rounds,
ratios (of real tokens: grouped batches may be long or short ones) medians of the rounds' own. The last column is the
share of this machine's rate of matrix products, measured in the same run at the same precision, that the real tokens'
products need: 6 operations per token and weight. Where mtdnn has oneDNN multiply float32 matrices (see
`mtdnn/execution/products.py`), it also runs without, and the share of oneDNN's rate stands beside that of PyTorch's;
and so it does where mtdnn computes bf16 runs in float32. With `--peak-tflops`, the device's bf16 products by its data
sheet, bf16 runs also have a column MFU: these operations, without those of attention, of that peak. With
`--processor-time` seconds are those of the processor, which the other work of a machine changes less.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.plain_loop import (
    SETTINGS,
    decayed_and_not,
    encode,
    is_regression,
    read_rows,
    train_loader,
    train_steps,
    wait_for,
)
from benchmarks.rounds import interleaved
from mtdnn.batch import Batch
from mtdnn.columns import table
from mtdnn.config.run import load_run_config
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.prepro import prepare
from mtdnn.execution.memory import freed_memory_kept
from mtdnn.execution.products import bf16_is_faster, linear, onednn_is_faster
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.setup import Setup
from mtdnn.training.trainer import Trainer

TASKS = "task_defs/glue.yml"
MATRIX = 2048
LR = 5e-5
ONEDNN = "float32 oneDNN"
T = TypeVar("T")
Clock = Callable[[], float]


@dataclass(frozen=True)
class Speed:
    """What some steps took.

    Attributes:
        examples, tokens: rows and real tokens trained on.
        memory: bytes at the peak above what lay on the GPU before; 0 on a CPU.
    """

    examples: int
    tokens: int
    seconds: float
    memory: int = 0


Steps = Callable[[], Speed]


def plain_steps(
    encoder: str,
    data: Path,
    tasks: Sequence[str],
    steps: int,
    *,
    bf16: bool,
    grouped: bool,
    device: str = "cpu",
    clock: Clock = time.perf_counter,
) -> Steps:
    """A function that trains the plain loop for a number of steps on each task."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    prepared = []
    for task in tasks:
        rows = read_rows(data / task / "train.tsv")
        labels = None if is_regression(rows) else sorted({row.label for row in rows})
        model = AutoModelForSequenceClassification.from_pretrained(
            encoder, num_labels=len(labels or [""]), dtype=torch.float32
        )
        model.to(device)
        # one optimizer for all rounds, as the other side has: its state is neither made nor counted within a round
        optimizer = torch.optim.AdamW(decayed_and_not(model, SETTINGS["weight_decay"]), lr=LR, fused=True)
        prepared.append((model, optimizer, encode(rows, tokenizer, labels, 256)))
    rounds = iter(range(10**9))

    def run() -> Speed:
        seed, found = next(rounds), []
        for model, optimizer, rows in prepared:
            loader = some_batches(
                train_loader(rows, tokenizer, batch_size=16, seed=seed, group_by_length=grouped), steps, seed=seed
            )
            settings: dict[str, Any] = {"epochs": 1, "lr": LR, **SETTINGS}
            started = clock()
            counted = train_steps(model, loader, bf16=bf16, max_steps=steps, optimizer=optimizer, **settings)
            found.append(Speed(counted["examples"], counted["tokens"], clock() - started))
        return total(found)

    return run


def some_batches(loader: DataLoader, count: int, *, seed: int) -> DataLoader:
    """Random ones of an epoch's batches: rows grouped by length come longest first, 50 batches at a time."""
    assert loader.batch_sampler is not None  # the loader has a batch size
    batches = list(loader.batch_sampler)
    chosen = random.Random(seed).sample(batches, min(count, len(batches)))
    return DataLoader(loader.dataset, batch_sampler=chosen, collate_fn=loader.collate_fn, pin_memory=loader.pin_memory)


def our_steps(
    encoder: str,
    prepared: Path,
    tasks: Sequence[str],
    steps: int,
    *,
    bf16: bool,
    products: str = "fast",
    clock: Clock = time.perf_counter,
) -> Steps:
    """A function that trains this project for the same number of steps on each task, one model for each as above."""
    streams: list[tuple[Trainer, Iterator[Sequence[Batch]]]] = []
    for task in tasks:
        given: dict[str, Any] = {
            "tasks": TASKS,
            "data": str(prepared),
            "encoder": encoder,
            "output": "unused",
            "train": [task],
        }
        given |= {"batch_size": 16, "precision": "bf16" if bf16 else "float32", "execution": {"products": products}}
        config = load_run_config(None, given)
        setup = Setup.of(config)
        trainer = setup.trainer(RunFolder("unused"))
        trainer.model.train()
        streams.append((trainer, endless(setup)))

    def run() -> Speed:
        found = []
        for trainer, batches in streams:
            with freed_memory_kept():  # as `mtdnn train` does; the plain loop allocates as a plain loop would
                started, examples, tokens = clock(), 0, 0
                for _ in range(steps):
                    parts = next(batches)
                    trainer.train_step(parts)
                    examples += sum(map(len, parts))
                    tokens += sum(part.num_tokens for part in parts)
                wait_for(trainer.accelerator.device)
                found.append(Speed(examples, tokens, clock() - started))
        return total(found)

    return run


def endless(setup: Setup) -> Iterator[Sequence[Batch]]:
    """The steps of epoch after epoch."""
    epoch = 0
    while True:
        setup.loader.set_epoch(epoch)
        yield from setup.loader.from_step(0)
        epoch += 1


def with_peak(device: str, run: Callable[[], T]) -> tuple[T, int]:
    """What `run()` returns, and the most bytes that lay on the GPU meanwhile above those before; 0 on a CPU."""
    if device != "cuda":
        return run(), 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    return result, torch.cuda.max_memory_allocated() - before


def with_memory(device: str, run: Steps) -> Speed:
    """A round of a method, with its peak of memory."""
    speed, memory = with_peak(device, run)
    return replace(speed, memory=memory)


def total(speeds: Sequence[Speed]) -> Speed:
    """Sums."""
    return Speed(*(sum(getattr(each, name) for each in speeds) for name in ("examples", "tokens", "seconds")))


def matmul_rate(
    dtype: torch.dtype,
    device: str = "cpu",
    product: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
    clock: Clock = time.perf_counter,
) -> float:
    """Operations per second of this machine's own matrix product, the best of ten; the first ones warm up."""
    size = MATRIX if device == "cpu" else 4 * MATRIX
    first, second = (torch.randn(size, size).to(device, dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        wait_for(first.device)
        started = clock()
        product(first, second)
        wait_for(first.device)
        best = min(best, clock() - started)
    return 2 * size**3 / best


def weights_of_layers(encoder: str) -> int:
    """Weights of the matrices that every token is multiplied with: all but the embeddings and the pooler."""
    model = AutoModelForSequenceClassification.from_pretrained(encoder).base_model
    return sum(
        weight.numel() for name, weight in model.named_parameters()
        if weight.dim() == 2 and "embeddings" not in name and "pooler" not in name
    )  # fmt: skip


def report(rounds: dict[str, list[Speed]], weights: int, rates: dict[str, float], peak: float | None = None) -> str:
    """One line per method; ratios to the first.

    Args:
        rounds: method → speed in each round.
        weights: of the layers, see `weights_of_layers`.
        rates: precision → operations per second of this machine's matrix products.
        peak: bf16 operations per second that are 100 % of MFU; None: no such column.
    """
    first = next(iter(rounds))
    columns = ["method", "examples/s", "spread", "real tokens/s", f"ratio to {first}", "share of matmul rate"]
    on_gpu = any(each.memory for speeds in rounds.values() for each in speeds)
    more = ["share of oneDNN's"] if ONEDNN in rates else []
    more += [f"MFU of {peak / 1e12:g} Tflop/s"] if peak else []
    lines = [[*columns, *more, *(["peak memory of a step, MiB"] if on_gpu else [])]]
    for name, speeds in rounds.items():
        examples = [each.examples / each.seconds for each in speeds]
        tokens = statistics.median(each.tokens / each.seconds for each in speeds)
        ratios = [
            each.tokens / each.seconds / (base.tokens / base.seconds)
            for each, base in zip(speeds, rounds[first], strict=True)
        ]
        rate = rates["bf16" if "bf16" in name else "float32"]
        spread = f"{min(examples):.1f}–{max(examples):.1f}"
        share = f"{6 * weights * tokens / rate:.0%}"
        more = [f"{6 * weights * tokens / rates[ONEDNN]:.0%}" if "float32" in name else ""] if ONEDNN in rates else []
        more += [f"{6 * weights * tokens / peak:.1%}" if "bf16" in name else ""] if peak else []
        speed, ratio = f"{statistics.median(examples):.1f}", f"{statistics.median(ratios):.2f}"
        memory = [f"{max(each.memory for each in speeds) / 2**20:,.0f}"] if on_gpu else []
        lines.append([name, speed, spread, f"{tokens:.0f}", ratio, share, *more, *memory])
    return table(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="hub name or folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--tasks", default="rte,mrpc")
    parser.add_argument("--steps", type=int, default=20, help="of each task in a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count; one more warms up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processor-time", action="store_true", help="measure seconds of the processor")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak-tflops", type=float, help="bf16 products of the device, by its data sheet")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"  # also where there is a GPU
    clock = time.process_time if given.processor_time else time.perf_counter
    tasks, quick = given.tasks.split(","), given.device == "cpu" and onednn_is_faster()
    with tempfile.TemporaryDirectory(prefix="mtdnn-throughput-") as folder:
        definitions = load_task_defs(TASKS)
        prepare({task: definitions[task] for task in tasks}, data=given.data, encoder=given.encoder, out=folder)
        methods: dict[str, Steps] = {}
        for precision, bf16 in (("float32", False), ("bf16", True)):
            for grouped in (False, True):
                name = f"plain {precision}{', grouped by length' if grouped else ''}"
                methods[name] = plain_steps(
                    given.encoder,
                    given.data,
                    tasks,
                    given.steps,
                    bf16=bf16,
                    grouped=grouped,
                    device=given.device,
                    clock=clock,
                )
            ours = partial(our_steps, given.encoder, Path(folder), tasks, given.steps, bf16=bf16, clock=clock)
            methods[f"mtdnn {precision}"] = ours()
            slow_bf16 = bf16 and given.device == "cpu" and not bf16_is_faster()
            if slow_bf16 or (quick and not bf16):
                methods[f"mtdnn {precision}, execution.products: torch"] = ours(products="torch")
        rounds = interleaved(
            {name: partial(with_memory, given.device, run) for name, run in methods.items()}, given.repeats
        )
    precisions = {"float32": torch.float32, "bf16": torch.bfloat16}
    rates = {name: matmul_rate(dtype, given.device, clock=clock) for name, dtype in precisions.items()}
    if quick:
        rates[ONEDNN] = matmul_rate(torch.float32, product=linear, clock=clock)
    peak = given.peak_tflops * 1e12 if given.peak_tflops else None
    print(report(rounds, weights_of_layers(given.encoder), rates, peak))
    products = ", ".join(f"{name} products at {rate / 1e9:.0f} Gop/s" for name, rate in rates.items())
    print(f"\n{given.threads} threads; {given.repeats} rounds of {given.steps} steps of {given.tasks} each; {products}")


if __name__ == "__main__":
    main()
