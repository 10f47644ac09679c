"""Some rows as a tokenizer encodes them: flat arrays that can be joined and put in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtdnn.tokens.ragged import Ragged


@dataclass(frozen=True)
class TokenBlock:
    """Tokenized rows.

    Attributes:
        ids: their token ids.
        segments: their token types; without values if the tokenizer has none.
        second_starts: [N] where the second text of each pair starts; empty if that is not needed.
        truncated: [N] bool.
    """

    ids: Ragged
    segments: Ragged
    second_starts: np.ndarray
    truncated: np.ndarray

    @classmethod
    def of(
        cls, ids: list[list[int]], segments: list[list[int]], starts: list[int], truncated: list[bool]
    ) -> TokenBlock:
        """The block of rows given as lists.

        Args:
            ids: of each row.
            segments: token types of each row; empty if the tokenizer has none.
            starts: where the second text of each pair starts; empty if that is not needed.
            truncated: whether each row was cut.
        """
        rows = Ragged.from_rows(ids, np.int32)
        types = Ragged(np.frombuffer(b"".join(map(bytes, segments)), np.int8), rows.offsets)
        return cls(rows, types, np.array(starts, np.int64), np.array(truncated, dtype=bool))

    @classmethod
    def join(cls, blocks: Sequence[TokenBlock]) -> TokenBlock:
        """The rows of all blocks."""
        if len(blocks) == 1:
            return blocks[0]
        if not blocks:
            return cls.of([], [], [], [])
        ids = Ragged.join(block.ids for block in blocks)
        return cls(
            ids,
            Ragged(np.concatenate([block.segments.values for block in blocks]), ids.offsets),
            np.concatenate([block.second_starts for block in blocks]),
            np.concatenate([block.truncated for block in blocks]),
        )

    def take(self, rows: np.ndarray) -> TokenBlock:
        """The chosen rows, in the order chosen."""
        segments = self.segments.take(rows) if len(self.segments.values) else self.segments
        starts = self.second_starts[rows] if len(self.second_starts) else self.second_starts
        return TokenBlock(self.ids.take(rows), segments, starts, self.truncated[rows])
