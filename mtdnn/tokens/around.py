"""Tokens of a text, cut so that those around some of its characters are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokensAround:
    """Tokens of a text or a pair.

    Attributes:
        ids, segments: of each token.
        of_text: number of its text, 0 or 1; None for a special one.
        inside: whether it belongs to the characters.
        truncated: whether tokens were left out.
    """

    ids: list[int]
    segments: list[int]
    of_text: list[int | None]
    inside: list[bool]
    truncated: bool


def tokens_around(
    tokenizer: PreTrainedTokenizerBase, texts: tuple[str, ...], start: int, end: int, *, max_length: int
) -> TokensAround:
    """The tokens of a text or a pair; of a first text that is too long, those around some of its characters.

    Args:
        tokenizer: with offsets.
        texts: one or two.
        start: the first of the characters, in the first text.
        end: the character after the last of them.
        max_length: largest number of tokens.
    """
    encoded = tokenizer(*texts, return_offsets_mapping=True, return_token_type_ids=True, verbose=False)
    of_text, offsets = encoded.sequence_ids(), encoded["offset_mapping"]
    inside = [first < end and behind > start and behind > first for first, behind in offsets]
    kept = _kept(of_text, inside, max_length)
    return TokensAround(
        ids=[encoded["input_ids"][place] for place in kept],
        segments=[encoded["token_type_ids"][place] for place in kept],
        of_text=[of_text[place] for place in kept],
        inside=[inside[place] for place in kept],
        truncated=len(kept) < len(inside),
    )


def _kept(of_text: Sequence[int | None], inside: Sequence[bool], max_length: int) -> list[int]:
    """Places of the tokens that are kept: special ones, at most half the room of the second text, and those around."""
    special = sum(each is None for each in of_text)
    second = [place for place, own in enumerate(of_text) if own == 1][: max(1, (max_length - special) // 2)]
    first = [place for place, own in enumerate(of_text) if own == 0]
    room = max(max_length - special - len(second), 1)
    middle = [number for number, place in enumerate(first) if inside[place]] or [0]
    begin = max(0, min((middle[0] + middle[-1] + 1 - room) // 2, len(first) - room))
    chosen = {*first[begin : begin + room], *second}
    return [place for place, own in enumerate(of_text) if own is None or place in chosen]
