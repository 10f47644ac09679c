"""The tables of domain adaptation: units are the multi-task runs; a fraction is shown when all its cells are there."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.domain_adaptation.table import PRIMARY, document_of, outcomes, whole
from experiments.outcomes import lines_and_missing
from mtdnn.metrics.base import compute
from mtdnn.report.document import to_markdown
from mtdnn.study.table import lines_of, to_csv
from tests.experiments.test_forgetting_table import records

METRICS = ("accuracy", "auc", "cross_entropy_at_best_temperature")
STARTS = ("encoder", "mt-dnn", "mt-dnn-smart", "mt-dnn-smart, head of mnli")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Made-up predictions: four multi-task runs of each kind; of the larger fraction one cell is still to run."""
    rng, lines, cells = np.random.default_rng(0), [], []

    def add(stage: str, axes: dict, shift: float, task: str, *, finished: bool = True) -> None:
        name = f"{stage}/{'_'.join(axes.values())}"
        cells.append({"name": name, "stage": stage, "axes": axes, "needs": []})
        if finished:
            outcome = {"outcome": "finished", "rows": {}, "results": {}}
            outcome["results"] = {task: {"dev": compute(METRICS, records(rng, shift))}}
            lines.extend(lines_of(stage, axes, outcome, run=f"cells/{name}/run"))

    for upstream in "1234":
        for method in STARTS[1:3]:
            add("multi_task", {"method": method, "seed": upstream}, 1.0, "rte")
        for stage, task in (("fine_tune", "scitail"), ("snli", "snli")):
            for fraction in ("0.001", "0.01"):
                for place, init in enumerate(STARTS):
                    for draw in "12":
                        axes = {"fraction": fraction, "init": init, "upstream": upstream, "draw": draw}
                        last = (stage, fraction, upstream, draw, place) == ("fine_tune", "0.01", "4", "2", 3)
                        add(stage, axes, 0.4 + 0.3 * place, task, finished=not last)
    axes = ["method", "seed", "fraction", "init", "upstream", "draw"]
    (tmp_path / "results.csv").write_text(to_csv(lines, axes))
    (tmp_path / "study.json").write_text(json.dumps({"study": {}, "axes": axes, "cells": cells}))
    return tmp_path


def test_differences_are_paired_by_multi_task_runs(study: Path) -> None:
    lines, missing = lines_and_missing(study)
    found = outcomes(whole(lines, missing), PRIMARY, ["accuracy"])
    assert [each.name for each in found] == [
        "scitail 0.001: mt-dnn − encoder",
        "snli 0.001: mt-dnn − encoder",
        "snli 0.01: mt-dnn − encoder",
        "scitail 0.001: mt-dnn-smart − mt-dnn",
        "snli 0.001: mt-dnn-smart − mt-dnn",
        "snli 0.01: mt-dnn-smart − mt-dnn",
    ]

    def of_units(init: str) -> list[float]:
        values = {
            (line.axes["upstream"], line.axes["draw"]): line.value
            for line in lines
            if (line.stage, line.axes.get("fraction"), line.axes.get("init"), line.metric)
            == ("fine_tune", "0.001", init, "accuracy")
        }
        return [np.mean([values[upstream, draw] for draw in "12"]) for upstream in "1234"]

    comparison = found[3].comparison
    assert comparison.difference.count == 4
    assert comparison.t_p == pytest.approx(stats.ttest_rel(of_units("mt-dnn-smart"), of_units("mt-dnn")).pvalue)


def test_a_fraction_with_an_open_cell_is_in_no_table(study: Path) -> None:
    page = to_markdown(document_of(*lines_and_missing(study)), pictures="")
    assert "snli 0.01" in page and "scitail 0.001" in page and "scitail 0.01:" not in page
    assert page.count("scitail 0.01 ") == 0
    assert "| rte: mt-dnn-smart − mt-dnn | accuracy |" in page
