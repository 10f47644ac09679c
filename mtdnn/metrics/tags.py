"""Metrics of records that predict something for each token of a row: tags, or hidden words.

`prediction` and `label` are lists of the same length; `perplexity` reads `scores`: the summed `nll` (nats) of a row's
hidden tokens and their `tokens` count. Entities are counted as the CoNLL-2000 script does, by seqeval, which knows the
tags of IOB, IOBES and, told by other letters here, BILOU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

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


OTHER_LETTERS = {"L-": "E-", "U-": "S-"}
"""BILOU's last and unit of one → IOBES' end and single, which seqeval's way of the CoNLL script knows."""

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
    from seqeval.metrics import f1_score

    return _of_entities(f1_score, records)


@metric("entity_precision", TAGS, range=RATE, percent=True)
def entity_precision(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the predicted entities that are right in kind, first and last token; 0 when none is predicted."""
    from seqeval.metrics import precision_score

    return _of_entities(precision_score, records)


@metric("entity_recall", TAGS, range=RATE, percent=True)
def entity_recall(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the labelled entities that are predicted; 0 when none is labelled."""
    from seqeval.metrics import recall_score

    return _of_entities(recall_score, records)


def _of_entities(function: Callable[..., float], records: Sequence[Record]) -> float:
    tags = ([[_in_iobes(tag) for tag in record[key]] for record in records] for key in ("label", "prediction"))
    return float(function(*tags, zero_division=0))


def _in_iobes(tag: str) -> str:
    return OTHER_LETTERS.get(tag[:2], tag[:2]) + tag[2:]


@metric("perplexity", LIKELIHOOD, direction="minimize", range=(1.0, math.inf))
def perplexity(records: Sequence[Record], labels: Sequence[str]) -> float:
    """exp of the mean negative log probability of all hidden tokens together; 1 when there are none."""
    nll = sum(record["scores"]["nll"] for record in records)
    tokens = sum(record["scores"]["tokens"] for record in records)
    return math.exp(min(nll / max(tokens, 1), 700.0))  # the exponential of more is no float
