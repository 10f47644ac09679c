"""Prediction records → numbers, by name: all a metric sees is what the prediction file holds.

A record is one line of `predictions/<task>.<split>.jsonl`: `{"id", "prediction", "label", "scores"}`, labels by their
names (numbers for regression), `scores` the probability of each label in the order the task declares them. Rates are
fractions in [0, 1], correlations are in [−1, 1]; percent appears in reports only. The numbers are scikit-learn's and
SciPy's. `results.json` carries each metric's `Scale`, so that reports and studies need no metric's code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mtdnn.errors import NOWHERE, ConfigError, DataError, Fault, Place, fault
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


Direction = Literal["maximize", "minimize", "unknown"]
Range = tuple[float, float]

RATE: Range = (0.0, 1.0)
CORRELATION: Range = (-1.0, 1.0)
LOSS: Range = (0.0, math.inf)
UNBOUNDED: Range = (-math.inf, math.inf)

ROUNDING = 1e-6
"""How far a value may be outside its range: about what sums of float32 probabilities are off by."""


@dataclass(frozen=True)
class Scale:
    """How the values of a metric compare, and how they are shown.

    Attributes:
        direction: maximize, minimize; unknown for a metric that neither this version nor the file it is in knows.
        range: smallest and largest value it can have.
        percent: shown times 100.
    """

    direction: Direction = "unknown"
    range: Range = UNBOUNDED
    percent: bool = False

    @property
    def factor(self) -> float:
        """From a value to what is shown."""
        return 100.0 if self.percent else 1.0

    def shown(self, value: float) -> str:
        """A value as reports have it."""
        return f"{100 * value:.1f}" if self.percent else f"{value:.3f}"

    def difference(self, value: float) -> str:
        """A difference of two values, with its sign; minus is a minus."""
        text = f"{100 * value:+.1f}" if self.percent else f"{value:+.3f}"
        return text.replace("-", "−")

    def unit(self, name: str) -> str:
        """`accuracy, %`."""
        return f"{name}, %" if self.percent else name

    def gain(self, value: float) -> float:
        """A value, or a difference of two, so that larger is better; 0 where the direction is unknown."""
        return {"maximize": value, "minimize": -value, "unknown": 0.0}[self.direction]

    def comparable(self, value: float) -> float | None:
        """A value so that larger is better and none outweighs another by its unit, in a mean over tasks.

        Rates and correlations as they are; others with two ends as their place between them, from 0 to 1, and the rest
        of 1 where smaller is better; errors from 0 on without an end as 1 / (1 + error). None where nothing says how
        large it can get.
        """
        low, high = self.range
        if self.range in (RATE, CORRELATION) and self.direction == "maximize":
            return value
        if math.isfinite(low) and math.isfinite(high):
            place = (value - low) / (high - low)
            return {"maximize": place, "minimize": 1 - place}.get(self.direction)
        return 1 / (1 + value) if self.direction == "minimize" and low >= 0 else None

    def as_json(self) -> dict[str, Any]:
        """What `results.json` holds; null for a range without end."""
        ends = [end if math.isfinite(end) else None for end in self.range]
        return {"direction": self.direction, "range": ends, "percent": self.percent}


@dataclass(frozen=True)
class Metric:
    """A named function of prediction records.

    Args:
        function: (labelled records, declared label names) → number.
        demand: what it asks of each record.
        direction: maximize, or minimize for errors and losses.
        range: smallest and largest value; `select_by: mean` over several tasks needs an end to it.
        percent: whether reports show it times 100.
    """

    name: str
    function: Callable[[Sequence[Record], Sequence[str]], float]
    demand: Demand
    direction: Literal["maximize", "minimize"] = "maximize"
    range: Range = UNBOUNDED
    percent: bool = False

    def __post_init__(self) -> None:
        """Refuse what would only show when a run is measured.

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
        """How its values compare, and how they are shown."""
        return Scale(self.direction, self.range, self.percent)

    def unmet(self, records: Iterable[Record], labels: Sequence[str]) -> Record | None:
        """The first record this metric cannot be computed from, if any."""
        return next((record for record in records if not self.demand.met(record, labels)), None)


METRICS: Registry[Metric] = Registry("metric")
"""The words for `metrics:` in a task definition; each file of this folder adds its own."""

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
        name: the word in YAML.
        demand: what it asks of each record.
        direction: maximize, or minimize for errors and losses.
        range: smallest and largest value, e.g. `RATE`, `LOSS`, `(0, 100)`.
        percent: whether reports show it times 100.
    """

    def add(function: Function) -> Function:
        METRICS.register(name)(Metric(name, function, demand, direction, range, percent))
        return function

    return add


def metric_of(word: str, *, where: Place | str = NOWHERE, key: str = "") -> Metric:
    """The metric of a registered name, or of the dotted path of a `Metric` or of a function under `@metric`.

    Args:
        where, key: the place of the word (file:line, key), for the message.
        word: the word that was given.
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
        DataError: no record has a label, or a metric cannot be computed from one of them, whose id is in the message;
            or its value is outside its range.
    """
    metrics = {name: metric_of(name) for name in names}
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
    """The named metrics of a split's records, and `rows`, how many have a label; that alone when none has.

    Args:
        records: predictions of a split.
        metrics: names, the main one first.
        labels: the labels, in declared order.
    """
    labelled = sum(record["label"] is not None for record in records)
    values = compute(metrics, records, labels) if labelled else {}
    return {**values, "rows": labelled}


def applicable(records: Sequence[Record], labels: Sequence[str] = ()) -> list[str]:
    """Names of all metrics that can be computed from these records, in alphabetical order."""
    labelled, declared = labelled_records(records), labels or declared_labels(records)
    if not labelled:
        return []
    return [name for name in METRICS.names() if METRICS.get(name).unmet(labelled, declared) is None]


def selection_faults(main_metrics: Mapping[str, str], select_by: str) -> list[Fault]:
    """Why the best checkpoint cannot be chosen by the mean of these metrics; empty when it can.

    Args:
        main_metrics: task → its main metric.
        select_by: as in a run.
    """
    if select_by != "mean" or len(main_metrics) < 2:
        return []
    scales = {task: metric_of(name).scale for task, name in main_metrics.items()}
    endless = [task for task, scale in scales.items() if scale.comparable(max(scale.range[0], 0.0)) is None]
    fix = "Give select_by: a task's name, or a range to the metric: @metric(…, range=(0, 100))."
    return [
        fault("", "select_by", f"mean, but {main_metrics[task]} of {task} has no range to compare it by", fix)
        for task in endless
    ]


SCALES = "_metrics"
"""The key of `results.json` below which each metric's scale is."""


class Scales:
    """The scales of metrics by name: those that a file of results holds, and those of this version.

    Names of metrics are data here: a dotted path is never imported. A name that nobody knows has a plain `Scale`.

    Args:
        stored: name → scale as `Scale.as_json` gives it.
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
        """Those of these names whose direction nobody knows."""
        return [name for name in names if self[name].direction == "unknown"]


def _read_scale(stored: Any) -> Scale | None:
    """A scale as `Scale.as_json` gave it; None of anything else."""
    try:
        low, high = stored["range"]
        ends = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
        direction, percent = stored["direction"], stored["percent"]
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
    known = direction in ("maximize", "minimize", "unknown") and isinstance(percent, bool)
    return Scale(direction, ends, percent) if known else None


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


def _refuse_outside(metrics: Mapping[str, Metric], values: Mapping[str, float]) -> None:
    """DataError for values that are not in the range their metric declares, NaN among them, but for rounding."""
    faults = []
    for name, value in values.items():
        low, high = metrics[name].range
        if math.isnan(value):
            faults.append(fault("", name, "its value is no number", "Return one, such as 0, where it is not defined."))
        elif not low - ROUNDING <= value <= high + ROUNDING:
            found = f"{value:g} is outside its range, {low:g} to {high:g}"
            faults.append(fault("", name, found, "Declare the range it has: @metric(…, range=(smallest, largest))."))
    if faults:
        raise DataError(faults)


def predictions_and_labels(records: Sequence[Record]) -> tuple[list[Any], list[Any]]:
    """Labels and predictions, in the order scikit-learn takes them."""
    return [record["label"] for record in records], [record["prediction"] for record in records]
