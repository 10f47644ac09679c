"""Where a training step's time goes: the operators that take most of it, by PyTorch's profiler.

    python -m benchmarks.step_profile --encoder FOLDER --data DIR [--task rte] [--bf16] [--steps 10] [--threads 1]

`DIR` holds canonical rows. Prints the share of each operator's own time, without that of the operators it calls.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.train_throughput import TASKS, endless
from mtdnn.columns import table
from mtdnn.config.run import load_run_config
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.prepro import prepare
from mtdnn.execution.memory import freed_memory_kept
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.setup import Setup

WARM_UP = 4


def profiled(encoder: str, prepared: str, task: str, *, bf16: bool, steps: int) -> dict[str, float]:
    """Operator → its share of the time of some training steps, the largest first."""
    given = {"tasks": TASKS, "data": prepared, "encoder": encoder, "output": "unused", "train": [task]}
    setup = Setup.of(load_run_config(None, {**given, "batch_size": 16, "precision": "bf16" if bf16 else "float32"}))
    trainer, batches = setup.trainer(RunFolder("unused")), endless(setup)
    trainer.model.train()
    with freed_memory_kept():
        for _ in range(WARM_UP):
            trainer.train_step(next(batches))
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(steps):
                trainer.train_step(next(batches))
    times = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    whole = sum(times.values())
    return {name: times[name] / whole for name in sorted(times, key=lambda name: -times[name])}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="hub name or folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--task", default="rte")
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--most", type=int, default=12, help="operators that are told")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory(prefix="mtdnn-profile-") as folder:
        prepare({given.task: load_task_defs(TASKS)[given.task]}, data=given.data, encoder=given.encoder, out=folder)
        shares = profiled(given.encoder, folder, given.task, bf16=given.bf16, steps=given.steps)
    largest = list(shares.items())[: given.most]
    lines = [[name, f"{share:.1%}"] for name, share in largest]
    rest = ["all others", f"{1 - sum(share for _, share in largest):.1%}"]
    print(table([["operator", "share"], *lines, rest]))


if __name__ == "__main__":
    main()
