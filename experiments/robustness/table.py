"""The tables of robustness to errors in texts: each method minus plain on changed rows, and what errors cost.

    python -m experiments.robustness.table STUDY-FOLDER [--picture FILE.svg]

Reads `results.csv` of `typos.yml`; refuses a study that is not finished, as arms are not to be looked at before. Of
each seed the mean over the three kinds of errors is taken, and differences are paired by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from data_prep.rows_out import errors_reported
from experiments.outcomes import (
    Outcome,
    discovery_of,
    finished_lines,
    mean_and_std,
    outcome_table,
    study_and_picture,
    write_picture,
)
from mtdnn.report.document import Document, Heading, Table, Text, row, to_markdown
from mtdnn.study.statistics import MARGIN, compared, spread
from mtdnn.study.table import Line

PLAIN = "plain"
CLEAN, CHANGED = "dev", ("dev_typos", "dev_dropped", "dev_swapped")
METRIC = "accuracy"

Values = Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]]
"""(task, method) → split → seed → accuracy."""


def main() -> None:
    folder, picture = study_and_picture(__doc__)
    with errors_reported():
        lines = finished_lines(folder, axes=("data_set", "method", "seed"), metrics=(METRIC,))
        print(to_markdown(document_of(lines), pictures=""), end="")
        if picture is not None:
            write_picture(picture, on_changed_rows(values_of(lines)), {line.metric: line.scale for line in lines})


def document_of(lines: Sequence[Line]) -> Document:
    """All tables, of the numbers of a finished study."""
    scales = {line.metric: line.scale for line in lines}
    values = values_of(lines)
    document = Document("Typos, dropped and swapped words")
    document.add(Heading("Means"), means(values, scales))
    document.add(Text("Accuracy, mean over the seeds ± their deviation."))
    for name, found in (
        ("Primary outcomes: on changed rows", on_changed_rows(values)),
        ("Secondary outcomes: what the errors cost", lost(values)),
    ):
        document.add(Heading(name), outcome_table(found, scales, discovery_of(found), verdicts=True))
        document.add(
            Text("Of a seed the mean over the three kinds; p corrected by Benjamini and Hochberg over this table.")
        )
    return document


def values_of(lines: Sequence[Line]) -> Values:
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for line in lines:
        if line.value is not None and line.metric == METRIC:
            of_method = found.setdefault((line.task, line.axes["method"]), {})
            of_method.setdefault(line.split, {})[line.axes["seed"]] = line.value
    return found


def over_kinds(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Seed → the mean over the three kinds of errors, of the seeds that have all of them."""
    kinds = [values.get(kind, {}) for kind in CHANGED]
    return {seed: fmean(each[seed] for each in kinds) for seed in kinds[0] if all(seed in each for each in kinds)}


def on_changed_rows(values: Values) -> list[Outcome]:
    """Each method minus plain."""
    found = []
    for (task, method), of_method in values.items():
        comparison = compared(over_kinds(of_method), over_kinds(values.get((task, PLAIN), {})), margin=MARGIN)
        if method != PLAIN and comparison is not None:
            found.append(Outcome(f"{task}: {method} − {PLAIN}", METRIC, comparison))
    return found


def lost(values: Values) -> list[Outcome]:
    """Each method minus plain, of the accuracy on changed rows minus that on the same rows as they are."""
    found = []
    for (task, method), of_method in values.items():
        ours, theirs = (change(each) for each in (of_method, values.get((task, PLAIN), {})))
        comparison = compared(ours, theirs, margin=MARGIN)
        if method != PLAIN and comparison is not None:
            found.append(Outcome(f"{task}: change by errors, {method} − {PLAIN}", METRIC, comparison))
    return found


def change(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Seed → accuracy on changed rows minus that on clean ones."""
    clean = values.get(CLEAN, {})
    return {seed: value - clean[seed] for seed, value in over_kinds(values).items() if seed in clean}


def means(values: Values, scales: Mapping) -> Table:
    """One line for each task and method, a column for each split."""
    lines = []
    for (task, method), of_method in values.items():
        places = [spread(list(of_method.get(split, {}).values())) for split in (CLEAN, *CHANGED)]
        lines.append(row(task, method, *(mean_and_std(place, scales[METRIC]) for place in places)))
    return Table(["task", "method", CLEAN, *CHANGED], lines, words=[1])


if __name__ == "__main__":
    main()
