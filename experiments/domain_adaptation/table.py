"""The tables of the study of domain adaptation, by runs of the multi-task stage.

    python -m experiments.domain_adaptation.table STUDY-FOLDER

Reads `results.csv`. A fraction of a task is left out until all of its cells are finished, as arms are not to be looked
at before. The units are the multi-task runs: of each the mean over its fine-tunings is taken, and differences are
paired by it. p is corrected by Benjamini and Hochberg over each table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_prep.rows_out import errors_reported
from experiments.outcomes import Outcome, discovery_of, lines_and_missing, mean_and_std, outcome_table, study_folder
from mtdnn.metrics.base import Scale
from mtdnn.report.document import Document, Heading, Table, Text, row, to_markdown
from mtdnn.study.grid import PlannedCell
from mtdnn.study.statistics import Entry, entries, main_metrics
from mtdnn.study.table import Line

FIRST = "multi_task"
ENCODER, PLAIN, SMART, HEAD = "encoder", "mt-dnn", "mt-dnn-smart", "mt-dnn-smart, head of mnli"
UPSTREAM = ("upstream", "draw")
PRIMARY = ((PLAIN, ENCODER), (SMART, PLAIN))
"""(start, start that it is compared with), on accuracy."""
SECONDARY = ((SMART, ENCODER), (HEAD, SMART))
"""On accuracy too; all four are compared on the other metrics as well."""
OTHERS = ("auc", "cross_entropy_at_best_temperature")


def main() -> None:
    folder = study_folder(__doc__)
    with errors_reported():
        lines, missing = lines_and_missing(folder, axes=("fraction", "init", *UPSTREAM), metrics=("accuracy",))
        print(to_markdown(document_of(lines, missing), pictures=""), end="")


def document_of(lines: Sequence[Line], missing: Sequence[PlannedCell]) -> Document:
    """All tables.

    Args:
        lines: the numbers of a study.
        missing: each cell that is not finished.
    """
    seen = whole(lines, missing)
    scales = {line.metric: line.scale for line in lines}
    document = Document("Domain adaptation")
    document.add(Heading("Means"), means(seen, scales))
    document.add(Text("Means over the multi-task runs, each the mean of its fine-tunings, ± their deviation."))
    first = outcomes(seen, PRIMARY, ["accuracy"])
    second = outcomes(seen, SECONDARY, ["accuracy"]) + outcomes(seen, (*PRIMARY, *SECONDARY), OTHERS)
    third = multi_task(lines) if FIRST not in {cell["stage"] for cell in missing} else []
    for name, found in (("Primary outcomes", first), ("Secondary outcomes", second), ("The multi-task runs", third)):
        document.add(Heading(name), outcome_table(found, scales, discovery_of(found), verdicts=True))
        document.add(Text("p corrected by Benjamini and Hochberg over this table."))
    return document


def whole(lines: Sequence[Line], missing: Sequence[PlannedCell]) -> list[Line]:
    """The lines of fine-tunings, of each stage and fraction that has all its cells."""
    cut = {(cell["stage"], cell["axes"].get("fraction")) for cell in missing}
    return [line for line in lines if line.stage != FIRST and (line.stage, line.axes["fraction"]) not in cut]


def compared(lines: Sequence[Line], reference: str) -> list[Entry]:
    return entries(lines, compare="init", reference=reference, across="fraction", repeats=UPSTREAM)


def outcomes(lines: Sequence[Line], pairs: Sequence[tuple[str, str]], metrics: Sequence[str]) -> list[Outcome]:
    """Each start minus the one that it is compared with, at each fraction of each task."""
    return [
        Outcome(f"{entry.task} {entry.across}: {label} − {reference}", metric, entry.comparison)
        for metric in metrics
        for label, reference in pairs
        for entry in compared(lines, reference)
        if (entry.metric, entry.label) == (metric, label) and entry.comparison is not None
    ]


def multi_task(lines: Sequence[Line]) -> list[Outcome]:
    """SMART minus plain in the multi-task stage itself, on the main metric of each task."""
    lines = [line for line in lines if line.stage == FIRST]
    main = main_metrics(lines)
    return [
        Outcome(f"{entry.task}: {SMART} − {PLAIN}", entry.metric, entry.comparison)
        for entry in entries(lines, compare="method", reference=PLAIN)
        if entry.metric == main[entry.task] and entry.comparison is not None
    ]


def means(lines: Sequence[Line], scales: Mapping[str, Scale]) -> Table:
    """One line for each start and metric, a column for each fraction of each task."""
    of_cell = {
        (entry.task, entry.across, entry.metric, entry.label): entry.spread for entry in compared(lines, ENCODER)
    }
    columns = list(dict.fromkeys((task, fraction) for task, fraction, *_ in of_cell))
    found = []
    for metric, label in dict.fromkeys((metric, label) for *_, metric, label in of_cell):
        places = [mean_and_std(of_cell.get((*column, metric, label)), scales[metric]) for column in columns]
        found.append(row(label, metric, *places))
    return Table(["start", "metric", *(f"{task} {fraction}" for task, fraction in columns)], found, words=[1])


if __name__ == "__main__":
    main()
