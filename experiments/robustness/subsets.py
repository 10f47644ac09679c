"""The tables of SNLI with other rows for each seed: three tests by Holm, the secondary ones by Benjamini and Hochberg.

    python -m experiments.robustness.subsets STUDY-FOLDER [--picture FILE.svg]

Reads `results.csv` of `subsets.yml`; refuses a study that is not finished, as arms are not to be looked at before.
Differences are paired by seed, which is also the subset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from data_prep.rows_out import errors_reported
from experiments.outcomes import Outcome, finished_lines, mean_and_std, study_and_picture, tested, write_picture
from experiments.wrong_labels import CONFIDENCE, EQUAL_TIME, PLAIN, SMART, Values, differences
from mtdnn.report.document import Document, Heading, Table, row, to_markdown
from mtdnn.study.statistics import spread
from mtdnn.study.table import Line

AXES = ("seed", "method")
ACCURACY = "accuracy"
PRIMARY = (("snli", ACCURACY, PLAIN), ("mnli", ACCURACY, PLAIN), ("snli", ACCURACY, EQUAL_TIME))
"""Task, metric, and what SMART is compared with."""
SECONDARY = (
    ("mnli", ACCURACY, EQUAL_TIME),
    *(("snli", metric, reference) for metric in CONFIDENCE for reference in (PLAIN, EQUAL_TIME)),
)


def main() -> None:
    folder, picture = study_and_picture(__doc__)
    with errors_reported():
        lines = finished_lines(folder, axes=AXES, metrics=(ACCURACY, *CONFIDENCE))
        print(to_markdown(document_of(lines), pictures=""), end="")
        if picture is not None:
            write_picture(picture, outcomes(values_of(lines), PRIMARY), {line.metric: line.scale for line in lines})


def document_of(lines: Sequence[Line]) -> Document:
    """All tables, of the numbers of a finished study."""
    values, scales = values_of(lines), {line.metric: line.scale for line in lines}
    document = Document("SNLI with other rows for each seed")
    columns = [*((metric, "snli") for metric in (ACCURACY, *CONFIDENCE)), (ACCURACY, "mnli")]
    rows = [
        row(method, *(mean_and_std(spread(list(values[*each, method].values())), scales[each[0]]) for each in columns))
        for method in (PLAIN, SMART, EQUAL_TIME)
    ]
    document.add(Heading("Means"), Table(["arm", *(f"{task}, {metric}" for metric, task in columns)], rows))
    document.add(*tested("Primary outcomes", outcomes(values, PRIMARY), scales, primary=True))
    document.add(*tested("Secondary outcomes", outcomes(values, SECONDARY), scales, primary=False))
    return document


def values_of(lines: Sequence[Line]) -> Values:
    """Metric, task and method → seed → value: as `wrong_labels` has them, with tasks for rates of wrong labels."""
    found: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for line in lines:
        if line.value is not None:
            found[line.metric, line.task, line.axes["method"]][line.axes["seed"]] = line.value
    return found


def outcomes(values: Values, tests: Sequence[tuple[str, str, str]]) -> list[Outcome]:
    """SMART minus another arm in each.

    Raises:
        DataError: no seed has both arms.
    """
    return [
        outcome
        for task, metric, reference in tests
        for outcome in differences(values, [(task, metric)], labels=str, reference=reference)
    ]


if __name__ == "__main__":
    main()
