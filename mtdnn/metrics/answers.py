"""Metrics of answers as texts: `prediction` is a text ("" = no answer), `label` the accepted texts.

An empty list of accepted texts means that there is no answer. The values are those of SQuAD's evaluation script,
version 2.0, as fractions.

Source: Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1; Rajpurkar et al. 2018, arXiv 1806.03822.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from mtdnn.metrics.base import RATE, Demand, Record, metric

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and needless space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(prediction: str, answer: str) -> float:
    """1 if the two texts are equal after normalization, else 0."""
    return float(normalized(prediction) == normalized(answer))


def overlap(prediction: str, answer: str) -> float:
    """F1 of the words of two texts; if one has no words, 1 if the other has none either, else 0."""
    guessed, gold = normalized(prediction).split(), normalized(answer).split()
    if not guessed or not gold:
        return float(guessed == gold)
    common = sum((Counter(guessed) & Counter(gold)).values())
    return 2 * common / (len(guessed) + len(gold))


def best(measure: Callable[[str, str], float], prediction: str, answers: Sequence[str]) -> float:
    """The highest value of a measure over the accepted answers; answers that normalization empties do not count.

    Args:
        measure: (prediction, answer) → number.
        prediction: the predicted text.
        answers: the accepted texts.
    """
    accepted = [answer for answer in answers if normalized(answer)] or [""]
    return max(measure(prediction, answer) for answer in accepted)


def _has_texts(record: Record, labels: Sequence[str]) -> bool:
    accepted = record["label"]
    return (
        isinstance(record.get("prediction"), str)
        and isinstance(accepted, list)
        and all(isinstance(answer, str) for answer in accepted)
    )


TEXTS = Demand("a text as prediction and a list of accepted texts as label", _has_texts)


@metric("exact_match", TEXTS, range=RATE, percent=True)
def exact_match(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Share of the rows whose prediction is an accepted answer, ignoring case, punctuation, articles and space."""
    return _mean(exact, records)


@metric("span_f1", TEXTS, range=RATE, percent=True)
def span_f1(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Mean over the rows of the highest F1 of words over the accepted answers."""
    return _mean(overlap, records)


def _mean(measure: Callable[[str, str], float], records: Sequence[Record]) -> float:
    return sum(best(measure, record["prediction"], record["label"]) for record in records) / len(records)
