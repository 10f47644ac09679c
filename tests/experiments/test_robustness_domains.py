"""The tables of RTE answered by a head for SNLI: three labels become two, and pairs are by seed."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.outcomes import finished_lines, holm_of
from experiments.robustness.domains import PRIMARY, SECONDARY, document_of, measured_runs, outcomes, with_two_labels
from mtdnn.errors import DataError
from mtdnn.metrics.base import METRICS
from mtdnn.report.document import to_markdown
from mtdnn.runs.folder import RunFolder
from mtdnn.study.inference import holm
from mtdnn.study.table import Line, to_csv

ARMS = ("plain", "SMART", "R-Drop")
SEEDS = ("101", "102", "103")
TRUE = {str(number): ("entailment", "not_entailment")[number % 2] for number in range(30)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of made-up predictions for thirty rows."""
    rng, lines, cells, scale = np.random.default_rng(0), [], [], METRICS.get("accuracy").scale
    for seed in SEEDS:
        for method in ARMS:
            axes, name = {"seed": seed, "method": method}, f"fine_tune/{seed}_{method}"
            folder = RunFolder(tmp_path / "cells" / name / "run")
            folder.predictions.mkdir(parents=True)
            shares = rng.dirichlet([1, 1, 1], size=30)
            labels = ("contradiction", "neutral", "entailment")
            found = [
                {"id": str(number), "label": None, "prediction": "", "scores": dict(zip(labels, each, strict=True))}
                for number, each in enumerate(shares.tolist())
            ]
            folder.prediction_file("rte", "unlabelled").write_text("".join(json.dumps(each) + "\n" for each in found))
            lines.append(
                Line("fine_tune", axes, "finished", "mnli", "dev", 9, "accuracy", 0.5, f"cells/{name}/run", scale)
            )
            cells.append({"name": name, "stage": "fine_tune", "axes": axes})
    (tmp_path / "results.csv").write_text(to_csv(lines, ["seed", "method"]))
    (tmp_path / "study.json").write_text(json.dumps({"study": {}, "axes": [], "cells": cells}))
    return tmp_path


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.3, 0.3, 0.4), "not_entailment"), ((0.1, 0.3, 0.6), "entailment"), ((0.6, 0.1, 0.3), "not_entailment")],
)
def test_entailment_must_be_more_probable_than_the_two_others_together(
    shares: tuple[float, float, float], expected: str
) -> None:
    scores = dict(zip(("contradiction", "neutral", "entailment"), shares, strict=True))
    found = with_two_labels({"id": "0", "label": None, "prediction": "neutral", "scores": scores}, TRUE)
    assert found["prediction"] == expected and found["label"] == "entailment"
    assert found["scores"] == pytest.approx({"not_entailment": shares[0] + shares[1], "entailment": shares[2]})


def test_differences_are_paired_by_seed_and_corrected_by_holm(study: Path) -> None:
    """Accuracy counted again from the predictions."""
    values = measured_runs(study, finished_lines(study), TRUE)
    counted = {arm: [] for arm in ARMS}
    for seed in SEEDS:
        for arm in ARMS:
            file = RunFolder(study / f"cells/fine_tune/{seed}_{arm}/run").prediction_file("rte", "unlabelled")
            found = [json.loads(line) for line in file.read_text().splitlines()]
            right = [(each["scores"]["entailment"] > 0.5) == (TRUE[each["id"]] == "entailment") for each in found]
            counted[arm].append(sum(right) / 30)
    first = outcomes(values, PRIMARY)
    assert [each.name for each in first] == ["SMART − plain", "R-Drop − plain"] * 2
    assert first[1].comparison.t_p == pytest.approx(stats.ttest_rel(counted["R-Drop"], counted["plain"]).pvalue)
    assert holm_of(first) == pytest.approx(holm([each.comparison.t_p for each in first]))
    assert {each.metric for each in outcomes(values, SECONDARY)} == set(SECONDARY)
    assert to_markdown(document_of(values), pictures="").count("SMART − plain") == 4


def test_rows_of_another_file_are_refused(study: Path) -> None:
    with pytest.raises(DataError, match="RTE has no row '0'"):
        measured_runs(study, finished_lines(study), {"rte-train-0": "entailment"})
