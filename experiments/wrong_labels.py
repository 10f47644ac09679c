"""What runs make of a pool of rows of which they saw some: what the tables of studies of wrong labels share.

A run's predictions for the whole pool have the labels that it was given; the ids that it trained on are in its folder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.rows_out import errors_reported, read_rows
from experiments.outcomes import Outcome, finished_lines, mean_and_std, table_parser, write_picture
from mtdnn.errors import DataError
from mtdnn.metrics.base import Scale
from mtdnn.metrics.records import read_records
from mtdnn.report.document import Document, Table, row, to_markdown
from mtdnn.runs.folder import RunFolder
from mtdnn.study.statistics import MARGIN, compared, spread
from mtdnn.study.table import Line

TASK, DEV = "scitail", "dev"
AXES = ("seed", "noise", "method")
PLAIN, SMART = "plain", "SMART"
EQUAL_TIME = "plain for SMART's time"
CONFIDENCE = ("cross_entropy", "cross_entropy_at_best_temperature")
"""Metrics that are not in percent, and have no margin of equivalence."""
MEMORISED, FITTED, FOOLED, UNSEEN = "memorised", "fitted", "fooled", "unseen"
"""Shares of pool rows, see `shares`."""
SHARES = {
    MEMORISED: Scale("minimize", percent=True),
    FITTED: Scale("maximize", percent=True),
    FOOLED: Scale("minimize", percent=True),
    UNSEEN: Scale("maximize", percent=True),
}

Values = Mapping[tuple[str, str, str], Mapping[str, float]]
"""(metric, noise, method) → seed → value."""


def print_tables(
    description: str | None,
    *,
    pools: Mapping[str, str],
    document_of: Callable[[Sequence[Line]], Document],
    primary: Callable[[Values], list[Outcome]],
) -> None:
    """Prints the tables of the study that the command line names, and draws its primary outcomes if asked.

    Args:
        description: of the script, whose first line is shown as help.
        pools: value of the axis `noise` → name of the pool's split.
        document_of: numbers, with the shares of pool rows → tables.
        primary: values → the differences that are drawn.
    """
    parser = table_parser(description, picture=True)
    help_text = "rows of the pool before noise [%(default)s]"
    parser.add_argument("--pool", type=Path, metavar="FILE.tsv", default=Path("data/scitail/pool.tsv"), help=help_text)
    given = parser.parse_args()
    with errors_reported():
        lines = finished_lines(given.study, axes=AXES, metrics=("accuracy", "auc", *CONFIDENCE))
        true = {each.id: each.label for each in read_rows(given.pool)}
        lines = [*lines, *share_lines(given.study, lines, pools=pools, true=true)]
        print(to_markdown(document_of(lines), pictures=""), end="")
        if given.picture is not None:
            write_picture(given.picture, primary(values_of(lines)), {line.metric: line.scale for line in lines})


def values_of(lines: Sequence[Line]) -> Values:
    """The values on the dev split, and the shares of pool rows, of a study with the axes noise, method and seed."""
    found: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for line in lines:
        if line.value is not None and (line.split == DEV or line.metric in SHARES):
            found[line.metric, line.axes["noise"], line.axes["method"]][line.axes["seed"]] = line.value
    return found


def share_lines(
    folder: Path, lines: Sequence[Line], *, pools: Mapping[str, str], true: Mapping[str, str]
) -> Iterator[Line]:
    """A line for each share of each run.

    Args:
        folder: of the study.
        lines: its numbers.
        pools: value of the axis `noise` → name of the pool's split.
        true: id → the label before noise.
    Raises:
        DataError: a run without predictions for the pool, or with one for a row that `true` does not have.
    """
    for run, line in {line.run: line for line in lines if line.split == DEV}.items():
        place, split = RunFolder(folder / run), pools[line.axes["noise"]]
        trained = frozenset(place.subset_file(TASK).read_text(encoding="utf-8").splitlines())
        records = read_records(place.prediction_file(TASK, split))
        if other := next((each["id"] for each in records if each["id"] not in true), None):
            raise DataError(
                f"{folder / run}: row '{other}' is not among the pool's rows before noise. Give their file."
            )
        for metric, value in shares(records, true, trained).items():
            yield replace(line, split=split, metric=metric, value=value, scale=SHARES[metric])


def shares(records: Sequence[Mapping], true: Mapping[str, str], trained: frozenset[str]) -> dict[str, float]:
    """What a run makes of the rows that it trained on, and of those that it did not.

    Args:
        records: predictions, with the labels that the run was given.
        true: id → the label before noise.
        trained: ids of the rows that it trained on.
    Returns:
        `fitted`: share of the trained rows with a right label that are predicted so; `unseen`: share of the other rows
        whose true label is predicted; where labels are wrong, `memorised`: share of the trained rows with a wrong label
        for which that label is predicted, and `fooled`: the same of rows that it did not train on, whose labels it
        cannot know.
    """
    counts: dict[str, list[bool]] = defaultdict(list)
    for record in records:
        row_id, given = record["id"], record["label"]
        wrong, seen = given != true[row_id], row_id in trained
        if wrong:
            counts[MEMORISED if seen else FOOLED].append(record["prediction"] == given)
        elif seen:
            counts[FITTED].append(record["prediction"] == given)
        if not seen:
            counts[UNSEEN].append(record["prediction"] == true[row_id])
    return {name: sum(right) / len(right) for name, right in counts.items()}


def means(values: Values, scales: Mapping[str, Scale], metrics: Sequence[str]) -> Table:
    """Mean ± deviation of each arm; a dash where there are no wrong labels."""
    lines = []
    for noise, method in dict.fromkeys((noise, method) for _, noise, method in values):
        groups = [list(values.get((metric, noise, method), {}).values()) for metric in metrics]
        spreads = [spread(group) if group else None for group in groups]
        shown = [mean_and_std(each, scales[metric]) for each, metric in zip(spreads, metrics, strict=True)]
        lines.append(row(noise, method, *shown))
    return Table(["noise", "arm", *metrics], lines, words=[1])


def differences(
    values: Values, columns: Sequence[tuple[str, str]], *, labels: Callable[[str], str], reference: str = PLAIN
) -> list[Outcome]:
    """SMART minus plain, or minus another arm.

    Args:
        values: of the study.
        columns: (noise, metric) of each difference.
        labels: noise → what the name of an outcome calls it.
        reference: the arm that SMART is compared with.
    Raises:
        DataError: no seed has both arms.
    """
    found = []
    for noise, metric in columns:
        margin = None if metric in CONFIDENCE else MARGIN
        ours, theirs = (values.get((metric, noise, method), {}) for method in (SMART, reference))
        pairs = compared(ours, theirs, margin=margin)
        if pairs is None:
            raise DataError(f"no finished seed has '{metric}' of both '{SMART}' and '{reference}', {labels(noise)}.")
        found.append(Outcome(f"{SMART} − {reference}, {labels(noise)}", metric, pairs))
    return found
