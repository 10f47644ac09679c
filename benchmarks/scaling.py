"""Time of a batch and of a step as tasks and rows grow: it should stay the same for an example.

    python -m benchmarks.scaling [--tasks 2,10,50] [--rows 10000,100000,1000000] [--steps 200] [--repeats 5]

Stores are made here from generated pair rows, prepared with a tokenizer and an encoder of two small layers, so that
what the steps cost around the encoder shows. One line for each number of tasks, at the first number of rows, and one
for each further number of rows, at the first number of tasks; rows are those of all tasks together. `plan` is the time
to the first batch of an epoch, which orders all its rows, over the steps of the epoch; `batch` is sampler, store and
collation; `step` all of it with the update. Lines take turns in each round; the ratio is that of `plan` and `step`
together, round by round, to the first line.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.prepro import made_up_words
from benchmarks.rounds import interleaved, median_and_spread, ratios
from benchmarks.small_encoder import prepare_tasks, save_encoder
from mtdnn.batch import Batch
from mtdnn.columns import table
from mtdnn.config.run import load_run_config
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.setup import Setup
from mtdnn.training.trainer import Trainer


@dataclass(frozen=True)
class Size:
    """A line of the table."""

    tasks: int
    rows: int

    def rows_of_tasks(self) -> dict[str, int]:
        """Task → its rows, as equal as can be."""
        share, more = divmod(self.rows, self.tasks)
        return {f"task{number:02}": share + (number < more) for number in range(self.tasks)}


@dataclass(frozen=True)
class Cost:
    """What one round took, in seconds for one step."""

    plan: float
    batch: float
    step: float

    @property
    def whole(self) -> float:
        """Of a step, with its share of the epoch's plan."""
        return self.plan + self.step


def sizes(tasks: Sequence[int], rows: Sequence[int]) -> list[Size]:
    """The lines: tasks grow at the first number of rows, then rows at the first number of tasks."""
    return [*(Size(each, rows[0]) for each in tasks), *(Size(tasks[0], each) for each in rows[1:])]


class Work:
    """Training at one size, ready to be measured again and again."""

    def __init__(self, size: Size, place: Path, encoder: Path, *, batch_size: int) -> None:
        folder = place / f"{size.tasks}-{size.rows}"
        prepared = prepare_tasks(folder, encoder, size.rows_of_tasks())
        given = {"tasks": str(folder / "tasks.yml"), "data": str(prepared), "encoder": str(encoder)}
        self.setup = Setup.of(load_run_config(None, {**given, "output": "unused", "batch_size": batch_size}))
        self.trainer: Trainer = self.setup.trainer(RunFolder("unused"))
        self.trainer.model.train()
        self.epoch = 0

    def measure(self, steps: int) -> Cost:
        """The plan of a new epoch, some batches alone, then some steps; an epoch that ends is followed by another."""
        started = time.perf_counter()
        batches = self._batches()
        next(batches)
        plan = (time.perf_counter() - started) / len(self.setup.loader)
        return Cost(plan, _median_seconds(batches, steps), _median_seconds(map(self._train, batches), steps))

    def _batches(self) -> Iterator[Sequence[Batch]]:
        while True:
            self.setup.loader.set_epoch(self.epoch)
            self.epoch += 1
            yield from self.setup.loader.from_step(0)

    def _train(self, parts: Sequence[Batch]) -> None:
        self.trainer.train_step(parts)


def _median_seconds(work: Iterator[object], count: int) -> float:
    """Of one item, asked for one after another; a median leaves out where one epoch follows another."""
    found = []
    for _ in range(count):
        started = time.perf_counter()
        next(work)
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def report(rounds: Mapping[Size, Sequence[Cost]], *, batch_size: int) -> str:
    """A line per size; ratios to the first."""
    first = next(iter(rounds.values()))
    lines = [["tasks", "rows", "plan, µs", "batch, µs", "step, µs", "an example, µs", "ratio"]]
    for size, costs in rounds.items():
        parts = (statistics.median(getattr(cost, name) for cost in costs) for name in ("plan", "batch", "step"))
        example = statistics.median(cost.whole for cost in costs) / batch_size
        compared = ratios([cost.whole for cost in costs], [cost.whole for cost in first])
        micro = [f"{1e6 * value:,.1f}" for value in (*parts, example)]
        lines.append([str(size.tasks), f"{size.rows:,}", *micro, median_and_spread(compared)])
    return table(lines)


def numbers(words: str) -> list[int]:
    """`2,10,50` as a list."""
    return [int(word) for word in words.split(",")]


def main() -> None:
    """Make the stores, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="2,10,50", type=numbers)
    parser.add_argument("--rows", default="10000,100000,1000000", type=numbers, help="of all tasks together")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200, help="of a line in a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count; one more warms up")
    parser.add_argument("--shape", default="tiny", help="of the encoder: tiny, mini or base")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory(prefix="mtdnn-scaling-") as name:
        place = Path(name)
        encoder = save_encoder(place / "encoder", given.shape, made_up_words(20_000))
        works = {
            size: partial(Work(size, place, encoder, batch_size=given.batch_size).measure, given.steps)
            for size in sizes(given.tasks, given.rows)
        }
        rounds = interleaved(works, given.repeats)
    print(report(rounds, batch_size=given.batch_size))
    print(f"\n{given.shape} encoder, batch {given.batch_size}; {given.repeats} rounds of {given.steps} steps a line")


if __name__ == "__main__":
    main()
