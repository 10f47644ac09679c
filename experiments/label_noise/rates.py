"""The tables of 20 and 40 % wrong labels: primary outcomes by Holm, secondary ones by Benjamini and Hochberg.

    python -m experiments.label_noise.rates STUDY-FOLDER [--pool data/scitail/pool.tsv] [--picture FILE.svg]

Reads `results.csv` of `rates.yml`, of each run the ids that it trained on and what it predicts for the pool, and the
pool's rows as they were before noise; refuses a study that is not finished, as arms are not to be looked at before.
Differences are paired by seed, which is also the subset.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.outcomes import Outcome, tested
from experiments.wrong_labels import (
    CONFIDENCE,
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

POOLS = {"0.2": "pool_noise20", "0.4": "pool_noise40"}
"""Share of wrong labels → split of the pool."""
PRIMARY = ("accuracy", "auc", MEMORISED)
SECONDARY = (*CONFIDENCE, UNSEEN, FITTED, FOOLED)


def main() -> None:
    print_tables(__doc__, pools=POOLS, document_of=document_of, primary=lambda values: outcomes(values, PRIMARY))


def document_of(lines: Sequence[Line]) -> Document:
    """All tables, of the numbers of a finished study with the shares of pool rows."""
    values, scales = values_of(lines), {line.metric: line.scale for line in lines}
    document = Document("20 and 40 % wrong labels")
    document.add(Heading("Means"), means(values, scales, (*PRIMARY, *SECONDARY)))
    document.add(*tested("Primary outcomes", outcomes(values, PRIMARY), scales, primary=True))
    document.add(*tested("Secondary outcomes", outcomes(values, SECONDARY), scales, primary=False))
    return document


def outcomes(values: Values, metrics: Sequence[str]) -> list[Outcome]:
    """SMART minus plain at each rate."""
    columns = [(noise, metric) for noise in POOLS for metric in metrics]
    return differences(values, columns, labels=lambda noise: f"{100 * float(noise):.0f} % wrong")


if __name__ == "__main__":
    main()
