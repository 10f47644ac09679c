"""Metrics of sets of labels: `prediction` and `label` are lists of names, `scores` the probability of each name.

Labels are independent, so the probabilities of a row need not add up to 1. The values are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtdnn.metrics.base import RATE, Demand, Record, metric

if TYPE_CHECKING:
    import numpy as np


def has_sets(record: Record, labels: Sequence[str]) -> bool:
    """Whether a record has sets of labels, and a probability for each label."""
    scores, sets = record.get("scores"), (record["label"], record.get("prediction"))
    if not isinstance(scores, Mapping) or not scores:
        return False
    return all(
        isinstance(each, list)
        and all(isinstance(name, str) for name in each)
        and len(set(each)) == len(each)
        and set(each) <= scores.keys()
        for each in sets
    )


def _has_scored_sets(record: Record, labels: Sequence[str]) -> bool:
    return has_sets(record, labels) and record["scores"].keys() >= set(labels)


SETS = Demand(
    "a list of label names as prediction and as label, and a probability for each name in its scores", has_sets
)

SCORED_SETS = Demand(
    "a list of label names as prediction and as label, and a probability for each declared label", _has_scored_sets
)


def f1_of_sets(records: Sequence[Record], labels: Sequence[str], *, average: str) -> float:
    """F1 of sets of labels.

    Args:
        records: labelled records that meet the demand `SETS`.
        labels: the declared labels.
        average: micro = over all labels of all rows together, 0 if none is given or predicted; macro = the unweighted
            mean over all declared labels, 0 for one that is neither given nor predicted.
    """
    return float(_f1(records, labels, average=average))


@metric("subset_accuracy", SETS, range=RATE, percent=True)
def subset_accuracy(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the rows whose predicted set equals the label."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(*_indicators(records, labels)))


@metric("lrap", SCORED_SETS, range=RATE, percent=True)
def lrap(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Label ranking average precision: mean share of correct labels among those scored as high as a correct one.

    A row without a correct label counts as 1, as in scikit-learn. No threshold is needed.
    """
    import numpy as np
    from sklearn.metrics import label_ranking_average_precision_score

    names = _names(records, labels)
    scores = np.empty((len(records), len(names)))
    for row, record in enumerate(records):
        scores[row] = [record["scores"][name] for name in names]
    return float(label_ranking_average_precision_score(_indicators(records, labels)[0], scores))


@metric("hamming_loss", SETS, direction="minimize", range=RATE)
def hamming_loss(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the pairs of a row and a label that are predicted wrongly."""
    gold, guessed = _indicators(records, labels)
    return float((gold != guessed).mean())


def f1_by_label(records: Sequence[Record], labels: Sequence[str]) -> dict[str, float]:
    """Label → its F1 over the rows; 0 for one that is neither given nor predicted."""
    import numpy as np

    values = np.atleast_1d(_f1(records, labels, average=None)).tolist()
    return dict(zip(_names(records, labels), values, strict=True))


def _f1(records: Sequence[Record], labels: Sequence[str], *, average: str | None) -> Any:
    """scikit-learn's F1 of sets: of each label with None, else one number.

    For a single label it is the F1 of that label, as every average of one number is this number: scikit-learn would
    take a single column for two classes, "absent" and "present", and average over both.
    """
    from sklearn.metrics import f1_score

    gold, guessed = _indicators(records, labels)
    if gold.shape[1] == 1:
        return f1_score(gold[:, 0], guessed[:, 0], average="binary", zero_division=0.0)
    return f1_score(gold, guessed, average=average, zero_division=0.0)


def _names(records: Sequence[Record], labels: Sequence[str]) -> list[str]:
    return list(labels) or list(records[0]["scores"])


def _indicators(records: Sequence[Record], labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """[rows, labels] int8, 0 or 1, for the labels and for the predictions."""
    import numpy as np

    names = _names(records, labels)
    gold, guessed = (np.empty((len(records), len(names)), np.int8) for _ in range(2))
    for row, record in enumerate(records):
        for table, key in ((gold, "label"), (guessed, "prediction")):
            table[row] = [name in record[key] for name in names]
    return gold, guessed
