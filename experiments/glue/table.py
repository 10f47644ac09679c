"""The tables of the small study of GLUE: means over its tasks by Holm, single tasks by Benjamini and Hochberg.

    python -m experiments.glue.table STUDY-FOLDER

Reads `results.csv`; refuses a study that is not finished, as arms are not to be looked at before. Unit n is fine-tuning
n of each method on each task; where it starts from a multi-task run, that is run n of its kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_prep.rows_out import errors_reported
from experiments.outcomes import (
    Outcome,
    discovery_of,
    finished_lines,
    holm_of,
    mean_and_std,
    outcome_table,
    study_folder,
)
from mtdnn.errors import DataError
from mtdnn.report.document import Document, Heading, Table, Text, row, to_markdown
from mtdnn.study.statistics import MARGIN, Comparison, Entry, entries, main_metrics, pooled_over_tasks
from mtdnn.study.table import Line

SINGLE, SMART, TOGETHER, SMART_AFTER = "single", "SMART", "MT-DNN", "MT-DNN-SMARTv0"
PAIRS = (
    (SMART, SINGLE),
    (SMART, "SMART without R_s"),
    (SMART, "SMART without D_Breg"),
    (TOGETHER, SINGLE),
    (SMART_AFTER, TOGETHER),
    ("MT-DNN-SMART", SMART_AFTER),
)
"""(method, method that it is compared with): table 1, the ablations of table 3, the steps of table 4."""

AT_BEST = "cross_entropy_at_best_temperature"


def main() -> None:
    folder = study_folder(__doc__)
    with errors_reported():
        lines = finished_lines(folder, axes=("unit", "method"), metrics=(AT_BEST,))
        print(to_markdown(document_of(lines), pictures=""), end="")


def document_of(lines: Sequence[Line]) -> Document:
    """All tables, of the numbers of a finished study."""
    scales = {line.metric: line.scale for line in lines}
    main_of = main_metrics(lines)
    score = next(iter(main_of.values()))  # all main metrics of these tasks are shown in percent
    first = [over_tasks(lines, pair, main_of, score) for pair in PAIRS]
    second = [outcome for pair in PAIRS for outcome in by_task(lines, pair, main_of)]
    third = [outcome for pair in PAIRS for outcome in by_task(lines, pair, dict.fromkeys(main_of, AT_BEST))]
    document = Document("Four GLUE tasks")
    document.add(Heading("Means"), means(lines, main_of))
    document.add(Text("Means over the units ± their deviation."))
    document.add(Heading("Primary outcomes"), outcome_table(first, scales, holm_of(first), verdicts=True))
    document.add(Text(f"Of a unit, the mean of its differences over the tasks; p corrected by Holm over {len(first)}."))
    for name, found in (("Secondary outcomes, task by task", second), ("Confidence set aside", third)):
        document.add(Heading(name), outcome_table(found, scales, discovery_of(found), verdicts=True))
        document.add(Text("p corrected by Benjamini and Hochberg over this table."))
    return document


def differences(lines: Sequence[Line], pair: tuple[str, str], metrics: Mapping[str, str]) -> dict[str, Comparison]:
    """Task → method minus what it is compared with, on one metric of each task."""
    method, reference = pair
    return {
        entry.task: entry.comparison
        for entry in entries(lines, compare="method", reference=reference, repeats=("unit",))
        if entry.comparison is not None and (entry.label, entry.metric) == (method, metrics[entry.task])
    }


def over_tasks(lines: Sequence[Line], pair: tuple[str, str], metrics: Mapping[str, str], score: str) -> Outcome:
    """The mean over the tasks, in points, under the name and the scale of the metric `score`.

    Raises:
        DataError: a task has no pair, as all of its runs diverged, or no unit has all tasks.
    """
    found, name = differences(lines, pair, metrics), " − ".join(pair)
    if without := [task for task in metrics if task not in found]:
        raise DataError(f"{name}: no pair of finished runs of {', '.join(without)}.")
    pooled = pooled_over_tasks(list(found.values()), margin=MARGIN)
    if pooled is None:
        raise DataError(f"{name}: no unit has all tasks.")
    return Outcome(name, score, pooled)


def by_task(lines: Sequence[Line], pair: tuple[str, str], metrics: Mapping[str, str]) -> list[Outcome]:
    found = differences(lines, pair, metrics)
    return [Outcome(f"{task}: {' − '.join(pair)}", metrics[task], comparison) for task, comparison in found.items()]


def means(lines: Sequence[Line], main_of: Mapping[str, str]) -> Table:
    """One line for each method, a column for each task."""
    of_place: dict[tuple[str, str], Entry] = {
        (entry.label, entry.task): entry
        for entry in entries(lines, compare="method", repeats=("unit",))
        if entry.metric == main_of[entry.task]
    }
    found = []
    for label in dict.fromkeys(label for label, _ in of_place):
        places = [of_place[label, task] for task in main_of]
        found.append(row(label, *(mean_and_std(place.spread, place.scale) for place in places)))
    return Table(["method", *(f"{task} {metric}" for task, metric in main_of.items())], found)


if __name__ == "__main__":
    main()
