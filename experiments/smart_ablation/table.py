"""The tables of the ablation, in Markdown: metric, how sure a method is, what its penalty measured, its say, its cost.

    python -m experiments.smart_ablation.table STUDY-FOLDER [--split dev]

Reads `results.csv` and the logs of the finished cells. p values are those of paired t-tests over the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from data_prep.rows_out import errors_reported
from experiments.outcomes import lines_and_missing
from mtdnn.errors import DataError
from mtdnn.metrics.records import read_records
from mtdnn.report.document import Document, Heading, Place, Table, row, to_markdown
from mtdnn.runs.folder import RunFolder
from mtdnn.study.statistics import compared, main_metrics, spread
from mtdnn.study.table import Line

REFERENCES = ("plain", "r_drop")
TERMS = ("smart", "smart-mtdnn-release", "smart-tuned", "r_drop", "r3f", "vat")
"""Names in the log of the penalties that are measured; `free_lb` changes the loss itself."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("--split", default="dev")
    given = parser.parse_args()
    with errors_reported():
        print(to_markdown(document_of(given.study, given.split), pictures=""), end="")


def document_of(study: Path, split: str) -> Document:
    """A table of each task, of the cells that are finished."""
    lines, _ = lines_and_missing(study, axes=("method", "seed"))
    metrics = main_metrics(lines)
    document = Document(study.name)
    for task in sorted(metrics):
        chosen = [line for line in lines if (line.task, line.split, line.metric) == (task, split, metrics[task])]
        if not chosen:
            raise DataError(f"{study}: {task} has no results of the split '{split}'.")
        document.add(Heading(f"{task}, {metrics[task]}"), of_task(study, chosen))
    return document


def of_task(study: Path, lines: list[Line]) -> Table:
    """One line per method, in the order of the study; how many seeds it has is told where methods differ in it."""
    values: dict[str, dict[str, float]] = defaultdict(dict)
    logs: dict[str, list[dict[str, float]]] = defaultdict(list)
    for line in lines:
        method, seed = line.axes["method"], line.axes["seed"]
        if line.value is not None:
            values[method][seed] = line.value
            run = RunFolder(study / line.run)
            logs[method].append({**from_log(run.path, line.task), **from_predictions(run, line)})
    against = [f"− {name} (p)" for name in REFERENCES]
    spreads = {method: spread(list(by_seed.values())) for method, by_seed in values.items()}
    best = max(found.mean for found in spreads.values())
    unequal = len({found.count for found in spreads.values()}) > 1
    head = ["method", *(["seeds"] if unequal else []), "mean ± sd", *against, "sure", "penalty", "share", "time"]
    rows = []
    for method, by_seed in values.items():
        found, logged = spreads[method], logs[method]
        shown = f"{found.mean:.3f}" + (f" ± {found.std:.3f}" if found.std is not None else "")
        seeds = [str(found.count)] if unequal else []
        differences = [difference(by_seed, values.get(name, {}), method == name) for name in REFERENCES]
        penalty, share = (f"{mean(logged, name):#.2g}" for name in ("penalty", "share"))
        time = f"{mean(logged, 'seconds') / mean(logs['plain'], 'seconds'):.2f}"
        numbers = ["–" if word == "nan" else word for word in (f"{mean(logged, 'sure'):.2f}", penalty, share, time)]
        rows.append([*row(method, *seeds), Place(shown, strong=found.mean == best), *row(*differences, *numbers)])
    return Table(head, rows)


def difference(values: dict[str, float], reference: dict[str, float], itself: bool) -> str:
    """`+0.012 (0.04)`; a dash for the reference itself."""
    found = None if itself else compared(values, reference)
    if found is None:
        return "–"
    p = "" if found.t_p is None else f" ({found.t_p:.2f})" if found.t_p >= 0.01 else f" ({found.t_p:.1g})"
    return f"{found.difference.mean:+.3f}{p}".replace("-", "−")


def from_log(run: Path, task: str) -> dict[str, float]:
    """Of one run: mean penalty over the last half of its steps, mean share of the gradient's norm, seconds per step.

    The share is ‖∇λR‖ / (‖∇L‖ + ‖∇λR‖), of the run's own weights, at the logged steps.
    """
    trained = [line["train"][task] for line in read_lines(run / "log.jsonl") if task in line.get("train", {})]
    found: dict[str, float] = {}
    for name in TERMS:
        penalties = [line[name] for line in trained[len(trained) // 2 :] if name in line]
        shares = [
            line[f"gradient.{name}"] / (line["gradient.task"] + line[f"gradient.{name}"])
            for line in trained
            if line.get(f"gradient.{name}")
        ]
        if penalties:
            found["penalty"] = statistics.mean(penalties)
        if shares:
            found["share"] = statistics.mean(shares)
    seconds = [line["seconds_per_step"] for line in read_lines(run / "timing.jsonl")]
    return {**found, "seconds": statistics.median(seconds)} if seconds else found


def from_predictions(run: RunFolder, line: Line) -> dict[str, float]:
    """Of one run of a task with classes: the mean probability of what it predicts; nothing of one with numbers."""
    records = read_records(run.prediction_file(line.task, line.split))
    sure = [max(record["scores"].values()) for record in records if record["scores"]]
    return {"sure": statistics.mean(sure)} if sure else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def mean(records: list[dict[str, float]], name: str) -> float:
    """Over the runs that have it; NaN of none."""
    values = [record[name] for record in records if name in record]
    return statistics.mean(values) if values else math.nan


if __name__ == "__main__":
    main()
