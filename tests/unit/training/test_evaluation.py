"""What the best checkpoint is chosen by, and what a split's numbers are made of."""

import pytest

from mtdnn.metrics.base import measured
from mtdnn.training.evaluation import main_score, selection_score

RECORDS = [
    {"id": "1", "prediction": "yes", "label": "yes", "scores": {"yes": 0.9, "no": 0.1}},
    {"id": "2", "prediction": "yes", "label": "no", "scores": {"yes": 0.6, "no": 0.4}},
    {"id": "3", "prediction": "no", "label": None, "scores": {"yes": 0.2, "no": 0.8}},
]


def test_rows_without_label_are_not_measured():
    assert measured(RECORDS, ["accuracy"], ["yes", "no"]) == {"accuracy": 0.5, "rows": 2}
    assert measured(RECORDS[2:], ["accuracy"], ["yes", "no"]) == {"rows": 0}


def test_a_task_s_score_is_the_mean_over_its_labelled_splits():
    splits = {"matched": {"accuracy": 0.5, "rows": 4}, "mismatched": {"accuracy": 0.7, "rows": 9}, "more": {"rows": 0}}
    assert main_score(["accuracy", "mcc"], splits) == pytest.approx(0.6)
    assert main_score(["accuracy"], {"more": {"rows": 0}}) is None


def test_errors_and_perplexities_weigh_no_more_than_fractions():
    better = {"nli": {"dev": {"accuracy": 0.9}}, "words": {"dev": {"perplexity": 30.0}}}
    worse = {"nli": {"dev": {"accuracy": 0.5}}, "words": {"dev": {"perplexity": 29.0}}}
    metrics = {"nli": ["accuracy"], "words": ["perplexity"]}
    assert selection_score(better, metrics, "mean") > selection_score(worse, metrics, "mean")
    assert selection_score(better, metrics, "words") < selection_score(worse, metrics, "words")
    assert selection_score(better, metrics, "mean") == pytest.approx((0.9 + 1 / 31) / 2)


def test_tasks_without_labels_do_not_count():
    results = {"nli": {"dev": {"accuracy": 0.9}}, "bare": {"dev": {"rows": 0}}}
    metrics = {"nli": ["accuracy"], "bare": ["accuracy"]}
    assert selection_score(results, metrics, "mean") == 0.9
    assert selection_score(results, metrics, "bare") is None
    assert selection_score({}, {}, "mean") is None
