"""The tables of 20 and 40 % wrong labels: Holm over six tests, shares of the pool by the labels before noise."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.label_noise.rates import POOLS, PRIMARY, SECONDARY, document_of, outcomes
from experiments.outcomes import finished_lines, holm_of
from experiments.wrong_labels import share_lines, values_of
from mtdnn.errors import DataError
from mtdnn.metrics.base import compute
from mtdnn.report.document import to_markdown
from mtdnn.runs.folder import RunFolder
from mtdnn.study.inference import holm
from mtdnn.study.table import lines_of, to_csv
from tests.experiments.test_forgetting_table import records
from tests.experiments.test_overfitting_table import flipped

METRICS = ("accuracy", "auc", "cross_entropy", "cross_entropy_at_best_temperature")
SEEDS = ("101", "102", "103")
TRUE = {each["id"]: each["label"] for each in records(np.random.default_rng(0), 1.0)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of made-up predictions: each run saw the first fifteen of thirty pool rows."""
    rng, lines, cells = np.random.default_rng(0), [], []
    for seed in SEEDS:
        for noise, every in (("0.2", 5), ("0.4", 3)):
            for method, shift in (("plain", 0.8), ("SMART", 1.0)):
                axes = {"seed": seed, "noise": noise, "method": method}
                name = f"fine_tune/{'_'.join(axes.values())}"
                folder = RunFolder(tmp_path / "cells" / name / "run")
                folder.predictions.mkdir(parents=True)
                pool = [each if int(each["id"]) % every else flipped(each) for each in records(rng, 1.0)]
                folder.prediction_file("scitail", POOLS[noise]).write_text(
                    "".join(json.dumps(each) + "\n" for each in pool)
                )
                folder.write_subset_ids("scitail", [str(number) for number in range(15)])
                results = {"dev": compute(METRICS, records(rng, shift)), POOLS[noise]: compute(METRICS, pool)}
                outcome = {"outcome": "finished", "results": {"scitail": results}, "rows": {"scitail": 15}}
                lines += lines_of("fine_tune", axes, outcome, run=f"cells/{name}/run")
                cells.append({"name": name, "stage": "fine_tune", "axes": axes})
    (tmp_path / "results.csv").write_text(to_csv(lines, ["seed", "noise", "method"]))
    (tmp_path / "study.json").write_text(json.dumps({"study": {}, "axes": [], "cells": cells}))
    return tmp_path


def test_the_primary_tests_are_accuracy_auc_and_what_is_memorised_at_both_rates(study: Path) -> None:
    """The share memorised is counted again from the predictions: of 3 and 5 wrong labels that a run saw."""
    lines = finished_lines(study)
    lines += share_lines(study, lines, pools=POOLS, true=TRUE)
    values = values_of(lines)
    first = outcomes(values, PRIMARY)
    assert [(each.name, each.metric) for each in first] == [
        (f"SMART − plain, {rate} % wrong", metric) for rate in (20, 40) for metric in ("accuracy", "auc", "memorised")
    ]
    counted = {method: [] for method in ("plain", "SMART")}
    for seed in SEEDS:
        for method in counted:
            file = RunFolder(study / f"cells/fine_tune/{seed}_0.4_{method}/run").prediction_file(
                "scitail", POOLS["0.4"]
            )
            found = [json.loads(line) for line in file.read_text().splitlines()][:15]
            wrong = [each for each in found if each["label"] != TRUE[each["id"]]]
            assert len(wrong) == 5
            counted[method].append(sum(each["prediction"] == each["label"] for each in wrong) / 5)
    assert first[-1].comparison.t_p == pytest.approx(stats.ttest_rel(counted["SMART"], counted["plain"]).pvalue)
    assert holm_of(first) == pytest.approx(holm([each.comparison.t_p for each in first]))
    assert len(outcomes(values, SECONDARY)) == 2 * 5
    page = to_markdown(document_of(lines), pictures="")
    assert "p corrected by Holm over these 6 tests." in page


def test_the_rows_of_another_pool_are_refused(study: Path) -> None:
    with pytest.raises(DataError, match="row '0' is not among the pool's rows before noise"):
        list(share_lines(study, finished_lines(study), pools=POOLS, true={"x": "neutral"}))
