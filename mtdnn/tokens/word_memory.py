"""Texts → token ids, with each distinct word encoded only once; the ids are those of encoding the texts as a whole.

A tokenizer in Rust takes 3 to 5 µs for every word of every text, and most words of a file have occurred before in it.
Two kinds of tokenizers give the same ids for a text and for its words one by one, and only these are used here:

- those that remove white space and never join what it separates, as BERT's;
- byte-level ones that join a space to the word after it, as RoBERTa's, if the text's words have single spaces between
  them: then the words are encoded with their space.

That a word's ids do not depend on its neighbours follows from the steps before the model: Unicode normal forms, lower
case and the removal of accents never cross a space, a pre-tokenizer always splits there, and the model reads the pieces
of a pre-tokenizer one by one. Other steps are not in the lists below, and their texts are encoded as a whole.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from itertools import chain, groupby
from typing import Any, Literal, NamedTuple
from unicodedata import normalize

import numpy as np

from mtdnn.tokens.ragged import Ragged, offsets_of, positions

MAX_WORDS = 200_000
MAX_CHARACTERS = 4_000_000
"""Bounds of the words that are kept, about 40 MB; when one is reached, all are forgotten."""

FEW_WORDS = 1000
"""So many new words are always learnt; more only where they are less than half of the words."""

MODELS = ("WordPiece", "WordLevel", "BPE")
REMOVES_SPACES = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
SPLITS_FURTHER = (*REMOVES_SPACES, "Punctuation", "Digits", "ByteLevel")
LOCAL_NORMALIZERS = ("BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")
KEEPS_WORDS = ("NFC", "NFD", "Lowercase")
"""The local normalizers that neither remove a word nor create a space."""

Spaces = Literal["removed", "joined"]
"""What a tokenizer does with the spaces between words: they are left out, or belong to the word after them."""


class Placed(NamedTuple):
    """Rows with their special tokens.

    Attributes:
        ids, types: token ids and token types of each row.
        second_starts: [N] where the second text of a pair starts; the row's length if it has no token.
    """

    ids: Ragged
    types: Ragged
    second_starts: np.ndarray


class Template(NamedTuple):
    """How the special tokens of a row are placed.

    Attributes:
        special: their ids before the first text, after it, and after the second, if there is one.
        special_types: their token types.
        text_types: the token type of each text.
    """

    special: list[np.ndarray]
    special_types: list[np.ndarray]
    text_types: list[int]

    def placed(self, texts: Sequence[Ragged]) -> Placed:
        """Rows from the tokens of their texts, one `Ragged` for each place in a row."""
        lengths = sum((text.lengths for text in texts), np.full(len(texts[0]), sum(map(len, self.special))))
        offsets = offsets_of(lengths)
        ids, types = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int8)
        starts, second_starts = offsets[:-1], lengths
        for number, (special, special_types) in enumerate(zip(self.special, self.special_types, strict=True)):
            at = starts[:, None] + np.arange(len(special))
            ids[at], types[at] = special, special_types
            starts = starts + len(special)
            if number == len(texts):
                break
            text = texts[number]
            if number == 1:
                second_starts = np.where(text.lengths > 0, starts - offsets[:-1], lengths)
            at = positions(starts, text.lengths)
            ids[at], types[at] = text.values, self.text_types[number]
            starts = starts + text.lengths
        return Placed(Ragged(ids, offsets), Ragged(types, offsets), second_starts)


class WordMemory:
    """The ids of the words seen so far; several threads may use it.

    Args:
        spaces: what the tokenizer does with the spaces between words.
    """

    def __init__(self, spaces: Spaces) -> None:
        self.spaces = spaces
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._ids = Ragged.from_rows([], np.int32)
        self._characters = 0

    def __reduce__(self) -> tuple[type[WordMemory], tuple[Spaces]]:
        """Other processes start with an empty memory."""
        return type(self), (self.spaces,)

    def suits(self, text: str) -> bool:
        """Whether a text can be encoded word by word."""
        return self.spaces == "removed" or " ".join(text.split()) == text

    def encode(self, backend: Any, texts: Sequence[str]) -> Ragged | None:
        """The ids of each text, without special tokens; None if too many of the words are new for this to pay.

        Args:
            backend: the tokenizer, which neither truncates nor pads.
            texts: texts that `suits` accepts.
        """
        split = [self._words(text) for text in texts]
        words = list(chain.from_iterable(split))
        with self._lock:
            if not self._learn(backend, words):
                return None
            numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
            ids = self._ids.take(numbers)
        return Ragged(ids.values, ids.offsets[offsets_of(list(map(len, split)))])

    def _words(self, text: str) -> list[str]:
        if self.spaces == "removed":
            return text.split(" ")
        return text.replace(" ", "\n ").split("\n")

    def _learn(self, backend: Any, words: list[str]) -> bool:
        """Encode the new words; False if they are too many, and nothing is learnt."""
        new = set(words).difference(self._numbers)
        if len(new) > max(FEW_WORDS, len(words) // 2):
            return False
        size = sum(map(len, new))
        if len(self._numbers) + len(new) > MAX_WORDS or self._characters + size > MAX_CHARACTERS:
            self._forget()
            new = set(words)
            size = sum(map(len, new))
        if new:
            encodings = backend.encode_batch_fast(list(new), add_special_tokens=False)
            self._ids = Ragged.join([self._ids, Ragged.from_rows([each.ids for each in encodings], np.int32)])
            self._numbers.update(zip(new, range(len(self._numbers), len(self._ids)), strict=True))
            self._characters += size
        return True

    def _forget(self) -> None:
        self._numbers = {}
        self._ids = Ragged.from_rows([], np.int32)
        self._characters = 0


def word_memory(backend: Any) -> WordMemory | None:
    """An empty memory for a tokenizer in Rust; None if its ids of a text may not be those of the text's words."""
    spaces = _spaces(backend)
    if spaces is None or backend.encode_batch_fast([""], add_special_tokens=False)[0].ids:
        return None
    return WordMemory(spaces)


def _spaces(backend: Any) -> Spaces | None:
    """What a tokenizer does with spaces; None if a word may depend on its neighbours."""
    normalizers, steps = _steps(backend.normalizer, "normalizers"), _steps(backend.pre_tokenizer, "pretokenizers")
    model = backend.model
    if normalizers is None or not steps or type(model).__name__ not in MODELS or getattr(model, "dropout", None):
        return None
    names = [step["type"] for step in normalizers]
    tokens = backend.get_added_tokens_decoder().values()
    if steps[0]["type"] in REMOVES_SPACES and all(step["type"] in SPLITS_FURTHER for step in steps):
        is_local = all(name in LOCAL_NORMALIZERS for name in names) and not any(map(_has_space, tokens))
        return "removed" if is_local else None
    if len(steps) == 1 and steps[0]["type"] == "ByteLevel" and steps[0].get("use_regex", True):
        is_local = all(name in KEEPS_WORDS for name in names)
        crosses = any(token.rstrip or (_has_space(token) and _can_occur(token)) for token in tokens)
        return "joined" if is_local and not crosses else None
    return None


def _steps(part: Any, key: str) -> list[Mapping[str, Any]] | None:
    """The settings of each step of a normalizer or pre-tokenizer; None for one written in Python."""
    if part is None:
        return []
    try:
        settings = json.loads(part.__getstate__())
    except Exception:  # the Rust library raises a plain Exception for parts that it cannot serialize
        return None
    inner: list[Mapping[str, Any]] = settings[key] if settings["type"] == "Sequence" else [settings]
    return inner


def _has_space(token: Any) -> bool:
    """Whether an added token has white space, which may separate words, also after normalization."""
    return any(character.isspace() for character in normalize("NFKC", token.content))


def _can_occur(token: Any) -> bool:
    """Whether an added token can occur in a text of words with single spaces between them."""
    around = f"a{token.content}a"
    return " ".join(around.split()) == around


def template_of(backend: Any, num_texts: int) -> Template | None:
    """The special tokens of a row, as the tokenizer places them; None if there is no row to see them by.

    Args:
        backend: the tokenizer, which neither truncates nor pads.
        num_texts: 1, or 2 for pairs.
    """
    encoding = backend.encode_batch_fast(["a" if num_texts == 1 else ("a", "a")])[0]
    special: list[list[int]] = [[]]
    special_types: list[list[int]] = [[]]
    text_types: list[int] = []
    places = zip(encoding.sequence_ids, encoding.ids, encoding.type_ids, strict=True)
    for owner, group in groupby(places, key=lambda place: place[0]):
        _, ids, types = map(list, zip(*group, strict=True))
        if owner is None:
            special[-1], special_types[-1] = ids, types
        elif owner != len(text_types) or len(set(types)) > 1:
            return None
        else:
            text_types.append(types[0])
            special.append([])
            special_types.append([])
    if len(text_types) != num_texts:
        return None
    return Template(
        [np.array(ids, np.int32) for ids in special], [np.array(types, np.int8) for types in special_types], text_types
    )


def kept_lengths(lengths: Sequence[np.ndarray], max_tokens: int) -> list[np.ndarray]:
    """How many tokens of each text are kept: the longer text of a pair is cut first, as by `tokenizers`.

    Args:
        lengths: [N] for each text of a row, its number of tokens.
        max_tokens: the largest number for all texts of a row together.
    """
    if len(lengths) == 1:
        return [np.minimum(lengths[0], max_tokens)]
    short, long = np.minimum(*lengths), np.maximum(*lengths)
    left = np.where(short > max_tokens, short, np.maximum(short, max_tokens - short))
    halved = short + left > max_tokens
    short = np.where(halved, max_tokens // 2, short)
    left = np.where(halved, max_tokens - max_tokens // 2, np.minimum(left, long))
    is_first = lengths[0] > lengths[1]  # the first is the longer one
    return [np.where(is_first, left, short), np.where(is_first, short, left)]


def cut(texts: Ragged, kept: np.ndarray, *, side: str) -> Ragged:
    """The first, or for the side "left" the last, tokens of each text.

    Args:
        texts: the tokens of each text.
        kept: [N], how many are kept.
        side: where tokens are removed.
    """
    lengths = texts.lengths
    if (kept == lengths).all():
        return texts
    starts = texts.offsets[:-1] + (lengths - kept if side == "left" else 0)
    return Ragged.gather(texts.values, starts, kept)
