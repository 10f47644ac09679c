"""The frozen tables of the study of wrong labels: the right pairs, Holm over eight, and nothing before the end."""

import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from scipy import stats

from experiments.label_noise.table import (
    CONTROL,
    LONGER,
    bootstrap,
    document_of,
    primary,
    statistic,
    whole_seeds,
)
from experiments.outcomes import finished_lines, holm_of
from mtdnn.errors import DataError
from mtdnn.report.document import to_markdown
from mtdnn.study.inference import bootstrap_over_rows, holm
from mtdnn.study.table import lines_of, to_csv

SEEDS = range(101, 107)
ARMS = ("plain", "SMART", "R-Drop", CONTROL, LONGER)


def records(rng: np.random.Generator, shift: float, rows: int = 40) -> list[dict]:
    found = []
    for number in range(rows):
        label = ("neutral", "entails")[number % 2]
        p = float(1 / (1 + np.exp(-(rng.normal() + shift * (1 if label == "entails" else -1)))))
        scores = {"neutral": 1 - p, "entails": p}
        found.append({"id": str(number), "label": label, "prediction": max(scores, key=scores.get), "scores": scores})
    return found


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of made-up predictions, with its results.csv."""
    from mtdnn.metrics.base import compute

    rng, lines, cells = np.random.default_rng(0), [], []
    metrics = ("accuracy", "auc", "cross_entropy", "cross_entropy_at_best_temperature")
    for seed in SEEDS:
        for noise, shift in (("0", 1.0), ("0.3", 0.3)):
            for place, method in enumerate(ARMS):
                name = f"fine_tune/{seed}_{noise}_{place}"
                found = records(rng, shift + 0.1 * place)
                predictions = tmp_path / "cells" / name / "run/predictions/scitail.dev.jsonl"
                predictions.parent.mkdir(parents=True)
                predictions.write_text("".join(json.dumps(each) + "\n" for each in found))
                axes = {"seed": str(seed), "noise": noise, "method": method}
                outcome = {"outcome": "finished", "results": {"scitail": {"dev": compute(metrics, found)}}, "rows": {}}
                lines += lines_of("fine_tune", axes, outcome, run=f"cells/{name}/run")
                cells.append({"name": name, "stage": "fine_tune", "axes": axes})
    (tmp_path / "results.csv").write_text(to_csv(lines, ["seed", "noise", "method"]))
    (tmp_path / "study.json").write_text(json.dumps({"study": {}, "axes": [], "cells": cells}))
    return tmp_path


def test_the_eight_primary_tests_are_paired_by_seed_and_corrected_by_holm(study: Path) -> None:
    lines = finished_lines(study)
    values: dict = {}
    for line in lines:
        place = (line.metric, line.axes["noise"], line.axes["method"])
        values.setdefault(place, {})[line.axes["seed"]] = line.value
    outcomes = primary(values)
    gains = {
        (noise, metric): [
            values[metric, noise, "SMART"][str(seed)] - values[metric, noise, "plain"][str(seed)] for seed in SEEDS
        ]
        for noise in ("0", "0.3")
        for metric in ("accuracy", "auc")
    }
    by_name = {(each.name, each.metric): each.comparison for each in outcomes}
    assert len(by_name) == 8
    found = by_name["SMART − plain at 30 %", "auc"]
    assert found.t_p == pytest.approx(stats.ttest_1samp(gains["0.3", "auc"], 0).pvalue)
    change = np.subtract(gains["0.3", "accuracy"], gains["0", "accuracy"])
    assert by_name["SMART − plain, 30 % minus 0 %", "accuracy"].t_p == pytest.approx(
        stats.ttest_1samp(change, 0).pvalue
    )
    assert holm_of(outcomes) == pytest.approx(holm([each.comparison.t_p for each in outcomes]))


def test_all_tables_are_written_and_none_before_the_last_cell(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.label_noise.table.bootstrap.__kwdefaults__", {"draws": 20})
    text = to_markdown(document_of(study, finished_lines(study)), pictures="")
    assert text.count("SMART − plain at 30 %") == 4  # two primary, two of cross-entropy
    assert f"SMART − {LONGER} at 30 %" in text and f"{CONTROL} − plain at 0 %" in text
    whole = (study / "results.csv").read_text().splitlines(keepends=True)
    (study / "results.csv").write_text("".join(whole[:-5]))
    with pytest.raises(DataError, match="1 cells are not finished"):
        finished_lines(study)


def test_the_interim_report_has_whole_seeds_and_no_verdict(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.label_noise.table.bootstrap.__kwdefaults__", {"draws": 20})
    lines = (study / "results.csv").read_text().splitlines(keepends=True)
    (study / "results.csv").write_text("".join(lines[:-5]))  # the last seed lacks one cell
    found = whole_seeds(study)
    assert {line.axes["seed"] for line in found} == {str(seed) for seed in SEEDS[:-1]}
    text = to_markdown(document_of(study, found, verdicts=False), pictures="")
    assert "open" not in text and "holds" not in text and text.count("| interim |") == 8 + 36
    (study / "results.csv").write_text("".join(line for line in lines if "101_" in line or line is lines[0]))
    with pytest.raises(DataError, match="fewer than two seeds"):
        whole_seeds(study)


def test_counted_rows_are_rows_drawn_so_often() -> None:
    """The area over rows counted twice is scikit-learn's over rows given twice; ties and missing rows included."""
    rng = np.random.default_rng(0)
    found = records(rng, 0.5)
    found[3]["scores"] = found[8]["scores"]
    counts = rng.integers(0, 3, size=40)
    drawn = [record for record, count in zip(found, counts, strict=True) for _ in range(count)]
    gold, scores = [each["label"] == "entails" for each in drawn], [each["scores"]["entails"] for each in drawn]
    assert statistic(found, "auc")(counts.astype(float)) == pytest.approx(sklearn.metrics.roc_auc_score(gold, scores))
    right = np.mean([each["prediction"] == each["label"] for each in drawn])
    assert statistic(found, "accuracy")(counts.astype(float)) == pytest.approx(right)


def test_the_bootstrap_draws_seeds_and_rows() -> None:
    """Differences of seed s on row r are a_s + b_r: the interval is that of the sum of two independent means."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=20), rng.normal(size=30)
    pairs = [[lambda counts, s=s: s + counts @ b / counts.sum(), lambda counts: 0.0] for s in a]
    mean, low, high = bootstrap(pairs, 30, draws=2000)
    assert mean == pytest.approx(a.mean() + b.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(a.var() / 20 + b.var() / 30), rel=0.1)


def test_of_a_mean_over_rows_the_bootstrap_is_the_library_s() -> None:
    """Both draw units and rows; other draws move an end by a few hundredths of the width."""
    rng = np.random.default_rng(1)
    differences = rng.integers(-1, 2, size=(20, 30)).astype(float)
    pairs = [[lambda counts, of=of: counts @ of / counts.sum(), lambda counts: 0.0] for of in differences]
    (library,) = bootstrap_over_rows([differences])
    mean, low, high = bootstrap(pairs, 30)
    assert mean == pytest.approx(library.mean)
    assert (low, high) == pytest.approx((library.low, library.high), abs=0.05 * (high - low))
