"""Long texts → windows that fit a model: several overlapping sequences of one row, cut by the tokenizer.

Dimensions: N sequences, T tokens.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mtdnn.deferred import deferred
from mtdnn.errors import ConfigError, fault
from mtdnn.tokens.ragged import Ragged

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
else:
    torch = deferred("torch")

ROWS_AT_ONCE = 500  # with offsets the tokenizer needs about ten times the memory of the ids


@dataclass(frozen=True)
class Window:
    """One sequence of a row.

    Attributes:
        ids, segments: ids and token types of its tokens, special ones included.
        offsets: [tokens, 2]: first character of each token in the text, and the one after its last. A word's first
            character belongs to its first token, also where the tokenizer leaves it out.
        inside: [tokens] bool, True = a token of the text that is cut, not of the other text or a special token.
        words: [tokens] int32: number of the word (as split by the tokenizer) in the whole text; −1: not `inside`.
    """

    ids: list[int]
    segments: list[int]
    offsets: np.ndarray
    inside: np.ndarray
    words: np.ndarray


def windows(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    before: Sequence[str] | None = None,
    max_length: int,
    overlap: int,
) -> list[list[Window]]:
    """The windows of each text, at least one per text, in its order; from its end for a tokenizer that truncates left.

    Args:
        tokenizer: the tokenizer of the run's encoder.
        texts: one text per row.
        before: one text per row, put uncut before every window, such as the question before its context.
        max_length: largest number of tokens in a window, special ones and `before` included.
        overlap: tokens that neighbouring windows share; at most half of a window's.
    Raises:
        ConfigError: the tokenizer has no offsets of tokens in the text.
    """
    if not tokenizer.is_fast:
        found = f"{type(tokenizer).__name__} has no offsets of its tokens in the text"
        raise ConfigError(fault("", "encoder", found, "Choose an encoder with a fast tokenizer (tokenizer.json)."))
    rows: list[list[Window]] = [[] for _ in texts]
    for start in range(0, len(texts), ROWS_AT_ONCE):
        part = range(start, min(start + ROWS_AT_ONCE, len(texts)))
        for stride, alike in _by_stride(tokenizer, part, before, max_length, overlap).items():
            first = None if before is None else [before[row] for row in alike]
            for row, window in _windows(tokenizer, [texts[row] for row in alike], first, max_length, stride):
                rows[alike[row]].append(window)
    return [with_first_characters(text, row) for text, row in zip(texts, rows, strict=True)]


def _by_stride(
    tokenizer: Any, rows: Sequence[int], before: Sequence[str] | None, max_length: int, overlap: int
) -> dict[int, list[int]]:
    """Overlap → rows with that overlap: at most half of the tokens that `before` leaves in a row's windows."""
    special = tokenizer.num_special_tokens_to_add(pair=before is not None)
    taken = [0] * len(rows)
    if before is not None:
        texts = [before[row] for row in rows]
        taken = list(map(len, tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]))
    groups: dict[int, list[int]] = {}
    for row, tokens in zip(rows, taken, strict=True):
        groups.setdefault(max(0, min(overlap, (max_length - special - tokens) // 2)), []).append(row)
    return groups


def _windows(
    tokenizer: Any, texts: Sequence[str], before: Sequence[str] | None, max_length: int, stride: int
) -> Iterator[tuple[int, Window]]:
    """(index of the text, window), in order."""
    encoded = tokenizer(
        *([list(texts)] if before is None else [list(before), list(texts)]),
        truncation=True if before is None else "only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
        verbose=False,
    )
    own = 0 if before is None else 1
    for number, row in enumerate(encoded["overflow_to_sample_mapping"]):
        inside = np.array([sequence == own for sequence in encoded.sequence_ids(number)])
        words = np.array([-1 if word is None else word for word in encoded.word_ids(number)], dtype=np.int32)
        offsets = np.array(encoded["offset_mapping"][number], dtype=np.int64).reshape(-1, 2)
        ids, segments = encoded["input_ids"][number], encoded["token_type_ids"][number]
        yield row, Window(ids, segments, offsets, inside, np.where(inside, words, np.int32(-1)))


def with_first_characters(text: str, row: Sequence[Window]) -> list[Window]:
    """The windows of a text, with each token extended to the left over characters that no token covers.

    A byte-level step after another pre-tokenizer (RobBERT: Whitespace, ByteLevel, Punctuation) adds a space before each
    word; trimming spaces then removes the word's first character from its first token, and the whole of a word of one
    letter. See github.com/huggingface/tokenizers, issue 1300.
    """
    every = [window.offsets[window.inside] for window in row]
    anywhere = _covered(np.concatenate(every), 0, len(text))
    no_space = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32) != ord(" ")
    moved: dict[int, int] = {}
    extended = []
    for window, offsets in zip(row, every, strict=True):
        low, high = int(offsets[:, 0].min(initial=len(text))), int(offsets[:, 1].max(initial=0))
        bare = ~_covered(offsets, low, high) & no_space[low:high]
        places = (low + np.flatnonzero(bare)).tolist()
        if 0 < low < high and not anywhere[low - 1]:
            places.append(low - 1)
        found = {place for place in places if not _is_left_out(text[place])}
        extended.append(_extended(window, found, moved) if found else window)
    return extended


def _covered(offsets: np.ndarray, low: int, high: int) -> np.ndarray:
    """[high − low] bool: whether any of these tokens covers a character of the text from `low` on."""
    edges = np.zeros(max(high - low, 0) + 1, dtype=np.int64)
    np.add.at(edges, offsets[:, 0] - low, 1)
    np.add.at(edges, offsets[:, 1] - low, -1)
    return np.cumsum(edges[:-1]) > 0


def _extended(window: Window, bare: set[int], moved: dict[int, int]) -> Window:
    """The window with its tokens extended over the uncovered characters directly before them.

    If several tokens start at the same character, only the first is extended.

    Args:
        window: the window.
        bare: positions of uncovered characters; used ones are removed.
        moved: old start → end of the tokens extended in earlier windows; this function adds to it.
    """
    offsets = window.offsets.copy()
    for token in np.flatnonzero(window.inside).tolist():
        late, end = offsets[token].tolist()
        if late - 1 not in bare or moved.setdefault(late, end) != end:
            continue
        while offsets[token, 0] - 1 in bare:
            offsets[token, 0] -= 1
            bare.remove(int(offsets[token, 0]))
    return replace(window, offsets=offsets)


def _is_left_out(character: str) -> bool:
    """Whether tokenizers drop a character on purpose: white space, control and format characters, combining marks."""
    return character.isspace() or character == "\ufffd" or unicodedata.category(character)[0] in "CM"


class Tokens(Protocol):
    """One sequence of a row: ids and token types of its tokens, special ones included."""

    @property
    def ids(self) -> list[int]: ...

    @property
    def segments(self) -> list[int]: ...


def sequence_columns(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[Tokens]]) -> dict[str, Any]:
    """Store columns of rows of sequences: input_ids, token_type_ids (if the encoder has them), sequence_lengths and
    truncated, which is False, as windows leave no token out."""
    columns: dict[str, Any] = {
        "input_ids": Ragged.from_rows([[token for each in row for token in each.ids] for row in rows], np.int32),
        "sequence_lengths": Ragged.from_rows([[len(each.ids) for each in row] for row in rows], np.int32),
        "truncated": np.zeros(len(rows), dtype=bool),
    }
    if "token_type_ids" in tokenizer.model_input_names:
        segments = [[kind for each in row for kind in each.segments] for row in rows]
        columns["token_type_ids"] = Ragged.from_rows(segments, np.int8)
    return columns


def as_batch(column: Ragged, lengths: Ragged, like: Tensor, fill: int) -> Tensor:
    """[N, T]: a column with one number per token, padded like the batch's inputs.

    Args:
        column: the rows' numbers, concatenated like their input_ids.
        lengths: tokens of each sequence of each row.
        like: [N, T], a tensor of the wanted shape.
        fill: the value of padding.
    """
    out = np.full(tuple(like.shape), fill, dtype=np.int64)
    padded = Ragged.from_lengths(column.values, lengths.values).padded(fill, np.int64)
    out[:, : padded.shape[1]] = padded
    return torch.from_numpy(out)
