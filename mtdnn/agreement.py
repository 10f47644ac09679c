"""How well a model does where annotators agree, and how near it comes to their distribution where they do not.

Five annotators may agree wholly (5/0/0) or hardly (2/2/1). A model that is right on the first and spreads its
probability on the last has learnt more than the majority label. Source: Jiang et al. 2020, arXiv 1911.03437, figure 2.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtdnn.errors import DataError, fault
from mtdnn.metrics import Record

SMALLEST = 1e-12  # probabilities are taken to be at least this


@dataclass(frozen=True)
class Agreement:
    """Rows of one degree of agreement.

    Attributes:
        pattern: votes per label, most first: 4/1/0.
        count: rows.
        accuracy: share of predictions that are among the labels with most votes.
        cross_entropy: mean of −Σ votes · ln(model), in nats; None without probabilities.
        entropy: the same of the votes themselves: no model can have less.
    """

    pattern: str
    count: int
    accuracy: float
    cross_entropy: float | None
    entropy: float


def read_annotators(path: Path) -> dict[str, list[str]]:
    """Row id → its annotators' labels, from lines `id<TAB>label,label,…`.

    Raises:
        DataError: no such file, or lines that are something else.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        found = f"cannot be read: {error}"
        raise DataError(fault(str(path), "", found, "Give lines of: id, tab, labels joined by commas.")) from error
    labels: dict[str, list[str]] = {}
    faults = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row_id, _, words = line.rstrip("\r").partition("\t")
        votes = [word.strip() for word in words.split(",")]
        if not row_id or not all(votes):
            faults.append(fault(f"{path}:{number}", "", "no id or an empty label", "Expected id, tab, labels."))
        labels[row_id] = votes
    if faults:
        raise DataError(faults[:20])
    return labels


def by_agreement(
    predictions: Iterable[Record], annotators: Mapping[str, Sequence[str]], *, labels: Sequence[str], votes: int = 5
) -> list[Agreement]:
    """One entry per pattern of votes, full agreement first.

    Args:
        predictions: records with `id`, `prediction` and `scores`, labelled or not.
        labels: the task's labels; a row with a vote for another one is left out.
        votes: rows with another number of annotators are left out.
    """
    groups: dict[str, list[tuple[Record, Counter[str]]]] = {}
    for record in predictions:
        given = annotators.get(str(record["id"]), ())
        if len(given) == votes and set(given) <= set(labels):
            counts = Counter(given)
            groups.setdefault(pattern(counts, len(labels)), []).append((record, counts))
    return [_measured(name, groups[name]) for name in sorted(groups, key=_votes, reverse=True)]


def pattern(counts: Mapping[str, int], num_labels: int) -> str:
    """`4/1/0`: votes per label, most first."""
    votes = sorted(counts.values(), reverse=True)
    return "/".join(str(count) for count in [*votes, *[0] * (num_labels - len(votes))])


def _votes(name: str) -> list[int]:
    return [int(count) for count in name.split("/")]


def _measured(name: str, group: Sequence[tuple[Record, Counter[str]]]) -> Agreement:
    right = [counts[str(record["prediction"])] == max(counts.values()) for record, counts in group]
    scored = all(record.get("scores") for record, _ in group)
    distances = [_cross_entropy(record["scores"], counts) for record, counts in group] if scored else []
    entropies = [_cross_entropy(_shares(counts), counts) for _, counts in group]
    return Agreement(
        pattern=name,
        count=len(group),
        accuracy=sum(right) / len(group),
        cross_entropy=sum(distances) / len(group) if scored else None,
        entropy=sum(entropies) / len(group),
    )


def _shares(counts: Counter[str]) -> dict[str, float]:
    return {label: n / counts.total() for label, n in counts.items()}


def _cross_entropy(scores: Mapping[str, float], counts: Counter[str]) -> float:
    total = counts.total()
    return -sum(n / total * math.log(max(scores.get(label, 0.0), SMALLEST)) for label, n in counts.items())
