"""Prediction records → numbers, by name: a metric sees only what the prediction file contains.

A record is one line of `predictions/<task>.<split>.jsonl`: `{"id", "prediction", "label", "scores"}`. Labels are names
(numbers for regression), `scores` the probability of each label in the order the task declares them. Rates are
fractions in [0, 1], correlations are in [−1, 1]; percent is used in reports only. The values are scikit-learn's and
SciPy's. `results.json` has each metric's `Scale`, so that reports and studies do not need the metric's code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mtdnn.errors import NOWHERE, ConfigError, DataError, Fault, Place, fault
from mtdnn.metrics.stored import Record, kept
from mtdnn.registry import Registry

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Demand:
    """What a metric requires of each record.

    Args:
        text: the requirement in words; messages have it after "needs".
        met: (labelled record, declared labels) → whether the record meets it.
    """

    text: str
    met: Callable[[Record, Sequence[str]], bool]


Direction = Literal["maximize", "minimize", "unknown"]
Range = tuple[float, float]

RATE: Range = (0.0, 1.0)
CORRELATION: Range = (-1.0, 1.0)
LOSS: Range = (0.0, math.inf)
UNBOUNDED: Range = (-math.inf, math.inf)

ROUNDING = 1e-6
"""How far a value may be outside its range: about the rounding error of sums of float32 probabilities."""


@dataclass(frozen=True)
class Scale:
    """How the values of a metric are compared and shown.

    Attributes:
        direction: maximize or minimize; unknown for a metric that neither this version nor the results file knows.
        range: smallest and largest possible value.
        percent: whether values are shown times 100.
    """

    direction: Direction = "unknown"
    range: Range = UNBOUNDED
    percent: bool = False

    @property
    def factor(self) -> float:
        """The factor from a value to the number shown."""
        return 100.0 if self.percent else 1.0

    def shown(self, value: float) -> str:
        """A value as reports show it."""
        return f"{100 * value:.1f}" if self.percent else f"{value:.3f}"

    def difference(self, value: float) -> str:
        """A difference of two values, with its sign; a minus sign, not a hyphen."""
        text = f"{100 * value:+.1f}" if self.percent else f"{value:+.3f}"
        return text.replace("-", "−")

    def interval(self, low: float | None, high: float | None) -> str:
        """The ends of an interval of a difference; a dash where there is none."""
        return "–" if low is None or high is None else f"{self.difference(low)} … {self.difference(high)}"

    def unit(self, name: str) -> str:
        """`accuracy, %`."""
        return f"{name}, %" if self.percent else name

    def gain(self, value: float) -> float:
        """A value, or a difference of two, signed so that larger is better; 0 if the direction is unknown."""
        return {"maximize": value, "minimize": -value, "unknown": 0.0}[self.direction]

    def comparable(self, value: float) -> float | None:
        """A value on a common scale where larger is better, for a mean over tasks; None without a usable range.

        Rates and correlations to maximize are unchanged. Other metrics with a finite range are mapped linearly to
        [0, 1], and reversed if smaller is better. Errors in [0, ∞) become 1 / (1 + error).
        """
        low, high = self.range
        if self.range in (RATE, CORRELATION) and self.direction == "maximize":
            return value
        if math.isfinite(low) and math.isfinite(high):
            place = (value - low) / (high - low)
            return {"maximize": place, "minimize": 1 - place}.get(self.direction)
        return 1 / (1 + value) if self.direction == "minimize" and low >= 0 else None

    def as_json(self) -> dict[str, Any]:
        """The scale as stored in `results.json`; null for an infinite end of the range."""
        ends = [end if math.isfinite(end) else None for end in self.range]
        return {"direction": self.direction, "range": ends, "percent": self.percent}


@dataclass(frozen=True)
class Metric:
    """A named function of prediction records.

    Args:
        name: the name in YAML.
        function: (labelled records, declared label names) → number.
        demand: what it requires of each record.
        direction: maximize, or minimize for errors and losses.
        range: smallest and largest value; `select_by: mean` over several tasks needs one.
        percent: whether reports show it times 100.
    """

    name: str
    function: Callable[[Sequence[Record], Sequence[str]], float]
    demand: Demand
    direction: Literal["maximize", "minimize"] = "maximize"
    range: Range = UNBOUNDED
    percent: bool = False

    def __post_init__(self) -> None:
        """Check the declaration, so that errors do not appear only when a run is evaluated.

        Raises:
            ValueError: another direction, or a range that is not two numbers, the smaller one first.
        """
        if self.direction not in ("maximize", "minimize"):
            raise ValueError(f"metric '{self.name}': direction {self.direction!r}; expected maximize or minimize")
        low, high = self.range if len(self.range) == 2 else (math.nan, math.nan)
        if not low < high:
            raise ValueError(f"metric '{self.name}': range {self.range!r}; expected (smallest, largest)")

    @property
    def scale(self) -> Scale:
        """How its values are compared and shown."""
        return Scale(self.direction, self.range, self.percent)


METRICS: Registry[Metric] = Registry("metric")
"""The names for `metrics:` in a task definition; each file of this folder registers its own."""

Function = Callable[[Sequence[Record], Sequence[str]], float]


def metric(
    name: str,
    demand: Demand,
    *,
    direction: Literal["maximize", "minimize"] = "maximize",
    range: Range = UNBOUNDED,
    percent: bool = False,
) -> Callable[[Function], Function]:
    """A decorator that registers a function of (labelled records, declared labels) as a metric.

    Args:
        name: the name in YAML.
        demand: what it requires of each record.
        direction: maximize, or minimize for errors and losses.
        range: smallest and largest value, e.g. `RATE`, `LOSS`, `(0, 100)`.
        percent: whether reports show it times 100.
    """

    def add(function: Function) -> Function:
        METRICS.register(name)(Metric(name, function, demand, direction, range, percent))
        return function

    return add


def metric_of(word: str, *, where: Place | str = NOWHERE, key: str = "") -> Metric:
    """The metric of a registered name, or of a dotted path to a `Metric` or a function decorated with `@metric`.

    Args:
        word: the registered name or dotted path.
        where, key: the place of the word (file:line, key), for the message.
    Raises:
        ConfigError: the name is unknown, or the path cannot be imported or is not a metric.
    """
    item: object = METRICS.get(word, where=where, key=key)
    if isinstance(item, Metric):
        return item
    for known in map(METRICS.get, METRICS):
        if known.function is item:
            return known
    found = f"'{word}' is a {type(item).__name__}, not a metric"
    raise ConfigError(
        fault(where, key, found, "Decorate the function with @metric(name, demand) of mtdnn.metrics.base.")
    )


def compute(names: Sequence[str], records: Sequence[Record], labels: Sequence[str] = ()) -> dict[str, float]:
    """Given name → value of each metric, over all labelled records.

    Args:
        names: registered metrics, or dotted paths as for `metric_of`.
        records: predictions of one split; those whose label is None are left out.
        labels: the task's labels in declared order; by default the order of the first record's scores.
    Raises:
        ConfigError: an unknown metric, or a path that is not one.
        DataError: no record has a label, a metric cannot be computed from a record (its id is reported), or a value is
            not finite or outside the range of its metric.
    """
    metrics = {name: metric_of(name, key="metrics") for name in names}
    labelled = labelled_records(records)
    if metrics and not labelled:
        found = f"none of the {len(records)} predictions has a label"
        raise DataError(fault("", ", ".join(names), found, "Score a labelled split."))
    declared = labels or declared_labels(records)
    _refuse_unmet(metrics, labelled, declared)
    values = {name: float(each.function(labelled, declared)) for name, each in metrics.items()}
    _refuse_outside(metrics, values)
    return values


def measured(records: Sequence[Record], metrics: Sequence[str], labels: Sequence[str] = ()) -> dict[str, float]:
    """The named metrics of a split's records, and `rows`, the number of labelled records; only `rows` if that is 0.

    Args:
        records: predictions of a split.
        metrics: names of the metrics, the main one first.
        labels: the task's labels in declared order.
    """
    labelled = sum(record["label"] is not None for record in records)
    values = compute(metrics, records, labels) if labelled else {}
    return {**values, "rows": labelled}


def applicable(records: Sequence[Record], labels: Sequence[str] = ()) -> list[str]:
    """Names of all metrics that can be computed from these records, in alphabetical order."""
    labelled, declared = labelled_records(records), labels or declared_labels(records)
    if not labelled:
        return []
    unmet = _first_unmet({name: METRICS.get(name) for name in METRICS.names()}, labelled, declared)
    return [name for name in METRICS.names() if name not in unmet]


def selection_faults(main_metrics: Mapping[str, str], select_by: str) -> list[Fault]:
    """Why the best checkpoint cannot be chosen by the mean of these metrics; empty if it can.

    Args:
        main_metrics: task → its main metric.
        select_by: the run's key of that name.
    """
    if select_by != "mean" or len(main_metrics) < 2:
        return []
    scales = {task: metric_of(name).scale for task, name in main_metrics.items()}
    endless = [task for task, scale in scales.items() if scale.comparable(max(scale.range[0], 0.0)) is None]
    fix = "Give select_by: a task's name, or a range to the metric: @metric(…, range=(0, 100))."
    return [
        fault("", "select_by", f"mean, but {main_metrics[task]} of {task} has no range to compare it with others", fix)
        for task in endless
    ]


SCALES = "_metrics"
"""The key of `results.json` that holds the scale of each metric."""


class Scales:
    """The scales of metrics by name: those stored in a results file, and those of this version.

    A dotted path is never imported here. An unknown name has the default `Scale`.

    Args:
        stored: name → scale as returned by `Scale.as_json`.
    """

    def __init__(self, stored: Mapping[str, Any] | None = None) -> None:
        self._stored = {
            name: found for name, each in (stored or {}).items() if (found := _read_scale(each)) is not None
        }

    def __getitem__(self, name: str) -> Scale:
        if name in self._stored:
            return self._stored[name]
        return METRICS.get(name).scale if name in METRICS else Scale()

    def unknown(self, names: Iterable[str]) -> list[str]:
        """The names whose direction is unknown."""
        return [name for name in names if self[name].direction == "unknown"]


def _read_scale(stored: Any) -> Scale | None:
    """The scale stored by `Scale.as_json`; None if the value is anything else."""
    try:
        low, high = stored["range"]
        ends = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
        direction, percent = stored["direction"], stored["percent"]
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
    known = direction in ("maximize", "minimize", "unknown") and isinstance(percent, bool)
    return Scale(direction, ends, percent) if known else None


def labelled_records(records: Iterable[Record]) -> Sequence[Record]:
    """The records whose label is known."""
    return kept(record for record in records if record.get("label") is not None)


def declared_labels(records: Sequence[Record]) -> list[str]:
    """The task's labels in declared order, from the first record's scores; empty without scores."""
    scores = records[0].get("scores") if records else None
    return list(scores) if isinstance(scores, Mapping) else []


def _refuse_unmet(metrics: Mapping[str, Metric], records: Sequence[Record], labels: Sequence[str]) -> None:
    faults = []
    for name, record in _first_unmet(metrics, records, labels).items():
        shown = f"prediction {record.get('prediction')!r} for label {record['label']!r}"
        found = f"row '{record.get('id')}': {shown}, {len(labels)} labels declared"
        faults.append(fault("", name, found, f"It needs {metrics[name].demand.text}."))
    if faults:
        raise DataError(faults)


def _first_unmet(metrics: Mapping[str, Metric], records: Iterable[Record], labels: Sequence[str]) -> dict[str, Record]:
    """Metric → the first record that does not meet its demand, where there is one; the records are read once."""
    demands, unmet = {each.demand for each in metrics.values()}, dict[Demand, Record]()
    for record in records:
        for demand in [each for each in demands if not each.met(record, labels)]:
            unmet[demand] = record
            demands.remove(demand)
        if not demands:
            break
    return {name: unmet[each.demand] for name, each in metrics.items() if each.demand in unmet}


def _refuse_outside(metrics: Mapping[str, Metric], values: Mapping[str, float]) -> None:
    """Raise DataError for NaN, infinity, and values outside the declared range, up to rounding."""
    faults = []
    for name, value in values.items():
        low, high = metrics[name].range
        if math.isnan(value):
            faults.append(
                fault("", name, "its value is not a number", "Return a number, such as 0, where it is undefined.")
            )
        elif math.isinf(value):
            faults.append(
                fault("", name, "its value is infinite", "Return a finite number, which has a mean over runs.")
            )
        elif not low - ROUNDING <= value <= high + ROUNDING:
            found = f"{value:g} is outside its range, {low:g} to {high:g}"
            faults.append(fault("", name, found, "Declare its range: @metric(…, range=(smallest, largest))."))
    if faults:
        raise DataError(faults)


def predictions_and_labels(records: Sequence[Record]) -> tuple[list[Any], list[Any]]:
    """Labels and predictions, in this order, as scikit-learn expects them; equal texts are one object."""
    texts = dict[str, str]()
    labels, predictions = list[Any](), list[Any]()
    for record in records:
        for value, column in ((record["label"], labels), (record["prediction"], predictions)):
            column.append(texts.setdefault(value, value) if isinstance(value, str) else value)
    return labels, predictions


def numbers_of(records: Sequence[Record], number: Callable[[Record], float]) -> np.ndarray:
    """[rows] float64, a number of each record; the records themselves need not be in memory.

    Args:
        records: of a split.
        number: record → its number.
    """
    import numpy as np

    return np.fromiter(map(number, records), np.float64, len(records))
