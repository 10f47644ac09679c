"""What each switch for speed is worth alone: training steps as `mtdnn train` takes them, and the same without it.

    python -m benchmarks.switches --encoder FOLDER --data DIR [--task rte] [--bf16] [--steps 4] [--repeats 20]

`DIR` holds canonical rows. A run with all switches and one without each of them take turns at a few steps on the same
batches, each in its own process: what the C library keeps of freed memory depends on all that a process did before.
Ratios are of a step without the switch to the same one with it, turn by turn: 1.10 is a step that takes 10 % longer
without. Those of processor time depend less on what else the machine does. Page faults are those of a step.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.processes import taking_turns
from benchmarks.rounds import interleaved, ratios
from benchmarks.train_throughput import TASKS, endless
from mtdnn.columns import table
from mtdnn.config.run import load_run_config
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.prepro import prepare
from mtdnn.execution.memory import freed_memory_kept
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.setup import Setup

UNTIMED = 6
"""Steps at the beginning, whose memory is new to the process in every case."""


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        given: keys of the run.
        keeps_memory: whether memory that a step frees is kept for the next one.
        keeps_gradient: whether the gradient of the word embeddings is.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    keeps_memory: bool = True
    keeps_gradient: bool = True


WITH = "with all"
WAYS = {
    WITH: Way(),
    "without fast dropout": Way({"execution": {"dropout": "torch"}}),
    "without kept memory": Way(keeps_memory=False),
    "without kept gradient": Way(keeps_gradient=False),
}


@dataclass(frozen=True)
class Cost:
    """What a step took on average: seconds, seconds of the processor, page faults."""

    seconds: float
    processor: float
    faults: float


@contextmanager
def run_of_steps(name: str, given: Mapping[str, object], steps: int, threads: int) -> Iterator[Callable[[], Cost]]:
    """A function that takes some steps of a run; each call continues the last one's.

    Args:
        name: one of WAYS.
        given: keys of the run.
        steps: of a call.
        threads: of PyTorch.
    """
    torch.set_num_threads(threads)
    setup = Setup.of(load_run_config(None, {**given, **WAYS[name].given}))
    trainer, batches = setup.trainer(RunFolder("unused")), endless(setup)
    trainer.model.train()
    if not WAYS[name].keeps_gradient and trainer.updater.table_gradient is not None:
        trainer.updater.table_gradient.close()
        trainer.updater.table_gradient = None

    def take(count: int) -> Cost:
        before = now()
        for _ in range(count):
            trainer.train_step(next(batches))
        return Cost(*((after - start) / count for start, after in zip(before, now(), strict=True)))

    with freed_memory_kept() if WAYS[name].keeps_memory else nullcontext():
        take(UNTIMED)
        yield lambda: take(steps)


def now() -> tuple[float, float, int]:
    """Seconds, seconds of the processor and page faults so far."""
    return time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def report(rounds: Mapping[str, Sequence[Cost]]) -> str:
    """One line per way; ratios to the run with all switches, those of processor time with their quartiles."""
    lines = [["way", "step, s", "time ratio", "processor ratio", "quartiles", "page faults"]]
    for name, costs in rounds.items():
        low, middle, high = quartiles(_ratios(costs, rounds[WITH], "processor"))
        seconds = statistics.median(each.seconds for each in costs)
        faults = statistics.median(each.faults for each in costs)
        time_ratio = statistics.median(_ratios(costs, rounds[WITH], "seconds"))
        numbers = [f"{seconds:.3f}", f"{time_ratio:.3f}", f"{middle:.3f}", f"{low:.3f}–{high:.3f}", f"{faults:,.0f}"]
        lines.append([name, *numbers])
    return table(lines)


def _ratios(mine: Sequence[Cost], base: Sequence[Cost], what: str) -> list[float]:
    return ratios([getattr(each, what) for each in mine], [getattr(each, what) for each in base])


def quartiles(values: Sequence[float]) -> list[float]:
    """The three quartiles; of one value alone, that value."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="hub name or folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--task", default="rte")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16")
    parser.add_argument("--steps", type=int, default=4, help="of a turn")
    parser.add_argument("--repeats", type=int, default=20, help="turns of each way")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="mtdnn-switches-") as folder:
        prepare({given.task: load_task_defs(TASKS)[given.task]}, data=given.data, encoder=given.encoder, out=folder)
        run = {"tasks": TASKS, "data": folder, "encoder": given.encoder, "output": "unused", "train": [given.task]}
        run |= {"batch_size": given.batch_size, "precision": "bf16" if given.bf16 else "float32"}
        with taking_turns(run_of_steps, WAYS, run, given.steps, given.threads) as ways:
            rounds = interleaved(ways, given.repeats, warm_up=False)
    print(report(rounds))
    case = f"{given.task} in {run['precision']}, batches of {given.batch_size}"
    print(f"\n{case}; {given.threads} threads; {given.repeats} turns of {given.steps} steps")


if __name__ == "__main__":
    main()
