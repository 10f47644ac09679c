"""The best learning rate of each method by the tune rows: `python -m experiments.balancing.rates STUDY`.

The study is that of `small_tune.yml` or `full_tune.yml`. A rate counts by the mean over the tasks of the mean over the
seeds of the main metric; a rate at which a run diverged is not chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from data_prep.rows_out import errors_reported
from experiments.outcomes import finished_lines, study_folder
from mtdnn.columns import table
from mtdnn.study.statistics import main_metrics
from mtdnn.study.table import Line


def means(lines: Sequence[Line]) -> dict[str, dict[str, float | None]]:
    """Method → learning rate → mean over tasks and seeds; None where a run diverged."""
    metrics = main_metrics(lines)
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    diverged = set[tuple[str, str]]()
    for line in lines:
        place = line.axes["method"], line.axes["lr"]
        if line.outcome == "diverged":
            diverged.add(place)
        elif line.value is not None and line.metric == metrics[line.task]:
            values.setdefault(place, {}).setdefault(line.task, []).append(line.value)
    found: dict[str, dict[str, float | None]] = {}
    for line in lines:
        place = line.axes["method"], line.axes["lr"]
        lost = place in diverged or place not in values
        found.setdefault(place[0], {})[place[1]] = None if lost else fmean(map(fmean, values[place].values()))
    return found


def report(lines: Sequence[Line]) -> str:
    """A line per method: its mean in percent at each rate, and the best rate."""
    found = means(lines)
    rates = list(dict.fromkeys(rate for each in found.values() for rate in each))
    rows = [["method", *rates, "best"]]
    for method, each in found.items():
        known = {rate: value for rate, value in each.items() if value is not None}
        shown = [f"{100 * known[rate]:.1f}" if rate in known else "–" for rate in rates]
        rows.append([method, *shown, max(known, key=lambda rate: known[rate]) if known else "–"])
    return table(rows)


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    folder = study_folder(__doc__, words)
    with errors_reported():
        print(report(finished_lines(folder, axes=("method", "lr"))))


if __name__ == "__main__":
    main()
