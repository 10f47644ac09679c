"""Metrics of predicted numbers; by SciPy and scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from mtdnn.metrics.base import CORRELATION, LOSS, Demand, Record, metric, predictions_and_labels


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _has_numbers(record: Record, labels: Sequence[str]) -> bool:
    return _is_number(record["label"]) and _is_number(record.get("prediction"))


NUMBERS = Demand("finite numbers as prediction and as label", _has_numbers)


def _numbers(records: Sequence[Record]) -> tuple[list[float], list[float]]:
    """Labels and predictions as floats: NumPy makes objects of whole numbers beyond 64 bits, which SciPy refuses."""
    labels, predictions = predictions_and_labels(records)
    return list(map(float, labels)), list(map(float, predictions))


@metric("pearson", NUMBERS, range=CORRELATION, percent=True)
def pearson(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Pearson correlation; 0 where it is undefined (fewer than two rows, or constant labels or predictions).

    A model with constant predictions has learnt nothing, and a NaN would make every mean over tasks NaN.
    """
    from scipy.stats import pearsonr

    return _correlation(pearsonr, records)


@metric("spearman", NUMBERS, range=CORRELATION, percent=True)
def spearman(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Spearman rank correlation; 0 where it is undefined, as for `pearson`."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, records)


def _correlation(function: Callable[..., Any], records: Sequence[Record]) -> float:
    targets, predictions = _numbers(records)
    if len(set(targets)) < 2 or len(set(predictions)) < 2:
        return 0.0
    return float(function(targets, predictions).statistic)


@metric("mse", NUMBERS, direction="minimize", range=LOSS)
def mse(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Mean squared error, in squared units of the label."""
    from sklearn.metrics import mean_squared_error

    return float(mean_squared_error(*_numbers(records)))


@metric("mae", NUMBERS, direction="minimize", range=LOSS)
def mae(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Mean absolute error, in units of the label."""
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(*_numbers(records)))
