"""The tables of RTE, answered by a head for SNLI: primary outcomes by Holm, secondary ones by Benjamini and Hochberg.

    python -m experiments.robustness.domains STUDY-FOLDER [--rte data/rte] [--picture FILE.svg]

Reads `results.csv` of `small.yml`, its predictions for RTE's rows, and their labels in RTE's `train.tsv` and `dev.tsv`;
refuses a study that is not finished, as arms are not to be looked at before. The head has three labels: neutral and
contradiction count as RTE's `not_entailment`, so that entailment is predicted where its probability is above one half.
Differences are paired by seed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.rows_out import errors_reported, read_rows
from experiments.outcomes import (
    Outcome,
    finished_lines,
    mean_and_std,
    table_parser,
    tested,
    write_picture,
)
from mtdnn.errors import DataError
from mtdnn.metrics.base import METRICS, Record, Scale, compute
from mtdnn.metrics.records import read_records
from mtdnn.report.document import Document, Heading, Table, row, to_markdown
from mtdnn.runs.folder import RunFolder
from mtdnn.study.statistics import MARGIN, compared, spread
from mtdnn.study.table import Line

TASK, SPLIT = "rte", "unlabelled"
ENTAILMENT, NOT_ENTAILMENT = "entailment", "not_entailment"
PLAIN = "plain"
PRIMARY = ("accuracy", "auc")
SECONDARY = ("cross_entropy", "cross_entropy_at_best_temperature")

Values = Mapping[str, Mapping[str, Mapping[str, float]]]
"""metric → method → seed → value."""


def main() -> None:
    parser = table_parser(__doc__, picture=True)
    help_text = "folder with RTE's train.tsv and dev.tsv [%(default)s]"
    parser.add_argument("--rte", type=Path, metavar="FOLDER", default=Path("data/rte"), help=help_text)
    given = parser.parse_args()
    with errors_reported():
        lines = finished_lines(given.study, axes=("seed", "method"), metrics=("accuracy",))
        true = {each.id: each.label for name in ("train", "dev") for each in read_rows(given.rte / f"{name}.tsv")}
        values = measured_runs(given.study, lines, true)
        print(to_markdown(document_of(values), pictures=""), end="")
        if given.picture is not None:
            write_picture(given.picture, outcomes(values, PRIMARY), scales())


def measured_runs(folder: Path, lines: Sequence[Line], true: Mapping[str, str]) -> Values:
    """The metrics of each run on RTE.

    Args:
        folder: of the study.
        lines: its numbers.
        true: id → RTE's label.
    Raises:
        DataError: a run without predictions for RTE, or a predicted row without a label in `true`.
    """
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for run, line in {line.run: line for line in lines}.items():
        records = [
            with_two_labels(each, true) for each in read_records(RunFolder(folder / run).prediction_file(TASK, SPLIT))
        ]
        for metric, value in compute((*PRIMARY, *SECONDARY), records, (NOT_ENTAILMENT, ENTAILMENT)).items():
            found[metric][line.axes["method"]][line.axes["seed"]] = value
    return found


def with_two_labels(record: Record, true: Mapping[str, str]) -> Record:
    """A prediction of three labels as one of RTE's two, with RTE's label."""
    if record["id"] not in true:
        raise DataError(f"RTE has no row '{record['id']}'. Give the files that the predicted rows were made from.")
    p = float(record["scores"][ENTAILMENT])
    scores = {NOT_ENTAILMENT: 1.0 - p, ENTAILMENT: p}
    return {**record, "label": true[record["id"]], "prediction": max(scores, key=scores.__getitem__), "scores": scores}


def document_of(values: Values) -> Document:
    document = Document("RTE from a head for SNLI")
    document.add(Heading("Means"), means(values))
    document.add(*tested("Primary outcomes", outcomes(values, PRIMARY), scales(), primary=True))
    document.add(*tested("Secondary outcomes", outcomes(values, SECONDARY), scales(), primary=False))
    return document


def outcomes(values: Values, metrics: Sequence[str]) -> list[Outcome]:
    """Each method minus plain.

    Raises:
        DataError: no seed has both.
    """
    found = []
    for metric in metrics:
        margin = MARGIN if scales()[metric].percent else None
        for method in (name for name in values[metric] if name != PLAIN):
            pairs = compared(values[metric][method], values[metric].get(PLAIN, {}), margin=margin)
            if pairs is None:
                raise DataError(f"no finished seed has both '{method}' and '{PLAIN}'.")
            found.append(Outcome(f"{method} − {PLAIN}", metric, pairs))
    return found


def scales() -> dict[str, Scale]:
    return {metric: METRICS.get(metric).scale for metric in (*PRIMARY, *SECONDARY)}


def means(values: Values) -> Table:
    """Mean ± deviation of each arm."""
    metrics = (*PRIMARY, *SECONDARY)
    lines = [
        row(method, *(mean_and_std(spread(list(values[each][method].values())), scales()[each]) for each in metrics))
        for method in values[metrics[0]]
    ]
    return Table(["arm", *metrics], lines)


if __name__ == "__main__":
    main()
