"""Metrics of label probabilities: how well they order the rows, and their cross-entropy after calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtdnn.metrics.base import LOSS, RATE, Demand, Record, metric, numbers_of, predictions_and_labels
from mtdnn.metrics.labels import PROBABILITIES, SCORES, ece
from mtdnn.metrics.stored import kept

if TYPE_CHECKING:
    import numpy as np

SMALLEST = 1e-12
"""Smaller probabilities are replaced by this one before their logarithm is divided by a temperature."""

TEMPERATURES = (0.05, 20.0)
"""Smallest and largest temperature that is searched."""


def _is_calibrated(record: Record, labels: Sequence[str]) -> bool:
    temperature = record.get("temperature")
    return isinstance(temperature, float) and temperature > 0 and PROBABILITIES.met(record, labels)


CALIBRATED = Demand("probabilities that were calibrated, and their temperature", _is_calibrated)


@metric("auc", SCORES, range=RATE, percent=True)
def auc(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Area under the ROC curve; for three or more labels the mean over each label against the rest.

    For two labels it is that of the second declared one, which equals that of the first. A label that no row has, or
    that all rows have, is left out of the mean; 0.5 if no label is left.
    """
    import numpy as np
    from sklearn.metrics import roc_auc_score

    names = list(labels)[-1:] if len(labels) == 2 else list(labels)
    gold = np.array(predictions_and_labels(records)[0])
    scored = [name for name in names if 0 < (gold == name).sum() < len(gold)]
    areas = [float(roc_auc_score(gold == name, _scores_of(name, records))) for name in scored]
    return sum(areas) / len(areas) if areas else 0.5


@metric("average_precision", SCORES, range=RATE, percent=True)
def average_precision(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Area under the precision-recall curve, Σ (R_n − R_{n−1}) P_n; for three or more labels the mean over labels.

    For two labels it is that of the second declared one. A label that no row has is left out of the mean; 0 if no label
    is left.
    """
    import numpy as np
    from sklearn.metrics import average_precision_score

    names = list(labels)[-1:] if len(labels) == 2 else list(labels)
    gold = np.array(predictions_and_labels(records)[0])
    scored = [name for name in names if (gold == name).any()]
    values = [float(average_precision_score(gold == name, _scores_of(name, records))) for name in scored]
    return sum(values) / len(values) if values else 0.0


def _scores_of(name: str, records: Sequence[Record]) -> np.ndarray:
    """[rows] the score of one label, 0 where it has none."""
    return numbers_of(records, lambda record: record["scores"].get(name, 0.0))


@metric("cross_entropy_at_best_temperature", PROBABILITIES, direction="minimize", range=LOSS)
def cross_entropy_at_best_temperature(records: Sequence[Record], labels: Sequence[str]) -> float:
    """The smallest mean cross-entropy that can be reached with one temperature for all rows, in nats.

    The temperature is fitted on the same rows. The value is the part of the cross-entropy that no change of confidence
    removes; it does not estimate the result of a temperature fitted on other rows. Source: Guo et al. 2017,
    arXiv 1706.04599.
    """
    probabilities, gold = _tables(records, labels)
    return tempered_cross_entropy(probabilities, gold, best_temperature(probabilities, gold))


@metric("ece_before_calibration", CALIBRATED, direction="minimize", range=RATE)
def ece_before_calibration(records: Sequence[Record], labels: Sequence[str]) -> float:
    """`ece` of the probabilities before they were calibrated with the temperature in their records."""
    return ece(kept(with_temperature(record, 1 / float(record["temperature"])) for record in records), labels)


def fitted_temperature(records: Sequence[Record], labels: Sequence[str] = ()) -> float:
    """The temperature with the smallest cross-entropy on labelled records; see `best_temperature`.

    Args:
        records: each with a label and a probability for each label.
        labels: names of the labels; by default those of the first record.
    """
    return best_temperature(*_tables(records, labels))


def with_temperature(record: Mapping[str, Any], temperature: float) -> dict[str, Any]:
    """A record with the probabilities of softmax(ln p / T); their order, and so the prediction, stays.

    Args:
        record: with a probability for each label under `scores`.
        temperature: T; above 1 makes the probabilities less confident.
    """
    import numpy as np

    # Nothing above 0 is cut off, so that the inverse temperature gives the probabilities back.
    shares = np.maximum(np.array(list(record["scores"].values()), float), np.finfo(float).tiny)
    logits = np.log(shares) / temperature
    shares = np.exp(logits - logits.max())
    return {**record, "scores": dict(zip(record["scores"], (shares / shares.sum()).tolist(), strict=True))}


def _tables(records: Sequence[Record], labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """[rows, labels] the probabilities of some records, and 1 at the label of each."""
    import numpy as np

    names = list(labels) or list(records[0]["scores"])
    probabilities, gold = (np.empty((len(records), len(names))) for _ in range(2))
    for row, record in enumerate(records):
        probabilities[row] = [record["scores"].get(name, 0.0) for name in names]
        gold[row] = [record["label"] == name for name in names]
    return probabilities, gold


def tempered_cross_entropy(probabilities: np.ndarray, votes: np.ndarray, temperature: float) -> float:
    """Mean cross-entropy of softmax(ln p / T) with the votes, in nats.

    Args:
        probabilities, votes: [rows, labels]; each row sums to 1.
        temperature: T; below 1 sharpens.
    """
    import numpy as np
    from scipy.special import log_softmax

    logits = np.log(np.maximum(probabilities, SMALLEST))
    return -float((votes * log_softmax(logits / temperature, axis=1)).sum(axis=1).mean())


def best_temperature(probabilities: np.ndarray, votes: np.ndarray) -> float:
    """The T with the smallest mean cross-entropy of softmax(ln p / T) with the votes; below 1 sharpens.

    Args:
        probabilities, votes: [rows, labels]; each row sums to 1.
    """
    from scipy.optimize import minimize_scalar

    def distance(log_t: float) -> float:
        return tempered_cross_entropy(probabilities, votes, math.exp(log_t))

    bounds = tuple(map(math.log, TEMPERATURES))
    return math.exp(minimize_scalar(distance, bounds=bounds, method="bounded").x)
