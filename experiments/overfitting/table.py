"""The tables of the study of overfitting: primary outcomes by Holm, secondary ones by Benjamini and Hochberg.

    python -m experiments.overfitting.table STUDY-FOLDER [--picture FILE.svg]

Reads `results.csv`, and of each run the ids that it trained on and what it predicts for them; refuses a study that is
not finished, as arms are not to be looked at before. Differences are paired by seed, which is also the subset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.rows_out import errors_reported
from experiments.outcomes import (
    Outcome,
    finished_lines,
    study_and_picture,
    tested,
    write_picture,
)
from experiments.wrong_labels import (
    CONFIDENCE,
    DEV,
    EQUAL_TIME,
    FITTED,
    FOOLED,
    MEMORISED,
    UNSEEN,
    Values,
    differences,
    means,
    share_lines,
    values_of,
)
from mtdnn.errors import DataError
from mtdnn.metrics.records import read_records
from mtdnn.report.document import Document, Heading, to_markdown
from mtdnn.runs.folder import RunFolder
from mtdnn.study.table import Line

TASK, POOL, NOISY_POOL = "scitail", "pool", "pool_noise30"
CLEAN, NOISY = "0", "0.3"
AXES = ("seed", "noise", "method")
PRIMARY = ("accuracy", "auc")


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
    document = Document("Overfitting")
    metrics = [each for each in (*PRIMARY, *CONFIDENCE, UNSEEN, FITTED, MEMORISED, FOOLED) if each in scales]
    document.add(Heading("Means"), means(values, scales, metrics))
    document.add(*tested("Primary outcomes", primary(values), scales, primary=True))
    document.add(*tested("Secondary outcomes", secondary(values), scales, primary=False))
    if added := equal_time(values):
        document.add(*tested("Equal time", added, scales, primary=True))
    return document


def primary(values: Values) -> list[Outcome]:
    """The tests of the protocol, two at each rate of wrong labels."""
    return _outcomes(values, [(noise, metric) for noise in _noises(values) for metric in PRIMARY])


def secondary(values: Values) -> list[Outcome]:
    """All that the protocol names as secondary."""
    measured = {CLEAN: (*CONFIDENCE, UNSEEN, FITTED), NOISY: (*CONFIDENCE, UNSEEN, FITTED, MEMORISED, FOOLED)}
    return _outcomes(values, [(noise, metric) for noise in _noises(values) for metric in measured[noise]])


def equal_time(values: Values) -> list[Outcome]:
    """SMART minus plain fine-tuning of its time, on clean labels: three tests; none in a study without this arm."""
    if not any(method == EQUAL_TIME for _, _, method in values):
        return []
    columns = [(CLEAN, metric) for metric in (*PRIMARY, "cross_entropy_at_best_temperature")]
    return differences(values, columns, labels=_label, reference=EQUAL_TIME)


def _noises(values: Values) -> list[str]:
    """The rates of the study: `again.yml` has clean labels alone."""
    return [each for each in (CLEAN, NOISY) if any(noise == each for _, noise, _ in values)]


def _outcomes(values: Values, columns: Sequence[tuple[str, str]]) -> list[Outcome]:
    return differences(values, columns, labels=_label)


def _label(noise: str) -> str:
    return "clean" if noise == CLEAN else "30 % wrong"


# -- what a run makes of the pool -----------------------------------------------------------------------------------


def pool_lines(folder: Path, lines: Sequence[Line]) -> Iterator[Line]:
    """A line for each share of each run.

    Args:
        folder: of the study.
        lines: its numbers.
    Raises:
        DataError: a run without predictions for the pool, or no run on clean labels, which say what a label was.
    """
    clean = next((line.run for line in lines if line.split == DEV and line.axes["noise"] == CLEAN), None)
    if clean is None:
        raise DataError(f"{folder}: no run on clean labels; they say which labels of the others are wrong.")
    true = {each["id"]: each["label"] for each in read_records(RunFolder(folder / clean).prediction_file(TASK, POOL))}
    yield from share_lines(
        folder, lines, task=TASK, pool=lambda noise: POOL if noise == CLEAN else NOISY_POOL, true=true
    )


if __name__ == "__main__":
    main()
