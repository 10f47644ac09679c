"""Metrics of answers written back as strings: `prediction` is a text ("" = no answer), `label` the accepted texts.

An empty list of accepted texts means that there is no answer. The numbers are those of SQuAD's evaluation script,
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
    """1 when the two are the same once normalized, else 0."""
    return float(normalized(prediction) == normalized(answer))


def overlap(prediction: str, answer: str) -> float:
    """F1 of the words of the two; where one of them has none, 1 when the other has none either."""
    guessed, gold = normalized(prediction).split(), normalized(answer).split()
    if not guessed or not gold:
        return float(guessed == gold)
    common = sum((Counter(guessed) & Counter(gold)).values())
    return 2 * common / (len(guessed) + len(gold))


def best(measure: Callable[[str, str], float], prediction: str, answers: Sequence[str]) -> float:
    """The measure against the accepted answer that fits best; answers that vanish when normalized do not count.

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
    """Share of the rows whose prediction is an accepted answer, up to case, punctuation, articles and space."""
    return _mean(exact, records)


@metric("span_f1", TEXTS, range=RATE, percent=True)
def span_f1(records: Sequence[Record], labels: Sequence[str]) -> float:
    """Mean over the rows of the F1 of words with the accepted answer that fits best."""
    return _mean(overlap, records)


def _mean(measure: Callable[[str, str], float], records: Sequence[Record]) -> float:
    return sum(best(measure, record["prediction"], record["label"]) for record in records) / len(records)
