"""SMART against two plain models of the same rows, whose probabilities are averaged: three tests, by Holm.

    python -m experiments.overfitting.ensemble STUDY-FOLDER SECOND-STUDY-FOLDER

The first folder is of `again.yml`, the second of `second.yml`; refuses studies that are not finished.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.rows_out import errors_reported
from experiments.outcomes import Outcome, finished_lines, table_parser, tested
from experiments.overfitting.table import CLEAN, PRIMARY
from experiments.wrong_labels import AXES, CONFIDENCE, DEV, PLAIN, TASK, Values, differences, means, values_of
from mtdnn.errors import DataError
from mtdnn.metrics.records import read_records, score
from mtdnn.report.document import Document, Heading, to_markdown
from mtdnn.runs.folder import RunFolder
from mtdnn.study.table import Line
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.distillation import averaged

TWO = "two plain models"
METRICS = (*PRIMARY, *CONFIDENCE)


def main() -> None:
    parser = table_parser(__doc__)
    parser.add_argument("second", type=Path, help="folder of the study of second runs")
    given = parser.parse_args()
    with errors_reported():
        lines = finished_lines(given.study, axes=AXES, metrics=METRICS)
        second = finished_lines(given.second, axes=("first",), metrics=METRICS)
        lines = [*lines, *ensemble_lines(given.study, lines, given.second, second)]
        print(to_markdown(document_of(lines), pictures=""), end="")


def ensemble_lines(
    folder: Path, lines: Sequence[Line], second_folder: Path, second_lines: Sequence[Line]
) -> Iterator[Line]:
    """The numbers of each ensemble on the dev split, as those of a further method.

    Args:
        folder: of the study with SMART and plain.
        lines: its numbers.
        second_folder, second_lines: of the study of second plain runs, named by the seed of the first.
    Raises:
        DataError: a plain run has no second one, or the two predict other rows.
    """
    others = {line.axes["first"]: line.run for line in second_lines}
    of_plain = [line for line in lines if (line.axes["method"], line.axes["noise"], line.split) == (PLAIN, CLEAN, DEV)]
    for seed, run in {line.axes["seed"]: line.run for line in of_plain}.items():
        if seed not in others:
            raise DataError(f"{second_folder}: no second run for seed {seed}; run all of second.yml.")
        values = ensemble_values([RunFolder(folder / run), RunFolder(second_folder / others[seed])])
        for line in of_plain:
            if line.run == run and line.metric in METRICS:
                yield replace(line, value=values[line.metric], axes={**line.axes, "method": TWO})


def ensemble_values(runs: Sequence[RunFolder]) -> dict[str, float]:
    """The metrics of the mean of the runs' probabilities on the dev split."""
    files = [run.prediction_file(TASK, DEV) for run in runs]
    task = runs[0].read_tasks()[TASK]
    task_type = TASK_TYPES.get(task.task_type)(task)
    records = averaged([read_records(file) for file in files], task_type, places=[str(file) for file in files])
    return score(records, metrics=METRICS)


def document_of(lines: Sequence[Line]) -> Document:
    """The means of all methods, and the three tests."""
    values, scales = values_of(lines), {line.metric: line.scale for line in lines}
    document = Document("Two plain models")
    document.add(Heading("Means"), means(values, scales, METRICS))
    document.add(*tested("SMART against the two", outcomes(values), scales, primary=True))
    return document


def outcomes(values: Values) -> list[Outcome]:
    """SMART minus the ensemble in the measures that equal time has too."""
    columns = [(CLEAN, metric) for metric in (*PRIMARY, CONFIDENCE[1])]
    return differences(values, columns, labels=lambda _: "clean", reference=TWO)


if __name__ == "__main__":
    main()
