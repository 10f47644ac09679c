"""The tables of the study of overfitting: primary outcomes by Holm, secondary ones by Benjamini and Hochberg.

    python -m experiments.overfitting.table STUDY-FOLDER [--picture FILE.svg]

Reads `results.csv`, and of each run the ids that it trained on and what it predicts for them; refuses a study that is
not finished, as arms are not to be looked at before. Differences are paired by seed, which is also the subset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

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
from mtdnn.errors import DataError
from mtdnn.metrics.base import Scale
from mtdnn.metrics.records import read_records
from mtdnn.report.document import Document, Heading, Table, Text, row, to_markdown
from mtdnn.runs.folder import RunFolder
from mtdnn.study.statistics import MARGIN, compared, spread
from mtdnn.study.table import Line

TASK, DEV, POOL, NOISY_POOL = "scitail", "dev", "pool", "pool_noise30"
CLEAN, NOISY = "0", "0.3"
PLAIN, SMART = "plain", "SMART"
AXES = ("seed", "noise", "method")
PRIMARY = ("accuracy", "auc")
CONFIDENCE = ("cross_entropy", "cross_entropy_at_best_temperature")
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


def main() -> None:
    folder, picture = study_and_picture(__doc__)
    with errors_reported():
        lines = finished_lines(folder, axes=AXES, metrics=(*PRIMARY, *CONFIDENCE))
        lines = [*lines, *pool_lines(folder, lines)]
        print(to_markdown(document_of(lines), pictures=""), end="")
        if picture is not None:
            write_picture(picture, primary(values_of(lines)), {line.metric: line.scale for line in lines})


def document_of(lines: Sequence[Line]) -> Document:
    """All tables, of the numbers of a finished study with those of `pool_lines`."""
    values, scales = values_of(lines), {line.metric: line.scale for line in lines}
    first, second = primary(values), secondary(values)
    document = Document("Overfitting")
    document.add(Heading("Means"), means(values, scales))
    document.add(Heading("Primary outcomes"), outcome_table(first, scales, holm_of(first), verdicts=True))
    document.add(Text(f"p corrected by Holm over these {len(first)} tests."))
    document.add(Heading("Secondary outcomes"), outcome_table(second, scales, discovery_of(second), verdicts=True))
    document.add(Text("p corrected by Benjamini and Hochberg over this table."))
    return document


def values_of(lines: Sequence[Line]) -> Values:
    """The values on the dev split, and the shares of pool rows."""
    found: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for line in lines:
        if line.value is not None and (line.split == DEV or line.metric in SHARES):
            found[line.metric, line.axes["noise"], line.axes["method"]][line.axes["seed"]] = line.value
    return found


def primary(values: Values) -> list[Outcome]:
    """The four tests of the protocol."""
    return _outcomes(values, [(noise, metric) for noise in (CLEAN, NOISY) for metric in PRIMARY])


def secondary(values: Values) -> list[Outcome]:
    """All that the protocol names as secondary."""
    measured = (*CONFIDENCE, UNSEEN, FITTED)
    columns = [(noise, metric) for noise in (CLEAN, NOISY) for metric in measured]
    return _outcomes(values, [*columns, (NOISY, MEMORISED), (NOISY, FOOLED)])


def means(values: Values, scales: Mapping[str, Scale]) -> Table:
    """Mean ± deviation of each arm; a dash where there are no wrong labels."""
    metrics = (*PRIMARY, *CONFIDENCE, UNSEEN, FITTED, MEMORISED, FOOLED)
    lines = []
    for noise, method in dict.fromkeys((noise, method) for _, noise, method in values):
        groups = [list(values.get((metric, noise, method), {}).values()) for metric in metrics]
        spreads = [spread(group) if group else None for group in groups]
        shown = [mean_and_std(each, scales[metric]) for each, metric in zip(spreads, metrics, strict=True)]
        lines.append(row(noise, method, *shown))
    return Table(["noise", "arm", *metrics], lines, words=[1])


def _outcomes(values: Values, columns: Sequence[tuple[str, str]]) -> list[Outcome]:
    found = []
    for noise, metric in columns:
        margin = None if metric in CONFIDENCE else MARGIN
        pairs = compared(values.get((metric, noise, SMART), {}), values.get((metric, noise, PLAIN), {}), margin=margin)
        if pairs is None:
            raise DataError(f"no finished seed has '{metric}' of both '{SMART}' and '{PLAIN}' at noise {noise}.")
        found.append(Outcome(f"{SMART} − {PLAIN}, {'clean' if noise == CLEAN else '30 % wrong'}", metric, pairs))
    return found


# -- what a run makes of the pool -----------------------------------------------------------------------------------


def pool_lines(folder: Path, lines: Sequence[Line]) -> Iterator[Line]:
    """A line for each share of each run.

    Args:
        folder: of the study.
        lines: its numbers.
    Raises:
        DataError: a run without predictions for the pool, or no run on clean labels, which say what a label was.
    """
    runs = {line.run: line for line in lines if line.split == DEV}
    clean = next((run for run, line in runs.items() if line.axes["noise"] == CLEAN), None)
    if clean is None:
        raise DataError(f"{folder}: no run on clean labels; they say which labels of the others are wrong.")
    true = {each["id"]: each["label"] for each in read_records(RunFolder(folder / clean).prediction_file(TASK, POOL))}
    for run, line in runs.items():
        place = RunFolder(folder / run)
        split = POOL if line.axes["noise"] == CLEAN else NOISY_POOL
        trained = frozenset(place.subset_file(TASK).read_text(encoding="utf-8").splitlines())
        found = shares(read_records(place.prediction_file(TASK, split)), true, trained)
        for metric, value in found.items():
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


if __name__ == "__main__":
    main()
