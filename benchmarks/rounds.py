"""Several ways of doing one piece of work, measured in turn, so that a slow minute of the machine meets them all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")
W = TypeVar("W")


def interleaved(ways: Mapping[W, Callable[[], T]], repeats: int, *, warm_up: bool = True) -> dict[W, list[T]]:
    """What each way returned in each round; a round runs all of them, each round beginning with another.

    Args:
        warm_up: run one round more before, which does not count.
    """
    rounds: dict[W, list[T]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(-warm_up, repeats):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            result = ways[name]()
            if number >= 0:
                rounds[name].append(result)
    return rounds


def ratios(mine: Sequence[float], base: Sequence[float]) -> list[float]:
    """mine / base, round by round."""
    return [own / other for own, other in zip(mine, base, strict=True)]


def median_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """`2.10 (1.95–2.31)`; one value alone has no spread."""
    median = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return median
    return f"{median} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"
