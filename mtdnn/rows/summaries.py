"""Counts of numbers → quantiles and summaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def quantiles(counts: Mapping[Any, int], shares: Sequence[float]) -> list[float]:
    """Quantiles of counted numbers, equal to `np.quantile` of all the numbers; only distinct numbers are in memory.

    NumPy has no interpolated quantiles of weighted numbers.

    Args:
        counts: number → how often it occurs, at least once.
        shares: the quantiles to compute, each from 0 to 1.
    """
    numbers = np.array(sorted(counts), dtype=np.float64)
    behind = np.cumsum([counts[number] for number in numbers.tolist()])
    places = np.array(shares) * (behind[-1] - 1)
    below, above = (
        numbers[np.searchsorted(behind, each, side="right")] for each in (np.floor(places), np.ceil(places))
    )
    found: list[float] = (below + (places % 1) * (above - below)).tolist()
    return found


def number_counts(numbers: Iterable[float]) -> Counter[Any]:
    """How often each number occurs, rounded to four significant digits."""
    return Counter(float(f"{number:.4g}") for number in numbers)


def number_summary(counts: Mapping[float, int]) -> dict[str, float]:
    """Minimum, quartiles, maximum and mean; there must be at least one number."""
    names = ("min", "q25", "median", "q75", "max")
    quartiles = [round(each, 6) for each in quantiles(counts, (0, 0.25, 0.5, 0.75, 1))]
    mean = sum(number * count for number, count in counts.items()) / sum(counts.values())
    return {**dict(zip(names, quartiles, strict=True)), "mean": round(mean, 6)}
