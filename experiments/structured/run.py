"""Each structured task on its own, plain transformers scripts beside two of them, and all task types in one run.

    python -m experiments.structured.run --data DATA --encoder all-MiniLM-L6-v2 --out runs/structured

`DATA` is what `rows.py` reads. What is finished is not run again; `--table` only prints.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from datasets import Dataset

import mtdnn.task_types  # noqa: F401  registers them
from experiments.structured.rows import copy_lines, write_rows
from mtdnn.columns import table
from mtdnn.metrics.rankings import accuracy_at_1, mean_average_precision, mrr
from mtdnn.runs.folder import RunFolder
from mtdnn.task_types.base import TASK_TYPES, TaskType

HERE = Path("experiments/structured")
RUNS: dict[str, dict[str, Any]] = {  # beside single.yml
    "conll2003": {},
    "conll2003_crf": {"optimizer.head_lr": 1e-3},
    "squad2": {},
    "wikiqa": {"epochs": 2, "optimizer.lr": 5e-5},
    "wikiqa_pairs": {"epochs": 2, "optimizer.lr": 5e-5},
    "lm": {"epochs": 1, "evaluate_every": 250},
}
PLAIN = {"conll2003": "benchmarks.plain_tagging", "squad2": "benchmarks.plain_span"}
PLAIN_SETTINGS = ("--epochs=3", "--batch-size=16", "--lr=1e-4", "--seed=1", "--bf16")
STOP_AFTER = 100
"""Steps of the run of nine tasks before it is told to stop, to be resumed."""
ROWS_IN_EVERY_FORMAT = 40


def carry_out(*words: str) -> None:
    """One mtdnn command in a process of its own, so that its memory is given back."""
    subprocess.run([sys.executable, "-m", "mtdnn", *words], check=True)


def prepare(data: Path, encoder: str, out: Path) -> None:
    """Rows and prepared rows below `out`."""
    write_rows(data, out / "rows")
    places = ("--data", str(out / "rows"), "--encoder", encoder, "--out", str(out / "prepared"))
    carry_out("prepro", str(HERE / "tasks.yml"), *places)


def places_of(encoder: str, out: Path, name: str) -> tuple[str, ...]:
    return (f"--data={out / 'prepared'}", f"--encoder={encoder}", f"--output={out / name}")


def single(encoder: str, out: Path, task: str) -> None:
    """One task on its own."""
    if not RunFolder(out / task).results_file.exists():
        options = [f"--{key}={value}" for key, value in RUNS[task].items()]
        carry_out(
            "train", str(HERE / "single.yml"), "--resume", f"--train={task}", *places_of(encoder, out, task), *options
        )


def plain(encoder: str, out: Path, task: str) -> None:
    """The plain script's one line."""
    path = out / "plain" / f"{task}.json"
    if path.exists():
        return
    words = [sys.executable, "-m", PLAIN[task], "--encoder", encoder, "--data", str(out / "rows"), *PLAIN_SETTINGS]
    found = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(found.splitlines()[-1] + "\n", encoding="utf-8")


def nine(encoder: str, out: Path) -> None:
    """All task types in one run, stopped in the middle and resumed, then predicted from rows of every format."""
    folder = out / "nine"
    words = [str(HERE / "nine.yml"), "--resume", *places_of(encoder, out, "nine")]
    if not RunFolder(folder).results_file.exists():
        first = subprocess.Popen([sys.executable, "-m", "mtdnn", "train", *words])
        while first.poll() is None and steps_done(folder) < STOP_AFTER:
            time.sleep(1)
        first.send_signal(signal.SIGTERM)
        first.wait()
        print(f"stopped after step {steps_done(folder)}, exit status {first.returncode}", flush=True)
        carry_out("train", *words)
    predict_all(folder, out / "rows")


def predict_all(folder: Path, rows: Path) -> None:
    """Predictions of every task of a run for the first dev rows in every format, and their metrics anew."""
    trained = RunFolder(folder).read_config().train or ()
    for name, task in RunFolder(folder).read_tasks().items():
        if name not in trained:
            continue
        source = next((rows / name).glob("dev.*"))
        for path in in_every_format(source, TASK_TYPES.get(task.task_type)(task), rows / "formats" / name):
            predicted = folder / "predicted" / f"{name}{path.suffix}.jsonl"
            predicted.parent.mkdir(exist_ok=True)
            if not predicted.exists():
                carry_out("predict", str(folder), "--task", name, "--input", str(path), "--output", str(predicted))
                carry_out("score", str(predicted))


def in_every_format(source: Path, task_type: TaskType, folder: Path) -> list[Path]:
    """The first rows of a file as .tsv (.txt), .jsonl, .csv and .parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    first = folder / source.name
    copy_lines(source, first, ROWS_IN_EVERY_FORMAT)
    columns = task_type.columns
    lines = enumerate(first.read_text(encoding="utf-8").splitlines(), 1)
    is_text = source.suffix == ".txt"  # its rows go by the number of their line
    rows = [[str(number), line] if is_text else line.split("\t") for number, line in lines if line]
    before = len(columns) - 1
    last = [row[before:] if task_type.repeats_last and task_type.group_by is None else row[before] for row in rows]
    named = [{**dict(zip(columns, row, strict=False)), columns[-1]: end} for row, end in zip(rows, last, strict=True)]
    data = Dataset.from_list(named)
    data.to_json(folder / "dev.jsonl")
    data.to_parquet(folder / "dev.parquet")
    in_cells = [{key: json.dumps(v) if isinstance(v, list) else v for key, v in row.items()} for row in named]
    Dataset.from_list(in_cells).to_csv(folder / "dev.csv")
    return [first, *(folder / f"dev.{suffix}" for suffix in ("jsonl", "csv", "parquet"))]


def steps_done(folder: Path) -> int:
    """By the log, which is written every few steps."""
    log = folder / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return max((json.loads(line).get("step", 0) for line in lines), default=0)


def ranked(predictions: Path, pairs: Path) -> dict[str, float]:
    """Ranking metrics of a classifier's probabilities of "1", over the sentences of each question."""
    questions = {row[0]: row[2] for row in (line.split("\t") for line in pairs.read_text("utf-8").splitlines())}
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in predictions.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        groups[questions[record["id"]]].append(record)
    records = []
    for group in groups.values():
        best_first = sorted(group, key=lambda record: -record["scores"]["1"])
        label = {record["id"]: float(record["label"]) for record in group}
        if any(label.values()):
            records.append({"prediction": [record["id"] for record in best_first], "label": label})
    measures = {"map": mean_average_precision, "mrr": mrr, "accuracy_at_1": accuracy_at_1}
    return {name: measure(records, ()) for name, measure in measures.items()}


def evaluations(folder: Path, task: str, metric: str) -> list[tuple[int, float]]:
    """(step, value on dev) of every evaluation."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line["evaluation"][task]["dev"][metric]) for line in lines if "evaluation" in line]


def results(out: Path) -> str:
    """The tables of what is there."""
    lines = [["task", "metric", "plain script", "mtdnn"]]
    for task in RUNS:
        folder = RunFolder(out / task)
        if not folder.results_file.exists():
            continue
        ours = folder.read_results()[task]["dev"]
        if task == "wikiqa_pairs":
            ours = ranked(folder.path / "predictions" / "wikiqa_pairs.dev.jsonl", out / "rows" / task / "dev.tsv")
        path = out / "plain" / f"{task}.json"
        theirs = json.loads(path.read_text(encoding="utf-8"))["metrics"] if path.exists() else {}
        for metric, value in ours.items():
            if metric != "rows":
                lines.append([task, metric, f"{theirs[metric]:.3f}" if metric in theirs else "", f"{value:.3f}"])
    parts = [table(lines)]
    if (out / "lm" / "log.jsonl").exists():
        found = evaluations(out / "lm", "lm", "perplexity")
        parts.append(table([["step", "perplexity"], *([str(step), f"{value:.1f}"] for step, value in found)]))
    nine_results = RunFolder(out / "nine").read_results()
    if nine_results:
        lines = [["in one model", "metric", "dev"]]
        for task in (name for name in nine_results if not name.startswith("_")):
            found = nine_results[task]["dev"]
            lines += [[task, metric, f"{found[metric]:.3f}"] for metric in found if metric != "rows"]
        parts.append(table(lines))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--encoder", help="hub name or folder")
    parser.add_argument("--out", type=Path, default=Path("runs/structured"))
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    given = parser.parse_args()
    if not given.table:
        if given.data is None or given.encoder is None:
            parser.error("--data and --encoder are needed")
        prepare(given.data, given.encoder, given.out)
        nine(given.encoder, given.out)
        for task in RUNS:
            single(given.encoder, given.out, task)
            if task in PLAIN:
                plain(given.encoder, given.out, task)
    print(results(given.out))


if __name__ == "__main__":
    main()
