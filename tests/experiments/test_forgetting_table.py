"""The tables of the study of forgetting: units are runs of the first stage, Holm over the primary outcome alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.forgetting.table import COLUMNS, CONTROL, document_of, outcomes
from experiments.outcomes import finished_lines, holm_of
from mtdnn.errors import DataError
from mtdnn.metrics.base import compute
from mtdnn.report.document import to_markdown
from mtdnn.study.inference import holm
from mtdnn.study.statistics import entries
from mtdnn.study.table import lines_of, to_csv

ARMS = ("plain", "momentum", "SMART, sign", CONTROL)
METRICS = {task: tuple(metric for of, metric in COLUMNS if of == task) for task, _ in COLUMNS}


def records(rng: np.random.Generator, shift: float, rows: int = 30) -> list[dict]:
    found = []
    for number in range(rows):
        p = float(1 / (1 + np.exp(-(rng.normal() + shift * (1 if number % 2 else -1)))))
        scores = {"neutral": 1 - p, "entails": p}
        label = ("neutral", "entails")[number % 2]
        found.append({"id": str(number), "label": label, "prediction": max(scores, key=scores.get), "scores": scores})
    return found


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of made-up predictions: four runs of the first stage, two fine-tunings of each by three arms."""
    rng, lines, cells = np.random.default_rng(0), [], []

    def add(stage: str, axes: dict, shift: float, *tasks: str) -> None:
        name = f"{stage}/{'_'.join(axes.values())}"
        results = {task: {"dev": compute(METRICS[task], records(rng, shift))} for task in tasks}
        outcome = {"outcome": "finished", "results": results, "rows": {}}
        lines.extend(lines_of(stage, axes, outcome, run=f"cells/{name}/run"))
        cells.append({"name": name, "stage": stage, "axes": axes})

    for upstream in "1234":
        add("mnli", {"seed": upstream}, 1.0, "mnli")
        for draw in "12":
            for place, method in enumerate(ARMS):
                axes = {"upstream": upstream, "draw": draw, "method": method}
                add("scitail", axes, 0.5 + 0.2 * place, "scitail", "mnli")
    (tmp_path / "results.csv").write_text(to_csv(lines, ["seed", "upstream", "draw", "method"]))
    (tmp_path / "study.json").write_text(json.dumps({"study": {}, "axes": [], "cells": cells}))
    return tmp_path


def test_differences_are_paired_by_runs_of_the_first_stage(study: Path) -> None:
    lines = [line for line in finished_lines(study) if line.axes.get("method") != CONTROL]
    found = entries(lines, compare="method", reference="plain", repeats=("upstream", "draw"))
    tested = outcomes(found, [("mnli", "accuracy")])
    assert [each.name for each in tested] == ["momentum − plain, mnli", "SMART, sign − plain, mnli"]
    values: dict = {}
    for line in lines:
        if line.task == "mnli" and line.metric == "accuracy" and line.stage == "scitail":
            values.setdefault((line.axes["method"], line.axes["upstream"]), []).append(line.value)
    gains = [np.mean(values["momentum", unit]) - np.mean(values["plain", unit]) for unit in "1234"]
    assert tested[0].comparison.difference.count == 4
    assert tested[0].comparison.t_p == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    assert holm_of(tested) == pytest.approx(holm([each.comparison.t_p for each in tested]))


def test_all_tables_are_written(study: Path) -> None:
    lines = finished_lines(study)
    text = to_markdown(document_of(lines), pictures="")
    start = [line.value for line in lines if (line.stage, line.metric) == ("mnli", "accuracy")]
    assert f"| before | {100 * np.mean(start):.1f} ± {100 * np.std(start, ddof=1):.1f} |" in text
    assert text.count("momentum − plain, mnli") == 2 and text.count("momentum − plain, scitail") == 3


def test_an_arm_added_after_the_result_changes_nothing_of_what_was_planned(study: Path) -> None:
    lines = finished_lines(study)
    planned = [line for line in lines if line.axes.get("method") != CONTROL]
    text, alone = (to_markdown(document_of(each), pictures="") for each in (lines, planned))
    heading = "## Added after that result"
    assert heading in text and heading not in alone
    tables = text[text.index("## Primary") : text.index(heading)]
    assert tables.strip() == alone[alone.index("## Primary") :].strip() and CONTROL not in tables
    assert text.count(f"plain − {CONTROL}, mnli") == 2 and text.count(f"momentum − {CONTROL}, scitail") == 3


def test_no_table_is_written_before_the_last_cell(study: Path) -> None:
    whole = (study / "results.csv").read_text().splitlines(keepends=True)
    (study / "results.csv").write_text("".join(whole[:-5]))
    with pytest.raises(DataError, match="1 cells are not finished"):
        finished_lines(study)
