"""What one run of all tasks predicts, next to what training in pairs did: `python -m experiments.affinity.table STUDY`.

The study is that of `small.yml` or `full.yml`, with all of its cells finished. A helper is predicted to be good for a
target by its affinity (Fifty et al. 2021), and by the cosine of their gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import rankdata, spearmanr, zscore

from data_prep.rows_out import errors_reported
from experiments.outcomes import finished_lines, study_folder
from mtdnn.columns import table
from mtdnn.errors import DataError
from mtdnn.metrics.base import Scale
from mtdnn.report.read import TaskAgreement, read_agreement
from mtdnn.report.study_tests import shown_p
from mtdnn.study.inference import false_discovery, holm
from mtdnn.study.statistics import Comparison, compared, main_metrics
from mtdnn.study.table import Line

ALONE = " alone"
DRAWS = 9999
POINTS = Scale("maximize", percent=True)
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


def report(lines: Sequence[Line], logged: TaskAgreement) -> str:
    """A line per target and helper, and how well each predictor orders the helpers; in percent, but the cosines.

    Args:
        lines: of results.csv.
        logged: the affinities and cosines of the run of all tasks.
    """
    affinities, cosines = _means(logged.affinities), _means(logged.cosines)
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
        interval = POINTS.interval(difference.low, difference.high)
        numbers += [POINTS.difference(difference.mean), interval, str(difference.count), shown_p(p)]
        rows.append([target, helper, *numbers])
    means = {(helper, target): found[target][helper].difference.mean for helper, target in pairs}
    predictors = [agreement("affinity", affinities, means), agreement("cosine", cosines, means)]
    return "\n".join([table(rows), *agreement_lines([each for each in predictors if each is not None])])


@dataclass(frozen=True)
class Agreement:
    """How well a predictor orders the helpers of each target.

    Attributes:
        name: of the predictor.
        by_target: target → Spearman's ρ, its p, and the number of helpers.
        mean: of ρ over the targets.
        p: of the mean, two-sided, by permuting the helpers within each target.
    """

    name: str
    by_target: Mapping[str, tuple[float, float, int]]
    mean: float
    p: float


def agreement(name: str, predicted: Mapping[Pair, float], gained: Mapping[Pair, float]) -> Agreement | None:
    """The agreement of a predictor with the gains; None where no target has three helpers that differ.

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
    known = {  # equal numbers have no order, and no correlation
        target: (ours, theirs)
        for target, (ours, theirs) in by_target.items()
        if len(ours) > 2 and len(set(ours)) > 1 and len(set(theirs)) > 1
    }
    if not known:
        return None
    found = {target: (*spearmanr(ours, theirs), len(ours)) for target, (ours, theirs) in known.items()}
    return Agreement(name, found, *permuted(list(known.values())))


def agreement_lines(found: Sequence[Agreement]) -> list[str]:
    """Each predictor per target and over the targets; p of the predictors' means are corrected by Holm."""
    lines = []
    for each, corrected in zip(found, holm([each.p for each in found]), strict=True):
        for target, (rho, p, count) in each.by_target.items():
            lines.append(f"{each.name}, {target}: Spearman's ρ {rho:.2f}, p {p:.2f}, {count} helpers")
        mean = f"{each.name}: mean ρ {each.mean:.2f} over {len(each.by_target)} targets"
        lines.append(f"{mean}, p {each.p:.4f} by permutation, corrected {corrected:.4f}")
    return lines


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


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    folder = study_folder(__doc__, words)
    with errors_reported():
        lines = finished_lines(folder, axes=("tasks", "seed"))
        run = next((line.run for line in lines if line.stage == "all"), None)
        if run is None:
            raise DataError(f"{folder}: no stage 'all', whose log has the affinities.")
        print(report(lines, read_agreement(folder / run)))


if __name__ == "__main__":
    main()
