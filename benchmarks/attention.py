"""Attention over packed rows: each value of `execution.attention` on the same batches, forward and backward.

    python -m benchmarks.attention --device cuda [--tasks mrpc,mnli,rte] [--dropout 0,0.1] [--precisions float32,bf16]

Rows have the lengths of GLUE's tasks (see `glue_epoch`); query, key and value are random. "by" is the function that the
value stands for there: a value may stand for another one's. Rounds run all ways one after another on all batches;
ratios, medians of the rounds' own, are to `padded`. What a layout computes once for all layers of a pass (indices of
squares, blocks of a mask) is not in it. On a CPU `auto` and `kernel` are this project's own attention.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.glue_epoch import GLUE, drawn_lengths
from benchmarks.plain_loop import wait_for
from benchmarks.rounds import interleaved, median_and_spread, ratios
from benchmarks.train_throughput import with_peak
from mtdnn.columns import table
from mtdnn.execution.attention import choose_attention
from mtdnn.execution.layout import Layout
from mtdnn.execution.terms import AttentionSettings

WAYS = ("padded", "auto", "kernel", "squares", "flex")
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """A block of the table."""

    task: str
    precision: str
    dropout: float


@dataclass(frozen=True)
class Cost:
    """Seconds of all batches, and bytes at the peak above what was there before; 0 on a CPU."""

    seconds: float
    memory: int = 0


def batches_of(case: Case, given: argparse.Namespace) -> list[tuple[Layout, list[Tensor]]]:
    """Layouts of random rows, with their query, key and value [N, A, D]."""
    device, generator = torch.device(given.device), np.random.default_rng(0)
    torch.manual_seed(0)
    found = []
    for _ in range(given.batches):
        lengths = torch.from_numpy(drawn_lengths(GLUE[case.task], given.rows, generator))
        layout = Layout.of(torch.arange(int(lengths.max())) < lengths[:, None], device)
        shape = (int(lengths.sum()), given.heads, given.size)
        parts = [torch.randn(shape, device=device).to(DTYPES[case.precision]).requires_grad_() for _ in range(3)]
        found.append((layout, parts))
    return found


def chosen(way: str, case: Case, batch: tuple[Layout, list[Tensor]]) -> tuple[Callable[..., Tensor], AttentionSettings]:
    """The function that a value of the switch stands for, and its settings."""
    layout, (query, *_) = batch
    terms = AttentionSettings(layout, query.shape[-1] ** -0.5, case.dropout, None)
    return choose_attention(query, terms, "fast", way), terms


def cost(way: str, case: Case, batches: Sequence[tuple[Layout, list[Tensor]]], device: torch.device) -> Cost:
    """Of a forward and a backward pass over each batch."""

    def run() -> Cost:
        wait_for(device)
        started = time.perf_counter()
        for batch in batches:
            attend, terms = chosen(way, case, batch)
            output = attend(*batch[1], terms)
            output.backward(torch.ones_like(output))  # of a sum, it would be one number, expanded
            for leaf in batch[1]:
                leaf.grad = None
        wait_for(device)
        return Cost(time.perf_counter() - started)

    found, memory = with_peak(device.type, run)
    return replace(found, memory=memory)


def report(rounds: Mapping[str, Sequence[Cost]], names: Mapping[str, str], case: Case) -> list[list[str]]:
    """A line per way; ratios are to the padded square."""
    base = [each.seconds for each in rounds["padded"]]
    lines = []
    for way, costs in rounds.items():
        seconds = [each.seconds for each in costs]
        memory = max(each.memory for each in costs) / 2**20
        lines.append([
            f"{case.task}, {case.precision}, dropout {case.dropout:g}", way, names[way],
            f"{1000 * statistics.median(seconds):,.2f}", median_and_spread(ratios(seconds, base)),
            f"{memory:,.0f}" if memory else "",
        ])  # fmt: skip
    return lines


def measured(case: Case, given: argparse.Namespace) -> list[list[str]]:
    """The lines of a case."""
    batches, device = batches_of(case, given), torch.device(given.device)
    ways = {way: partial(cost, way, case, batches, device) for way in given.ways}
    names = {way: chosen(way, case, batches[0])[0].__name__ for way in given.ways}
    return report(interleaved(ways, given.repeats), names, case)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="mrpc,mnli,rte", type=lambda words: words.split(","), help="of GLUE")
    parser.add_argument("--dropout", default="0,0.1", type=lambda words: [float(word) for word in words.split(",")])
    parser.add_argument("--precisions", default="float32,bf16", type=lambda words: words.split(","))
    parser.add_argument("--ways", default=",".join(WAYS), type=lambda words: words.split(","), help="padded among them")
    parser.add_argument("--rows", type=int, default=32, help="of a batch")
    parser.add_argument("--batches", type=int, default=8, help="of a round")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--size", type=int, default=64, help="of a head")
    parser.add_argument("--repeats", type=int, default=10, help="rounds that count; one more warms up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cases = [Case(*each) for each in ((t, p, d) for t in given.tasks for p in given.precisions for d in given.dropout)]
    lines = [["rows", "attention", "by", "ms", "ratio to padded", "peak memory, MiB"]]
    print(table([*lines, *(line for case in cases for line in measured(case, given))]))
    print(f"\n{given.batches} batches of {given.rows} rows, {given.heads} heads of {given.size}, on {given.device}")


if __name__ == "__main__":
    main()
