"""What repeated runs show, and what they do not: intervals, tests, corrections, equivalence, power; by SciPy.

Everything here takes plain numbers: values of units (runs that are independent of each other), paired differences, or
0 and 1 for rows that are wrong and right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

CONFIDENCE = 0.95
SIGNIFICANT = 0.05
POWER = 0.8
RESAMPLES = 9_999
ROUNDING = 1e-12
MOST_PAIRS = 10_000
"""`pairs_needed` looks no farther."""


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of two or more values, from the t distribution with n − 1 degrees of freedom.

    With three to five values the percentile bootstrap, which earlier versions had, covers 75 to 84 % instead.
    """
    import numpy as np
    from scipy.stats import t

    mean, half = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half *= float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return mean - half, mean + half


def equivalence_p(differences: Sequence[float], margin: float) -> float:
    """p of the hypothesis that the mean difference is `margin` or more, in either direction; small = equivalent.

    The larger p of two one-sided t-tests. Source: Schuirmann 1987, J. Pharmacokinet. Biopharm. 15.

    Args:
        differences: paired, two or more.
        margin: the smallest difference that would matter, above 0.
    """
    from scipy.stats import ttest_1samp

    if max(differences) - min(differences) <= ROUNDING:  # no spread, and no t distribution
        return 0.0 if abs(differences[0]) < margin - ROUNDING else 1.0  # 0.57 − 0.56 is a point, not less
    above = ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = ttest_1samp(differences, margin, alternative="less").pvalue
    return float(max(above, below))


def holm(ps: Sequence[float]) -> list[float]:
    """p corrected for the number of tests by Holm's step-down, which holds the chance of any false finding.

    Source: Holm 1979, Scand. J. Statist. 6.
    """
    order = sorted(range(len(ps)), key=ps.__getitem__)
    corrected, least = [0.0] * len(ps), 0.0
    for rank, place in enumerate(order):
        least = max(least, (len(ps) - rank) * ps[place])
        corrected[place] = min(1.0, least)
    return corrected


def false_discovery(ps: Sequence[float | None]) -> list[float | None]:
    """p corrected by Benjamini and Hochberg, which holds the share of false findings; None stays, and does not count.

    Source: Benjamini and Hochberg 1995, J. R. Statist. Soc. B 57, by SciPy.
    """
    from scipy.stats import false_discovery_control

    known = [p for p in ps if p is not None]
    found = iter(false_discovery_control(known).tolist() if known else [])
    return [None if p is None else float(next(found)) for p in ps]


def power_of(pairs: int, effect: float) -> float:
    """The chance that a two-sided paired t-test at 5 % finds an effect.

    Args:
        pairs: how many, two or more.
        effect: mean of the differences, in units of their standard deviation.
    """
    from scipy.stats import nct, t

    critical, shift = float(t.ppf(1 - SIGNIFICANT / 2, pairs - 1)), effect * math.sqrt(pairs)
    return float(nct.sf(critical, pairs - 1, shift) + nct.cdf(-critical, pairs - 1, shift))


def pairs_needed(std: float, difference: float) -> int | None:
    """How many pairs find a difference with a chance of 80 %; None where it would be more than 10,000.

    Args:
        std: standard deviation of the paired differences.
        difference: to be found, above 0.
    """
    if std == 0:
        return 2
    low, high = 1, 2
    while power_of(high, difference / std) < POWER:  # from below: far above the answer SciPy's numbers fail
        low, high = high, 2 * high
        if low > MOST_PAIRS:
            return None
    # low is too few, high enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle, difference / std) >= POWER else (middle, high)
    return high


def mcnemar_p(ours: Sequence[bool] | np.ndarray, theirs: Sequence[bool] | np.ndarray) -> float:
    """p of the hypothesis that two models are right equally often, from the rows on which one of them is right.

    The exact, binomial test. Source: McNemar 1947, Psychometrika 12.

    Args:
        ours, theirs: whether each model is right, row by row.
    """
    import numpy as np
    from scipy.stats import binomtest

    right, other = np.asarray(ours, dtype=bool), np.asarray(theirs, dtype=bool)
    won, lost = int(np.sum(right & ~other)), int(np.sum(other & ~right))
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


@dataclass(frozen=True)
class RowInterval:
    """A difference over units and rows.

    Attributes:
        mean: over all units and rows.
        low, high: 95 % interval, by resampling both.
    """

    mean: float
    low: float
    high: float


def bootstrap_over_rows(differences: Sequence[np.ndarray], *, seed: int = 0) -> list[RowInterval]:
    """The mean of each array of differences and how it would vary with other units *and* other rows.

    Units and rows are drawn with replacement independently of each other, 9,999 times. Of few units the interval is
    too narrow, as that of every percentile bootstrap; it is read next to the t interval over units. Arrays of one
    shape share the draws, which take nearly all of the time.

    Args:
        differences: [units, rows] each, such as right minus right of two models on each row; one unit: rows alone vary.
        seed: of the draws.
    """
    found: list[RowInterval | None] = [None] * len(differences)
    for shape in dict.fromkeys(each.shape for each in differences):
        places = [place for place, each in enumerate(differences) if each.shape == shape]
        for place, interval in zip(places, _resampled([differences[place] for place in places], seed), strict=True):
            found[place] = interval
    return [each for each in found if each is not None]


def _resampled(differences: Sequence[np.ndarray], seed: int) -> Iterator[RowInterval]:
    """The intervals of arrays of one shape."""
    import numpy as np

    rng, (units, rows) = np.random.default_rng(seed), differences[0].shape
    means = np.empty((len(differences), RESAMPLES))
    for draw in range(RESAMPLES):
        weights = rng.multinomial(units, np.full(units, 1 / units)) / units
        counts = rng.multinomial(rows, np.full(rows, 1 / rows))
        for place, each in enumerate(differences):
            means[place, draw] = (weights @ each) @ counts / rows
    for each, of_draws in zip(differences, means, strict=True):
        low, high = np.quantile(of_draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        yield RowInterval(float(each.mean()), float(low), float(high))
