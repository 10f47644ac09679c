"""Repeated runs → mean, deviation, interval, and how one method compares with another, place by place of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mtdnn.metrics.base import Scale
from mtdnn.study.inference import equivalence_p, t_interval
from mtdnn.study.table import Line

MARGIN = 0.01
"""Differences below count as none where a metric is shown in percent: one point."""

SAME = 1e-12  # numbers with a smaller relative difference differ by rounding alone
DIGITS = 12  # of differences; what is smaller is rounding
INNER = "\x1f"  # between the names of nested repeats
COUNTS = ("rows",)  # reported with the metrics, but not a metric


@dataclass(frozen=True)
class Spread:
    """Values of repeated runs.

    Attributes:
        mean: NaN without values.
        std: sample standard deviation (n − 1); None for fewer than two values.
        low, high: 95 % t interval of the mean; None for fewer than two values.
    """

    count: int
    mean: float
    std: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A method minus the reference, over runs with the same seed.

    Attributes:
        difference: spread of the differences, run by run.
        t_p, wilcoxon_p: two-sided p of the paired t-test and of Wilcoxon's signed ranks; None for fewer than two
            pairs, and t_p also for differences that are all equal, since they have no spread.
        equivalence_p: of two one-sided t-tests against a margin; None without one, or of fewer than two pairs.
        by_unit: unit → difference.
    """

    difference: Spread
    t_p: float | None
    wilcoxon_p: float | None
    equivalence_p: float | None = None
    by_unit: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One cell of a table: a method on one metric of one split of one task, over its repeats.

    Attributes:
        scale: of the metric.
        label: value of the compared axis, with the values of other axes that vary too.
        across: value of the axis of the columns; empty without such an axis.
        values: repeat → value of a run; see `repeat_of`.
        spread: over the units: the outermost repeats, of each the mean of its runs.
        train_rows: mean number of training rows; None where unknown.
        comparison: with the reference; None for the reference itself, or without a common repeat.
        diverged: number of runs whose loss was not finite; they are not in `values`.
        against: label of what it is compared with.
    """

    task: str
    split: str
    metric: str
    scale: Scale
    label: str
    across: str
    values: Mapping[str, float]
    spread: Spread
    train_rows: float | None = None
    comparison: Comparison | None = None
    diverged: int = 0
    against: str = ""


def spread(values: Sequence[float]) -> Spread:
    """Mean, deviation and t interval of repeated runs."""
    import numpy as np

    if not values:
        return Spread(0, math.nan)
    mean = float(np.mean(values))
    if len(values) == 1:
        return Spread(1, mean)
    if len(set(values)) == 1:
        return Spread(len(values), values[0], 0.0, values[0], values[0])
    low, high = t_interval(values)
    return Spread(len(values), mean, float(np.std(values, ddof=1)), low, high)


def compared(
    values: Mapping[str, float], reference: Mapping[str, float], *, margin: float | None = None
) -> Comparison | None:
    """`values` minus `reference` over their common repeats; None without any.

    Args:
        values: repeat → value.
        reference: repeat → value of what it is compared with.
        margin: differences below count as none, for the test of equivalence; None makes no such test.
    """
    from scipy.stats import ttest_rel, wilcoxon

    by_unit = {repeat: values[repeat] - reference[repeat] for repeat in values if repeat in reference}
    ours, theirs = [values[repeat] for repeat in by_unit], [reference[repeat] for repeat in by_unit]
    differences = list(by_unit.values())
    if not differences:
        return None
    if len(differences) < 2:
        return Comparison(spread(differences), None, None, by_unit=by_unit)
    equivalent = None if margin is None else equivalence_p(differences, margin)
    # Steps of one row differ in the last digit: as ranks they are equal, and what is left of none is a difference of 0.
    ranked = [round(difference, DIGITS) for difference in differences]
    if not any(ranked):
        return Comparison(spread(differences), 1.0, 1.0, equivalent, by_unit)
    rank_p = float(wilcoxon(ranked).pvalue)
    constant = max(differences) - min(differences) <= SAME * max(map(abs, (*ours, *theirs)))
    t_p = None if constant else float(ttest_rel(ours, theirs).pvalue)
    return Comparison(spread(differences), t_p, rank_p, equivalent, by_unit)


def pooled_over_tasks(comparisons: Sequence[Comparison], *, margin: float | None = None) -> Comparison | None:
    """The mean over tasks of a unit's differences, over the units that all of them have; None without any.

    Args:
        comparisons: of one method with one reference, one for each task.
        margin: as of `compared`.
    """
    differences = [each.by_unit for each in comparisons]
    shared = [unit for unit in differences[0] if all(unit in each for each in differences)] if differences else []
    means = {unit: sum(each[unit] for each in differences) / len(differences) for unit in shared}
    return compared(means, dict.fromkeys(means, 0.0), margin=margin)


def entries(
    lines: Sequence[Line],
    *,
    compare: str,
    reference: str | None = None,
    across: str | None = None,
    repeats: Sequence[str] = ("seed",),
    margin: float = MARGIN,
    best_over: Sequence[str] = (),
) -> list[Entry]:
    """Every entry of a study's tables, in the order of the lines.

    Args:
        compare: axis whose values are compared; lines of stages without it are left out.
        reference: the value that the others are tested against. Default: the first.
        across: axis of the columns, such as the fraction.
        repeats: axes the mean is taken over, the outermost first. Its values are the units: of each the mean over the
            inner axes is taken, and intervals and tests are over these means.
        margin: differences below count as none, of metrics that are shown in percent.
        best_over: axes of which, per task and label, only the best values are kept; see `best_of`.
        lines: of results.csv.
    """
    lines = [line for line in lines if compare in line.axes and line.metric not in COUNTS]
    lines = best_of(lines, compare=compare, across=across, best_over=best_over, repeats=repeats)
    label = labels_of(lines, compare=compare, hidden=(across, *repeats, *best_over))

    def place(line: Line) -> tuple:
        return line.task, label(line), line.axes.get(across or "")

    measured = _groups((line for line in lines if line.metric), lambda line: (*place(line), line.split, line.metric))
    diverged = _groups((line for line in lines if line.outcome == "diverged"), place)
    words: dict[str, dict[str, str]] = {}
    for line in lines:
        words.setdefault(line.task, {})[label(line)] = line.axes[compare]
    reference = reference or next((line.axes[compare] for line in lines), "")
    against = {(task, name): _against(name, of_task, reference) for task, of_task in words.items() for name in of_task}
    scales = {line.metric: line.scale for line in reversed(lines)}
    found = {
        key: _entry(key, measured.get(key, []), scales, repeats=repeats, diverged=len(diverged.get(key[:3], [])))
        for key in _keys(map(place, lines), measured)
    }
    return [
        _with_comparison(replace(entry, against=other), found.get((task, other, *rest)), margin)
        for (task, name, *rest), entry in found.items()
        for other in [against[task, name]]
    ]


def _against(name: str, words: Mapping[str, str], reference: str) -> str:
    """The label that another is compared with: that of the reference at the same values of the other axes, or the only
    one the reference has, as a baseline that was run once with several weights of a method.

    Args:
        name: the label.
        words: of its task, label → value of the compared axis.
        reference: the value of that axis to compare with.
    """
    alike = reference + name.removeprefix(words[name])
    own = [label for label, word in words.items() if word == reference]
    return own[0] if alike not in words and len(own) == 1 else alike


def _groups(lines: Iterable[Line], key: Callable[[Line], tuple]) -> dict[tuple, list[Line]]:
    groups: dict[tuple, list[Line]] = {}
    for line in lines:
        groups.setdefault(key(line), []).append(line)
    return groups


def _keys(places: Iterable[tuple], measured: Iterable[tuple]) -> Iterator[tuple]:
    """(task, label, column, split, metric) of every entry.

    If all runs of an entry diverged it has no metric of its own, and gets every metric of its task.
    """
    of_task: dict[str, dict[tuple, None]] = {}
    of_place: dict[tuple, list[tuple]] = {}
    for key in measured:
        of_task.setdefault(key[0], {})[key[3:]] = None
        of_place.setdefault(key[:3], []).append(key[3:])
    for place in dict.fromkeys(places):
        for metric in of_place.get(place, of_task.get(place[0], {})):
            yield (*place, *metric)


def _entry(
    key: tuple, group: Sequence[Line], scales: Mapping[str, Scale], *, repeats: Sequence[str], diverged: int
) -> Entry:
    task, label, across, split, metric = key
    values = {repeat_of(line, repeats): line.value for line in group if line.value is not None}
    rows = [line.train_rows for line in group if line.train_rows is not None]
    return Entry(
        task=task, split=split, metric=metric, scale=scales[metric], label=label, across=across or "", values=values,
        spread=spread(list(units(values).values())), train_rows=sum(rows) / len(rows) if rows else None,
        diverged=diverged,
    )  # fmt: skip


def repeat_of(line: Line, repeats: Sequence[str]) -> str:
    """The name of a run among its repeats."""
    return INNER.join(line.axes.get(axis, "") for axis in repeats)


def units(values: Mapping[str, float]) -> dict[str, float]:
    """Unit → the mean of its runs; a unit is an outermost repeat, and a run alone where repeats are not nested."""
    groups: dict[str, list[float]] = {}
    for repeat, value in values.items():
        groups.setdefault(repeat.partition(INNER)[0], []).append(value)
    return {unit: sum(group) / len(group) for unit, group in groups.items()}


def _with_comparison(entry: Entry, reference: Entry | None, margin: float) -> Entry:
    """The entry, compared unit by unit over the runs that the reference has too."""
    if reference is None or entry.label == entry.against:
        return entry
    ours, theirs = (
        units({repeat: value for repeat, value in each.values.items() if repeat in other.values})
        for each, other in ((entry, reference), (reference, entry))
    )
    found = compared(ours, theirs, margin=margin if entry.scale.percent else None)
    return replace(entry, comparison=found)


def labels_of(lines: Sequence[Line], *, compare: str, hidden: Sequence[str | None]) -> Callable[[Line], str]:
    """The label of each line: its value of the compared axis, or its stage, and of every other axis that varies too.

    An axis that has one value per task (`data_set`) adds nothing, and neither do those in `hidden`. The stage is part
    of the label where runs of several stages would otherwise be at the same place, of which only one could be shown.

    Args:
        lines: of results.csv.
        compare: axis whose values are compared.
        hidden: axes that are not part of the label.
    """

    def first(line: Line) -> str:
        return line.axes.get(compare, line.stage)

    seen: dict[tuple[str, str, str], set[str]] = {}
    for line in lines:
        for axis, value in line.axes.items():
            seen.setdefault((line.task, first(line), axis), set()).add(value)

    def by_axes(line: Line) -> str:
        extra = [
            f"{axis} {value}"
            for axis, value in line.axes.items()
            if axis != compare and axis not in hidden and len(seen[line.task, first(line), axis]) > 1
        ]
        return ", ".join([first(line), *extra])

    shared = _in_several_stages(lines, by_axes, hidden)

    def label(line: Line) -> str:
        name = by_axes(line)
        return f"{name}, stage {line.stage}" if (line.task, name) in shared else name

    return label


def _in_several_stages(
    lines: Sequence[Line], label: Callable[[Line], str], hidden: Sequence[str | None]
) -> set[tuple[str, str]]:
    """(task, label) of which several stages have a run at the same values of the hidden axes."""
    stages: dict[tuple, set[str]] = {}
    for line in lines:
        place = (line.task, label(line), line.split, line.metric, *(line.axes.get(axis or "") for axis in hidden))
        stages.setdefault(place, set()).add(line.stage)
    return {place[:2] for place, found in stages.items() if len(found) > 1}


def best_of(
    lines: Sequence[Line],
    *,
    compare: str,
    across: str | None,
    best_over: Sequence[str],
    repeats: Sequence[str] = ("seed",),
) -> list[Line]:
    """The lines whose tuned axes have their best values: those with the smallest share of diverged runs, and among
    these the best by each task's main metric on its first split, which is its dev split. Each label has its own.

    Args:
        lines: of results.csv.
        compare: axis whose values are compared.
        across: axis of the columns, of whose values each has its own best.
        best_over: the tuned axes.
        repeats: axes that repeat a run.
    """
    if not best_over:
        return list(lines)
    label = labels_of(lines, compare=compare, hidden=(across, *repeats, *best_over))

    def place_of(line: Line) -> tuple:
        return line.task, label(line), line.axes.get(across or "")

    tuned_on = {line.task: (line.split, line.metric) for line in reversed(lines) if line.metric}
    chosen: dict[tuple, tuple[tuple[float, float], tuple]] = {}
    candidates = _groups(
        (line for line in lines if line.value is None or tuned_on[line.task] == (line.split, line.metric)),
        lambda line: (*place_of(line), tuple(line.axes.get(axis) for axis in best_over)),
    )
    for (*place, tuned), group in candidates.items():
        rank = _rank(group)
        if tuple(place) not in chosen or rank > chosen[tuple(place)][0]:
            chosen[tuple(place)] = (rank, tuned)
    best = {(*place, *tuned) for place, (_, tuned) in chosen.items()}
    return [line for line in lines if (*place_of(line), *(line.axes.get(axis) for axis in best_over)) in best]


def _rank(runs: Sequence[Line]) -> tuple[float, float]:
    """Rank of a tuned value, larger is better: the share of its runs that finished, then their mean."""
    finished = [line for line in runs if line.value is not None]
    mean = sum(line.value or 0.0 for line in finished) / max(1, len(finished))
    return len(finished) / len(runs), finished[0].scale.gain(mean) if finished else 0.0


def main_metrics(lines: Sequence[Line]) -> dict[str, str]:
    """Task → its main metric, the first in its lines."""
    found: dict[str, str] = {}
    for line in lines:
        if line.metric and line.metric not in COUNTS:
            found.setdefault(line.task, line.metric)
    return found


def no_better_than_chance(entry: Entry, floor: float) -> int:
    """Number of runs at or below `floor`, the metric of always predicting the most frequent label.

    Source: Mosbach et al. 2021, arXiv 2006.04884, who count such runs as failed.
    """
    return sum(value <= floor + 1e-12 for value in entry.values.values())
