"""A text with a pronoun, and a candidate for what it refers to → the two sequences that score the candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtdnn.batch import IGNORED
from mtdnn.tokens.around import tokens_around

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PRONOUN, CANDIDATE = 1, 2
"""Roles of tokens in the sequence of a text and a candidate; 0 for all others."""


@dataclass(frozen=True)
class CandidateSequence:
    """One sequence of a candidate: its tokens, and what is predicted of them.

    Attributes:
        ids, segments: ids and token types of its tokens, special ones included.
        targets: id of the token under each mask; IGNORED elsewhere.
        roles: PRONOUN, CANDIDATE or 0.
        truncated: tokens of the text are left out.
    """

    ids: list[int]
    segments: list[int]
    targets: list[int]
    roles: list[int]
    truncated: bool


def candidate_sequences(
    tokenizer: PreTrainedTokenizerBase, text: str, candidate: str, *, start: int, end: int, max_length: int
) -> list[CandidateSequence]:
    """The text with masks for the candidate in the pronoun's place, and the text together with the candidate.

    Of a text that is too long the tokens around the pronoun are kept.

    Args:
        tokenizer: with a mask token and offsets.
        text: without markers.
        candidate: what the pronoun may refer to.
        start: the pronoun's first character.
        end: the character after its last.
        max_length: largest number of tokens of a sequence.
    """
    replaced = text[:start] + candidate + text[end:]
    return [
        _masked(tokenizer, replaced, start, start + len(candidate), max_length),
        _paired(tokenizer, (text, candidate), start, end, max_length),
    ]


def _masked(tokenizer: PreTrainedTokenizerBase, text: str, start: int, end: int, max_length: int) -> CandidateSequence:
    """The text with a mask for each token of the characters from `start` to `end`."""
    tokens = tokens_around(tokenizer, (text,), start, end, max_length=max_length)
    under = [inside and own == 0 for inside, own in zip(tokens.inside, tokens.of_text, strict=True)]
    hidden = list(zip(under, tokens.ids, strict=True))
    return CandidateSequence(
        ids=[tokenizer.mask_token_id if is_hidden else token for is_hidden, token in hidden],
        segments=tokens.segments,
        targets=[token if is_hidden else IGNORED for is_hidden, token in hidden],
        roles=[0] * len(under),
        truncated=tokens.truncated,
    )


def _paired(
    tokenizer: PreTrainedTokenizerBase, texts: tuple[str, str], start: int, end: int, max_length: int
) -> CandidateSequence:
    """The text and the candidate, with the role of each token."""
    tokens = tokens_around(tokenizer, texts, start, end, max_length=max_length)
    roles = [
        CANDIDATE if own == 1 else PRONOUN if own == 0 and inside else 0
        for own, inside in zip(tokens.of_text, tokens.inside, strict=True)
    ]
    return CandidateSequence(tokens.ids, tokens.segments, [IGNORED] * len(roles), roles, tokens.truncated)
