"""The threshold on a score that decides best on labelled records, for types that tune one on the dev split.

It is a float32 number, as the heads store it, halfway between two neighbouring scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

LEAD = 1e-3
"""How far above the highest score a threshold is that no score reaches, times 2."""


class Cut(NamedTuple):
    """A way to divide a ranking in two, between two different scores.

    Attributes:
        above: items above it.
        gain: the sum of their gains.
        lowest: the lowest score above it.
        following: the highest score below it; −inf if there is none.
    """

    above: int
    gain: float
    lowest: float
    following: float


def cuts(scored: Iterable[tuple[float, float]]) -> Iterator[Cut]:
    """Every cut of a ranking of (score, gain) with an item above it, from the highest score down."""
    ranked = sorted(scored, key=itemgetter(0), reverse=True)
    gain = 0.0
    for above, (score, own) in enumerate(ranked, 1):
        gain += own
        following = ranked[above][0] if above < len(ranked) else -math.inf
        if following < score:
            yield Cut(above, gain, score, following)


def accuracy_threshold(scored: Sequence[tuple[float, bool]]) -> float:
    """The threshold with the most right decisions on at least one (score, whether it is right to decide for it).

    A score that is not below the threshold is decided for. Of equally good thresholds the smallest is chosen.
    """
    highest = max(score for score, _ in scored)
    most, chosen = 0.0, _halfway(highest, highest + LEAD)
    for cut in cuts((score, 1.0 if right else -1.0) for score, right in scored):
        if cut.gain >= most:
            most = cut.gain
            chosen = _halfway(cut.lowest, cut.following) if cut.above < len(scored) else _not_above(cut.lowest)
    return chosen


def f1_threshold(scored: Sequence[tuple[float, bool]]) -> float:
    """The threshold on probabilities with the highest F1 on (probability, whether the label applies).

    Of equally good cuts that with its middle nearest to 0.5 is chosen; 0.5 if the label never applies.
    """
    total = sum(right for _, right in scored)
    if not total:
        return 0.5

    def threshold(cut: Cut) -> float:
        return _halfway(cut.lowest, max(cut.following, 0.0))

    def quality(cut: Cut) -> tuple[float, float]:
        return 2 * cut.gain / (cut.above + total), -abs(threshold(cut) - 0.5)

    return threshold(max(cuts(scored), key=quality))


def _halfway(one: float, other: float) -> float:
    """The middle; of two neighbouring float32 numbers the larger, as the smaller would decide for both."""
    import numpy as np  # here, as reading prediction files needs none

    middle = np.float32((one + other) / 2)
    decides_for_both = one != other and float(middle) <= min(one, other)
    return float(np.nextafter(middle, np.float32(np.inf)) if decides_for_both else middle)


def _not_above(score: float) -> float:
    """The largest float32 number that is not above a score: the nearest one could be."""
    import numpy as np  # here, as above

    nearest = np.float32(score)
    return float(nearest if float(nearest) <= score else np.nextafter(nearest, np.float32(-np.inf)))
