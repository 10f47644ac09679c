"""Where a training step's time goes: the operators that take most of it, by PyTorch's profiler.

    python -m benchmarks.step_profile --encoder FOLDER --data DIR [--task rte] [--bf16] [--steps 10] [--threads 1]
    python -m benchmarks.step_profile --device cuda …

`DIR` holds canonical rows. Prints the share of each operator's own time, without that of the operators it calls; on a
GPU the time of the kernels it starts there, and below the table the share of the time in which the GPU computes: the
rest it waits for the host.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

from benchmarks.plain_loop import wait_for
from benchmarks.train_throughput import TASKS, endless
from mtdnn.columns import table
from mtdnn.config.run import load_run_config
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.prepro import prepare
from mtdnn.execution.memory import freed_memory_kept
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.setup import Setup

WARM_UP = 4


def profiled(
    encoder: str, prepared: str, task: str, *, bf16: bool, steps: int, device: str = "cpu"
) -> tuple[dict[str, float], float]:
    """Operator → its share of the time of some training steps, the largest first; and the device's share of all time.

    Of a CPU the latter is 1.
    """
    given = {"tasks": TASKS, "data": prepared, "encoder": encoder, "output": "unused", "train": [task]}
    setup = Setup.of(load_run_config(None, {**given, "batch_size": 16, "precision": "bf16" if bf16 else "float32"}))
    trainer, batches = setup.trainer(RunFolder("unused")), endless(setup)
    trainer.model.train()
    with freed_memory_kept():
        for _ in range(WARM_UP):
            trainer.train_step(next(batches))
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
        wait_for(trainer.accelerator.device)
        with profile(activities=activities) as found:
            started = time.perf_counter()
            for _ in range(steps):
                trainer.train_step(next(batches))
            wait_for(trainer.accelerator.device)
            seconds = time.perf_counter() - started
    own = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    times = {event.key: getattr(event, own) for event in found.key_averages() if not _is_kernel(event)}
    whole = sum(times.values())
    busy = whole / 1e6 / seconds if device == "cuda" else 1.0
    return {name: times[name] / whole for name in sorted(times, key=lambda name: -times[name])}, busy


def _is_kernel(event: FunctionEventAvg) -> bool:
    """Whether this is a kernel itself, whose time its operator has too."""
    return bool(event.device_type == torch.autograd.DeviceType.CUDA)


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
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"  # also where there is a GPU
    with tempfile.TemporaryDirectory(prefix="mtdnn-profile-") as folder:
        prepare({given.task: load_task_defs(TASKS)[given.task]}, data=given.data, encoder=given.encoder, out=folder)
        options = {"bf16": given.bf16, "steps": given.steps, "device": given.device}
        shares, busy = profiled(given.encoder, folder, given.task, **options)
    largest = list(shares.items())[: given.most]
    lines = [[name, f"{share:.1%}"] for name, share in largest]
    rest = ["all others", f"{1 - sum(share for _, share in largest):.1%}"]
    print(table([["operator", "share"], *lines, rest]))
    if given.device == "cuda":
        print(f"\nthe GPU computes {busy:.0%} of the time, with the profiler on")


if __name__ == "__main__":
    main()
