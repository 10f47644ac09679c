"""Metrics of rankings: `prediction` is a list of candidate names, the best first; `label` maps name → relevance.

Rows without a relevant candidate have no label and do not count, as in the evaluation of WikiQA. Without ties, `map`
and `ndcg` equal scikit-learn's means over rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from mtdnn.metrics.base import RATE, Demand, Record, metric


def _has_ranking(record: Record, labels: Sequence[str]) -> bool:
    relevance, ranked = record["label"], record.get("prediction")
    return (
        isinstance(relevance, Mapping)
        and isinstance(ranked, list)
        and len(ranked) == len(relevance)  # each once
        and set(ranked) == set(relevance)
        and max(relevance.values(), default=0) > 0
    )


RANKING = Demand("a ranked list of candidates, and as label the relevance of each, at least one above 0", _has_ranking)


def _mean(measure: Callable[[list[float]], float], records: Sequence[Record]) -> float:
    """Mean over rows of a measure of the relevances in ranked order."""
    total = sum(measure([float(record["label"][name]) for name in record["prediction"]]) for record in records)
    return total / len(records)


@metric("accuracy_at_1", RANKING, range=RATE, percent=True)
def accuracy_at_1(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the rows whose first candidate is one of the most relevant."""
    return _mean(lambda ranked: float(ranked[0] == max(ranked)), records)


@metric("mrr", RANKING, range=RATE, percent=True)
def mrr(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Mean reciprocal rank of the first relevant candidate."""
    return _mean(lambda ranked: 1 / (1 + next(place for place, value in enumerate(ranked) if value > 0)), records)


@metric("map", RANKING, range=RATE, percent=True)
def mean_average_precision(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Mean over rows of average precision: the mean, over the relevant candidates, of the precision at their rank."""

    def average_precision(ranked: list[float]) -> float:
        ranks = [rank for rank, value in enumerate(ranked, 1) if value > 0]
        return sum(found / rank for found, rank in enumerate(ranks, 1)) / len(ranks)

    return _mean(average_precision, records)


@metric("ndcg", RANKING, range=RATE, percent=True)
def ndcg(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Mean over rows of the discounted cumulative gain (relevance / log₂(1 + rank)), divided by the best possible."""

    def gain(ranked: list[float]) -> float:
        return sum(value / math.log2(rank + 1) for rank, value in enumerate(ranked, 1))

    return _mean(lambda ranked: gain(ranked) / gain(sorted(ranked, reverse=True)), records)
