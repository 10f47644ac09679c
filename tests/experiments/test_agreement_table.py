"""The tables of divided annotators: pairs by seed, cross-entropy to the votes over all rows and over divided ones."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.agreement.table import (
    ACCURACY,
    ALL,
    CE,
    DIVIDED,
    LABELS,
    LONGER,
    TEMPERED,
    document_of,
    equal_time,
    measured_runs,
    primary,
    secondary,
    value_of,
)
from experiments.outcomes import finished_lines, holm_of
from mtdnn.errors import DataError
from mtdnn.metrics.base import METRICS
from mtdnn.report.agreement import Agreement
from mtdnn.report.document import to_markdown
from mtdnn.runs.folder import RunFolder
from mtdnn.study.inference import holm
from mtdnn.study.table import Line, to_csv

ARMS = {"plain": 2.0, "SMART": 1.0, "D_Breg alone": 1.5, LONGER: 3.0}
"""Arm → how sure its made-up predictions are."""
VOTES = ("nnnnn", "nnnnc", "eeecc", "ccccc", "ennec", "eeeee")
SEEDS = ("101", "102", "103")


def votes_of(number: int) -> list[str]:
    words = {word[0]: word for word in LABELS}
    return [words[letter] for letter in VOTES[number % len(VOTES)]]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of made-up predictions for twenty rows with a majority label and four without."""
    rng, lines, cells, scale = np.random.default_rng(0), [], [], METRICS.get("accuracy").scale
    for seed in SEEDS:
        for method, sure in ARMS.items():
            name = f"fine_tune/{seed}_{method}"
            folder = RunFolder(tmp_path / "cells" / name / "run")
            folder.predictions.mkdir(parents=True)
            for split, rows in (("dev", range(20)), ("dev_nogold", range(20, 24))):
                text = "".join(json.dumps(predicted(rng, number, sure)) + "\n" for number in rows)
                folder.prediction_file("snli", split).write_text(text)
            axes = {"seed": seed, "method": method}
            lines.append(
                Line("fine_tune", axes, "finished", "snli", "dev", 9, "accuracy", 0.5, f"cells/{name}/run", scale)
            )
            cells.append({"name": name, "stage": "fine_tune", "axes": axes})
    (tmp_path / "results.csv").write_text(to_csv(lines, ["seed", "method"]))
    (tmp_path / "study.json").write_text(json.dumps({"study": {}, "axes": [], "cells": cells}))
    return tmp_path


def predicted(rng: np.random.Generator, number: int, sure: float) -> dict:
    shares = np.exp(sure * (rng.normal(size=3) + [votes_of(number).count(label) / 2 for label in LABELS]))
    scores = dict(zip(LABELS, (shares / shares.sum()).tolist(), strict=True))
    return {"id": str(number), "label": None, "prediction": max(scores, key=scores.get), "scores": scores}


def test_rows_are_weighed_alike_whatever_their_votes() -> None:
    """Three rows that all agree on, with 1.0 right and a cross-entropy of 0.2; one divided, with 0 and 1.0."""
    groups = [Agreement("5/0/0", 3, 1.0, 0.2, 0.0, 1.5, 0.3), Agreement("3/2/0", 1, 0.0, 1.0, 0.673, 1.5, 0.9)]
    assert value_of(groups, ACCURACY, ALL) == 0.75
    assert value_of(groups, CE, ALL) == pytest.approx((3 * 0.2 + 1.0) / 4)
    assert value_of(groups, TEMPERED, ALL) == pytest.approx((3 * 0.3 + 0.9) / 4)
    assert value_of(groups, TEMPERED, DIVIDED) == 0.9


def test_the_primary_tests_are_paired_by_seed_over_both_splits(study: Path) -> None:
    """Counted again from the predictions: accuracy, and the cross-entropy as it is on divided rows."""
    annotators = {str(number): votes_of(number) for number in range(24)}
    measured = measured_runs(study, finished_lines(study), annotators)
    first = primary(measured)
    assert [(each.name, each.metric) for each in first] == [
        ("SMART − plain, all rows", ACCURACY),
        ("SMART − plain, all rows", TEMPERED),
        ("SMART − plain, divided rows", TEMPERED),
    ]
    right, distance = ({arm: [] for arm in ARMS} for _ in range(2))
    for seed in SEEDS:
        for arm in ARMS:
            folder = RunFolder(study / f"cells/fine_tune/{seed}_{arm}/run")
            texts = (folder.prediction_file("snli", split).read_text() for split in ("dev", "dev_nogold"))
            found = [json.loads(line) for text in texts for line in text.splitlines()]
            counts = [[votes_of(int(each["id"])).count(label) for label in LABELS] for each in found]
            right[arm].append(
                sum(of[LABELS.index(each["prediction"])] == max(of) for of, each in zip(counts, found, strict=True))
                / 24
            )
            distances = [
                -sum(votes / 5 * math.log(each["scores"][label]) for votes, label in zip(of, LABELS, strict=True))
                for of, each in zip(counts, found, strict=True)
                if max(of) < 5
            ]
            distance[arm].append(sum(distances) / len(distances))
    assert first[0].comparison.t_p == pytest.approx(stats.ttest_rel(right["SMART"], right["plain"]).pvalue)
    assert holm_of(first) == pytest.approx(holm([each.comparison.t_p for each in first]))
    (raw,) = [each for each in secondary(measured) if (each.name, each.metric) == ("SMART − plain, divided rows", CE)]
    assert raw.comparison.difference.mean == pytest.approx(np.mean(np.subtract(distance["SMART"], distance["plain"])))
    timed = equal_time(measured)
    assert timed[0].comparison.t_p == pytest.approx(stats.ttest_rel(right["SMART"], right[LONGER]).pvalue)
    assert not any(LONGER in each.name for each in secondary(measured))
    page = to_markdown(document_of(measured), pictures="")
    assert page.count("p corrected by Holm over these 3 tests.") == 2
    assert "| 5/0/0 | 12 |" in page and "D_Breg alone − plain, all rows" in page


def test_another_annotators_file_is_refused(study: Path) -> None:
    with pytest.raises(DataError, match="no predicted row is in the annotators' file"):
        measured_runs(study, finished_lines(study), {"other": ["neutral"] * 5})
