"""Each task alone, with others, and the difference: whether training together has helped it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtdnn.errors import DataError, MtdnnError, fault
from mtdnn.metrics.base import SCALES, Scale, Scales
from mtdnn.report.document import Block, Heading, Place, Table, row
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.named import trained_tasks
from mtdnn.study.inference import SIGNIFICANT, false_discovery
from mtdnn.study.statistics import COUNTS, Comparison, compared, labels_of, repeat_of, spread, units
from mtdnn.study.table import Line

CAPTION = (
    "Main metric of each task on its first split: mean over the runs with it alone, over those with other tasks, and "
    "the mean difference of the pairs with a 95 % t interval. Bold: p of the paired t-test, corrected over the table "
    "by Benjamini and Hochberg, is below 0.05."
)


Runs = dict[tuple[str, str], dict[str, float]]
"""(label, column) → repeat → value of a run."""


@dataclass
class Measured:
    """Values of one task's main metric.

    Attributes:
        scale: of the metric.
        alone: those of runs that train this task alone.
        together: those of runs that train it with others.
    """

    scale: Scale
    alone: Runs = field(default_factory=dict)
    together: Runs = field(default_factory=dict)

    def pairs(self, reference: str) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
        """Places of runs together and of the runs alone to compare them with, in the same column: the reference's, or
        those of every label if the reference has none."""
        labels = {label for label, _ in self.alone}
        for label, column in self.together:
            for other in self.alone:
                if other[1] == column and (reference not in labels or other[0] == reference):
                    yield (label, column), other


def together_of_study(
    lines: Sequence[Line],
    *,
    compare: str,
    repeats: Sequence[str],
    reference: str = "",
    across: str | None = None,
    label_of: Callable[[Line], str] | None = None,
) -> list[Block]:
    """The section of a study; empty unless it has runs of one task and of several.

    Args:
        lines: of results.csv; where axes were tuned, of their best values alone.
        compare: axis whose values label the runs; others have the name of their stage, and what else differs there.
        repeats: axes that repeat a run, by which runs are paired.
        reference: value of that axis whose runs of single tasks are compared with. Default: all are.
        across: axis of the columns; runs are compared with those at the same value.
        label_of: gives the label of a line that has the compared axis. Default: its value.
    """
    trained = tasks_of_runs(lines)
    measured = [line for line in lines if line.task in trained.get(line.run, ()) and line.metric not in COUNTS]
    first = {line.task: (line.split, line.metric) for line in reversed(measured) if line.value is not None}
    found: dict[str, Measured] = {}
    others = [line for line in measured if compare not in line.axes]
    label_of_stage = labels_of(others, compare=compare, hidden=(across, *repeats))
    for line in measured:
        if line.value is None or first[line.task] != (line.split, line.metric):
            continue
        label = line.axes[compare] if compare in line.axes else label_of_stage(line)
        label = label_of(line) if label_of and compare in line.axes else label
        of_task = found.setdefault(line.task, Measured(line.scale))
        runs = of_task.alone if len(trained[line.run]) == 1 else of_task.together
        runs.setdefault((label, line.axes.get(across or "", "")), {})[repeat_of(line, repeats)] = line.value
    return together_section(found, reference=reference)


def tasks_of_runs(lines: Sequence[Line]) -> dict[str, set[str]]:
    """Run → the tasks it was trained on."""
    trained: dict[str, set[str]] = {}
    for line in lines:
        if line.train_rows is not None:
            trained.setdefault(line.run, set()).add(line.task)
    return trained


def together_of_runs(together: Sequence[Path], alone: Sequence[Path]) -> list[Block]:
    """The section of some runs, paired by their seeds.

    Args:
        together: folders of runs of several tasks.
        alone: folders of runs of one task each.
    Raises:
        DataError: a run of `alone` trains several tasks; two runs of a task have the same seed, or differ in its main
            metric or first split; or no two runs make a pair.
    """
    found: dict[str, Measured] = {}
    measured_by: dict[str, tuple[Path, str]] = {}
    for folder in (*alone, *together):
        run = RunFolder(folder)
        results = run.read_results()
        trained, seed = _trained(run), str(results.get("_run", {}).get("seed", run.read_config().seed))
        if folder in alone and len(trained) != 1:
            what = f"trains {', '.join(trained)}, not one task"
            raise DataError(fault(str(folder), "alone", what, "Give runs of single tasks."))
        for task in (name for name in trained if results.get(name)):
            split, values = next(iter(results[task].items()))
            metric, value = next((each for each in values.items() if each[0] not in COUNTS), ("", 0.0))
            if not metric:
                continue
            own = f"{metric} on {split}"
            other, theirs = measured_by.setdefault(task, (folder, own))
            if theirs != own:
                what = f"'{task}' is measured by {own}, and in {other} by {theirs}"
                raise DataError(fault(str(folder), "", what, "Give runs of one definition of the task."))
            measured = found.setdefault(task, Measured(Scales(results.get(SCALES))[metric]))
            runs = measured.alone if folder in alone else measured.together
            by_seed = runs.setdefault(("", ""), {})
            if seed in by_seed:
                what = f"a second run of '{task}' with seed {seed}"
                raise DataError(fault(str(folder), "", what, "Runs are paired by seed; give one for each seed."))
            by_seed[seed] = value
    if blocks := together_section(found):
        return blocks
    seeds = (_seeds({task: getattr(each, way) for task, each in found.items()}) for way in ("alone", "together"))
    what = "no two runs have a task and a seed in common; alone: {}; with others: {}".format(*seeds)
    raise DataError(
        fault(str(together[0]) if together else "", "alone", what, "Give runs of one task with these seeds.")
    )


def _seeds(runs: Mapping[str, Runs]) -> str:
    """`rte with seed 1, 2; mrpc with seed 1`, of the runs of each task."""
    return (
        "; ".join(f"{task} with seed {', '.join(each)}" for task, of in runs.items() for each in of.values()) or "none"
    )


def _trained(run: RunFolder) -> list[str]:
    """The tasks that a run was trained on; those with results if its definitions are not available."""
    try:
        return list(trained_tasks(run.read_config(), run.read_tasks()))
    except (MtdnnError, OSError):
        return [name for name in run.read_results() if not name.startswith("_")]


@dataclass(frozen=True)
class _Pair:
    """A task's runs with others, and those alone that they are compared with.

    Attributes:
        names: task, label of the runs with others, label of those alone, column.
        means: of the runs alone, and of those with others.
    """

    names: tuple[str, str, str, str]
    scale: Scale
    means: tuple[float, float]
    comparison: Comparison


def together_section(found: Mapping[str, Measured], *, reference: str = "") -> list[Block]:
    """The table of tasks that were trained both ways; empty without any.

    Args:
        found: task → its values.
        reference: label of the runs alone that are compared with. Default: all are.
    """
    lines = [line for task, measured in found.items() for line in _pairs(task, measured, reference)]
    if not lines:
        return []
    corrected = false_discovery([line.comparison.t_p for line in lines])
    varying = [place for place in (1, 2, 3) if len({line.names[place] for line in lines}) > 1]
    heads = ("task", "together", "alone", "column")
    head = [*(heads[place] for place in (0, *varying)), "alone", "with others", "difference", "95 % interval", "pairs"]
    rows = [_row(line, (0, *varying), p) for line, p in zip(lines, corrected, strict=True)]
    return [Heading("Alone and together"), Table(head, rows, caption=CAPTION, words=range(1 + len(varying)))]


def _pairs(task: str, measured: Measured, reference: str) -> Iterator[_Pair]:
    for place, other in measured.pairs(reference):
        values, alone = measured.together[place], measured.alone[other]
        common = [repeat for repeat in values if repeat in alone]
        ours, theirs = (units({repeat: each[repeat] for repeat in common}) for each in (values, alone))
        if (comparison := compared(ours, theirs)) is not None:
            means = (spread(list(units(each).values())).mean for each in (alone, values))
            yield _Pair((task, place[0], other[0], place[1]), measured.scale, (next(means), next(means)), comparison)


def _row(line: _Pair, shown: Sequence[int], p: float | None) -> list[Place]:
    scale, difference = line.scale, line.comparison.difference
    sure = p is not None and p < SIGNIFICANT and scale.direction != "unknown"
    better = scale.gain(difference.mean) > 0 if sure else False
    trend = ("up" if better else "down") if sure else ""
    return [
        *row(*(line.names[place] for place in shown), *map(scale.shown, line.means)),
        Place(scale.difference(difference.mean), strong=sure, trend=trend),
        *row(scale.interval(difference.low, difference.high), str(difference.count)),
    ]
