"""Metrics of sets of labels, agreement beyond chance and precision over recall: equal to scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from mtdnn.errors import DataError
from mtdnn.metrics.base import applicable, compute
from mtdnn.metrics.label_sets import f1_by_label

NAMES = ("a", "b", "c", "d")


def random_sets(rows: int = 50) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray, np.ndarray]:
    """Records; gold and predicted [rows, labels] of 0 and 1, and the probabilities. Label d is in no row."""
    rng = np.random.default_rng(1)
    scores = rng.random((rows, len(NAMES)))
    gold = ((scores + rng.normal(0, 0.4, scores.shape)) > 0.6).astype(int)
    gold[:, 3] = 0
    gold[0], guessed = 0, (scores > 0.5).astype(int)
    records = [
        {
            "id": str(row),
            "prediction": [name for name, hit in zip(NAMES, guessed[row], strict=True) if hit],
            "label": [name for name, hit in zip(NAMES, gold[row], strict=True) if hit],
            "scores": dict(zip(NAMES, scores[row].tolist(), strict=True)),
        }
        for row in range(rows)
    ]
    return records, gold, guessed, scores


def test_metrics_of_sets_equal_scikit_learn() -> None:
    records, gold, guessed, scores = random_sets()
    expected = {
        "f1_micro": sklearn.metrics.f1_score(gold, guessed, average="micro"),
        "f1_macro": sklearn.metrics.f1_score(gold, guessed, average="macro", zero_division=0),
        "subset_accuracy": sklearn.metrics.accuracy_score(gold, guessed),
        "lrap": sklearn.metrics.label_ranking_average_precision_score(gold, scores),
        "hamming_loss": sklearn.metrics.hamming_loss(gold, guessed),
    }
    assert compute(list(expected), records, NAMES) == pytest.approx(expected)
    assert compute(list(expected), records) == pytest.approx(expected)  # the order of the scores is that of the labels
    by_label = sklearn.metrics.f1_score(gold, guessed, average=None, zero_division=0)
    assert f1_by_label(records, NAMES) == pytest.approx(dict(zip(NAMES, by_label, strict=True)))


def test_nothing_else_can_be_computed_from_sets_and_nothing_of_sets_from_single_labels() -> None:
    records, *_ = random_sets()
    assert applicable(records, NAMES) == ["f1_macro", "f1_micro", "hamming_loss", "lrap", "subset_accuracy"]
    single = [{"id": "1", "prediction": "a", "label": "b", "scores": {"a": 0.9, "b": 0.1}}]
    with pytest.raises(DataError, match=r"lrap: .*It needs a list of label names"):
        compute(["lrap"], single)
    strange = [{**records[0], "prediction": ["e"]}]
    with pytest.raises(DataError, match=r"subset_accuracy: row '0': prediction \['e'\]"):
        compute(["subset_accuracy"], strange)


def test_the_f1_of_the_only_label_of_a_task_is_that_of_its_presence() -> None:
    """Three of five rows have the label, two of them are found, and one is found wrongly: F1 = 2·2 / (3 + 3)."""
    rows = [(["a"], ["a"]), (["a"], ["a"]), (["a"], []), ([], ["a"]), ([], [])]
    records = [{"id": "r", "label": gold, "prediction": guess, "scores": {"a": 0.5}} for gold, guess in rows]
    values = compute(["f1_micro", "f1_macro"], records, ["a"])
    assert values == {"f1_micro": pytest.approx(2 / 3), "f1_macro": pytest.approx(2 / 3)}
    assert f1_by_label(records, ["a"]) == {"a": pytest.approx(2 / 3)}


def test_lrap_needs_a_score_for_every_declared_label() -> None:
    records, *_ = random_sets()
    del records[7]["scores"]["d"]
    with pytest.raises(DataError, match=r"lrap: row '7': .*It needs .*a probability for each declared label"):
        compute(["lrap"], records)
    assert "lrap" not in applicable(records, NAMES)
    assert compute(["f1_micro"], records, NAMES)  # it needs no scores


def single(gold: list[str], guessed: list[str], labels: tuple[str, ...]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(2)
    scores = rng.dirichlet(np.ones(len(labels)), size=len(gold))
    return [
        {"id": "r", "prediction": guess, "label": label, "scores": dict(zip(labels, row.tolist(), strict=True))}
        for guess, label, row in zip(guessed, gold, scores, strict=True)
    ]


def test_agreement_beyond_chance_equals_scikit_learn() -> None:
    labels = ("low", "middle", "high")  # whose order is not that of the alphabet
    rng = np.random.default_rng(3)
    gold, guessed = (rng.choice(labels, 60).tolist() for _ in range(2))
    guessed[:30] = gold[:30]
    expected = {
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(gold, guessed),
        "kappa": sklearn.metrics.cohen_kappa_score(gold, guessed),
        "weighted_kappa": sklearn.metrics.cohen_kappa_score(gold, guessed, labels=labels, weights="quadratic"),
    }
    assert compute(list(expected), single(gold, guessed, labels), labels) == pytest.approx(expected)
    assert compute(list(expected), single(["low"] * 3, ["low"] * 3, labels), labels) == dict.fromkeys(expected, 1.0)


def test_average_precision_equals_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    for labels in (("no", "yes"), ("x", "y", "z")):
        gold = rng.choice(labels, 40).tolist()
        records = single(gold, gold, labels)
        chosen = labels[-1:] if len(labels) == 2 else labels
        values = [
            sklearn.metrics.average_precision_score(
                np.array(gold) == name, [record["scores"][name] for record in records]
            )
            for name in chosen
        ]
        assert compute(["average_precision"], records, labels) == pytest.approx({"average_precision": np.mean(values)})
    assert compute(["average_precision"], single(["no"], ["no"], ("no", "yes")), ("no", "yes")) == {
        "average_precision": 0.0
    }


def test_weighted_kappa_of_words_that_are_no_labels_is_zero() -> None:
    records = [{"id": "1", "prediction": "c", "label": "a"}, {"id": "2", "prediction": "d", "label": "b"}]
    assert compute(["weighted_kappa"], records, ["a", "b"]) == {"weighted_kappa": 0.0}


def test_weighted_kappa_where_only_one_label_is_predicted_for_itself_is_zero() -> None:
    pairs = [("a", "a"), ("b", "y")]
    records = [{"id": "1", "label": label, "prediction": prediction} for label, prediction in pairs]
    assert compute(["weighted_kappa"], records, ["a", "b"]) == {"weighted_kappa": 0.0}
    assert compute(["weighted_kappa"], records[1:], ["a", "b"]) == {"weighted_kappa": 0.0}
