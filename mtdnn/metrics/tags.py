"""Metrics of records that predict something for each token of a row: tags, or hidden words.

`prediction` and `label` are lists of the same length; `perplexity` reads `scores`: the summed `nll` (nats) of a row's
hidden tokens and their `tokens` count. An entity is right when its kind, first and last token are.

Source: Tjong Kim Sang and De Meulder 2003, arXiv cs/0306050, section 2, and its script `conlleval`. Added here: the
prefixes of IOBES and BILOU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtdnn.metrics.base import RATE, Demand, Record, metric


def _has_lists(record: Record, labels: Sequence[str]) -> bool:
    label, prediction = record["label"], record.get("prediction")
    return isinstance(label, list) and isinstance(prediction, list) and len(label) == len(prediction)


def is_entity_tag(tag: object) -> bool:
    """Whether it is O, or says by its prefix where in an entity of a kind its word stands: B-PER, I-PER, …"""
    return tag == "O" or (isinstance(tag, str) and tag[:2] in ("B-", "I-", "E-", "S-", "L-", "U-"))


def _has_tags(record: Record, labels: Sequence[str]) -> bool:
    return _has_lists(record, labels) and all(map(is_entity_tag, record["label"] + record["prediction"]))


def _has_likelihood(record: Record, labels: Sequence[str]) -> bool:
    scores = record.get("scores")
    return isinstance(scores, Mapping) and {"nll", "tokens"} <= scores.keys()


ENTITY_ENDS = "ESLU"
"""Prefixes after which an entity is over: end and single of IOBES, last and unit of BILOU."""

ENTITY_STARTS = "BSU"
"""Prefixes with which an entity always begins."""

TOKENS = Demand("a list as label and a list as long as prediction", _has_lists)
TAGS = Demand("a list of tags (O, B-PER, I-PER, …) as label and one as long as prediction", _has_tags)
LIKELIHOOD = Demand("the summed `nll` and the count of `tokens` in its scores", _has_likelihood)


@metric("token_accuracy", TOKENS, range=RATE, percent=True)
def token_accuracy(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the tokens of all rows together whose prediction is the label; 0 when there are no tokens."""
    pairs = [
        (label, guess) for record in records for label, guess in zip(record["label"], record["prediction"], strict=True)
    ]
    return sum(label == guess for label, guess in pairs) / max(len(pairs), 1)


@metric("entity_f1", TAGS, range=RATE, percent=True)
def entity_f1(records: Sequence[Record], labels: Sequence[str]) -> float:
    """F1 of whole entities, all kinds counted together; 0 when there are none."""
    found = _counts(records)
    return 2 * found.right / max(found.labelled + found.predicted, 1)


@metric("entity_precision", TAGS, range=RATE, percent=True)
def entity_precision(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the predicted entities that are right in kind, first and last token; 0 when none is predicted."""
    found = _counts(records)
    return found.right / max(found.predicted, 1)


@metric("entity_recall", TAGS, range=RATE, percent=True)
def entity_recall(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the labelled entities that are predicted; 0 when none is labelled."""
    found = _counts(records)
    return found.right / max(found.labelled, 1)


@dataclass(frozen=True)
class Entity:
    """A kind and the places of its first and last token, from 0."""

    kind: str
    first: int
    last: int


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities of a row of tags in IOB1, IOB2, IOBES or BILOU, whatever their order.

    Every token that is not O belongs to one entity: that of the token before it if that has the same kind and has not
    ended there (E, S, L, U), and this one does not begin anew (B, S, U); otherwise a new one.
    """
    found: set[Entity] = set()
    first = 0
    for place, tag in enumerate(tags):
        if not _continues(tags[place - 1] if place else "O", tag):
            first = place
        following = tags[place + 1] if place + 1 < len(tags) else "O"
        if tag != "O" and not _continues(tag, following):
            found.add(Entity(tag[2:], first, place))
    return found


def _continues(before: str, tag: str) -> bool:
    """Whether a token belongs to the entity of the token before it."""
    if before == "O" or tag == "O":
        return False
    return before[2:] == tag[2:] and before[0] not in ENTITY_ENDS and tag[0] not in ENTITY_STARTS


@dataclass(frozen=True)
class _Counts:
    """How many entities all rows have: labelled, predicted, and right, which are both."""

    labelled: int
    predicted: int
    right: int


def _counts(records: Sequence[Record]) -> _Counts:
    pairs = [(entities(record["label"]), entities(record["prediction"])) for record in records]
    return _Counts(
        labelled=sum(len(labelled) for labelled, _ in pairs),
        predicted=sum(len(predicted) for _, predicted in pairs),
        right=sum(len(labelled & predicted) for labelled, predicted in pairs),
    )


@metric("perplexity", LIKELIHOOD, direction="minimize", range=(1.0, math.inf))
def perplexity(records: Sequence[Record], labels: Sequence[str]) -> float:
    """exp of the mean negative log probability of all hidden tokens together; 1 when there are none."""
    nll = sum(record["scores"]["nll"] for record in records)
    tokens = sum(record["scores"]["tokens"] for record in records)
    return math.exp(min(nll / max(tokens, 1), 700.0))  # the exponential of more is no float
