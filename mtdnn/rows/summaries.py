"""Numbers, and how often each comes → what all of them together are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def quantiles(counts: Mapping[Any, int], shares: Sequence[float]) -> list[float]:
    """As `np.quantile` of all the numbers, one after another, which only needs those that differ in memory.

    NumPy itself has no quantiles of weighted numbers between two of them.

    Args:
        counts: number → how often it comes, at least once.
        shares: each from 0 to 1.
    """
    numbers = np.array(sorted(counts), dtype=np.float64)
    behind = np.cumsum([counts[number] for number in numbers.tolist()])
    places = np.array(shares) * (behind[-1] - 1)
    below, above = (
        numbers[np.searchsorted(behind, each, side="right")] for each in (np.floor(places), np.ceil(places))
    )
    found: list[float] = (below + (places % 1) * (above - below)).tolist()
    return found
