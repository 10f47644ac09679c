"""Metrics against scikit-learn and SciPy on random records, and against hand-worked cases."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from mtdnn.errors import ConfigError, DataError
from mtdnn.metrics.base import (
    CORRELATION,
    LOSS,
    METRICS,
    RATE,
    Metric,
    Scale,
    Scales,
    applicable,
    compute,
    selection_faults,
)
from mtdnn.metrics.labels import NAMES

YES_NO = ("no", "yes")
NLI = ("contradiction", "neutral", "entailment")
ROUNDING = {"rel": 1e-12, "abs": 1e-12}  # the same formula in float64


def named(label: str | None, prediction: str, scores: dict[str, float] | None = None) -> dict[str, Any]:
    if scores is None:
        scores = {name: float(name == prediction) for name in YES_NO}
    return {"id": "r", "prediction": prediction, "label": label, "scores": scores}


def number(label: float | None, prediction: float) -> dict[str, Any]:
    return {"id": "r", "prediction": prediction, "label": label, "scores": {}}


def random_named(labels: tuple[str, ...], rows: int = 200, seed: int = 0) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Records whose gold label is drawn from a sharpened copy of the predicted probabilities."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(len(labels)), size=rows)
    gold = [rng.choice(len(labels), p=p**2 / (p**2).sum()) for p in probabilities]
    records = [
        named(labels[g], labels[p.argmax()], dict(zip(labels, p.tolist(), strict=True))) | {"id": str(i)}
        for i, (p, g) in enumerate(zip(probabilities, gold, strict=True))
    ]
    return records, probabilities


def columns(records: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    return [record["label"] for record in records], [record["prediction"] for record in records]


def test_metrics_of_two_labels_equal_scikit_learn() -> None:
    records, _ = random_named(YES_NO)
    gold, predicted = columns(records)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(gold, predicted),
        "f1": sklearn.metrics.f1_score(gold, predicted, pos_label="yes"),
        "precision": sklearn.metrics.precision_score(gold, predicted, pos_label="yes"),
        "recall": sklearn.metrics.recall_score(gold, predicted, pos_label="yes"),
        "mcc": sklearn.metrics.matthews_corrcoef(gold, predicted),
    }
    assert compute(list(expected), records) == pytest.approx(expected, **ROUNDING)


def test_metrics_of_three_labels_equal_scikit_learn() -> None:
    records, probabilities = random_named(NLI)
    gold, predicted = columns(records)
    by_alphabet = [NLI.index(name) for name in sorted(NLI)]  # log_loss takes its columns sorted by label
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(gold, predicted),
        "f1_macro": sklearn.metrics.f1_score(gold, predicted, average="macro"),
        "f1_micro": sklearn.metrics.f1_score(gold, predicted, average="micro"),
        "mcc": sklearn.metrics.matthews_corrcoef(gold, predicted),
        "cross_entropy": sklearn.metrics.log_loss(gold, probabilities[:, by_alphabet], labels=sorted(NLI)),
    }
    assert compute(list(expected), records) == pytest.approx(expected, **ROUNDING)


def test_metrics_of_numbers_equal_scipy_and_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 6, size=100).astype(float)  # ties, as in STS-B
    predicted = gold + rng.normal(size=100)
    records = [number(float(g), float(p)) for g, p in zip(gold, predicted, strict=True)]
    expected = {
        "pearson": scipy.stats.pearsonr(gold, predicted).statistic,
        "spearman": scipy.stats.spearmanr(gold, predicted).statistic,
        "mse": sklearn.metrics.mean_squared_error(gold, predicted),
        "mae": sklearn.metrics.mean_absolute_error(gold, predicted),
    }
    assert compute(list(expected), records) == pytest.approx(expected, **ROUNDING)


def test_hand_worked_confusion_of_two_labels() -> None:
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
    records = [named("yes", "yes")] * 3 + [named("no", "yes")] + [named("yes", "no")] * 2 + [named("no", "no")] * 4
    expected = {
        "accuracy": 7 / 10,
        "precision": 3 / 4,
        "recall": 3 / 5,
        "f1": 6 / 9,
        "mcc": (3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6),
    }
    assert compute(list(expected), records) == pytest.approx(expected, **ROUNDING)


def test_the_positive_label_is_the_second_declared_one() -> None:
    records = [named("yes", "yes"), named("no", "yes"), named("no", "no"), named("no", "no")]
    assert compute(["f1"], records)["f1"] == pytest.approx(2 / 3)
    assert compute(["f1"], records, labels=["yes", "no"])["f1"] == pytest.approx(4 / 5)


def test_hand_worked_calibration_error() -> None:
    scores = {"no": 0.2, "yes": 0.8}
    records = [named("yes", "yes", scores)] * 3 + [named("no", "yes", scores)]  # confidence 0.8, accuracy 0.75
    records += [named("no", "no", {"no": 1.0, "yes": 0.0})] * 4  # confidence 1, accuracy 1
    assert compute(["ece"], records)["ece"] == pytest.approx(0.05 * 4 / 8)


def test_the_area_under_the_curve_equals_scikit_learn() -> None:
    two, of_two = random_named(YES_NO)
    gold = [record["label"] == "yes" for record in two]
    assert compute(["auc"], two)["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(gold, of_two[:, 1]), **ROUNDING)
    three, of_three = random_named(NLI)
    numbers = [NLI.index(record["label"]) for record in three]
    expected = sklearn.metrics.roc_auc_score(numbers, of_three, multi_class="ovr", average="macro")
    assert compute(["auc"], three)["auc"] == pytest.approx(expected, **ROUNDING)


def test_hand_worked_area_under_the_curve() -> None:
    """Of the six pairs of a "yes" and a "no" row four are in order and one is tied: (4 + ½) / 6."""
    shares = [("yes", 0.9), ("yes", 0.6), ("yes", 0.2), ("no", 0.6), ("no", 0.1)]
    records = [named(label, "yes", {"no": 1 - p, "yes": p}) for label, p in shares]
    assert compute(["auc"], records)["auc"] == pytest.approx(4.5 / 6)
    assert compute(["auc"], records[:3])["auc"] == 0.5  # one label alone has no order


@pytest.mark.parametrize("name", ["cross_entropy", "cross_entropy_at_best_temperature", "ece"])
@pytest.mark.parametrize("logit", [1.5, -0.1, 10**30])
def test_logits_are_not_taken_for_probabilities(name: str, logit: float) -> None:
    with pytest.raises(DataError, match="a probability, 0 to 1, for each label"):
        compute([name], [named("a", "a", {"a": logit, "b": 0.5})])


@pytest.mark.parametrize("name", ["auc", "average_precision"])
def test_scores_that_are_whole_numbers_of_any_length_count_as_floats(name: str) -> None:
    """NumPy makes objects of whole numbers of more than 64 bits."""
    huge = [named("a", "a", {"a": 10**30, "b": 0.5}), named("b", "a", {"a": 0.5, "b": 10**30})]
    small = [named("a", "a", {"a": 1e30, "b": 0.5}), named("b", "a", {"a": 0.5, "b": 1e30})]
    assert compute([name], huge) == compute([name], small)


def test_the_best_temperature_undoes_a_scaling_of_the_logits_whatever_it_is() -> None:
    """The least cross-entropy over temperatures is the same for p, for its sharpened and for its flattened copy."""
    records, probabilities = random_named(NLI)
    least = compute(["cross_entropy_at_best_temperature"], records)["cross_entropy_at_best_temperature"]
    by_grid = []
    for temperature in np.geomspace(0.1, 10, 4001):
        scaled = probabilities ** (1 / temperature)
        scaled /= scaled.sum(axis=1, keepdims=True)
        by_grid.append(-np.mean([math.log(p[NLI.index(r["label"])]) for p, r in zip(scaled, records, strict=True)]))
    assert least == pytest.approx(min(by_grid), abs=1e-5)  # the grid's steps are 0.1 %
    for power in (0.3, 4.0):
        scaled = probabilities**power / (probabilities**power).sum(axis=1, keepdims=True)
        scores = [dict(zip(NLI, p.tolist(), strict=True)) for p in scaled]
        moved = [record | {"scores": each} for record, each in zip(records, scores, strict=True)]
        value = compute(["cross_entropy", "cross_entropy_at_best_temperature"], moved)
        assert value["cross_entropy_at_best_temperature"] == pytest.approx(least, abs=1e-6)
        assert value["cross_entropy"] > least + 0.01


def test_a_probability_of_zero_costs_a_finite_amount() -> None:
    value = compute(["cross_entropy"], [named("yes", "no")])["cross_entropy"]
    assert value == pytest.approx(52 * math.log(2))


def test_constant_predictions_have_correlation_zero_and_raise_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        constant = [number(1.0, 2.0), number(3.0, 2.0), number(5.0, 2.0)]
        assert compute(["pearson", "spearman"], constant) == {"pearson": 0.0, "spearman": 0.0}
        assert compute(["pearson", "spearman"], [number(1.0, 2.0)]) == {"pearson": 0.0, "spearman": 0.0}
        one_label = [named("yes", "no"), named("no", "no")]
        values = compute(["mcc", "f1", "precision", "recall"], one_label)
        assert values == {"mcc": 0.0, "f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_rows_without_a_label_are_left_out() -> None:
    records = [named(None, "yes"), named("yes", "yes"), named("no", "yes")]
    assert compute(["accuracy"], records) == {"accuracy": 0.5}


@pytest.mark.parametrize("records", [[], [named(None, "yes")]])
def test_no_labelled_row_is_an_error_that_says_so(records: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match=rf"accuracy: none of the {len(records)} predictions has a label\. Score a"):
        compute(["accuracy"], records)
    assert applicable(records) == []


def test_a_metric_that_does_not_fit_names_the_row_and_what_it_needs() -> None:
    with pytest.raises(DataError, match=r"pearson: row 'r': prediction 'yes' for label 'no'.* finite numbers"):
        compute(["accuracy", "pearson"], [named("no", "yes")])
    three = [{"id": "7", "prediction": "neutral", "label": "neutral", "scores": dict.fromkeys(NLI, 1 / 3)}]
    with pytest.raises(DataError, match=r"f1: row '7': .* 3 labels declared\. It needs exactly two .*f1_macro"):
        compute(["f1"], three)
    with pytest.raises(DataError, match="mse: row 'r': prediction nan"):
        compute(["mse"], [number(1.0, math.nan)])


def test_an_unknown_metric_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown metric 'acuracy'.*Did you mean 'accuracy'"):
        compute(["acuracy"], [named("no", "yes")])


def test_applicable_metrics_follow_the_records() -> None:
    classification = ["accuracy", "cross_entropy", "ece", "f1", "f1_macro", "f1_micro", "mcc", "precision", "recall"]
    two, _ = random_named(YES_NO, rows=5)
    three, _ = random_named(NLI, rows=5)
    assert set(classification) <= set(applicable(two))
    assert set(applicable(two)) - set(applicable(three)) == {"f1", "precision", "recall"}
    assert {"pearson", "spearman", "mse", "mae"} <= set(applicable([number(1.0, 2)]))
    assert "accuracy" not in applicable([number(1.0, 2)])
    without_scores = [{"id": "r", "prediction": "yes", "label": "no"}]
    assert "accuracy" in applicable(without_scores) and "cross_entropy" not in applicable(without_scores)


@pytest.mark.parametrize("labels", [YES_NO, NLI])
def test_every_applicable_metric_survives_the_way_through_a_json_file(labels: tuple[str, ...]) -> None:
    records, _ = random_named(labels, rows=30)
    names = applicable(records)
    read_back = [json.loads(json.dumps(record)) for record in records]
    assert compute(names, read_back) == compute(names, records)


def test_errors_and_losses_are_better_when_lower() -> None:
    lower = {name for name in METRICS.names() if METRICS.get(name).direction == "minimize"}
    assert lower == {
        "mse",
        "mae",
        "cross_entropy",
        "cross_entropy_at_best_temperature",
        "ece_before_calibration",
        "ece",
        "perplexity",
        "hamming_loss",
    }
    assert not any(METRICS.get(name).percent for name in lower)


def test_a_metric_of_another_range_is_neither_percent_nor_heavier_than_others() -> None:
    """A user's BLEU of 35.2 on a range of 0 to 100: shown as it is, a third of its range in a mean over tasks."""
    bleu = Scale("maximize", (0.0, 100.0))
    assert (bleu.shown(35.2), bleu.difference(-1.5), bleu.unit("bleu")) == ("35.200", "−1.500", "bleu")
    assert bleu.comparable(35.2) == pytest.approx(0.352)
    assert Scale("maximize", CORRELATION, percent=True).comparable(-0.2) == -0.2
    assert Scale("minimize", LOSS).comparable(3.0) == 0.25
    assert Scale("minimize", (1.0, math.inf)).comparable(1.0) == 0.5
    assert Scale("maximize").comparable(35.2) is None
    for ends in (RATE, (0.0, 1.001)):  # of an error that is a rate, what is left of 1
        assert Scale("minimize", ends).comparable(0.2) == pytest.approx(0.8, abs=1e-3)


def test_scales_are_read_back_and_names_are_never_imported() -> None:
    scales = Scales({"os.system": Scale("minimize", LOSS).as_json(), "odd": {"direction": "up"}, "f1": 3})
    assert scales["os.system"] == Scale("minimize", LOSS)
    assert scales["f1"] == METRICS.get("f1").scale
    assert scales["odd"] == scales["no.such.metric"] == Scale()
    assert scales.unknown(["accuracy", "odd", "os.system", "no.such.metric"]) == ["odd", "no.such.metric"]


@pytest.mark.parametrize(
    ("value", "reported"),
    [
        (35.2, r"bleu: 35\.2 is outside its range, 0 to 1\. Declare its range: @metric"),
        (-1e-3, r"bleu: -0\.001 is outside its range"),
        (math.nan, r"bleu: its value is not a number\. Return a number, such as 0"),
        (math.inf, r"bleu: its value is infinite\. Return a finite number"),
        (1 + 1e-9, ""),  # rounding
    ],
)
def test_a_value_outside_the_range_a_metric_declares_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: float, reported: str
) -> None:
    monkeypatch.setitem(METRICS._known, "bleu", Metric("bleu", lambda records, labels: value, NAMES, range=RATE))
    if not reported:
        assert compute(["bleu"], [named("yes", "yes")]) == {"bleu": value}
        return
    with pytest.raises(DataError, match=reported):
        compute(["bleu"], [named("yes", "yes")])


@pytest.mark.parametrize("ends", [(100.0, 0.0), (1.0, 1.0), (0.0,), (math.nan, 1.0)])
def test_a_range_or_direction_that_is_none_is_refused_where_the_metric_is_made(ends: Any) -> None:
    with pytest.raises(ValueError, match=r"metric 'bleu': range .*; expected \(smallest, largest\)"):
        Metric("bleu", lambda records, labels: 1.0, NAMES, range=ends)
    with pytest.raises(ValueError, match="metric 'bleu': direction 'lower'; expected maximize or minimize"):
        Metric("bleu", lambda records, labels: 1.0, NAMES, direction="lower")  # type: ignore[arg-type]


def test_a_mean_over_tasks_needs_metrics_with_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Metric("endless", lambda records, labels: 1.0, NAMES)
    monkeypatch.setitem(METRICS._known, "endless", endless)
    assert selection_faults({"a": "endless"}, "mean") == selection_faults({"a": "endless", "b": "mse"}, "b") == []
    (found,) = selection_faults({"a": "endless", "b": "mse"}, "mean")
    assert str(found).startswith(
        "select_by: mean, but endless of a has no range to compare it with others. Give select_by: a task"
    )


def test_importing_metrics_loads_no_heavy_library() -> None:
    heavy = ["numpy", "scipy", "sklearn", "torch"]
    code = f"import sys, mtdnn.metrics.base; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
