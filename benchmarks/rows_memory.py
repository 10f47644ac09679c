"""Peak memory of the commands that read a split to its end, by its number of rows, each in a fresh process.

    python -m benchmarks.rows_memory [--rows 1000,100000] [--commands score,evaluate,report] [--shape tiny]

`score` computes all metrics of generated predictions of three labels; `evaluate` predicts generated pair rows by a run
of an encoder with random weights, and writes the predictions; `report` reads those. Memory is the most that lay in
memory, that of the interpreter and its libraries included; seconds are processor time. What a row adds is the
difference between the largest and the smallest number of rows, over the difference of the rows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prepro import LABELS, made_up_words, pair_task, write_rows
from benchmarks.processes import in_fresh_process, peak_resident

COMMANDS = ("score", "evaluate", "report")
TRAIN_ROWS = 64


def in_own_process(words: Sequence[str], threads: int) -> dict[str, Any]:
    """Peak bytes and processor seconds of `mtdnn` with these words, in a fresh process."""
    environment = {"OMP_NUM_THREADS": str(threads)}  # PyTorch is loaded by the commands that need it, not by `score`
    found: dict[str, Any] = in_fresh_process("rows_memory", "run_command", words, environment=environment)
    return found


def run_command(words: Sequence[str]) -> dict[str, Any]:
    """What `in_own_process` returns, of this process."""
    from mtdnn.cli.main import main as mtdnn

    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        status = mtdnn([*words, "--quiet"])
    if status:
        raise SystemExit(f"mtdnn {' '.join(words)} ended with status {status}")
    return {"seconds": time.process_time() - started, "peak": peak_resident()}


def write_predictions(path: Path, rows: int) -> None:
    """Predictions of three labels with random scores."""
    generator = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            scores = generator.dirichlet(np.ones(len(LABELS))).tolist()
            found = dict(zip(LABELS, scores, strict=True))
            record = {"id": f"row-{row}", "prediction": max(found, key=found.__getitem__)}
            label = LABELS[int(generator.integers(len(LABELS)))]
            file.write(json.dumps({**record, "label": label, "scores": found}) + "\n")


def write_pairs(folder: Path, encoder: Path, rows: int) -> Path:
    """The folder of prepared rows: a few to train on, and so many generated ones of the dev split."""
    from mtdnn.config.tasks import load_task_defs
    from mtdnn.data.prepro import prepare

    words = made_up_words(20_000)
    for split, size in (("train", TRAIN_ROWS), ("dev", rows)):
        write_rows(folder / split / "pairs" / "pairs.tsv", size, words)
        (folder / "pairs").mkdir(exist_ok=True)
        (folder / split / "pairs" / "pairs.tsv").rename(folder / "pairs" / f"{split}.tsv")
    tasks = folder / "tasks.yml"
    tasks.write_text(pair_task("pairs", "train", "dev"), encoding="utf-8")
    prepare(load_task_defs(tasks), data=folder, encoder=encoder, out=folder / "prepared")
    return folder / "prepared"


def write_run(folder: Path, encoder: Path, threads: int) -> Path:
    """The folder of a run of one update."""
    data = write_pairs(folder, encoder, TRAIN_ROWS)
    run = folder / "run"
    words = ["--tasks", str(folder / "tasks.yml"), "--data", str(data), "--encoder", str(encoder), "--output", str(run)]
    in_own_process(["train", *words, "--max_steps", "1"], threads)
    return run


def measured(folder: Path, given: argparse.Namespace) -> dict[tuple[str, int], dict[str, Any]]:
    """(command, rows) → what it took."""
    from benchmarks.small_encoder import save_encoder

    found = {}
    run = encoder = None
    if {"evaluate", "report"} & {*given.commands}:
        encoder = save_encoder(folder / "encoder", given.shape, made_up_words(20_000))
        (folder / "train").mkdir()
        run = write_run(folder / "train", encoder, given.threads)
    for rows in given.rows:
        place = folder / str(rows)
        place.mkdir()
        commands: dict[str, list[str]] = {}
        if "score" in given.commands:
            write_predictions(place / "predictions.jsonl", rows)
            commands["score"] = ["score", str(place / "predictions.jsonl")]
        if run and encoder:
            data = write_pairs(place, encoder, rows)
            commands["evaluate"] = ["evaluate", str(run), "--data", str(data)]
            commands["report"] = ["report", str(run)]
        for command, words in commands.items():  # report reads what evaluate writes
            found[command, rows] = in_own_process(words, given.threads)
    return found


def report(found: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """A line per command: peak and processor seconds by number of rows, and what a row adds."""
    from mtdnn.columns import table

    rows = sorted({rows for _, rows in found})
    head = ["command", *(f"{each:,} rows, MiB" for each in rows), *(f"{each:,} rows, s" for each in rows)]
    lines = [[*head, "a row adds, KiB"]]
    for command in dict.fromkeys(command for command, _ in found):
        peaks = [found[command, each]["peak"] for each in rows]
        seconds = [found[command, each]["seconds"] for each in rows]
        added = (peaks[-1] - peaks[0]) / 2**10 / max(1, rows[-1] - rows[0])
        lines.append([command, *(f"{each / 2**20:,.0f}" for each in peaks), *(f"{each:.1f}" for each in seconds)])
        lines[-1].append(f"{added:.2f}")
    return table(lines)


def main() -> None:
    """Make the rows, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000,100000", type=lambda words: [int(word) for word in words.split(",")])
    parser.add_argument("--commands", default=",".join(COMMANDS), type=lambda words: words.split(","))
    parser.add_argument("--shape", default="tiny", help="of the encoder: tiny, mini or base")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    if unknown := {*given.commands} - {*COMMANDS}:
        raise SystemExit(f"--commands: unknown: {', '.join(sorted(unknown))}; known: {', '.join(COMMANDS)}.")
    with tempfile.TemporaryDirectory(prefix="mtdnn-rows-") as name:
        found = measured(Path(name), given)
    wanted = {place: each for place, each in found.items() if place[0] in given.commands}
    print(report(wanted) + f"\n\n{given.shape} encoder; {given.threads} threads; processor seconds")


if __name__ == "__main__":
    main()
