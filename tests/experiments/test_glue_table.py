"""The tables of the small study of GLUE: units over tasks, Holm over the means of the tasks, each pair as named."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.glue.table import AT_BEST, PAIRS, document_of, over_tasks
from experiments.outcomes import finished_lines
from mtdnn.errors import DataError
from mtdnn.metrics.base import compute
from mtdnn.report.document import to_markdown
from mtdnn.study.inference import holm
from mtdnn.study.statistics import main_metrics
from mtdnn.study.table import Line, lines_of, to_csv
from tests.experiments.test_forgetting_table import records

METHODS = tuple(dict.fromkeys(method for pair in PAIRS for method in reversed(pair)))
METRICS = {"rte": ("accuracy", AT_BEST), "mrpc": ("accuracy", "auc", AT_BEST)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of made-up predictions: four units of seven methods on two tasks."""
    rng, lines, cells = np.random.default_rng(0), [], []
    for unit in "1234":
        for task, metrics in METRICS.items():
            for place, method in enumerate(METHODS):
                axes = {"unit": unit, "data_set": task, "method": method}
                name = f"fine_tune/{'_'.join(axes.values())}"
                outcome = {
                    "outcome": "finished",
                    "rows": {},
                    "results": {task: {"dev": compute(metrics, records(rng, 0.3 + 0.1 * place))}},
                }
                lines.extend(lines_of("fine_tune", axes, outcome, run=f"cells/{name}/run"))
                cells.append({"name": name, "stage": "fine_tune", "axes": axes})
    (tmp_path / "results.csv").write_text(to_csv(lines, ["unit", "data_set", "method"]))
    (tmp_path / "study.json").write_text(json.dumps({"study": {}, "axes": [], "cells": cells}))
    return tmp_path


def value(lines: list[Line], unit: str, task: str, method: str) -> float:
    (found,) = (
        line.value
        for line in lines
        if line.axes == {"unit": unit, "data_set": task, "method": method} and line.metric == "accuracy"
    )
    assert found is not None
    return found


def test_a_unit_is_the_mean_of_its_tasks(study: Path) -> None:
    lines = finished_lines(study)
    found = [over_tasks(lines, pair, main_metrics(lines), "accuracy") for pair in PAIRS]
    assert [each.name for each in found][:3] == [
        "SMART − single",
        "SMART − SMART without R_s",
        "SMART − SMART without D_Breg",
    ]
    for (method, reference), outcome in zip(PAIRS, found, strict=True):
        gains = [
            np.mean([value(lines, unit, task, method) - value(lines, unit, task, reference) for task in METRICS])
            for unit in "1234"
        ]
        assert outcome.comparison.difference.mean == pytest.approx(np.mean(gains))
        assert outcome.comparison.t_p == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)


def test_all_tables(study: Path) -> None:
    lines = finished_lines(study)
    page = to_markdown(document_of(lines), pictures="")
    primary = page.split("## Primary outcomes")[1].split("##")[0]
    ps = [over_tasks(lines, pair, main_metrics(lines), "accuracy").comparison.t_p for pair in PAIRS]
    corrected = [float(line.split("|")[7].replace("<", "")) for line in primary.splitlines() if " − " in line]
    assert corrected == pytest.approx(holm(ps), abs=5e-4)
    assert page.count("| rte: ") == page.count("| mrpc: ") == 2 * len(PAIRS)  # the main metric, and at equal confidence
    assert "| method | rte accuracy | mrpc accuracy |" in page


def test_a_study_that_is_not_finished_is_refused(study: Path) -> None:
    plan = json.loads((study / "study.json").read_text())
    plan["cells"].append({"name": "fine_tune/5", "stage": "fine_tune", "axes": {}})
    (study / "study.json").write_text(json.dumps(plan))
    with pytest.raises(DataError, match="1 cells are not finished"):
        finished_lines(study)
