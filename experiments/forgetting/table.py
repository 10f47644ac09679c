"""The tables of the study of forgetting: the primary outcome by Holm, the secondary ones by Benjamini and Hochberg.

    python -m experiments.forgetting.table STUDY-FOLDER [--picture FILE.svg]

Reads `results.csv`; refuses a study that is not finished, as arms are not to be looked at before. The units are the
runs of the first stage: of each the mean over its fine-tunings is taken, and differences are paired by it.
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
    study_and_picture,
    write_picture,
)
from mtdnn.metrics.base import Scale
from mtdnn.report.document import Document, Heading, Table, Text, row, to_markdown
from mtdnn.study.statistics import Entry, Spread, entries, spread
from mtdnn.study.table import Line

EARLIER, LATER = "mnli", "scitail"
UPSTREAM = ("upstream", "draw")
PLAIN = "plain"
CONTROL = "plain, half the rate"
"""An arm that was added when the others had a result: whether a smaller step keeps as much."""
PRIMARY = (EARLIER, "accuracy")
COLUMNS = (
    (EARLIER, "accuracy"),
    (EARLIER, "cross_entropy_at_best_temperature"),
    (LATER, "accuracy"),
    (LATER, "auc"),
    (LATER, "cross_entropy_at_best_temperature"),
)
"""(task, metric): the primary outcome, and the secondary ones that the README names."""


def main() -> None:
    folder, picture = study_and_picture(__doc__)
    with errors_reported():
        lines = finished_lines(folder, axes=(*UPSTREAM, "method"), metrics=[metric for _, metric in COLUMNS])
        print(to_markdown(document_of(lines), pictures=""), end="")
        if picture is not None:
            primary = outcomes(compared_with_plain(lines), [PRIMARY])
            write_picture(picture, primary, {line.metric: line.scale for line in lines})


def document_of(lines: Sequence[Line]) -> Document:
    """All tables, of the numbers of a finished study."""
    found = compared_with_plain(lines)
    scales = {entry.metric: entry.scale for entry in found}
    first = outcomes(found, [PRIMARY])
    second = outcomes(found, [column for column in COLUMNS if column != PRIMARY])
    document = Document("Forgetting")
    every = entries(lines, compare="method", reference=PLAIN, repeats=UPSTREAM)
    document.add(Heading("Means"), means(every, before(lines), scales))
    document.add(Text("Means over the runs of the first stage, each the mean of its fine-tunings, ± their deviation."))
    document.add(Heading("Primary outcome"), outcome_table(first, scales, holm_of(first), verdicts=True))
    document.add(Text(f"p corrected by Holm over these {len(first)} tests."))
    document.add(Heading("Secondary outcomes"), outcome_table(second, scales, discovery_of(second), verdicts=True))
    document.add(Text("p corrected by Benjamini and Hochberg over this table."))
    if any(line.axes.get("method") == CONTROL for line in lines):
        added = outcomes(entries(lines, compare="method", reference=CONTROL, repeats=UPSTREAM), COLUMNS, CONTROL)
        document.add(
            Heading("Added after that result"), outcome_table(added, scales, discovery_of(added), verdicts=True)
        )
        document.add(Text("p corrected by Benjamini and Hochberg over this table."))
    return document


def compared_with_plain(lines: Sequence[Line]) -> list[Entry]:
    """The arms that were named beforehand."""
    planned = [line for line in lines if line.axes.get("method") != CONTROL]
    return entries(planned, compare="method", reference=PLAIN, repeats=UPSTREAM)


def outcomes(found: Sequence[Entry], columns: Sequence[tuple[str, str]], reference: str = PLAIN) -> list[Outcome]:
    """Each arm minus the reference that the entries were compared with, for each (task, metric)."""
    return [
        Outcome(f"{entry.label} − {reference}, {entry.task}", entry.metric, entry.comparison)
        for column in columns
        for entry in found
        if (entry.task, entry.metric) == column and entry.comparison is not None
    ]


def before(lines: Sequence[Line]) -> Mapping[str, Spread]:
    """Metric → its values on the earlier task after the first stage, before anything is adapted."""
    values: dict[str, list[float]] = {}
    for line in lines:
        if line.stage == EARLIER and line.task == EARLIER and line.value is not None:
            values.setdefault(line.metric, []).append(line.value)
    return {metric: spread(group) for metric, group in values.items()}


def means(found: Sequence[Entry], start: Mapping[str, Spread], scales: Mapping[str, Scale]) -> Table:
    """One line for the first stage, and one for each arm."""

    of_arm = {(entry.label, entry.task, entry.metric): entry.spread for entry in found}
    starts = [mean_and_std(start.get(metric) if task == EARLIER else None, scales[metric]) for task, metric in COLUMNS]
    lines = [row("before", *starts)]
    for label in dict.fromkeys(entry.label for entry in found):
        lines.append(row(label, *(mean_and_std(of_arm.get((label, *column)), scales[column[1]]) for column in COLUMNS)))
    return Table(["arm", *(f"{task} {metric}" for task, metric in COLUMNS)], lines)


if __name__ == "__main__":
    main()
