"""Each task alone, with others, and the difference: whether training together has helped it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtdnn.errors import DataError, MtdnnError, fault
from mtdnn.metrics.base import SCALES, Scale, Scales
from mtdnn.report.document import Block, Heading, Place, Table, row
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.named import trained_tasks
from mtdnn.study.inference import SIGNIFICANT, false_discovery
from mtdnn.study.statistics import COUNTS, Comparison, compared, repeat_of, spread, units
from mtdnn.study.table import Line

CAPTION = (
    "Main metric of each task on its first split: mean over the runs with it alone, over those with other tasks, and "
    "the mean difference of the pairs with a 95 % t interval. Bold: p of the paired t-test, corrected over the table "
    "by Benjamini and Hochberg, is below 0.05."
)


@dataclass
class Measured:
    """Values of one task's main metric.

    Attributes:
        scale: of the metric.
        alone: repeat → value of the run that trains this task alone.
        together: label → repeat → value of the run that trains it with others.
    """

    scale: Scale
    alone: dict[str, float] = field(default_factory=dict)
    together: dict[str, dict[str, float]] = field(default_factory=dict)


def together_of_study(lines: Sequence[Line], *, compare: str, repeats: Sequence[str]) -> list[Block]:
    """The section of a study; empty unless it has runs of one task and of several.

    Args:
        lines: of results.csv.
        compare: axis whose values label the runs of several tasks.
        repeats: axes that repeat a run, by which runs are paired.
    """
    trained: dict[str, set[str]] = {}
    for line in lines:
        if line.train_rows is not None:
            trained.setdefault(line.run, set()).add(line.task)
    found: dict[str, Measured] = {}
    first: dict[str, tuple[str, str]] = {}
    for line in lines:
        own = trained.get(line.run, set())
        if line.value is None or line.task not in own or line.metric in COUNTS:
            continue
        if first.setdefault(line.task, (line.split, line.metric)) != (line.split, line.metric):
            continue
        measured = found.setdefault(line.task, Measured(line.scale))
        label, repeat = line.axes.get(compare, line.stage), repeat_of(line, repeats)
        (measured.alone if len(own) == 1 else measured.together.setdefault(label, {}))[repeat] = line.value
    return together_section(found)


def together_of_runs(together: Sequence[Path], alone: Sequence[Path]) -> list[Block]:
    """The section of some runs, paired by their seeds.

    Args:
        together: folders of runs of several tasks.
        alone: folders of runs of one task each.
    Raises:
        DataError: a run of `alone` trains several tasks, or two runs of a task have the same seed.
    """
    found: dict[str, Measured] = {}
    for folder in (*alone, *together):
        run = RunFolder(folder)
        results = run.read_results()
        trained, seed = _trained(run), str(results.get("_run", {}).get("seed", run.read_config().seed))
        if folder in alone and len(trained) != 1:
            what = f"trains {', '.join(trained)}, not one task"
            raise DataError(fault(str(folder), "alone", what, "Give runs of single tasks."))
        for task in (name for name in trained if results.get(name)):
            metric, value = next((each for each in _first(results[task]).items() if each[0] not in COUNTS), ("", 0.0))
            if not metric:
                continue
            measured = found.setdefault(task, Measured(Scales(results.get(SCALES))[metric]))
            values = measured.alone if folder in alone else measured.together.setdefault("together", {})
            if seed in values:
                what = f"a second run of '{task}' with seed {seed}"
                raise DataError(fault(str(folder), "", what, "Runs are paired by seed; give one for each seed."))
            values[seed] = value
    return together_section(found)


def _first(splits: Mapping[str, Mapping[str, float]]) -> Mapping[str, float]:
    return next(iter(splits.values()))


def _trained(run: RunFolder) -> list[str]:
    """The tasks that a run was trained on; those with results if its definitions are not available."""
    try:
        return list(trained_tasks(run.read_config(), run.read_tasks()))
    except (MtdnnError, OSError):
        return [name for name in run.read_results() if not name.startswith("_")]


def together_section(found: Mapping[str, Measured]) -> list[Block]:
    """The table of tasks that were trained both ways; empty without any.

    Args:
        found: task → its values.
    """
    lines: list[tuple[str, str, Measured, Comparison]] = []
    for task, measured in found.items():
        for label, values in measured.together.items():
            common = {repeat: value for repeat, value in values.items() if repeat in measured.alone}
            alone = {repeat: measured.alone[repeat] for repeat in common}
            if (comparison := compared(units(common), units(alone))) is not None:
                lines.append((task, label, measured, comparison))
    if not lines:
        return []
    corrected = false_discovery([comparison.t_p for *_, comparison in lines])
    labelled = len({label for _, label, *_ in lines}) > 1
    head = ["task", *(["together"] if labelled else []), "alone", "with others", "difference", "95 % interval", "pairs"]
    rows = [_row(*line, p=p, labelled=labelled) for line, p in zip(lines, corrected, strict=True)]
    return [Heading("Alone and together"), Table(head, rows, caption=CAPTION, words=[0, 1] if labelled else [0])]


def _row(
    task: str, label: str, measured: Measured, comparison: Comparison, *, p: float | None, labelled: bool
) -> list[Place]:
    scale, difference = measured.scale, comparison.difference
    means = [spread(list(units(values).values())).mean for values in (measured.alone, measured.together[label])]
    sure = p is not None and p < SIGNIFICANT and scale.direction != "unknown"
    better = scale.gain(difference.mean) > 0 if sure else False
    interval = "–"
    if difference.low is not None and difference.high is not None:
        interval = f"{scale.difference(difference.low)} … {scale.difference(difference.high)}"
    trend = ("up" if better else "down") if sure else ""
    names = [task, label] if labelled else [task]
    return [
        *row(*names, *map(scale.shown, means)),
        Place(scale.difference(difference.mean), strong=sure, trend=trend),
        *row(interval, str(difference.count)),
    ]
