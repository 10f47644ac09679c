"""What one run of all tasks predicts, next to what training in pairs did: `python -m experiments.affinity.table STUDY`.

The study is that of `small.yml` or `full.yml`, with all of its cells finished. A helper is predicted to be good for a
target by its affinity (Fifty et al. 2021), and by the cosine of their gradients.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy.stats import rankdata, spearmanr, zscore

from mtdnn.columns import table
from mtdnn.report.read import TaskAgreement, read_agreement
from mtdnn.report.study_tests import shown_p
from mtdnn.study.inference import false_discovery
from mtdnn.study.statistics import Comparison, compared, main_metrics
from mtdnn.study.table import Line, read_csv

ALONE = " alone"
DRAWS = 9999
Pair = tuple[str, str]


def values_of(lines: Sequence[Line], task: str, tasks: str) -> dict[str, float]:
    """Seed → a task's main metric on its dev split, of the runs with this value of the axis `tasks`."""
    metric = main_metrics(lines).get(task)
    chosen = (line for line in lines if line.task == task and line.axes.get("tasks") == tasks and line.metric == metric)
    return {line.axes["seed"]: line.value for line in chosen if line.value is not None}


def targets_of(lines: Sequence[Line]) -> list[str]:
    """The tasks that were trained alone, in the order of their runs."""
    names = dict.fromkeys(line.axes.get("tasks", "") for line in lines)
    return [name.removesuffix(ALONE) for name in names if name.endswith(ALONE)]


def gains(lines: Sequence[Line], target: str) -> dict[str, Comparison]:
    """Helper → the target's main metric with it minus alone, paired by seed."""
    alone, found = values_of(lines, target, target + ALONE), {}
    for name in dict.fromkeys(line.axes.get("tasks", "") for line in lines):
        pair = name.split(" with ")
        if len(pair) == 2 and target in pair:
            helper = pair[1 - pair.index(target)]
            comparison = compared(values_of(lines, target, name), alone)
            if comparison is not None:
                found[helper] = comparison
    return found


def report(lines: Sequence[Line], agreement: TaskAgreement) -> str:
    """A line per target and helper, and how well each predictor orders the helpers; in percent, but the cosines.

    Args:
        lines: of results.csv.
        agreement: the affinities and cosines that the run of all tasks has logged.
    """
    affinities, cosines = _means(agreement.affinities), _means(agreement.cosines)
    found = {target: gains(lines, target) for target in targets_of(lines)}
    pairs = [
        (helper, target) for target in found for helper in found[target] if (helper, target) in affinities
    ]  # (helper, target) as in the log: what a step on the first does to the second
    corrected = false_discovery([found[target][helper].t_p for helper, target in pairs])
    order = sorted(range(len(pairs)), key=lambda place: (list(found).index(pairs[place][1]), -affinities[pairs[place]]))
    rows = [["target", "helper", "affinity", "cosine", "difference", "95 % interval", "pairs", "corrected p"]]
    for place in order:
        (helper, target), p = pairs[place], corrected[place]
        difference = found[target][helper].difference
        numbers = [f"{100 * affinities[helper, target]:+.2g}", f"{cosines.get((helper, target), float('nan')):+.2f}"]
        interval = "" if difference.low is None or difference.high is None else (
            f"{_points(difference.low)} … {_points(difference.high)}"
        )  # fmt: skip
        numbers += [_points(difference.mean), interval, str(difference.count), shown_p(p)]
        rows.append([target, helper, *numbers])
    means = {(helper, target): found[target][helper].difference.mean for helper, target in pairs}
    return "\n".join([table(rows), *agreements("affinity", affinities, means), *agreements("cosine", cosines, means)])


def agreements(name: str, predicted: Mapping[Pair, float], gained: Mapping[Pair, float]) -> list[str]:
    """Spearman's ρ of a predictor with the gains, per target, and the mean over the targets with p.

    p is two-sided, by permuting the helpers within each target.

    Args:
        name: of the predictor.
        predicted: (helper, target) → its value.
        gained: (helper, target) → the mean difference.
    """
    by_target: dict[str, tuple[list[float], list[float]]] = {}
    for pair, gain in gained.items():
        if pair in predicted:
            ours, theirs = by_target.setdefault(pair[1], ([], []))
            ours.append(predicted[pair])
            theirs.append(gain)
    known = {target: each for target, each in by_target.items() if len(each[0]) > 2}
    if not known:
        return []
    lines = []
    for target, (ours, theirs) in known.items():
        rho, p = spearmanr(ours, theirs)
        lines.append(f"{name}, {target}: Spearman's ρ {rho:.2f}, p {p:.2f}, {len(ours)} helpers")
    mean, p = permuted(list(known.values()))
    return [*lines, f"{name}: mean ρ {mean:.2f} over {len(known)} targets, p {p:.4f} by permutation"]


def permuted(groups: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[float, float]:
    """Mean of Spearman's ρ over groups of pairs of numbers, and its two-sided p by permuting within each group."""
    draws, found, by_chance = np.random.default_rng(0), 0.0, np.zeros(DRAWS)
    for ours, theirs in groups:  # ρ is the mean product of the ranks, standardized
        own, other = (zscore(rankdata(each)) for each in (ours, theirs))
        found += float(own @ other) / len(own) / len(groups)
        by_chance += draws.permuted(np.tile(other, (DRAWS, 1)), axis=1) @ own / len(own) / len(groups)
    larger = int((np.abs(by_chance) >= abs(found) - 1e-9).sum())
    return found, (1 + larger) / (1 + DRAWS)


def _means(values: Mapping[Pair, Sequence[float]]) -> dict[Pair, float]:
    return {pair: fmean(each) for pair, each in values.items()}


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="folder of the study")
    folder = parser.parse_args(words).study
    lines = read_csv(folder / "results.csv")
    run = next(line.run for line in lines if line.stage == "all")
    print(report(lines, read_agreement(folder / run)))


if __name__ == "__main__":
    main()
