"""Metrics of generated texts, next to those of answers: `prediction` is a text, `label` the accepted texts.

They need packages of the extra `generation`; a metric whose package is missing is none of those that can be computed.
Source: Lin 2004, "ROUGE" (by rouge-score); Papineni et al. 2002, "BLEU", in the variant of Post 2018, arXiv 1804.08771
(by sacrebleu, its default tokenization).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from mtdnn.metrics.answers import TEXTS
from mtdnn.metrics.base import RATE, Demand, Record, metric


def _demand(module: str, package: str) -> Demand:
    """A text and accepted texts, and a package that is installed."""
    installed = find_spec(module) is not None
    text = f"{TEXTS.text}, and the package {package} (pip install 'mtdnn[generation]')"
    return Demand(text, lambda record, labels: installed and TEXTS.met(record, labels))


WITH_ROUGE = _demand("rouge_score", "rouge-score")
WITH_BLEU = _demand("sacrebleu", "sacrebleu")


def _rouge(name: str, records: Sequence[Record]) -> float:
    """Mean over the rows of the largest F1 over the accepted texts, without stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([name], use_stemmer=False)
    values = (scorer.score_multi(record["label"] or [""], record["prediction"])[name].fmeasure for record in records)
    return float(sum(values)) / len(records)


@metric("rouge1", WITH_ROUGE, range=RATE, percent=True)
def rouge1(records: Sequence[Record], labels: Sequence[str]) -> float:
    """ROUGE-1: F1 of the words of prediction and accepted text; the mean over rows."""
    return _rouge("rouge1", records)


@metric("rouge2", WITH_ROUGE, range=RATE, percent=True)
def rouge2(records: Sequence[Record], labels: Sequence[str]) -> float:
    """ROUGE-2: F1 of the pairs of neighbouring words; the mean over rows."""
    return _rouge("rouge2", records)


@metric("rougeL", WITH_ROUGE, range=RATE, percent=True)
def rouge_l(records: Sequence[Record], labels: Sequence[str]) -> float:
    """ROUGE-L: F1 of the longest common subsequence of words; the mean over rows."""
    return _rouge("rougeL", records)


@metric("bleu", WITH_BLEU, range=RATE, percent=True)
def bleu(records: Sequence[Record], labels: Sequence[str]) -> float:
    """BLEU of the whole split, as a fraction; rows may have several accepted texts."""
    from sacrebleu import corpus_bleu

    accepted = [list(record["label"]) or [""] for record in records]
    most = max(map(len, accepted))
    streams: Any = [[texts[place] if place < len(texts) else None for texts in accepted] for place in range(most)]
    return float(corpus_bleu([record["prediction"] for record in records], streams).score) / 100
