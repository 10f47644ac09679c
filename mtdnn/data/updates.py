"""The tasks of each update: turns of single tasks → updates of several, each task at most once in an update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Updates(NamedTuple):
    """The batches of an epoch, update after update.

    Attributes:
        turns: [batches] the number of each batch's task.
        sizes: [updates] the number of batches, all of different tasks, that each update takes of `turns`.
    """

    turns: np.ndarray
    sizes: np.ndarray


def single(turns: np.ndarray) -> Updates:
    """Updates of one batch each, in the order of the turns [batches]."""
    return Updates(turns, np.ones(len(turns), dtype=np.int64))


def grouped(turns: np.ndarray, most: int) -> Updates:
    """The same batches in as few updates of up to `most` tasks as can be, close to the order of the turns.

    There are max(⌈batches ∕ most⌉, batches of the largest task) updates. A batch comes as soon as its place among the
    turns does, and its task has no other batch in the update; earlier only where all batches would not fit otherwise.

    Args:
        turns: [batches] the number of each batch's task.
        most: batches in an update.
    """
    places = [np.flatnonzero(turns == task).tolist() for task in range(int(turns.max()) + 1)]
    total, num_updates = len(turns), max(-(-len(turns) // most), max(map(len, places)))
    done, chosen, sizes, rest = [0] * len(places), list[int](), list[int](), total
    for update in range(num_updates):
        left = num_updates - update
        needed = max(1, rest - most * (left - 1))
        released = (update + 1) * total / num_updates
        taken = _tasks_of_update(places, done, left=left, released=released, needed=needed, most=most)
        for task in taken:
            done[task] += 1
        chosen += taken
        sizes.append(len(taken))
        rest -= len(taken)
    return Updates(np.array(chosen, dtype=np.int64), np.array(sizes, dtype=np.int64))


def _tasks_of_update(
    places: Sequence[Sequence[int]], done: Sequence[int], *, left: int, released: float, needed: int, most: int
) -> list[int]:
    """The tasks of one update: first those that have to be in every update from here on, then by their turn."""
    waiting = [task for task, own in enumerate(places) if done[task] < len(own)]
    has_to = {task: len(places[task]) - done[task] == left for task in waiting}
    turn = {task: places[task][done[task]] for task in waiting}
    taken = list[int]()
    for task in sorted(waiting, key=lambda task: (not has_to[task], turn[task]))[:most]:
        if has_to[task] or turn[task] < released or len(taken) < needed:
            taken.append(task)
    return sorted(taken, key=lambda task: turn[task])
