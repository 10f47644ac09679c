"""Training speed beside a plain transformers loop: the same rows, batch size and update rule, in one process.

    python -m benchmarks.train_throughput --encoder FOLDER --data DIR [--tasks rte,mrpc] [--steps 20] [--repeats 5]

`DIR` holds canonical rows. Plain is `benchmarks.plain_loop`, with its default collation (random batches, padded) and
with rows grouped by length; mtdnn trains with packed tokens in random order. Each round runs all of them one after
another for the same number of steps of each task. Examples and real tokens per second are medians over the rounds,
ratios (of real tokens, as few grouped batches may be long or short ones) medians of the rounds' own. The last column is
the share of this machine's rate of matrix products, measured in the same run at the same precision, that the real
tokens' products need: 6 operations per token and weight.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.plain_loop import encode, is_regression, read_rows, train_loader, train_steps
from mtdnn.assemble import Setup
from mtdnn.batch import Batch
from mtdnn.cli import table
from mtdnn.data.prepro import prepare
from mtdnn.run_config import load_run_config
from mtdnn.run_folder import RunFolder
from mtdnn.task_def import load_task_defs
from mtdnn.trainer import Trainer

TASKS = "task_defs/glue.yml"
MATRIX = 2048


@dataclass(frozen=True)
class Speed:
    """What some steps took.

    Attributes:
        examples, tokens: rows and real tokens trained on.
    """

    examples: int
    tokens: int
    seconds: float


Steps = Callable[[], Speed]


def plain_steps(encoder: str, data: Path, tasks: Sequence[str], steps: int, *, bf16: bool, grouped: bool) -> Steps:
    """A function that trains the plain loop for a number of steps on each task."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    prepared = []
    for task in tasks:
        rows = read_rows(data / task / "train.tsv")
        labels = None if is_regression(rows) else sorted({row.label for row in rows})
        model = AutoModelForSequenceClassification.from_pretrained(
            encoder, num_labels=len(labels or [""]), dtype=torch.float32
        )
        prepared.append((model, encode(rows, tokenizer, labels, 256)))
    rounds = iter(range(10**9))

    def run() -> Speed:
        seed, found = next(rounds), []
        for model, rows in prepared:
            loader = train_loader(rows, tokenizer, batch_size=16, seed=seed, group_by_length=grouped)
            settings = {"epochs": 1, "lr": 5e-5, "warmup": 0.1, "weight_decay": 0.01, "clip_norm": 1.0}
            counted = train_steps(model, loader, bf16=bf16, max_steps=steps, **settings)
            found.append(Speed(counted["examples"], counted["tokens"], counted["seconds"]))
        return total(found)

    return run


def our_steps(encoder: str, prepared: Path, tasks: Sequence[str], steps: int, *, bf16: bool) -> Steps:
    """A function that trains this project for the same number of steps on each task, one model for each as above."""
    streams: list[tuple[Trainer, Iterator[Sequence[Batch]]]] = []
    for task in tasks:
        given = {"tasks": TASKS, "data": str(prepared), "encoder": encoder, "output": "unused", "train": [task]}
        config = load_run_config(None, {**given, "batch_size": 16, "precision": "bf16" if bf16 else "float32"})
        setup = Setup.of(config)
        trainer = setup.trainer(RunFolder("unused"))
        trainer.model.train()
        streams.append((trainer, endless(setup)))

    def run() -> Speed:
        found = []
        for trainer, batches in streams:
            started, examples, tokens = time.perf_counter(), 0, 0
            for _ in range(steps):
                parts = next(batches)
                trainer.train_step(parts)
                examples += sum(map(len, parts))
                tokens += sum(part.num_tokens for part in parts)
            found.append(Speed(examples, tokens, time.perf_counter() - started))
        return total(found)

    return run


def endless(setup: Setup) -> Iterator[Sequence[Batch]]:
    """The steps of epoch after epoch."""
    epoch = 0
    while True:
        setup.loader.set_epoch(epoch)
        yield from setup.loader.from_step(0)
        epoch += 1


def total(speeds: Sequence[Speed]) -> Speed:
    """Sums."""
    return Speed(*(sum(getattr(each, name) for each in speeds) for name in ("examples", "tokens", "seconds")))


def matmul_rate(dtype: torch.dtype) -> float:
    """Operations per second of this machine's own matrix product, the best of five."""
    first, second = (torch.randn(MATRIX, MATRIX).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        first @ second
        best = min(best, time.perf_counter() - started)
    return 2 * MATRIX**3 / best


def weights_of_layers(encoder: str) -> int:
    """Weights of the matrices that every token is multiplied with: all but the embeddings and the pooler."""
    model = AutoModelForSequenceClassification.from_pretrained(encoder).base_model
    return sum(
        weight.numel() for name, weight in model.named_parameters()
        if weight.dim() == 2 and "embeddings" not in name and "pooler" not in name
    )  # fmt: skip


def report(rounds: dict[str, list[Speed]], weights: int, rates: dict[str, float]) -> str:
    """One line per method; ratios to the first."""
    first = next(iter(rounds))
    lines = [["method", "examples/s", "spread", "real tokens/s", f"ratio to {first}", "share of matmul rate"]]
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
        speed, ratio = f"{statistics.median(examples):.1f}", f"{statistics.median(ratios):.2f}"
        lines.append([name, speed, spread, f"{tokens:.0f}", ratio, share])
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
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tasks = given.tasks.split(",")
    with tempfile.TemporaryDirectory(prefix="mtdnn-throughput-") as folder:
        definitions = load_task_defs(TASKS)
        prepare({task: definitions[task] for task in tasks}, data=given.data, encoder=given.encoder, out=folder)
        methods: dict[str, Steps] = {}
        for precision, bf16 in (("float32", False), ("bf16", True)):
            for grouped in (False, True):
                name = f"plain {precision}{', grouped by length' if grouped else ''}"
                methods[name] = plain_steps(
                    given.encoder, given.data, tasks, given.steps, bf16=bf16, grouped=grouped
                )
            methods[f"mtdnn {precision}"] = our_steps(given.encoder, Path(folder), tasks, given.steps, bf16=bf16)
        rounds: dict[str, list[Speed]] = {name: [] for name in methods}
        for number in range(given.repeats + 1):
            for name, run in methods.items():
                speed = run()
                if number:
                    rounds[name].append(speed)
    rates = {"float32": matmul_rate(torch.float32), "bf16": matmul_rate(torch.bfloat16)}
    print(report(rounds, weights_of_layers(given.encoder), rates))
    products = ", ".join(f"{name} products at {rate / 1e9:.0f} Gop/s" for name, rate in rates.items())
    print(f"\n{given.threads} threads; {given.repeats} rounds of {given.steps} steps of {given.tasks} each; {products}")


if __name__ == "__main__":
    main()
