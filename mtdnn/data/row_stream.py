"""An endless stream of batches of one task's rows, and the share of a batch for one of several processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mtdnn.errors import ConfigError, fault
from mtdnn.seeding import numpy_generator


def shard(rows: np.ndarray, *, rank: int, num_processes: int) -> np.ndarray:
    """The rows of a step for process `rank`: every `num_processes`-th row, starting at `rank`.

    No row is dropped or repeated. Shares differ by at most one row, and the first processes have more; with fewer rows
    than processes the last ones get none. Taking every n-th row, rather than consecutive ones, keeps the lengths of a
    sorted batch balanced.

    Args:
        rows: row numbers.
        rank: number of this process, from 0.
        num_processes: number of processes.
    """
    own: np.ndarray = rows[rank::num_processes]
    return own


class RowStream:
    """An endless stream of batches of one task's rows: pass after pass, each in a new shuffled order.

    Args:
        name: name of the task, part of the seed.
        num_rows: number of rows.
        batch_size: rows in a batch.
        seed: the run's seed.
        lengths: [rows], tokens of each row; needed for the next two options.
        max_tokens: in place of batch_size: largest rows × longest row, the positions of the padded batch. It bounds the
            memory of packed execution as well, so that batches do not depend on the layout.
        group_by_length: that many batches of shuffled rows are sorted by length together before they are split into
            batches; the batches are then shuffled over the whole pass.
    Raises:
        ConfigError: there are no rows, the batch size is below 1, or a row is longer than max_tokens.
    """

    def __init__(
        self,
        name: str,
        num_rows: int,
        batch_size: int,
        *,
        seed: int,
        lengths: np.ndarray | None = None,
        max_tokens: int | None = None,
        group_by_length: int | None = None,
    ) -> None:
        if (max_tokens or group_by_length) and (lengths is None or len(lengths) != num_rows):
            raise ValueError(f"{name}: max_tokens and group_by_length need the length of each of the {num_rows} rows")
        self.name, self.num_rows, self.batch_size, self.seed = name, num_rows, batch_size, seed
        self.lengths, self.max_tokens, self.group_by_length = lengths, max_tokens, group_by_length
        self._num_batches: dict[int, int] = {}
        self._check()

    def _check(self) -> None:
        if self.num_rows < 1:
            raise ConfigError(fault("", self.name, "no rows to train on", "Leave the task out of `train`."))
        if self.batch_size < 1:
            found = f"{self.batch_size} is not a number of rows"
            raise ConfigError(fault("", f"{self.name}.batch_size", found, "Give 1 or more."))
        if self.group_by_length is not None and self.group_by_length < 2:
            found = f"{self.group_by_length} batches leave nothing to sort"
            raise ConfigError(fault("", "group_by_length", found, "Give 2 or more, or null to turn it off."))
        if self.max_tokens is not None and self.lengths is not None and self.lengths.max() > self.max_tokens:
            found = f"{self.max_tokens} is less than the longest row of {self.name}, {self.lengths.max()} tokens"
            raise ConfigError(fault("", "max_tokens", found, "Raise it, or lower the `max_length` of its task."))

    def num_batches(self, pass_number: int) -> int:
        """Number of batches in a pass."""
        if self.max_tokens is None:
            return -(-self.num_rows // self.batch_size)
        if pass_number not in self._num_batches:
            self._num_batches[pass_number] = len(self.batches(pass_number)[1])
        return self._num_batches[pass_number]

    def batches(self, pass_number: int) -> tuple[np.ndarray, np.ndarray]:
        """One pass: the order of the rows, [rows], and the start and end of each batch in it, [batches, 2]."""
        generator = numpy_generator(self.seed, "order", self.name, pass_number)
        order = generator.permutation(self.num_rows)
        if self.group_by_length is not None:
            order = self._sorted_in_windows(order, self.group_by_length)
        starts = self._starts(order)
        bounds = np.stack([starts, np.append(starts[1:], self.num_rows)], axis=1)
        return order, generator.permutation(bounds) if self.group_by_length is not None else bounds

    def batches_from(self, batch_number: int, *, first_pass: int = 0) -> Iterator[np.ndarray]:
        """An endless stream of batches (row numbers), from that batch (counted from the start of `first_pass`) on."""
        pass_number = first_pass
        if self.max_tokens is None:
            passes, batch_number = divmod(batch_number, self.num_batches(first_pass))
            pass_number += passes
        while batch_number >= self.num_batches(pass_number):
            batch_number -= self.num_batches(pass_number)
            pass_number += 1
        while True:
            order, bounds = self.batches(pass_number)
            for start, end in bounds[batch_number:].tolist():
                yield order[start:end]
            pass_number, batch_number = pass_number + 1, 0

    def _sorted_in_windows(self, order: np.ndarray, num_batches: int) -> np.ndarray:
        """Rows sorted by length in each window, alternately up and down, so that no batch mixes long and short rows."""
        lengths = self._lengths_of(order)
        rows_per_batch = self.batch_size
        if self.max_tokens is not None:
            rows_per_batch = max(1, int(self.max_tokens / max(lengths.mean(), 1)))
        window = np.arange(self.num_rows) // (num_batches * rows_per_batch)
        by_length: np.ndarray = order[np.lexsort((np.where(window % 2 == 0, lengths, -lengths), window))]
        return by_length

    def _starts(self, order: np.ndarray) -> np.ndarray:
        """[batches]: where each batch starts in the order."""
        if self.max_tokens is None:
            return np.arange(0, self.num_rows, self.batch_size)
        lengths, starts = self._lengths_of(order), [0]
        while True:
            most = self.max_tokens // max(1, lengths[starts[-1]])
            longest = np.maximum.accumulate(lengths[starts[-1] : starts[-1] + most])
            positions = longest * np.arange(1, len(longest) + 1)
            end = starts[-1] + int(np.searchsorted(positions, self.max_tokens, side="right"))
            if end >= self.num_rows:
                return np.array(starts)
            starts.append(end)

    def _lengths_of(self, order: np.ndarray) -> np.ndarray:
        if self.lengths is None:
            raise ValueError(f"{self.name}: the lengths of the rows are needed")
        lengths: np.ndarray = np.asarray(self.lengths, dtype=np.int64)[order]
        return lengths
