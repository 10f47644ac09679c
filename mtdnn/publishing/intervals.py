"""95 % intervals of the metrics of one run: how a value would vary with other rows of the split."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mtdnn.errors import DataError
from mtdnn.metrics.base import Record, compute, metric_of
from mtdnn.metrics.labels import OF_QUESTIONS, question_of
from mtdnn.metrics.stored import HELD_RECORDS, kept

RESAMPLES = 1000
ROWS_IN_ALL = 2_000_000  # rows of all resamples together, so that a split of MNLI's size takes seconds
LEAST_SHARE = 0.9  # of the resamples that must have a value: an AUC has none where only one label was drawn
ENDS = (0.025, 0.975)


@dataclass(frozen=True)
class Sample:
    """The labelled rows of a split, or as many of them as are held in memory.

    Attributes:
        units: rows that are drawn together: each row alone, or the answers to one question.
        share: of the split's units, in (0, 1].
    """

    units: Sequence[Sequence[Record]]
    share: float = 1.0

    @property
    def rows(self) -> list[Record]:
        """Every row of the sample."""
        return [row for unit in self.units for row in unit]


def sample_of(records: Iterable[Record], metrics: Iterable[str], *, seed: int = 0) -> Sample:
    """The labelled rows of a split; of more than 20,000, as many are drawn.

    Args:
        records: predictions of the split, read once.
        metrics: of the task. With one of questions, the answers to a question are drawn together: they depend on each
            other, and a question of which some answers are not drawn would be easier.
        seed: of the draw.
    """
    labelled = (record for record in records if record["label"] is not None)
    if OF_QUESTIONS in metrics:
        questions: dict[str, list[Record]] = {}
        for record in labelled:
            questions.setdefault(question_of(record), []).append(record)
        return Sample(list(questions.values()))
    rows = kept(labelled)
    if len(rows) <= HELD_RECORDS:
        return Sample([[row] for row in rows])
    chosen = set(random.Random(seed).sample(range(len(rows)), HELD_RECORDS))
    return Sample([[row] for place, row in enumerate(rows) if place in chosen], HELD_RECORDS / len(rows))


def interval(
    metric: str, value: float, sample: Sample, labels: Sequence[str], *, seed: int = 0
) -> tuple[float, float] | None:
    """The 95 % interval of a metric by the percentile bootstrap: units of rows are drawn with replacement.

    From a part of a split the interval would be too wide; its ends are then moved towards the value by √share.

    Args:
        metric: its name.
        value: over the whole split.
        sample: the rows that are drawn from.
        labels: the task's, in declared order.
        seed: of the draws.
    Returns:
        Both ends; None with fewer than two units, or if too many of the resamples have no value.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3; parts of a split: Bickel, Götze &
        van Zwet 1997, Resampling fewer than n observations.
    """
    import numpy as np

    if len(sample.units) < 2:
        return None
    rows, generator, values = sample.rows, random.Random(seed), []
    count = min(RESAMPLES, max(100, ROWS_IN_ALL // len(rows)))
    for _ in range(count):
        try:
            values.append(compute([metric], list(_drawn(sample.units, generator)), labels)[metric])
        except (DataError, ValueError):
            continue
    if len(values) < LEAST_SHARE * count:
        return None
    ends = np.quantile(values, ENDS)
    if sample.share < 1:
        of_sample, (least, most) = compute([metric], rows, labels)[metric], metric_of(metric).range
        ends = np.clip(value + (ends - of_sample) * sample.share**0.5, least, most)
    return float(ends[0]), float(ends[1])


def _drawn(units: Sequence[Sequence[Record]], generator: random.Random) -> Iterator[Record]:
    """Rows of as many units as there are; a question that is drawn twice counts as two."""
    for number, unit in enumerate(generator.choices(units, k=len(units))):
        if len(unit) == 1:
            yield unit[0]
        else:
            yield from ({**row, "id": f"{number}.{row['id']}"} for row in unit)


def intervals(
    values: Mapping[str, float], records: Iterable[Record], labels: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Metric → its interval, of those that have one.

    Args:
        values: metric → value over the whole split.
        records: predictions of the split.
        labels: the task's, in declared order.
    """
    sample = sample_of(records, values)
    found = {metric: interval(metric, value, sample, labels) for metric, value in values.items()}
    return {metric: ends for metric, ends in found.items() if ends is not None}
