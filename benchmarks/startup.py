"""From a prepared store to the first step of training, in a fresh process, beyond importing PyTorch; and `--help`.

    python -m benchmarks.startup [--rows 10000,1000000] [--shape mini] [--repeats 5]

The store is made here, from generated pair rows, with an encoder of random weights. A process does what `mtdnn train`
does up to its first update and notes the time of each part; parts are medians over fresh processes, which take turns
between the numbers of rows. Files lie in the cache of the system, as they do when one run follows another. Memory is
the most that lay in memory up to the first step, and after importing PyTorch alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.processes import in_fresh_process, peak_resident
from benchmarks.rounds import interleaved, median_and_spread

PARTS = ("import torch", "import of training", "read and build", "folder and log", "first batch", "first update")


def start(folder: str, encoder: str, output: str, threads: int) -> dict[str, Any]:
    """Seconds of each part of a start, and peak bytes; to be called in a fresh process."""
    moments = [time.perf_counter()]
    import torch

    moments.append(time.perf_counter())
    with_torch = peak_resident()
    torch.set_num_threads(threads)
    from mtdnn.config.run import load_run_config
    from mtdnn.runs.folder import RunFolder
    from mtdnn.runs.setup import Setup
    from mtdnn.training.recorder import Recorder

    moments.append(time.perf_counter())
    given = {"tasks": f"{folder}/tasks.yml", "data": f"{folder}/prepared", "encoder": encoder, "output": output}
    setup = Setup.of(load_run_config(None, {**given, "batch_size": 16}))
    moments.append(time.perf_counter())
    run = RunFolder(output)
    run.claim(setup.config, setup.tasks, resume=False)
    recorder = Recorder(run.path, step=0)
    trainer = setup.trainer(run, recorder)
    trainer.model.train()
    moments.append(time.perf_counter())
    setup.loader.set_epoch(0)
    parts = next(iter(setup.loader.from_step(0)))
    moments.append(time.perf_counter())
    trainer.train_step(parts)
    moments.append(time.perf_counter())
    recorder.close()
    seconds = [end - begin for begin, end in pairwise(moments)]
    return {"seconds": seconds, "with_torch": with_torch, "peak": peak_resident()}


def help_seconds() -> dict[str, float]:
    """Seconds of `mtdnn --help`, and of a Python that does nothing."""
    commands = {"mtdnn --help": ["-m", "mtdnn", "--help"], "python": ["-c", "pass"]}
    found = {}
    for name, words in commands.items():
        started = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        found[name] = time.perf_counter() - started
    return found


def report(rounds: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """A column per number of rows: each part, their sum without importing PyTorch, and memory."""
    from mtdnn.columns import table

    lines = [["", *(f"{rows:,} rows" for rows in rounds)]]
    for number, part in enumerate(PARTS):
        seconds = ([each["seconds"][number] for each in found] for found in rounds.values())
        lines.append([f"{part}, s", *map(median_and_spread, seconds)])
    beyond = ([sum(each["seconds"][1:]) for each in found] for found in rounds.values())
    lines.append(["beyond importing torch, s", *map(median_and_spread, beyond)])
    for key, name in (("with_torch", "memory with torch, MiB"), ("peak", "peak memory, MiB")):
        found = (statistics.median(each[key] for each in found) / 2**20 for found in rounds.values())
        lines.append([name, *(f"{each:,.0f}" for each in found)])
    return table(lines)


def main() -> None:
    """Make the stores, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,1000000", type=lambda words: [int(word) for word in words.split(",")])
    parser.add_argument("--shape", default="mini", help="of the encoder: tiny, mini or base")
    parser.add_argument("--repeats", type=int, default=5, help="processes that count; one more warms up")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    from benchmarks.prepro import made_up_words
    from benchmarks.small_encoder import prepare_tasks, save_encoder

    with tempfile.TemporaryDirectory(prefix="mtdnn-startup-") as name:
        place = Path(name)
        encoder = save_encoder(place / "encoder", given.shape, made_up_words(20_000))
        outputs = (str(place / f"run-{number}") for number in range(10**6))
        ways = {}
        for rows in given.rows:
            prepare_tasks(place / str(rows), encoder, {"pairs": rows})
            ways[rows] = partial(_fresh_start, str(place / str(rows)), str(encoder), outputs, given.threads)
        rounds = interleaved(ways, given.repeats)
        helped = interleaved({"help": help_seconds}, given.repeats)["help"]
    print(report(rounds))
    for command in helped[0]:
        print(f"\n{command}: {median_and_spread([each[command] for each in helped])} s", end="")
    print(f"\n\n{given.shape} encoder, batch 16; {given.threads} threads; {given.repeats} rounds")


def _fresh_start(folder: str, encoder: str, outputs: Any, threads: int) -> dict[str, Any]:
    return in_fresh_process("startup", "start", folder, encoder, next(outputs), threads)


if __name__ == "__main__":
    main()
