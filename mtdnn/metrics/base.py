"""Prediction records → numbers, by name: all a metric sees is what the prediction file holds.

A record is one line of `predictions/<task>.<split>.jsonl`: `{"id", "prediction", "label", "scores"}`, labels by their
names (numbers for regression), `scores` the probability of each label in the order the task declares them. Rates are
fractions in [0, 1], correlations lie in [−1, 1]; percent appears in reports only. The numbers are scikit-learn's and
SciPy's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtdnn.errors import NOWHERE, ConfigError, DataError, Place, fault
from mtdnn.registry import Registry

Record = dict[str, Any]
"""One prediction: `id`, `prediction`, `label` (None: unknown), `scores` (empty or absent where there are none)."""


@dataclass(frozen=True)
class Demand:
    """What a metric asks of each record.

    Args:
        text: said to the user after "needs".
        met: whether one labelled record, among so many declared labels, meets it.
    """

    text: str
    met: Callable[[Record, Sequence[str]], bool]


@dataclass(frozen=True)
class Metric:
    """A named function of prediction records.

    Args:
        function: (labelled records, declared label names) → number.
        demand: what it asks of each record.
        higher_is_better: False for errors and losses.
    """

    name: str
    function: Callable[[Sequence[Record], Sequence[str]], float]
    demand: Demand
    higher_is_better: bool = True

    def unmet(self, records: Iterable[Record], labels: Sequence[str]) -> Record | None:
        """The first record this metric cannot be computed from, if any."""
        return next((record for record in records if not self.demand.met(record, labels)), None)


METRICS: Registry[Metric] = Registry("metric")
"""The words for `metrics:` in a task definition; each file of this folder adds its own."""

Function = Callable[[Sequence[Record], Sequence[str]], float]


def metric(name: str, demand: Demand, *, higher_is_better: bool = True) -> Callable[[Function], Function]:
    """A decorator that registers a function of (labelled records, declared labels) as a metric."""

    def add(function: Function) -> Function:
        METRICS.register(name)(Metric(name, function, demand, higher_is_better))
        return function

    return add


def metric_of(word: str, *, where: Place | str = NOWHERE, key: str = "") -> Metric:
    """The metric of a registered name, or of the dotted path of a `Metric` or of a function under `@metric`.

    Args:
        where, key: the place of the word (file:line, key), for the message.
    Raises:
        ConfigError: the word leads nowhere, or to something else.
    """
    item: object = METRICS.get(word, where=where, key=key)
    if isinstance(item, Metric):
        return item
    for known in map(METRICS.get, METRICS):
        if known.function is item:
            return known
    found = f"'{word}' is a {type(item).__name__}, no metric"
    raise ConfigError(fault(where, key, found, "Put @metric(name, demand) of mtdnn.metrics.base before the function."))


def compute(names: Sequence[str], records: Sequence[Record], labels: Sequence[str] = ()) -> dict[str, float]:
    """The value of each named metric over all labelled records at once, under the word it was asked by.

    Args:
        names: registered metrics, or dotted paths as for `metric_of`.
        records: predictions of one split; those whose label is None are left out.
        labels: the task's labels in declared order; by default the order of the first record's scores.
    Raises:
        ConfigError: an unknown metric, or a path that leads to none.
        DataError: no record has a label, or a metric cannot be computed from one of them; the message names its id.
    """
    metrics = {name: metric_of(name) for name in names}
    labelled = labelled_records(records)
    if metrics and not labelled:
        found = f"none of the {len(records)} predictions has a label"
        raise DataError(fault("", ", ".join(names), found, "Score a labelled split."))
    declared = labels or declared_labels(records)
    _refuse_unmet(metrics, labelled, declared)
    return {name: float(each.function(labelled, declared)) for name, each in metrics.items()}


def applicable(records: Sequence[Record], labels: Sequence[str] = ()) -> list[str]:
    """Names of all metrics that can be computed from these records, in alphabetical order."""
    labelled, declared = labelled_records(records), labels or declared_labels(records)
    if not labelled:
        return []
    return [name for name in METRICS.names() if METRICS.get(name).unmet(labelled, declared) is None]


def higher_is_better(name: str) -> bool:
    """Whether a larger value of this metric is a better model."""
    return metric_of(name).higher_is_better


def labelled_records(records: Iterable[Record]) -> list[Record]:
    """The records whose label is known."""
    return [record for record in records if record.get("label") is not None]


def declared_labels(records: Sequence[Record]) -> list[str]:
    """The task's labels in declared order, as the first record's scores hold them; empty without scores."""
    scores = records[0].get("scores") if records else None
    return list(scores) if isinstance(scores, Mapping) else []


def _refuse_unmet(metrics: Mapping[str, Metric], records: Sequence[Record], labels: Sequence[str]) -> None:
    faults = []
    for name, each in metrics.items():
        record = each.unmet(records, labels)
        if record is not None:
            shown = f"prediction {record.get('prediction')!r} for label {record['label']!r}"
            found = f"row '{record.get('id')}': {shown}, {len(labels)} labels declared"
            faults.append(fault("", name, found, f"It needs {each.demand.text}."))
    if faults:
        raise DataError(faults)


def predictions_and_labels(records: Sequence[Record]) -> tuple[list[Any], list[Any]]:
    """Labels and predictions, in the order scikit-learn takes them."""
    return [record["label"] for record in records], [record["prediction"] for record in records]
