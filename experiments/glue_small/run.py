"""Single-task runs, one multi-task run and the plain transformers loop on four small GLUE tasks, and their table.

    python -m experiments.glue_small.run --data DATA --encoder all-MiniLM-L6-v2 --out runs/glue_small

`DATA` holds cola, mrpc, rte and stsb as canonical rows. What is finished is not run again; `--table` only prints.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtdnn.cli.main import main as mtdnn
from mtdnn.columns import table
from mtdnn.config.tasks import load_task_defs
from mtdnn.runs.folder import RunFolder

HERE = Path("experiments/glue_small")
TASKS = "task_defs/glue.yml"
EPOCHS = {"rte": 5, "mrpc": 3, "stsb": 3, "cola": 3}
SEEDS = {"rte": (0, 1, 2), "mrpc": (0,), "stsb": (0,), "cola": (0,)}
SETTINGS: dict[str, Any] = {"batch_size": 16, "lr": 5e-5, "bf16": True}


def carry_out(*words: str) -> None:
    """One mtdnn command in a process of its own, so that its memory is given back."""
    subprocess.run([sys.executable, "-m", "mtdnn", *words], check=True)


def plain(data: Path, encoder: str, out: Path, task: str, seed: int) -> None:
    """The plain loop's result as a JSON file."""
    path = out / "plain" / f"{task}-{seed}.json"
    if path.exists():
        return
    from benchmarks.plain_loop import train_plain

    result = train_plain(encoder=encoder, data=data, task=task, epochs=EPOCHS[task], seed=seed, **SETTINGS)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(asdict(result)) + "\n", encoding="utf-8")
    beside.replace(path)


def single(prepared: Path, encoder: str, out: Path, task: str, seed: int) -> None:
    """One task on its own."""
    folder = out / f"{task}-{seed}"
    if not RunFolder(folder).results_file.exists():
        carry_out(
            "train", str(HERE / "single.yml"), "--resume", f"--data={prepared}", f"--encoder={encoder}",
            f"--output={folder}", f"--train={task}", f"--seed={seed}", f"--epochs={EPOCHS[task]}",
        )  # fmt: skip


def together(prepared: Path, encoder: str, out: Path, seed: int) -> None:
    """All four tasks in one model."""
    folder = out / f"together-{seed}"
    if not RunFolder(folder).results_file.exists():
        places = (f"--data={prepared}", f"--encoder={encoder}", f"--output={folder}", f"--seed={seed}")
        carry_out("train", str(HERE / "together.yml"), "--resume", *places)


def last_metric(folder: Path, task: str, split: str, metric: str) -> float:
    """A dev metric after the last step, as the plain loop measures it, rather than at the best evaluation."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluations = [line["evaluation"] for line in lines if "evaluation" in line]
    return float(evaluations[-1][task][split][metric])


def spread(values: list[float]) -> str:
    """`0.592` of one seed, `0.592 ± 0.010` of several (sample standard deviation)."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def results(out: Path) -> str:
    """One line per task and metric: plain loop, single-task runs, the multi-task run."""
    definitions = load_task_defs(TASKS)
    lines = [["task", "metric", "seeds", "plain loop", "mtdnn alone", "mtdnn together", "together - alone"]]
    for task, seeds in SEEDS.items():
        for metric in definitions[task].metrics:
            yardstick = [
                json.loads((out / "plain" / f"{task}-{seed}.json").read_text())["metrics"][metric] for seed in seeds
            ]
            alone = [last_metric(out / f"{task}-{seed}", task, "dev", metric) for seed in seeds]
            joint = last_metric(out / "together-0", task, "dev", metric)
            words = [spread(yardstick), spread(alone), f"{joint:.3f}", f"{joint - statistics.mean(alone):+.3f}"]
            lines.append([task, metric, str(len(seeds)), *words])
    return table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--encoder", required=True, help="hub name or folder")
    parser.add_argument("--out", type=Path, default=Path("runs/glue_small"))
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    words = parser.parse_args()
    if not words.table:
        prepared = words.out / "prepared"
        names = ",".join(SEEDS)
        places = ("--data", str(words.data), "--encoder", words.encoder, "--out", str(prepared), "--tasks", names)
        if mtdnn(["prepro", TASKS, *places]):
            sys.exit(2)
        for task, seeds in SEEDS.items():
            for seed in seeds:
                plain(words.data, words.encoder, words.out, task, seed)
                single(prepared, words.encoder, words.out, task, seed)
        together(prepared, words.encoder, words.out, 0)
    print(results(words.out))


if __name__ == "__main__":
    main()
