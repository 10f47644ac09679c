"""Thresholds chosen on labelled records: compared with every threshold there is, and as the heads store them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from mtdnn.metrics.thresholds import Cut, accuracy_threshold, cuts, f1_threshold

Scored = list[tuple[float, bool]]


def random_scores(rng: np.random.Generator) -> Scored:
    """Twelve scores, some of them equal, and whether each is right, more often for high ones."""
    scores = rng.random(12).round(1)
    right = scores + rng.normal(0, 0.4, 12) > 0.5
    return list(zip(scores.tolist(), right.tolist(), strict=True))


def accuracy(scored: Scored, threshold: float) -> float:
    return sum((score >= threshold) == right for score, right in scored) / len(scored)


def f1(scored: Scored, threshold: float) -> float:
    hits = sum(right for score, right in scored if score >= threshold)
    return 2 * hits / max(sum(score >= threshold for score, _ in scored) + sum(right for _, right in scored), 1)


def test_a_ranking_is_cut_between_different_scores_only() -> None:
    """By hand: 0.9 | 0.5, 0.5 | 0.1."""
    found = list(cuts([(0.5, 1.0), (0.1, 4.0), (0.9, -1.0), (0.5, 2.0)]))
    assert found == [Cut(1, -1.0, 0.9, 0.5), Cut(3, 2.0, 0.5, 0.1), Cut(4, 6.0, 0.1, -np.inf)]


@pytest.mark.parametrize("choose", [accuracy_threshold, f1_threshold])
def test_neighbouring_scores_are_told_apart(choose: Callable[[Scored], float]) -> None:
    """The middle of two neighbouring float32 numbers is rounded to one of them: it must be the larger."""
    for number in (0.7, 0.70000005, 0.3):
        high = np.float32(number)
        low = np.nextafter(high, np.float32(0))
        threshold = choose([(float(high), True), (float(low), False)])
        assert float(low) < threshold <= float(high)


@pytest.mark.parametrize(("choose", "value"), [(accuracy_threshold, accuracy), (f1_threshold, f1)])
def test_no_other_threshold_is_better(
    choose: Callable[[Scored], float], value: Callable[[Scored, float], float]
) -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        scored = random_scores(rng)
        highest = max(value(scored, threshold) for threshold in np.arange(-0.05, 1.1, 0.1))
        assert value(scored, choose(scored)) == pytest.approx(highest)


def test_a_threshold_is_halfway_between_two_scores() -> None:
    scored = [(0.1, False), (0.2, False), (0.3, True), (0.4, True)]
    assert accuracy_threshold(scored) == f1_threshold(scored) == pytest.approx(0.25)


def test_where_all_are_right_or_none_is_the_threshold_is_outside_the_scores() -> None:
    assert accuracy_threshold([(0.1, True), (0.2, True)]) <= 0.1
    assert accuracy_threshold([(0.1, False), (0.2, False)]) > 0.2
    assert f1_threshold([(0.9, False)]) == 0.5


def test_of_equally_good_thresholds_on_f1_the_nearest_to_one_half_is_chosen() -> None:
    """By hand: above 0.8 one of two is found, F1 2/3; above 0.4 two of four, F1 2/3; the others are lower."""
    assert f1_threshold([(0.9, True), (0.7, False), (0.6, False), (0.5, True), (0.3, False)]) == pytest.approx(0.4)


def test_the_threshold_is_not_rounded_above_the_smallest_score_in_the_head() -> None:
    """The mean of two float32 numbers is mostly none; of 0.3 and 0.4 the nearest float32 number is larger."""
    score = (float(np.float32(0.3)) + float(np.float32(0.4))) / 2
    for number in range(1, 40):
        smallest = score * number / 40
        assert float(torch.tensor(accuracy_threshold([(smallest, True), (1.0, True)]))) <= smallest
