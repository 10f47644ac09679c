"""The tokenizer of an encoder: texts → flat arrays of token ids, and a hash that identifies it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtdnn.config.tasks import TaskDef
from mtdnn.errors import DataError, Fault, fault
from mtdnn.tokens.block import TokenBlock
from mtdnn.tokens.ragged import Ragged
from mtdnn.tokens.word_memory import Template, WordMemory, cut, kept_lengths, template_of, word_memory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mtdnn.tokens.ragged import Column

ROWS_AT_ONCE = 1000  # the Rust tokenizer needs about 5 kB for each row


@dataclass(frozen=True)
class Tokenizer:
    """An encoder's tokenizer.

    Attributes:
        name: hub name or folder of the encoder.
        hf: the tokenizer itself.
        max_positions: length of the longest sequence the encoder can take; None: no limit.
        decodes: the encoder is half of an encoder-decoder; True also if its configuration cannot be read.
        num_embeddings: number of the encoder's word embeddings; ids are below it. None: not known.
    """

    name: str
    hf: PreTrainedTokenizerBase
    max_positions: int | None = None
    decodes: bool = True
    num_embeddings: int | None = None

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that affects token ids: equal for equal tokenizers, however they were saved."""
        kept = ("model_input_names", "truncation_side", "split_special_tokens")
        parts: dict[str, Any] = {name: getattr(self.hf, name, None) for name in kept}
        if self.hf.is_fast:
            parts["backend"] = {**json.loads(self.hf.backend_tokenizer.to_str()), "truncation": None, "padding": None}
        else:
            settings = {
                key: value for key, value in self.hf.init_kwargs.items() if "file" not in key and "path" not in key
            }
            parts |= {"class": type(self.hf).__name__, "vocab": self.hf.get_vocab(), "settings": settings}
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def pad_token_id(self) -> int:
        """The id used for padding; 0 for tokenizers without one, as padding is masked anyway."""
        return int(self.hf.pad_token_id or 0)

    @cached_property
    def pads_with(self) -> str | None:
        """The token for padding, or in its place the end of text or the unknown token if no row ends with it.

        A decoder's head in transformers looks for the last token that is not padding.
        """
        if self.hf.pad_token is not None:
            return str(self.hf.pad_token)
        last = self._one("a")["input_ids"][-1]
        candidates = (self.hf.eos_token, self.hf.unk_token)
        return next((each for each in candidates if each and self.hf.convert_tokens_to_ids(each) != last), None)

    @property
    def pads_with_id(self) -> int | None:
        """The id of `pads_with`."""
        return None if self.pads_with is None else int(self.hf.convert_tokens_to_ids(self.pads_with))

    @property
    def has_segments(self) -> bool:
        """Whether the encoder takes token_type_ids."""
        return "token_type_ids" in self.hf.model_input_names

    @cached_property
    def separates_pairs(self) -> bool:
        """Whether its token_type_ids differ between the two texts of a pair."""
        return self.has_segments and 1 in self._one(("a", "a"))["token_type_ids"]

    def length_faults(self, task: TaskDef) -> list[Fault]:
        """Errors for a max_length that is too large for the encoder, or leaves no room for text."""
        special = self.hf.num_special_tokens_to_add(pair=len(task.inputs) > 1)
        if self.max_positions is not None and task.max_length > self.max_positions:
            found = f"{task.max_length} tokens; {self.name} takes at most {self.max_positions}"
            return [task.fault("max_length", found, f"Set max_length to {self.max_positions} or less.")]
        if task.max_length < special + len(task.inputs):
            found = f"{task.max_length} tokens; {self.name} adds {special} special tokens to a row"
            return [task.fault("max_length", found, f"Set max_length to {special + len(task.inputs)} or more.")]
        return []

    def length_warnings(self, task: TaskDef) -> list[Fault]:
        """A warning for a max_length above the tokenizer's own limit, if the encoder accepts it."""
        meant = self.hf.model_max_length
        if meant >= task.max_length or self.length_faults(task):
            return []
        found = f"{task.max_length} tokens; the tokenizer of {self.name} has a limit of {meant}"
        return [task.fault("max_length", found, "Results may be worse for longer rows.")]

    def cutting_at(self, max_length: int) -> Callable[[Sequence[tuple[str, ...]]], dict[str, Column]]:
        """A function texts → token columns; the longer text of a pair is truncated first, as in transformers."""
        encode = self._fast if self.hf.is_fast else self._slow

        def tokenize(texts: Sequence[tuple[str, ...]]) -> dict[str, Column]:
            block = TokenBlock.join([encode(block, max_length) for block in _blocks(texts)])
            columns: dict[str, Column] = {"input_ids": block.ids}
            if self.has_segments:
                columns["token_type_ids"] = block.segments
            if len(texts) and len(texts[0]) > 1 and not self.separates_pairs:
                starts = block.ids.offsets[:-1] + block.second_starts
                behind = np.arange(len(block.ids.values)) >= np.repeat(starts, block.ids.lengths)
                columns["segments"] = Ragged(behind.astype(np.int8), block.ids.offsets)
            columns["truncated"] = block.truncated
            return columns

        return tokenize

    def require_embeddings(self, ids: np.ndarray | Sequence[int]) -> None:
        """Raise DataError for an id without a word embedding: of a token added to the tokenizer only."""
        largest = int(np.max(ids, initial=0))
        if self.num_embeddings is not None and largest >= self.num_embeddings:
            token, size = self.hf.convert_ids_to_tokens(largest), self.num_embeddings
            found = f"its tokenizer gives {token!r} the id {largest}; its config.json says vocab_size {size}"
            fix = "Load both by transformers, call model.resize_token_embeddings(len(tokenizer)), and save both again."
            raise DataError(fault(self.name, "", found, fix))

    @cached_property
    def _words(self) -> WordMemory | None:
        """The ids of words, for a tokenizer whose ids of a text are those of its words."""
        self._uncut()
        return word_memory(self.hf.backend_tokenizer)

    @cached_property
    def _templates(self) -> dict[int, Template | None]:
        """Number of texts in a row → where the special tokens are."""
        self._uncut()
        return {number: template_of(self.hf.backend_tokenizer, number) for number in (1, 2)}

    def _uncut(self) -> None:
        """Make the Rust tokenizer encode whole texts, until it encodes rows again."""
        backend = self.hf.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = self.hf.split_special_tokens

    def save(self, folder: Path, *, max_length: int, token_types: bool = True) -> None:
        """Write its files for a model of transformers, so that it truncates as `cutting_at(max_length)` does.

        Args:
            folder: of the model.
            max_length: tokens of a row.
            token_types: whether the model is given token types, if the tokenizer has them. GPT-2 and XLM would look
                them up in the table of the words.
        """
        saved = self.limited_to(max_length)
        if saved.pad_token is None and self.pads_with is not None:
            saved.pad_token = self.pads_with
        if not token_types and self.has_segments:
            names = [name for name in saved.model_input_names if name != "token_type_ids"]
            saved.model_input_names = saved.init_kwargs["model_input_names"] = names
        saved.save_pretrained(folder)

    def limited_to(self, max_length: int) -> PreTrainedTokenizerBase:
        """A copy that truncates, where it is asked to, as `cutting_at(max_length)` does."""
        limited = copy.deepcopy(self.hf)
        limited.model_max_length = max_length
        if limited.is_fast:  # for those who read tokenizer.json without transformers
            limited.backend_tokenizer.no_padding()
            limited.backend_tokenizer.enable_truncation(max_length, direction=limited.truncation_side)
        return limited

    def _fast(self, texts: Sequence[tuple[str, ...]], max_length: int) -> TokenBlock:
        """By the Rust tokenizer: word by word where that gives the same ids, as it encodes no word twice then."""
        words = self._words
        template = None if words is None else self._templates.get(len(texts[0]))
        if words is None or template is None:
            return self._whole(texts, max_length)
        suited = np.array([all(map(words.suits, row)) for row in texts])
        chosen = texts if suited.all() else list(compress(texts, suited))
        by_words = self._by_words(words, template, chosen, max_length) if chosen else None
        if by_words is None or suited.all():
            return by_words or self._whole(texts, max_length)
        others = self._whole(list(compress(texts, ~suited)), max_length)
        return TokenBlock.join([by_words, others]).take(np.argsort(np.argsort(~suited, kind="stable")))

    def _by_words(
        self, words: WordMemory, template: Template, texts: Sequence[tuple[str, ...]], max_length: int
    ) -> TokenBlock | None:
        """The rows from the ids of their words; None if that does not pay."""
        room = max_length - sum(map(len, template.special))
        if room < len(texts[0]):
            return None
        self._uncut()
        parts = [words.encode(self.hf.backend_tokenizer, column) for column in zip(*texts, strict=True)]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts):
            return None
        kept = kept_lengths([part.lengths for part in whole], room)
        truncated = np.sum([part.lengths for part in whole], axis=0) > room
        side = self.hf.truncation_side
        placed = template.placed([cut(part, own, side=side) for part, own in zip(whole, kept, strict=True)])
        has_types, has_starts = self.has_segments, len(whole) > 1 and not self.separates_pairs
        return TokenBlock(
            placed.ids,
            placed.types if has_types else Ragged(placed.types.values[:0], placed.ids.offsets),
            placed.second_starts if has_starts else placed.second_starts[:0],
            truncated,
        )

    def _whole(self, texts: Sequence[tuple[str, ...]], max_length: int) -> TokenBlock:
        """By the Rust tokenizer, without offsets into the text, which takes a third less time."""
        from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy

        self.hf.set_truncation_and_padding(
            padding_strategy=PaddingStrategy.DO_NOT_PAD,
            truncation_strategy=TruncationStrategy.LONGEST_FIRST,
            max_length=max_length,
            stride=0,
            pad_to_multiple_of=None,
            padding_side=None,
        )
        backend = self.hf.backend_tokenizer
        backend.encode_special_tokens = self.hf.split_special_tokens
        encodings = backend.encode_batch_fast(_as_given(texts))
        ids = [encoding.ids for encoding in encodings]
        segments = [encoding.type_ids for encoding in encodings] if self.has_segments else []
        pairs = [] if self.separates_pairs or len(texts[0]) == 1 else encodings
        starts = [_index_of(1, encoding.sequence_ids) for encoding in pairs]
        full = zip(encodings, ids, strict=True)
        return TokenBlock.of(
            ids, segments, starts, [len(row) == max_length and bool(one.overflowing) for one, row in full]
        )

    def _slow(self, rows: Sequence[tuple[str, ...]], max_length: int) -> TokenBlock:
        """By a tokenizer written in Python."""
        texts = _as_given(rows)
        with _quiet_transformers():  # it warns for every truncated pair
            encoded = [
                self._one(text, truncation=True, max_length=max_length, return_special_tokens_mask=True)
                for text in texts
            ]
        ids = [each["input_ids"] for each in encoded]
        segments = [each["token_type_ids"] for each in encoded] if self.has_segments else []
        whole = (
            len(row) < max_length or len(self._one(text)["input_ids"]) == len(row)
            for text, row in zip(texts, ids, strict=True)
        )
        pairs = [] if self.separates_pairs or isinstance(texts[0], str) else encoded
        starts = [_second_text_start(each["special_tokens_mask"]) for each in pairs]
        return TokenBlock.of(ids, segments, starts, [not each for each in whole])

    def _one(self, text: str | tuple[str, str], **settings: Any) -> Any:
        texts = (text,) if isinstance(text, str) else text
        return self.hf(*texts, verbose=False, **settings)


def _index_of(value: int, values: Sequence[int | None]) -> int:
    """Index of the first occurrence of a value; the length if it does not occur."""
    return values.index(value) if value in values else len(values)


def _second_text_start(special: Sequence[int]) -> int:
    """Where the second text of a pair starts: after the special tokens that follow the first."""
    first = _index_of(0, special)
    between = first + _index_of(1, special[first:])
    return between + _index_of(0, special[between:])


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _blocks(texts: Sequence[tuple[str, ...]]) -> Iterator[Sequence[tuple[str, ...]]]:
    """Blocks of rows."""
    for start in range(0, len(texts), ROWS_AT_ONCE):
        yield texts[start : start + ROWS_AT_ONCE]


def _as_given(rows: Sequence[tuple[str, ...]]) -> list[Any]:
    """Rows in the form that tokenizers take: texts or pairs."""
    return [row[0] for row in rows] if len(rows[0]) == 1 else list(rows)
