"""Prediction speed beside a plain transformers loop: the same rows, batch size and precision, in one process.

    python -m benchmarks.predict_throughput --encoder FOLDER --data DIR [--tasks rte,mrpc] [--split dev] [--repeats 5]

`DIR` holds canonical rows. Plain is `benchmarks.plain_loop`: rows in the order of the file under the default collator,
and the same with rows sorted by length, which few scripts do. Both start from tokenized rows; plain ends with logits,
mtdnn with the records that `mtdnn predict` writes. Every way has a model for each task, with a new head. A round runs
all of them one after another; ratios are medians of the rounds' own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from benchmarks.plain_loop import encode, is_regression, predict, read_rows, wait_for
from benchmarks.rounds import interleaved, median_and_spread, ratios
from mtdnn.columns import table
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.loaders import EvalLoader
from mtdnn.data.prepro import prepare
from mtdnn.data.store import open_store
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.runs.parts import task_types_of
from mtdnn.tokens.loading import load_tokenizer
from mtdnn.training.evaluation import predict_rows

TASKS = "task_defs/glue.yml"
Way = Callable[[], dict[str, float]]
"""Seconds that each task's rows took."""


def plain_ways(given: argparse.Namespace) -> dict[str, Way]:
    """The plain loop at each precision, in the order of the file and sorted by length."""
    tokenizer = AutoTokenizer.from_pretrained(given.encoder)
    prepared = {}
    for task in given.tasks:
        rows = read_rows(given.data / task / f"{given.split}.tsv")[: given.max_rows]
        labels = None if is_regression(rows) else sorted({row.label for row in rows})
        model = AutoModelForSequenceClassification.from_pretrained(
            given.encoder, num_labels=len(labels or [""]), dtype=torch.float32
        )
        prepared[task] = (model.to(given.device), encode(rows, tokenizer, labels, 256))

    def run(bf16: bool, sort_by_length: bool) -> dict[str, float]:
        seconds = {}
        for task, (model, rows) in prepared.items():
            started = time.perf_counter()
            predict(model, rows, tokenizer, bf16=bf16, batch_size=given.batch_size, sort_by_length=sort_by_length)
            wait_for(model.device)
            seconds[task] = time.perf_counter() - started
        return seconds

    return {
        f"plain {precision}{', sorted by length' if sort_by_length else ''}": partial(run, bf16, sort_by_length)
        for precision, bf16 in given.precisions.items()
        for sort_by_length in (False, True)
    }


def our_ways(given: argparse.Namespace, folder: Path) -> dict[str, Way]:
    """This project at each precision, from a prepared store to records."""
    definitions = load_task_defs(TASKS)
    chosen = {task: definitions[task] for task in given.tasks}
    prepare(chosen, data=given.data, encoder=given.encoder, out=folder)
    tokenizer = load_tokenizer(given.encoder)
    types = task_types_of(chosen, tokenizer)
    device = torch.device(given.device)
    prepared = {}
    for task, definition in chosen.items():
        store = open_store(folder, definition, given.split, tokenizer=tokenizer)
        store = store.select(np.arange(len(store))[: given.max_rows])
        loader = EvalLoader(store, types[task], given.batch_size, tokenizer.pad_token_id)
        model = MultiTaskModel(Encoder.from_pretrained(given.encoder), {task: types[task]}).to(device)
        prepared[task] = (model, loader)

    def run(bf16: bool) -> dict[str, float]:
        seconds = {}
        autocast = partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=bf16)
        for task, (model, loader) in prepared.items():
            started = time.perf_counter()
            predict_rows(model, loader, [task], device=device, autocast=autocast)
            wait_for(device)
            seconds[task] = time.perf_counter() - started
        return seconds

    return {f"mtdnn {precision}": partial(run, bf16) for precision, bf16 in given.precisions.items()}


def report(rounds: Mapping[str, Sequence[Mapping[str, float]]], rows: Mapping[str, int]) -> str:
    """A line per way: examples per second of each task and of all, and ratios to plain loops of the same precision."""
    lines = [["way", *(f"{task} rows/s" for task in rows), "all rows/s", "to file order", "to sorted"]]
    totals = {name: [sum(each.values()) for each in found] for name, found in rounds.items()}
    for name, found in rounds.items():
        speeds = [f"{rows[task] / statistics.median(each[task] for each in found):.1f}" for task in rows]
        everything = median_and_spread([sum(rows.values()) / each for each in totals[name]], 1)
        plain = f"plain {name.split()[1].rstrip(',')}"
        compared = [
            median_and_spread(ratios(totals[base], totals[name])) for base in (plain, f"{plain}, sorted by length")
        ]
        lines.append([name, *speeds, everything, *compared])
    return table(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="hub name or folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--tasks", default="rte,mrpc", type=lambda words: words.split(","))
    parser.add_argument("--split", default="dev")
    parser.add_argument("--max-rows", type=int, help="the first ones of each task; default: all")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count; one more warms up")
    parser.add_argument("--precisions", nargs="+", choices=["float32", "bf16"], default=["float32", "bf16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.set_verbosity_error()  # of heads that are new
    given.precisions = {precision: precision == "bf16" for precision in given.precisions}
    with tempfile.TemporaryDirectory(prefix="mtdnn-prediction-") as folder:
        ours = our_ways(given, Path(folder))
        rounds = interleaved({**plain_ways(given), **ours}, given.repeats)
    counted = {task: len(read_rows(given.data / task / f"{given.split}.tsv")[: given.max_rows]) for task in given.tasks}
    print(report(rounds, counted))
    machine = f"{given.threads} threads, {given.device}"
    print(f"\n{given.split} split, batches of {given.batch_size}; {machine}; {given.repeats} rounds")


if __name__ == "__main__":
    main()
