"""The tables of divided annotators: primary outcomes by Holm, secondary ones by Benjamini and Hochberg.

    python -m experiments.agreement.table STUDY-FOLDER [--annotators data/snli/dev_annotators.tsv] [--picture FILE.svg]

Reads `results.csv`, the predictions for both splits, and the annotators' votes; refuses a study that is not finished,
as arms are not to be looked at before. Differences are paired by seed. Cross-entropies are to the votes, in nats, as
`mtdnn.report.agreement` has them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_prep.rows_out import errors_reported
from experiments.outcomes import (
    Outcome,
    finished_lines,
    mean_and_std,
    table_parser,
    tested,
    write_picture,
)
from mtdnn.errors import DataError
from mtdnn.metrics.base import Scale
from mtdnn.metrics.records import read_records
from mtdnn.report.agreement import Agreement, by_agreement, read_annotators
from mtdnn.report.document import Document, Heading, Table, row, to_markdown
from mtdnn.runs.folder import RunFolder
from mtdnn.study.statistics import MARGIN, compared, spread
from mtdnn.study.table import Line

TASK, SPLITS, LABELS = "snli", ("dev", "dev_nogold"), ("contradiction", "neutral", "entailment")
PLAIN, SMART, LONGER = "plain", "SMART", "plain for SMART's time"
ACCURACY, CE, TEMPERED = "accuracy", "CE", "CE at best T"
SCALES = {ACCURACY: Scale("maximize", percent=True), CE: Scale("minimize"), TEMPERED: Scale("minimize")}
ALL, DIVIDED = "all rows", "divided rows"
PRIMARY = ((ACCURACY, ALL), (TEMPERED, ALL), (TEMPERED, DIVIDED))
CONFIDENCE = ((CE, ALL), (CE, DIVIDED))

Measured = Mapping[str, Mapping[str, Sequence[Agreement]]]
"""method → seed → what was measured of the run, by pattern of votes."""


def main() -> None:
    parser = table_parser(__doc__, picture=True)
    default, help_text = Path("data/snli/dev_annotators.tsv"), "votes of the annotators [%(default)s]"
    parser.add_argument("--annotators", type=Path, metavar="FILE.tsv", default=default, help=help_text)
    given = parser.parse_args()
    with errors_reported():
        lines = finished_lines(given.study, axes=("seed", "method"), metrics=(ACCURACY,))
        measured = measured_runs(given.study, lines, read_annotators(given.annotators))
        print(to_markdown(document_of(measured), pictures=""), end="")
        if given.picture is not None:
            write_picture(given.picture, primary(measured), SCALES)


def measured_runs(folder: Path, lines: Sequence[Line], annotators: Mapping[str, Sequence[str]]) -> Measured:
    """What each run makes of the rows with votes.

    Raises:
        DataError: a run without predictions, or none for a row of the annotators' file.
    """
    found: dict[str, dict[str, Sequence[Agreement]]] = defaultdict(dict)
    for run, line in {line.run: line for line in lines}.items():
        place = RunFolder(folder / run)
        records = [record for split in SPLITS for record in read_records(place.prediction_file(TASK, split))]
        groups = by_agreement(records, annotators, labels=LABELS)
        if not groups:
            raise DataError(
                f"{folder / run}: no predicted row is in the annotators' file. Give that of SNLI's dev split."
            )
        found[line.axes["method"]][line.axes["seed"]] = groups
    return found


def document_of(measured: Measured) -> Document:
    document = Document("Divided annotators")
    document.add(Heading("Means"), means(measured))
    document.add(Heading("By votes"), *(by_votes(measured, name) for name in (ACCURACY, CE, TEMPERED)))
    document.add(*tested("Primary outcomes", primary(measured), SCALES, primary=True))
    if LONGER in measured:
        document.add(*tested("Equal time", equal_time(measured), SCALES, primary=True))
    document.add(*tested("Secondary outcomes", secondary(measured), SCALES, primary=False))
    return document


def primary(measured: Measured) -> list[Outcome]:
    """The three tests of the protocol."""
    return [_outcome(measured, SMART, *column) for column in PRIMARY]


def equal_time(measured: Measured) -> list[Outcome]:
    """The same three against plain fine-tuning that takes as long as SMART does."""
    return [_outcome(measured, SMART, *column, reference=LONGER) for column in PRIMARY]


def secondary(measured: Measured) -> list[Outcome]:
    """All that the protocol names as secondary."""
    others = [method for method in measured if method not in (PLAIN, SMART, LONGER)]
    return [
        *(_outcome(measured, method, *column) for method in others for column in PRIMARY),
        *(_outcome(measured, method, *column) for method in (SMART, *others) for column in CONFIDENCE),
    ]


def value_of(groups: Sequence[Agreement], metric: str, rows: str) -> float:
    """The mean over all rows, or over those whose votes divide."""
    chosen = [group for group in groups if rows == ALL or group.pattern.split("/")[1] != "0"]
    return sum(group.count * _value(group, metric) for group in chosen) / sum(group.count for group in chosen)


def means(measured: Measured) -> Table:
    """Mean ± deviation of each arm, and the temperature that fits it best."""
    lines = []
    for method, runs in measured.items():
        columns = [
            mean_and_std(spread([value_of(groups, *column) for groups in runs.values()]), SCALES[column[0]])
            for column in (*PRIMARY, *CONFIDENCE)
        ]
        temperatures = spread([groups[0].temperature or 0.0 for groups in runs.values()])
        lines.append(row(method, str(len(runs)), *columns, mean_and_std(temperatures, Scale())))
    head = ["arm", "seeds", *(f"{metric}, {rows}" for metric, rows in (*PRIMARY, *CONFIDENCE)), "temperature"]
    return Table(head, lines)


def by_votes(measured: Measured, metric: str) -> Table:
    """One metric, pattern by pattern, means over the seeds."""
    runs = next(iter(measured.values()))
    patterns = {group.pattern: group for group in next(iter(runs.values()))}
    lines = []
    for name, group in patterns.items():
        found = [
            SCALES[metric].shown(
                spread([_value(each, metric) for groups in of.values() for each in groups if each.pattern == name]).mean
            )
            for of in measured.values()
        ]
        lines.append(row(name, str(group.count), *found, f"{group.entropy:.3f}"))
    return Table([f"{metric}: votes", "rows", *measured, "least possible CE"], lines)


def _outcome(measured: Measured, method: str, metric: str, rows: str, *, reference: str = PLAIN) -> Outcome:
    ours, theirs = (
        {seed: value_of(groups, metric, rows) for seed, groups in measured.get(name, {}).items()}
        for name in (method, reference)
    )
    found = compared(ours, theirs, margin=MARGIN if SCALES[metric].percent else None)
    if found is None:
        raise DataError(f"no finished seed has both '{method}' and '{reference}'.")
    return Outcome(f"{method} − {reference}, {rows}", metric, found)


def _value(group: Agreement, metric: str) -> float:
    of_metric: Mapping[str, Callable[[Agreement], float | None]] = {
        ACCURACY: lambda each: each.accuracy,
        CE: lambda each: each.cross_entropy,
        TEMPERED: lambda each: each.tempered,
    }
    value = of_metric[metric](group)
    if value is None:
        raise DataError("the predictions have no probabilities; predict again with this version.")
    return value


if __name__ == "__main__":
    main()
