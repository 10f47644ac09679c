"""Metrics of predicted labels and of their probabilities; by scikit-learn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mtdnn.metrics.base import (
    CORRELATION,
    LOSS,
    RATE,
    ROUNDING,
    Demand,
    Record,
    metric,
    numbers_of,
    predictions_and_labels,
)
from mtdnn.metrics.label_sets import f1_of_sets, has_sets

OPTION_ID = re.compile(r"(.+-\d+)-\d+")
"""The id of a row that is one answer to a question, `paragraph-question-answer`; the group is the question's id."""

OF_QUESTIONS = "question_exact_match"
"""The metric whose unit is a question, all of its rows together."""


CALIBRATION_BINS = 15
"""Bins of equal width for `ece`, the number used by Guo et al. 2017."""


def _has_names(record: Record, labels: Sequence[str]) -> bool:
    return isinstance(record["label"], str) and isinstance(record.get("prediction"), str)


def _has_names_of_classes(record: Record, labels: Sequence[str]) -> bool:
    return _has_names(record, labels) and (not labels or record["label"] in labels)


def _has_one_of_two_names(record: Record, labels: Sequence[str]) -> bool:
    return _has_names(record, labels) and len(labels) == 2 and record["label"] in labels


def _has_scores(record: Record, labels: Sequence[str]) -> bool:
    scores = record.get("scores")
    return _has_names(record, labels) and isinstance(scores, Mapping) and {record["label"], *labels} <= scores.keys()


def _has_probabilities(record: Record, labels: Sequence[str]) -> bool:
    return _has_scores(record, labels) and all(0 <= each <= 1 + ROUNDING for each in record["scores"].values())


def _is_an_option(record: Record, labels: Sequence[str]) -> bool:
    return _has_names(record, labels) and OPTION_ID.fullmatch(str(record.get("id"))) is not None


def _has_names_or_sets(record: Record, labels: Sequence[str]) -> bool:
    return _has_names_of_classes(record, labels) or has_sets(record, labels)


NAMES = Demand("a label name as prediction and as label", _has_names)


CLASSES = Demand("a label name as prediction and as label, one of the declared labels", _has_names_of_classes)


NAMES_OR_SETS = Demand(
    "a label name as prediction and as label, or lists of names and a probability for each name", _has_names_or_sets
)


TWO_NAMES = Demand(
    "exactly two declared labels, the second being the positive one; f1_macro and f1_micro take any number",
    _has_one_of_two_names,
)


OPTIONS = Demand(
    "a label name as prediction and as label, and ids `paragraph-question-answer` that end in two numbers",
    _is_an_option,
)


SCORES = Demand("a number for each label in its scores", _has_scores)


PROBABILITIES = Demand("a probability, 0 to 1, for each label in its scores", _has_probabilities)


@metric("accuracy", NAMES, range=RATE, percent=True)
def accuracy(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the predictions that equal the label."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(*predictions_and_labels(records)))


@metric("f1", TWO_NAMES, range=RATE, percent=True)
def f1(records: Sequence[Record], labels: Sequence[str]) -> float:
    """F1 of the positive label, the second declared one, as GLUE defines it for MRPC and QQP; 0 if it never occurs."""
    from sklearn.metrics import f1_score

    return float(f1_score(*predictions_and_labels(records), labels=[labels[1]], average="micro", zero_division=0.0))


@metric("precision", TWO_NAMES, range=RATE, percent=True)
def precision(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Precision of the positive label, the second declared one; 0 when it is never predicted."""
    from sklearn.metrics import precision_score

    return float(
        precision_score(*predictions_and_labels(records), labels=[labels[1]], average="micro", zero_division=0.0)
    )


@metric("recall", TWO_NAMES, range=RATE, percent=True)
def recall(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Recall of the positive label, the second declared one; 0 when no row has it."""
    from sklearn.metrics import recall_score

    return float(recall_score(*predictions_and_labels(records), labels=[labels[1]], average="micro", zero_division=0.0))


@metric("f1_macro", NAMES_OR_SETS, range=RATE, percent=True)
def f1_macro(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Unweighted mean of the F1 of each label that occurs in labels or predictions; for sets, of all declared ones."""
    from sklearn.metrics import f1_score

    if isinstance(records[0]["label"], list):
        return f1_of_sets(records, labels, average="macro")
    return float(f1_score(*predictions_and_labels(records), average="macro", zero_division=0.0))


@metric("f1_micro", NAMES_OR_SETS, range=RATE, percent=True)
def f1_micro(records: Sequence[Record], labels: Sequence[str]) -> float:
    """F1 of all labels counted together; with one label per row it is the accuracy."""
    from sklearn.metrics import f1_score

    if isinstance(records[0]["label"], list):
        return f1_of_sets(records, labels, average="micro")
    return float(f1_score(*predictions_and_labels(records), average="micro", zero_division=0.0))


@metric(OF_QUESTIONS, OPTIONS, range=RATE, percent=True)
def question_exact_match(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the questions for which every answer is classified correctly: the exact match of MultiRC.

    Rows of one question share their id up to the last "-". MultiRC's F1 over all answers (F1a) is `f1`.
    Source: Khashabi et al. 2018, "Looking beyond the surface"; Wang et al. 2019, arXiv 1905.00537.
    """
    right: dict[str, bool] = {}
    for record in records:
        question = question_of(record)
        right[question] = right.get(question, True) and record["prediction"] == record["label"]
    return sum(right.values()) / len(right)


def question_of(record: Record) -> str:
    """The question that a row is an answer to: its id up to the last "-"."""
    return str(record["id"]).rpartition("-")[0]


@metric("balanced_accuracy", CLASSES, range=RATE, percent=True)
def balanced_accuracy(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Mean recall over the labels that occur."""
    from sklearn.metrics import recall_score

    gold, guessed = predictions_and_labels(records)
    return float(recall_score(gold, guessed, labels=sorted(set(gold)), average="macro", zero_division=0.0))


@metric("kappa", CLASSES, range=CORRELATION)
def kappa(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Cohen's κ, agreement of predictions and labels beyond chance; 1 if both are constant and equal."""
    from sklearn.metrics import cohen_kappa_score

    gold, guessed = predictions_and_labels(records)
    return 1.0 if len({*gold, *guessed}) == 1 else float(cohen_kappa_score(gold, guessed))


@metric("weighted_kappa", CLASSES, range=CORRELATION)
def weighted_kappa(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Cohen's κ with quadratic weights: an error counts by its squared distance in the order of the labels.

    0 where it is undefined: the pairs of a label and a prediction that are both declared have fewer than two names.
    """
    from sklearn.metrics import cohen_kappa_score

    gold, guessed = predictions_and_labels(records)
    if len({*gold, *guessed}) == 1:
        return 1.0
    declared = set(labels) or {*gold, *guessed}
    if len({name for pair in zip(gold, guessed, strict=True) if declared.issuperset(pair) for name in pair}) < 2:
        return 0.0
    return float(cohen_kappa_score(gold, guessed, labels=list(labels) or None, weights="quadratic"))


@metric("mcc", CLASSES, range=CORRELATION, percent=True)
def mcc(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Matthews correlation coefficient; 0 when labels or predictions are constant (as scikit-learn defines it)."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(*predictions_and_labels(records)))


@metric("cross_entropy", PROBABILITIES, direction="minimize", range=LOSS)
def cross_entropy(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Mean negative log probability of the label, in nats; a probability of 0 counts as 2⁻⁵², as in scikit-learn."""
    import numpy as np

    gold = numbers_of(records, lambda record: record["scores"][record["label"]])
    return float(-np.log(np.clip(gold, np.finfo(np.float64).eps, 1.0)).mean())


@metric("ece", PROBABILITIES, direction="minimize", range=RATE)
def ece(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Expected calibration error: mean absolute difference of confidence and accuracy over 15 bins of confidence.

    Confidence is the largest probability of a row; bins (k/15, (k+1)/15] are weighted by their number of rows.
    Source: Guo et al. 2017, arXiv 1706.04599, eq. 3.
    """
    import numpy as np

    confidence = numbers_of(records, lambda record: max(record["scores"].values()))
    right = numbers_of(records, lambda record: record["prediction"] == record["label"])
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(records))
