"""The tables of SNLI with other rows for each seed: three tests by Holm, the secondary ones by Benjamini and Hochberg.

    python -m experiments.robustness.subsets STUDY-FOLDER [--picture FILE.svg]

Reads `results.csv` of `subsets.yml`; refuses a study that is not finished, as arms are not to be looked at before.
Differences are paired by seed, which is also the subset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from data_prep.rows_out import errors_reported
from experiments.outcomes import Outcome, finished_lines, mean_and_std, study_and_picture, tested, write_picture
from experiments.wrong_labels import CONFIDENCE, EQUAL_TIME, PLAIN, SMART
from mtdnn.errors import DataError
from mtdnn.report.document import Document, Heading, Table, row, to_markdown
from mtdnn.study.statistics import MARGIN, compared, spread
from mtdnn.study.table import Line

AXES = ("seed", "method")
ACCURACY = "accuracy"
PRIMARY = (("snli", ACCURACY, PLAIN), ("mnli", ACCURACY, PLAIN), ("snli", ACCURACY, EQUAL_TIME))
"""Task, metric, and what SMART is compared with."""
SECONDARY = (
    ("mnli", ACCURACY, EQUAL_TIME),
    *(("snli", metric, reference) for metric in CONFIDENCE for reference in (PLAIN, EQUAL_TIME)),
)

Values = Mapping[tuple[str, str, str], Mapping[str, float]]
"""(task, metric, method) → seed → value."""


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
    columns = [("snli", metric) for metric in (ACCURACY, *CONFIDENCE)] + [("mnli", ACCURACY)]
    rows = [
        row(method, *(mean_and_std(spread(list(values[*each, method].values())), scales[each[1]]) for each in columns))
        for method in (PLAIN, SMART, EQUAL_TIME)
    ]
    document.add(Heading("Means"), Table(["arm", *(f"{task}, {metric}" for task, metric in columns)], rows))
    document.add(*tested("Primary outcomes", outcomes(values, PRIMARY), scales, primary=True))
    document.add(*tested("Secondary outcomes", outcomes(values, SECONDARY), scales, primary=False))
    return document


def values_of(lines: Sequence[Line]) -> Values:
    found: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for line in lines:
        if line.value is not None:
            found[line.task, line.metric, line.axes["method"]][line.axes["seed"]] = line.value
    return found


def outcomes(values: Values, tests: Sequence[tuple[str, str, str]]) -> list[Outcome]:
    """SMART minus another arm in each.

    Raises:
        DataError: no seed has both arms.
    """
    found = []
    for task, metric, reference in tests:
        ours, theirs = (values.get((task, metric, method), {}) for method in (SMART, reference))
        pairs = compared(ours, theirs, margin=None if metric in CONFIDENCE else MARGIN)
        if pairs is None:
            raise DataError(f"no finished seed has '{metric}' of {task} of both '{SMART}' and '{reference}'.")
        found.append(Outcome(f"{SMART} − {reference}, {task}", metric, pairs))
    return found


if __name__ == "__main__":
    main()
