"""The tables that the protocol froze: primary outcomes by Holm, secondary ones by Benjamini and Hochberg.

    python -m experiments.label_noise.table STUDY-FOLDER [--interim]

Reads `results.csv` and the predictions; refuses a study that is not finished, as arms are not to be looked at before.
The interim report, which the protocol allows once, has the seeds of which all cells are finished, and no verdicts.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep.rows_out import errors_reported
from experiments.outcomes import (
    Outcome,
    discovery_of,
    finished_lines,
    holm_of,
    lines_and_missing,
    mean_and_std,
    outcome_table,
)
from mtdnn.errors import DataError
from mtdnn.metrics.records import read_records
from mtdnn.report.document import Document, Heading, Place, Table, Text, row, to_markdown
from mtdnn.runs.folder import RunFolder
from mtdnn.study.inference import CONFIDENCE, RESAMPLES
from mtdnn.study.statistics import MARGIN, Comparison, compared, spread
from mtdnn.study.table import Line

TASK, SPLIT, CLEAN, NOISY = "scitail", "dev", "0", "0.3"
PLAIN, LONGER, CONTROL = "plain", "plain, 2.67 times the steps", "noise without ascent"
METHODS = ("SMART", "R-Drop")
AXES = ("noise", "method", "seed")
PRIMARY = ("accuracy", "auc")
OTHERS = ("cross_entropy", "cross_entropy_at_best_temperature")

Values = Mapping[tuple[str, str, str], Mapping[str, float]]
"""(metric, noise, method) → seed → value."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("--interim", action="store_true", help="the seeds that are finished, without verdicts")
    given = parser.parse_args()
    with errors_reported():
        lines = whole_seeds(given.study) if given.interim else finished_lines(given.study, axes=AXES)
        print(to_markdown(document_of(given.study, lines, verdicts=not given.interim), pictures=""), end="")


def whole_seeds(folder: Path) -> list[Line]:
    """The numbers of the seeds of which every cell is finished, for the interim report.

    Raises:
        DataError: there are fewer than two such seeds.
    """
    lines, missing = lines_and_missing(folder, axes=AXES)
    cut = {cell["axes"]["seed"] for cell in missing}
    lines = [line for line in lines if line.axes["seed"] not in cut]
    if len({line.axes["seed"] for line in lines}) < 2:
        raise DataError(f"{folder}: fewer than two seeds are finished in all arms.")
    return lines


def document_of(folder: Path, lines: Sequence[Line], *, verdicts: bool = True) -> Document:
    """All tables.

    Args:
        folder: of the study.
        lines: its numbers.
        verdicts: False for the interim report, from which nothing is concluded.
    """
    found: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    scales = {line.metric: line.scale for line in lines if line.metric}
    for line in lines:
        if line.value is not None and (line.task, line.split) == (TASK, SPLIT):
            found[line.metric, line.axes["noise"], line.axes["method"]][line.axes["seed"]] = line.value
    first, second = primary(found), secondary(found)
    document = Document("Wrong labels")
    document.add(Heading("Means"), means(found, scales))
    document.add(Heading("Primary outcomes"), outcome_table(first, scales, holm_of(first), verdicts=verdicts))
    document.add(Text("p corrected by Holm over these eight tests."))
    document.add(Heading("Over seeds and rows, at 30 %"), over_rows(folder, lines, scales))
    document.add(Heading("Secondary outcomes"), outcome_table(second, scales, discovery_of(second), verdicts=verdicts))
    document.add(Text("p corrected by Benjamini and Hochberg over this table."))
    return document


def primary(values: Values) -> list[Outcome]:
    """The eight tests of the protocol: each method against plain at 30 %, and by how much that differs from 0 %."""
    found = []
    for method in METHODS:
        for metric in PRIMARY:
            noisy, clean = (difference(values, metric, noise, method, PLAIN) for noise in (NOISY, CLEAN))
            found.append(Outcome(f"{method} − plain at 30 %", metric, noisy))
            change = compared(noisy.by_unit, clean.by_unit, margin=MARGIN)
            assert change is not None, "both are over the same seeds"
            found.append(Outcome(f"{method} − plain, 30 % minus 0 %", metric, change))
    return found


def secondary(values: Values) -> list[Outcome]:
    """All that the protocol names as secondary."""
    metrics = (*PRIMARY, *OTHERS)
    found = [
        Outcome(f"{m} − plain at 30 %", x, difference(values, x, NOISY, m, PLAIN)) for m in METHODS for x in OTHERS
    ]
    found += [
        Outcome(f"{m} − plain at 0 %", x, difference(values, x, CLEAN, m, PLAIN)) for m in METHODS for x in metrics
    ]
    for noise, name in ((NOISY, "30 %"), (CLEAN, "0 %")):
        for ours, theirs in (("SMART", CONTROL), ("SMART", LONGER), (CONTROL, PLAIN)):
            found += [
                Outcome(f"{ours} − {theirs} at {name}", metric, difference(values, metric, noise, ours, theirs))
                for metric in metrics
            ]
    return found


def difference(values: Values, metric: str, noise: str, ours: str, theirs: str) -> Comparison:
    """Paired by seed.

    Raises:
        DataError: the two arms share no finished seed.
    """
    margin = MARGIN if metric in PRIMARY else None
    found = compared(values.get((metric, noise, ours), {}), values.get((metric, noise, theirs), {}), margin=margin)
    if found is None:
        raise DataError(f"no finished seed has both '{ours}' and '{theirs}' at noise {noise}.")
    return found


def means(values: Values, scales: Mapping) -> Table:
    """Mean ± deviation of each arm."""
    metrics = (*PRIMARY, *OTHERS)
    lines = []
    for noise, method in dict.fromkeys((noise, method) for _, noise, method in values):
        places = []
        for metric in metrics:
            found = spread(list(values[metric, noise, method].values()))
            places.append(Place(f"{mean_and_std(found, scales[metric])} ({found.count})"))
        lines.append([*row(noise, method), *places])
    return Table(["noise", "arm", *metrics], lines, words=[1])


# -- seeds × rows ---------------------------------------------------------------------------------------------------


def over_rows(folder: Path, lines: Sequence[Line], scales: Mapping) -> Table:
    """Accuracy and AUC of each method minus plain at 30 %, when both seeds and dev rows are drawn anew.

    Raises:
        DataError: the runs have not predicted the same rows in the same order.
    """
    runs: dict[tuple[str, str], Path] = {
        (line.axes["method"], line.axes["seed"]): RunFolder(folder / line.run).prediction_file(TASK, SPLIT)
        for line in lines
        if line.axes["noise"] == NOISY and line.metric == "accuracy"
    }
    rows = []
    for method in METHODS:
        seeds = [seed for of, seed in runs if of == method and (PLAIN, seed) in runs]
        pairs = [(read_records(runs[method, seed]), read_records(runs[PLAIN, seed])) for seed in seeds]
        if len({tuple(each["id"] for each in records) for pair in pairs for records in pair}) > 1:
            raise DataError(f"{folder}: the runs' predictions are not of the same rows in the same order.")
        for metric in PRIMARY:
            functions = [[statistic(records, metric) for records in pair] for pair in pairs]
            mean, low, high = bootstrap(functions, len(pairs[0][0]))
            shown = [scales[metric].difference(value) for value in (mean, low, high)]
            rows.append(row(f"{method} − plain", metric, shown[0], f"{shown[1]} … {shown[2]}"))
    return Table(["difference", "metric", "mean", "95 % interval"], rows, words=[1])


Weighted = Callable[[np.ndarray], float]
"""Counts of each row → the metric over rows counted so often."""


def statistic(records: Sequence[Mapping], metric: str) -> Weighted:
    """A metric of a run's predictions as a function of how often each row was drawn."""
    positive = np.array([each["label"] == "entails" for each in records], dtype=float)
    if metric == "accuracy":
        right = np.array([each["prediction"] == each["label"] for each in records], dtype=float)
        return lambda counts: float(counts @ right / counts.sum())
    _, place = np.unique([each["scores"]["entails"] for each in records], return_inverse=True)

    def area(counts: np.ndarray) -> float:
        """Of all pairs of a positive and a negative row the share in order; a tie counts half."""
        ups, downs = (np.bincount(place, counts * side) for side in (positive, 1 - positive))
        return float(ups @ (np.cumsum(downs) - downs / 2) / (ups.sum() * downs.sum()))

    return area


def bootstrap(
    pairs: Sequence[Sequence[Weighted]], num_rows: int, *, draws: int = RESAMPLES
) -> tuple[float, float, float]:
    """Mean difference and its 95 % interval, by drawing seeds and rows with replacement, independently.

    `mtdnn.study.inference.bootstrap_over_rows` does this for means over rows, which an AUC is not: it is computed anew
    from each draw. Accuracy has the same draws here, and not the library's, so that the published intervals stay.

    Args:
        pairs: for each seed the metric of the method and that of plain.
        num_rows: rows of the split, which come in the same order in all runs.
        draws: resamples.
    """
    rng = np.random.default_rng(0)

    def mean(seeds: np.ndarray, counts: np.ndarray) -> float:
        differences = [pairs[seed][0](counts) - pairs[seed][1](counts) for seed in np.flatnonzero(seeds).tolist()]
        return float(np.average(differences, weights=seeds[seeds > 0]))

    drawn = []
    for _ in range(draws):
        seeds = rng.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)))
        drawn.append(mean(seeds, np.bincount(rng.integers(0, num_rows, num_rows), minlength=num_rows).astype(float)))
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return mean(np.ones(len(pairs)), np.ones(num_rows)), float(low), float(high)


if __name__ == "__main__":
    main()
