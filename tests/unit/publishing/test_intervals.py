"""Intervals of the metrics of one run: over rows, over questions, and from a part of a large split."""

import numpy as np
import pytest
from scipy.stats import binom

from mtdnn.metrics.base import compute
from mtdnn.publishing import intervals as module
from mtdnn.publishing.intervals import interval, intervals, sample_of

LABELS = ["a", "b"]


def row(id, right):
    return {"id": id, "label": "b", "prediction": "b" if right else "a"}


def test_the_interval_of_a_share_is_that_of_the_binomial():
    """The bootstrap of 100 rows with 80 right has the quantiles of a binomial: scipy.stats.binom.ppf."""
    records = [row(str(place), place < 80) for place in range(100)]
    found = intervals({"accuracy": 0.8}, [*records, {**row("u", True), "label": None}], LABELS)
    expected = [binom.ppf(share, 100, 0.8) / 100 for share in (0.025, 0.975)]
    assert found["accuracy"] == pytest.approx(expected, abs=0.015)  # 1000 draws: one or two rows at the ends


def test_no_rows_and_metrics_without_a_value_have_no_interval():
    assert intervals({"accuracy": 0.5}, [], LABELS) == {}
    assert intervals({"accuracy": 1.0}, [row("0", True)], LABELS) == {}
    assert intervals({"question_exact_match": 1.0}, [row("no question", True)], LABELS) == {}


def test_answers_to_a_question_are_drawn_together(monkeypatch):
    """60 questions of four equal answers, 45 right: accuracy is one draw of 60, with twice the width of 240 rows.

    Drawn one by one, the answers of a question that has a wrong one would often be right alone.
    """
    monkeypatch.setattr(module, "RESAMPLES", 200)  # the ends vary by a fifth of a standard error of 0.056
    records = [row(f"0-{question}-{answer}", question < 45) for question in range(60) for answer in range(4)]
    values = compute(["accuracy", "question_exact_match"], records, LABELS)
    found = intervals(values, records, LABELS)
    expected = [binom.ppf(share, 60, 0.75) / 60 for share in (0.025, 0.975)]
    for metric in values:
        assert found[metric] == pytest.approx(expected, abs=0.03)
    alone = intervals({"accuracy": 0.75}, records, LABELS)["accuracy"]
    assert np.diff(found["accuracy"]) == pytest.approx(2 * np.diff(alone), rel=0.3)


def test_a_question_drawn_twice_counts_twice_and_keeps_its_answers(monkeypatch):
    """Of two questions, one with a right and a wrong answer, the exact match of draws is 0, 1/2 or 1."""
    seen = []

    def noted(*given):
        seen.append(compute(*given)["question_exact_match"])
        return {"question_exact_match": seen[-1]}

    monkeypatch.setattr(module, "compute", noted)
    records = [row("0-0-0", True), row("0-0-1", False), row("0-1-0", True), row("0-1-1", True)]
    intervals({"question_exact_match": 0.5}, records, LABELS)
    assert set(seen) == {0.0, 0.5, 1.0} and np.mean(seen) == pytest.approx(0.5, abs=0.07)  # of 1000: three errors


def test_the_interval_of_a_large_split_is_from_a_part_of_its_rows(monkeypatch):
    """4,000 rows with 80 % right from 400 of them: about the quantiles of the binomial of 4,000, around the value."""
    monkeypatch.setattr(module, "HELD_RECORDS", 400)
    monkeypatch.setattr(module, "RESAMPLES", 300)
    monkeypatch.setattr("mtdnn.metrics.stored.HELD_RECORDS", 400)
    sample = sample_of((row(str(place), place % 5 != 0) for place in range(4000)), ["accuracy"])
    assert (len(sample.units), sample.share) == (400, 0.1)
    low, high = interval("accuracy", 0.8, sample, LABELS)
    assert high - low == pytest.approx(np.diff(binom.ppf((0.025, 0.975), 4000, 0.8)).item() / 4000, rel=0.25)
    assert (low + high) / 2 == pytest.approx(0.8, abs=0.003)
    _, most = interval("accuracy", 0.99999, sample, LABELS)
    assert most == 1.0
