"""Prediction for several tasks with an adapter each: one pass with all adapters beside a pass for each task.

    python -m benchmarks.mixed_adapters [--shape mini] [--tasks 4] [--rows 1 4 16 64] [--tokens 24] [--repeats 20]

An encoder of random weights with a LoRA adapter of rank 8 for each task predicts the same rows for all of them. Both
ways take turns. On a CPU `mtdnn/model.py` takes one pass for up to MIXED_TOKENS tokens, which is changed here.
A ratio above 1: one pass is faster.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import torch

from benchmarks.rounds import interleaved, median_and_spread, ratios
from benchmarks.small_encoder import SHAPES, save_encoder
from mtdnn.batch import Batch
from mtdnn.columns import table
from mtdnn.config.options import Named
from mtdnn.config.tasks import task_def_from
from mtdnn.model import MultiTaskModel
from mtdnn.networks.adapters import Adapter
from mtdnn.networks.encoder import Encoder
from mtdnn.task_types.base import TASK_TYPES

WORDS = [f"w{number}" for number in range(1000)]
ONE, EACH = "one pass", "a pass for each"
LIMITS = {ONE: 10**9, EACH: 0}
"""Way → the tokens of a batch up to which there is one pass."""


def model_of(folder: Path, shape: str, tasks: Sequence[str]) -> MultiTaskModel:
    """A model of two-label tasks with an adapter each, ready to predict; the adapters change the outputs.

    Args:
        folder: an empty one, for the encoder.
        shape: of the encoder.
        tasks: names.
    """
    encoder = Encoder.from_pretrained(str(save_encoder(folder / "encoder", shape, WORDS)))
    encoder.adapt(Adapter(Named(name="lora", rank=8, scope="task"), tuple(tasks)), base="encoder", seed=0)
    block = {"task_type": "classification", "labels": ["a", "b"], "inputs": ["text"]}
    types = {name: TASK_TYPES.get("classification")(task_def_from(name, block)) for name in tasks}
    model = MultiTaskModel(encoder, types).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)  # they are 0 before training
    return model


def batch_of(rows: int, tokens: int, vocab_size: int) -> Batch:
    """Rows of so many tokens each."""
    ids = torch.randint(5, vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    inputs = {"input_ids": ids, "mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return Batch("task0", inputs, None, [str(row) for row in range(rows)])


def seconds_of(model: MultiTaskModel, batch: Batch, tasks: Sequence[str], way: str) -> Callable[[], float]:
    """A function that predicts once and returns the seconds that took.

    Args:
        model: of all tasks.
        batch: the rows.
        tasks: names.
        way: one of LIMITS.
    """

    def predict() -> float:
        with mock.patch("mtdnn.model.MIXED_TOKENS", LIMITS[way]):
            start = time.perf_counter()
            model.predict(batch, tasks)
            return time.perf_counter() - start

    return predict


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="mini", help="of the encoder; mini is MiniLM-L6's")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64], help="of a batch")
    parser.add_argument("--tokens", type=int, default=24, help="of a row")
    parser.add_argument("--repeats", type=int, default=20, help="turns of each way")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(words)
    torch.set_num_threads(given.threads)
    tasks = [f"task{number}" for number in range(given.tasks)]
    lines = [["rows", "tokens", f"{ONE}, ms", f"{EACH}, ms", "ratio"]]
    with tempfile.TemporaryDirectory(prefix="mtdnn-mixed-") as folder:
        model = model_of(Path(folder), given.shape, tasks)
        for rows in given.rows:
            batch = batch_of(rows, given.tokens, model.encoder.config.vocab_size)
            ways = {way: seconds_of(model, batch, tasks, way) for way in LIMITS}
            rounds = interleaved(ways, given.repeats)
            times = [f"{1000 * statistics.median(rounds[way]):.1f}" for way in LIMITS]
            gain = median_and_spread(ratios(rounds[EACH], rounds[ONE]))
            lines.append([str(rows), str(rows * given.tokens), *times, gain])
    print(table(lines))
    print(f"\n{given.shape}, {given.tasks} tasks, {given.threads} threads, {given.repeats} turns")


if __name__ == "__main__":
    main()
