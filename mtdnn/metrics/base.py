"""Prediction records → numbers, by name: all a metric sees is what the prediction file holds.

A record is one line of `predictions/<task>.<split>.jsonl`: `{"id", "prediction", "label", "scores"}`, labels by their
names (numbers for regression), `scores` the probability of each label in the order the task declares them. Rates are
fractions in [0, 1], correlations lie in [−1, 1]; percent appears in reports only. The numbers are scikit-learn's and
SciPy's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from mtdnn.errors import ConfigError, DataError, fault
from mtdnn.registry import Registry

Record = Mapping[str, Any]
"""One prediction: `id`, `prediction`, `label` (None: unknown), `scores` (empty or absent where there are none)."""

OPTION_ID = re.compile(r"(.+-\d+)-\d+")
"""The id of a row that is one of the answers to a question, `paragraph-question-answer`; the group is the question."""

CALIBRATION_BINS = 15
"""Bins of equal width for `ece`, the number used by Guo et al. 2017."""


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


METRICS: Registry[Metric] = Registry(
    "metric", modules=("mtdnn.metrics.tags", "mtdnn.metrics.answers", "mtdnn.metrics.rankings")
)
"""The words for `metrics:` in a task definition: labels and numbers here, the rest in the files beside this one."""

Function = Callable[[Sequence[Record], Sequence[str]], float]


def metric(name: str, demand: Demand, *, higher_is_better: bool = True) -> Callable[[Function], Function]:
    """A decorator that registers a function of (labelled records, declared labels) as a metric."""

    def add(function: Function) -> Function:
        METRICS.register(name)(Metric(name, function, demand, higher_is_better))
        return function

    return add


def metric_of(word: str, *, where: str = "", key: str = "") -> Metric:
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


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _has_names(record: Record, labels: Sequence[str]) -> bool:
    return isinstance(record["label"], str) and isinstance(record.get("prediction"), str)


def _has_one_of_two_names(record: Record, labels: Sequence[str]) -> bool:
    return _has_names(record, labels) and len(labels) == 2 and record["label"] in labels


def _has_numbers(record: Record, labels: Sequence[str]) -> bool:
    return _is_number(record["label"]) and _is_number(record.get("prediction"))


def _has_probabilities(record: Record, labels: Sequence[str]) -> bool:
    scores = record.get("scores")
    return _has_names(record, labels) and isinstance(scores, Mapping) and record["label"] in scores


def _is_an_option(record: Record, labels: Sequence[str]) -> bool:
    return _has_names(record, labels) and OPTION_ID.fullmatch(str(record.get("id"))) is not None


NAMES = Demand("a label name as prediction and as label", _has_names)
TWO_NAMES = Demand(
    "exactly two declared labels, the second being the positive one; f1_macro and f1_micro take any number",
    _has_one_of_two_names,
)
NUMBERS = Demand("finite numbers as prediction and as label", _has_numbers)
OPTIONS = Demand(
    "a label name as prediction and as label, and ids `paragraph-question-answer` that end in two numbers",
    _is_an_option,
)
PROBABILITIES = Demand("a probability for each label in its scores", _has_probabilities)


def _columns(records: Sequence[Record]) -> tuple[list[Any], list[Any]]:
    """Labels and predictions, in the order scikit-learn takes them."""
    return [record["label"] for record in records], [record["prediction"] for record in records]


@metric("accuracy", NAMES)
def accuracy(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of predictions that are the label."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(*_columns(records)))


@metric("f1", TWO_NAMES)
def f1(records: Sequence[Record], labels: Sequence[str]) -> float:
    """F1 of the positive label, the second declared one, as GLUE has it for MRPC and QQP; 0 when it never occurs."""
    from sklearn.metrics import f1_score

    return float(f1_score(*_columns(records), labels=[labels[1]], average="micro", zero_division=0.0))


@metric("precision", TWO_NAMES)
def precision(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Precision of the positive label, the second declared one; 0 when it is never predicted."""
    from sklearn.metrics import precision_score

    return float(precision_score(*_columns(records), labels=[labels[1]], average="micro", zero_division=0.0))


@metric("recall", TWO_NAMES)
def recall(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Recall of the positive label, the second declared one; 0 when no row has it."""
    from sklearn.metrics import recall_score

    return float(recall_score(*_columns(records), labels=[labels[1]], average="micro", zero_division=0.0))


@metric("f1_macro", NAMES)
def f1_macro(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Unweighted mean of the F1 of each label that occurs among labels or predictions, as scikit-learn takes it."""
    from sklearn.metrics import f1_score

    return float(f1_score(*_columns(records), average="macro", zero_division=0.0))


@metric("f1_micro", NAMES)
def f1_micro(records: Sequence[Record], labels: Sequence[str]) -> float:
    """F1 of all labels counted together; with one label per row it is the accuracy."""
    from sklearn.metrics import f1_score

    return float(f1_score(*_columns(records), average="micro", zero_division=0.0))


@metric("question_exact_match", OPTIONS)
def question_exact_match(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the questions all of whose answers are judged rightly; a question's rows share their id up to its end.

    MultiRC's exact match; its F1 over all answers (F1a) is `f1`.
    Source: Khashabi et al. 2018, "Looking beyond the surface"; Wang et al. 2019, arXiv 1905.00537.
    """
    right: dict[str, bool] = {}
    for record in records:
        question = str(record["id"]).rpartition("-")[0]
        right[question] = right.get(question, True) and record["prediction"] == record["label"]
    return sum(right.values()) / len(right)


@metric("mcc", NAMES)
def mcc(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Matthews correlation coefficient; 0 when labels or predictions are constant (as scikit-learn defines it)."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(*_columns(records)))


@metric("pearson", NUMBERS)
def pearson(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Pearson correlation; 0 where it is not defined (fewer than two rows, or constant labels or predictions).

    A model that predicts one number for all has learnt nothing, and a NaN would make every mean over tasks NaN.
    """
    from scipy.stats import pearsonr

    return _correlation(pearsonr, records)


@metric("spearman", NUMBERS)
def spearman(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Spearman rank correlation; 0 where it is not defined, for the reasons given at `pearson`."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, records)


def _correlation(function: Callable[..., Any], records: Sequence[Record]) -> float:
    targets, predictions = _columns(records)
    if len(set(targets)) < 2 or len(set(predictions)) < 2:
        return 0.0
    return float(function(targets, predictions).statistic)


@metric("mse", NUMBERS, higher_is_better=False)
def mse(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Mean squared error, in squared units of the label."""
    from sklearn.metrics import mean_squared_error

    return float(mean_squared_error(*_columns(records)))


@metric("mae", NUMBERS, higher_is_better=False)
def mae(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Mean absolute error, in units of the label."""
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(*_columns(records)))


@metric("cross_entropy", PROBABILITIES, higher_is_better=False)
def cross_entropy(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Mean negative log probability of the label, in nats; a probability of 0 counts as 2⁻⁵², as in scikit-learn."""
    import numpy as np

    gold = np.array([record["scores"][record["label"]] for record in records], dtype=np.float64)
    return float(-np.log(np.clip(gold, np.finfo(np.float64).eps, 1.0)).mean())


@metric("ece", PROBABILITIES, higher_is_better=False)
def ece(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Expected calibration error: mean distance of confidence and accuracy, over 15 bins of confidence.

    Confidence is the largest probability of a row; bins (k/15, (k+1)/15] are weighted by their rows.
    Source: Guo et al. 2017, arXiv 1706.04599, eq. 3.
    """
    import numpy as np

    confidence = np.array([max(record["scores"].values()) for record in records], dtype=np.float64)
    right = np.array([record["prediction"] == record["label"] for record in records], dtype=np.float64)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(records))
