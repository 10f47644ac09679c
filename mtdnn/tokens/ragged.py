"""Rows of different lengths in two flat arrays: the form of token ids in files and before batching.

Dimensions: N rows, T length of the longest row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """N concatenated rows of numbers.

    Attributes:
        values: all numbers of row 0, then all of row 1, and so on.
        offsets: [N + 1] int64, growing from 0; row i is `values[offsets[i] : offsets[i + 1]]`.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_lengths(cls, values: np.ndarray, lengths: np.ndarray | Sequence[int]) -> Ragged:
        """`values` split into rows of the given lengths, in order."""
        return cls(values, offsets_of(lengths))

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[Any]], dtype: np.typing.DTypeLike) -> Ragged:
        """The rows of a nested list."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        values = np.fromiter(chain.from_iterable(rows), dtype, int(lengths.sum()))
        return cls.from_lengths(values, lengths)

    @classmethod
    def gather(cls, flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Ragged:
        """Rows at any positions of a flat array.

        Args:
            flat: the numbers of all rows.
            starts: where in `flat` each row starts.
            lengths: how many numbers each row has.
        """
        return cls.from_lengths(flat[positions(starts, lengths)], lengths)

    @classmethod
    def join(cls, parts: Iterable[Ragged]) -> Ragged:
        """The concatenated rows of at least one part."""
        parts = list(parts)
        values = np.concatenate([part.values for part in parts])
        return cls.from_lengths(values, np.concatenate([part.lengths for part in parts]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """[N] int64, how many numbers each row has."""
        return np.diff(self.offsets)

    def row(self, index: int) -> np.ndarray:
        """The numbers of one row."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def take(self, indices: np.ndarray) -> Ragged:
        """The chosen rows, in the order chosen."""
        return Ragged.gather(self.values, self.offsets[indices], self.lengths[indices])

    def padded(self, fill: float, dtype: np.typing.DTypeLike | None = None) -> np.ndarray:
        """[N, T], each row padded on the right with `fill`."""
        out = np.full((len(self), int(self.lengths.max(initial=0))), fill, dtype or self.values.dtype)
        out[self.mask()] = self.values
        return out

    def mask(self) -> np.ndarray:
        """[N, T] bool, True where a row has a number."""
        lengths = self.lengths
        mask: np.ndarray = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
        return mask


def offsets_of(lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    """[N + 1] int64 offsets of rows with these lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def positions(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Positions of all numbers of some rows: starts[0], starts[0] + 1, …, starts[1], …"""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    places: np.ndarray = np.arange(total) + np.repeat(starts - ends + lengths, lengths)
    return places


Column = Ragged | np.ndarray | list[str]
"""One column of some rows of a prepared store: rows of numbers, one number per row, or texts."""


Records = Mapping[str, Any]
"""Name → `Column`, for some rows of a prepared store."""
