"""Accuracy of a model where annotators agree, and its distance from their distribution where they do not.

Five annotators may agree completely (5/0/0) or hardly (2/2/1). A model that is correct on the former and spreads its
probability on the latter has learnt more than the majority label. Source: Jiang et al. 2020, arXiv 1911.03437,
figure 2. Added here: the cross-entropy at the model's best temperature (Guo et al. 2017, arXiv 1706.04599), since a
model that is less confident everywhere is closer to divided votes without knowing which rows they belong to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtdnn.errors import MAX_REPORTED_ERRORS, DataError, Place, fault, first_of, unreadable
from mtdnn.metrics.base import Record
from mtdnn.metrics.probabilities import best_temperature, tempered_cross_entropy


@dataclass(frozen=True)
class Agreement:
    """Rows of one degree of agreement.

    Attributes:
        pattern: votes per label, most first: 4/1/0.
        count: rows.
        accuracy: share of predictions that are among the labels with most votes.
        cross_entropy: mean of −Σ votes · ln(model), in nats; None without probabilities.
        entropy: the same of the votes themselves: no model can have less.
        temperature: of all rows together, see `best_temperature`; None without probabilities.
        tempered: cross-entropy at that temperature; None without probabilities.
    """

    pattern: str
    count: int
    accuracy: float
    cross_entropy: float | None
    entropy: float
    temperature: float | None
    tempered: float | None


def read_annotators(path: Path) -> dict[str, list[str]]:
    """Row id → its annotators' labels, from lines `id<TAB>label,label,…`.

    Raises:
        DataError: no such file, lines that are something else, or two lines of one row with different labels.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        fix = "Give lines of: id, tab, labels joined by commas."
        raise DataError(fault(str(path), "", unreadable(error), fix)) from error
    labels: dict[str, list[str]] = {}
    faults = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row_id, _, words = line.rstrip("\r").partition("\t")
        votes = [word.strip() for word in words.split(",")]
        if not row_id or not all(votes):
            faults.append(fault(Place(str(path), number), "", "no id or an empty label", "Expected id, tab, labels."))
        elif labels.setdefault(row_id, votes) != votes:
            found = f"other labels of row '{row_id}' than in an earlier line"
            faults.append(fault(Place(str(path), number), "", found, "Give one line for each row."))
    if faults:
        raise DataError(first_of(faults, len(faults), str(path), MAX_REPORTED_ERRORS))
    return labels


def by_agreement(
    predictions: Iterable[Record],
    annotators: Mapping[str, Sequence[str]],
    *,
    labels: Sequence[str],
    votes: int | None = None,
) -> list[Agreement]:
    """One entry per pattern of votes, full agreement first.

    Args:
        predictions: records with `id`, `prediction` and `scores`, labelled or not.
        labels: the task's labels; a row with a vote for another one is left out.
        votes: rows with another number of annotators are left out. Default: `usual_votes`.
        annotators: row id → the annotators' labels.
    """
    votes = usual_votes(annotators) if votes is None else votes
    groups: dict[str, list[tuple[Record, Counter[str]]]] = {}
    for record in predictions:
        given = annotators.get(str(record["id"]), ())
        if given and len(given) == votes and set(given) <= set(labels):
            counts = Counter(given)
            groups.setdefault(pattern(counts, len(labels)), []).append((record, counts))
    rows = [row for group in groups.values() for row in group]
    scored = bool(rows) and all(record.get("scores") for record, _ in rows)
    temperature = best_temperature(_probabilities(rows, labels), _votes_of(rows, labels)) if scored else None
    return [_measured(name, groups[name], labels, temperature) for name in sorted(groups, key=_votes, reverse=True)]


def usual_votes(annotators: Mapping[str, Sequence[str]]) -> int:
    """The most frequent number of annotators of a row, of two or more (one agrees with itself); the larger of equally
    frequent numbers, 0 without such rows."""
    counts = Counter(len(given) for given in annotators.values() if len(given) > 1)
    return max(counts, key=lambda votes: (counts[votes], votes), default=0)


Rows = Sequence[tuple[Record, Counter[str]]]


def _probabilities(rows: Rows, labels: Sequence[str]) -> np.ndarray:
    """[rows, labels] the model's."""
    return np.array([[record["scores"].get(label, 0.0) for label in labels] for record, _ in rows])


def _votes_of(rows: Rows, labels: Sequence[str]) -> np.ndarray:
    """[rows, labels] shares of the annotators' votes."""
    return np.array([[counts[label] / counts.total() for label in labels] for _, counts in rows])


def pattern(counts: Mapping[str, int], num_labels: int) -> str:
    """`4/1/0`: votes per label, most first."""
    votes = sorted(counts.values(), reverse=True)
    return "/".join(str(count) for count in [*votes, *[0] * (num_labels - len(votes))])


def _votes(name: str) -> list[int]:
    return [int(count) for count in name.split("/")]


def _measured(name: str, group: Rows, labels: Sequence[str], temperature: float | None) -> Agreement:
    right = [counts[str(record["prediction"])] == max(counts.values()) for record, counts in group]
    votes = _votes_of(group, labels)
    shares = None if temperature is None else _probabilities(group, labels)
    return Agreement(
        pattern=name,
        count=len(group),
        accuracy=sum(right) / len(group),
        cross_entropy=None if shares is None else tempered_cross_entropy(shares, votes, 1.0),
        entropy=tempered_cross_entropy(votes, votes, 1.0),
        temperature=temperature,
        tempered=None if shares is None or temperature is None else tempered_cross_entropy(shares, votes, temperature),
    )
