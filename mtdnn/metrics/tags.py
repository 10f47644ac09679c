"""Metrics of records with a prediction for each token of a row: tags, or masked words.

`prediction` and `label` are lists of the same length; `perplexity` reads `scores`: the summed `nll` (nats) of a row's
masked tokens and their number `tokens`. An entity is correct if its kind, first and last token are.

Source: Tjong Kim Sang and De Meulder 2003, arXiv cs/0306050, section 2, and its script `conlleval`. Added here: the
prefixes of IOBES and BILOU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtdnn.metrics.base import RATE, Demand, Record, metric


def _has_lists(record: Record, labels: Sequence[str]) -> bool:
    label, prediction, scores = record["label"], record.get("prediction"), record.get("scores")
    if isinstance(scores, Mapping) and scores and "nll" not in scores:  # a probability for each name: sets of labels
        return False
    return isinstance(label, list) and isinstance(prediction, list) and len(label) == len(prediction)


def is_entity_tag(tag: object) -> bool:
    """Whether a tag is O, or has a prefix for the position of its word in an entity: B-PER, I-PER, …"""
    return tag == "O" or (isinstance(tag, str) and tag[:2] in ("B-", "I-", "E-", "S-", "L-", "U-"))


def _has_tags(record: Record, labels: Sequence[str]) -> bool:
    return _has_lists(record, labels) and all(map(is_entity_tag, record["label"] + record["prediction"]))


def _has_likelihood(record: Record, labels: Sequence[str]) -> bool:
    scores = record.get("scores")
    return isinstance(scores, Mapping) and {"nll", "tokens"} <= scores.keys()


ENTITY_ENDS = "ESLU"
"""Prefixes of the last token of an entity: end and single of IOBES, last and unit of BILOU."""

ENTITY_STARTS = "BSU"
"""Prefixes that always begin a new entity."""

TOKENS = Demand("lists of the same length as label and prediction", _has_lists)
TAGS = Demand("lists of tags (O, B-PER, I-PER, …) of the same length as label and prediction", _has_tags)
LIKELIHOOD = Demand("the summed `nll` and the count of `tokens` in its scores", _has_likelihood)


@metric("token_accuracy", TOKENS, range=RATE, percent=True)
def token_accuracy(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the tokens of all rows whose prediction equals the label; 0 if there are no tokens."""
    right = tokens = 0
    for record in records:
        right += sum(label == guess for label, guess in zip(record["label"], record["prediction"], strict=True))
        tokens += len(record["label"])
    return right / max(tokens, 1)


@metric("entity_f1", TAGS, range=RATE, percent=True)
def entity_f1(records: Sequence[Record], labels: Sequence[str]) -> float:
    """F1 of entities, all kinds counted together; 0 if there are none."""
    found = _counts(records)
    return 2 * found.right / max(found.labelled + found.predicted, 1)


@metric("entity_precision", TAGS, range=RATE, percent=True)
def entity_precision(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the predicted entities that are correct in kind, first and last token; 0 if none is predicted."""
    found = _counts(records)
    return found.right / max(found.predicted, 1)


@metric("entity_recall", TAGS, range=RATE, percent=True)
def entity_recall(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the labelled entities that are predicted; 0 when none is labelled."""
    found = _counts(records)
    return found.right / max(found.labelled, 1)


@dataclass(frozen=True)
class Entity:
    """An entity: its kind and the positions of its first and last token, from 0."""

    kind: str
    first: int
    last: int


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities of a row of tags in IOB1, IOB2, IOBES or BILOU, also for invalid orders of tags.

    Every token that is not O belongs to one entity. It continues that of the previous token if that has the same kind
    and is not a last one (E, S, L, U), and this one is not a first one (B, S, U); otherwise it begins a new entity.
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


@dataclass
class _Counts:
    """Number of entities in all rows: labelled, predicted, and right (both labelled and predicted)."""

    labelled: int
    predicted: int
    right: int


def _counts(records: Sequence[Record]) -> _Counts:
    found = _Counts(0, 0, 0)
    for record in records:
        labelled, predicted = entities(record["label"]), entities(record["prediction"])
        found.labelled += len(labelled)
        found.predicted += len(predicted)
        found.right += len(labelled & predicted)
    return found


@metric("perplexity", LIKELIHOOD, direction="minimize", range=(1.0, math.inf))
def perplexity(records: Sequence[Record], labels: Sequence[str]) -> float:
    """exp of the mean negative log probability over all masked tokens; 1 if there are none."""
    nll = sum(record["scores"]["nll"] for record in records)
    tokens = sum(record["scores"]["tokens"] for record in records)
    return math.exp(min(nll / max(tokens, 1), 700.0))  # exp of more overflows a float
