"""The best setting of each method by the tune rows: `python -m experiments.smart_regimes.chosen STUDY`.

The study is that of `tune.yml`, whose methods are named `method, setting`. A setting counts by its mean AUC over the
seeds, which varies less between them than accuracy; one of which a run diverged is not chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

from data_prep.rows_out import errors_reported
from experiments.outcomes import finished_lines, study_folder
from mtdnn.columns import table
from mtdnn.study.statistics import Entry, entries
from mtdnn.study.table import Line

BY, SHOWN = "auc", "accuracy"


def settings(lines: Sequence[Line], metric: str) -> dict[tuple[str, str], Entry]:
    """(Method, setting) → its values of a metric; a method without settings has one, without a name."""
    found = {}
    for entry in entries(lines, compare="method"):
        if entry.metric == metric:
            method, _, setting = entry.label.partition(", ")
            found[method, setting] = entry
    return found


def best(lines: Sequence[Line]) -> dict[str, str]:
    """Method → its best setting; a method of which every setting diverged is left out."""
    found: dict[str, tuple[float, str]] = {}
    for (method, setting), entry in settings(lines, BY).items():
        if not entry.diverged and (method not in found or entry.spread.mean > found[method][0]):
            found[method] = entry.spread.mean, setting
    return {method: setting for method, (_, setting) in found.items()}


def report(lines: Sequence[Line]) -> str:
    """A line for each setting, the chosen one of a method marked."""
    chosen, accuracy = best(lines), settings(lines, SHOWN)
    rows = [["method", "setting", BY, SHOWN, ""]]
    for place, entry in settings(lines, BY).items():
        values = [each.scale.shown(each.spread.mean) if not each.diverged else "–" for each in (entry, accuracy[place])]
        rows.append([*place, *values, "chosen" if chosen.get(place[0]) == place[1] else ""])
    return table(rows)


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    folder = study_folder(__doc__, words)
    with errors_reported():
        print(report(finished_lines(folder, axes=("method", "seed"), metrics=(BY, SHOWN))))


if __name__ == "__main__":
    main()
