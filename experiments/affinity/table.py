"""Affinities of one run of all tasks next to what training in pairs did: `python -m experiments.affinity.table STUDY`.

The study is that of `small.yml` or `full.yml`, with all of its cells finished.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from scipy.stats import spearmanr

from mtdnn.columns import table
from mtdnn.report.read import read_agreement
from mtdnn.study.statistics import Comparison, compared, main_metrics
from mtdnn.study.table import Line, read_csv

TARGETS = ("rte", "mrpc", "stsb")


def values_of(lines: Sequence[Line], task: str, tasks: str) -> dict[str, float]:
    """Seed → a task's main metric on its dev split, of the runs with this value of the axis `tasks`."""
    metric = main_metrics(lines).get(task)
    chosen = (line for line in lines if line.task == task and line.axes.get("tasks") == tasks and line.metric == metric)
    return {line.axes["seed"]: line.value for line in chosen if line.value is not None}


def gains(lines: Sequence[Line], target: str) -> dict[str, Comparison]:
    """Helper → the target's main metric with it minus alone, paired by seed."""
    alone, found = values_of(lines, target, f"{target} alone"), {}
    for name in dict.fromkeys(line.axes.get("tasks", "") for line in lines):
        pair = name.split(" with ")
        if len(pair) == 2 and target in pair:
            helper = pair[1 - pair.index(target)]
            comparison = compared(values_of(lines, target, name), alone)
            if comparison is not None:
                found[helper] = comparison
    return found


def report(lines: Sequence[Line], affinities: Mapping[tuple[str, str], Sequence[float]]) -> str:
    """A line per target and helper, and a rank correlation per target; affinities and differences in percent.

    Args:
        lines: of results.csv.
        affinities: (helper, target) → affinities at the logged steps.
    """
    rows, notes = [["target", "helper", "affinity", "difference", "95 % interval", "pairs"]], []
    for target in TARGETS:
        found = gains(lines, target)
        means = {helper: fmean(affinities[helper, target]) for helper in found if (helper, target) in affinities}
        for helper in sorted(means, key=lambda helper: -means[helper]):
            spread = found[helper].difference
            interval = (
                "" if spread.low is None or spread.high is None else f"{_points(spread.low)} … {_points(spread.high)}"
            )
            numbers = [f"{100 * means[helper]:+.2g}", _points(spread.mean), interval, str(spread.count)]
            rows.append([target, helper, *numbers])
        if len(means) > 2:
            found_means = [found[helper].difference.mean for helper in means]
            rho, p = spearmanr(list(means.values()), found_means)
            notes.append(f"{target}: Spearman's ρ {rho:.2f}, p {p:.2f}, {len(means)} helpers")
    return "\n".join([table(rows), *notes])


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="folder of the study")
    folder = parser.parse_args(words).study
    lines = read_csv(folder / "results.csv")
    run = next(line.run for line in lines if line.stage == "all")
    print(report(lines, read_agreement(folder / run).affinities))


if __name__ == "__main__":
    main()
