"""The tables of the study of overfitting: primary outcomes by Holm, secondary ones by Benjamini and Hochberg.

    python -m experiments.overfitting.table STUDY-FOLDER [--pool data/scitail/pool.tsv] [--picture FILE.svg]

Reads `results.csv`, of each run the ids that it trained on and what it predicts for the pool, and the pool's rows as
they were before noise; refuses a study that is not finished, as arms are not to be looked at before. Differences are
paired by seed, which is also the subset.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.outcomes import Outcome, tested
from experiments.wrong_labels import (
    CONFIDENCE,
    EQUAL_TIME,
    FITTED,
    FOOLED,
    MEMORISED,
    UNSEEN,
    Values,
    differences,
    means,
    print_tables,
    values_of,
)
from mtdnn.report.document import Document, Heading
from mtdnn.study.table import Line

CLEAN, NOISY = "0", "0.3"
POOLS = {CLEAN: "pool", NOISY: "pool_noise30"}
"""Share of wrong labels → split of the pool."""
PRIMARY = ("accuracy", "auc")


def main() -> None:
    print_tables(__doc__, pools=POOLS, document_of=document_of, primary=primary)


def document_of(lines: Sequence[Line]) -> Document:
    """All tables, of the numbers of a finished study with the shares of pool rows."""
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
    """The tests of the protocol, two at each rate of wrong labels; three in a study of wrong labels alone."""
    return _outcomes(values, [(noise, metric) for noise in _noises(values) for metric in _primary_metrics(values)])


def secondary(values: Values) -> list[Outcome]:
    """All that the protocol names as secondary."""
    measured = {CLEAN: (*CONFIDENCE, UNSEEN, FITTED), NOISY: (*CONFIDENCE, UNSEEN, FITTED, MEMORISED, FOOLED)}
    columns = [(noise, metric) for noise in _noises(values) for metric in measured[noise]]
    return _outcomes(values, [each for each in columns if each[1] not in _primary_metrics(values)])


def _primary_metrics(values: Values) -> tuple[str, ...]:
    """What is memorised is among them in `wrong.yml`, which has wrong labels alone."""
    return (*PRIMARY, MEMORISED) if _noises(values) == [NOISY] else PRIMARY


def equal_time(values: Values) -> list[Outcome]:
    """SMART minus plain fine-tuning of its time, on clean labels: three tests; none in a study without this arm."""
    if not any(method == EQUAL_TIME for _, _, method in values):
        return []
    columns = [(CLEAN, metric) for metric in (*PRIMARY, CONFIDENCE[1])]
    return differences(values, columns, labels=_label, reference=EQUAL_TIME)


def _noises(values: Values) -> list[str]:
    """The rates of the study: `again.yml` has clean labels alone, `wrong.yml` wrong ones."""
    return [each for each in POOLS if any(noise == each for _, noise, _ in values)]


def _outcomes(values: Values, columns: Sequence[tuple[str, str]]) -> list[Outcome]:
    return differences(values, columns, labels=_label)


def _label(noise: str) -> str:
    return "clean" if noise == CLEAN else "30 % wrong"


if __name__ == "__main__":
    main()
