"""Ids from a memory of words are those that the tokenizer gives to whole texts."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from mtdnn.tokens import word_memory
from mtdnn.tokens.tokenizer import Tokenizer
from tests.reference.byte_level import LATE, byte_level

WORDS = ["a", "red", "kite", "flies", "Kite", "don't", "co-op", "3.5", "école", "İstanbul", "ΣΑΣ", "日本語", "[SEP]"]
STRANGE = [
    "",
    "\u0301",
    "x\u0301",
    "\u200b",
    "\x01",
    "\ufffd",
    "\t",
    "\n",
    "\xa0",
    "\x1c",
    "\x85",
    "´",
    "ﷺ",
    "가",
    "\u1100",
]
STRANGE += [
    "가",
    "\u1100",
    "<mask>",
    "foo<mask>bar",
    "<s>",
    "</s>",
    "'s",
    "re'll",
    "…",
    "—",
    "a" * 120,
    "\u0600",
    "\u2028",
    "🏳️‍🌈",
    "Ⅷ",
]
TEXT = st.lists(st.sampled_from(WORDS + STRANGE) | st.text(max_size=4), min_size=1, max_size=12).map(" ".join)


def wordpiece(*, lowercase=True, side="right", types=True):
    letters = sorted(set("".join(WORDS).lower()) | set("".join(WORDS)))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{each}" for each in letters), "red", "kite", "flies"]
    backend = Backend(models.WordPiece({token: place for place, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=names, truncation_side=side, **special)


def bytes_with(*, mask=True, **pre):
    hf = byte_level([pre_tokenizers.ByteLevel(**pre)], texts=[" ".join(WORDS)] * 3)
    hf.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**pre)
    hf.backend_tokenizer.normalizer = normalizers.NFC()
    if mask:
        hf.backend_tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    return hf


MAKERS = {
    "lower case": wordpiece,
    "cased": lambda: wordpiece(lowercase=False),
    "cut on the left": lambda: wordpiece(side="left"),
    "no types": lambda: wordpiece(types=False),
    "bytes": lambda: bytes_with(add_prefix_space=False),
    "bytes after a space": lambda: bytes_with(add_prefix_space=True),
    "words, then bytes": lambda: byte_level(LATE["words, then bytes"], texts=[" ".join(WORDS)]),
    "robbert": lambda: byte_level(LATE["robbert"], texts=[" ".join(WORDS)]),
}
TOKENIZERS = {name: Tokenizer(name, make()) for name, make in MAKERS.items()}


def columns(tokenizer, texts, max_length):
    return {
        name: (column.values.tolist(), column.values.dtype, column.offsets.tolist())
        if hasattr(column, "offsets")
        else (column.tolist(), column.dtype)
        for name, column in tokenizer.cutting_at(max_length)(texts).items()
    }


def whole(tokenizer):
    """The same tokenizer without a memory of words."""
    plain = Tokenizer(tokenizer.name, tokenizer.hf)
    plain.__dict__["_words"] = None
    return plain


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), max_length=st.integers(6, 40), pairs=st.booleans())
def test_texts_get_the_same_columns_as_when_encoded_whole(name, rows, max_length, pairs):
    tokenizer = TOKENIZERS[name]
    assert tokenizer._words is not None
    texts = rows if pairs else [row[:1] for row in rows]
    assert columns(tokenizer, texts, max_length) == columns(whole(tokenizer), texts, max_length)


@pytest.mark.parametrize(
    "change",
    [
        lambda backend: backend.add_tokens(["red kite"]),  # crosses a space
        lambda backend: setattr(backend, "normalizer", normalizers.Replace(" ", "")),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda backend: setattr(backend, "pre_tokenizer", None),
    ],
    ids=["token with a space", "other normalizer", "other pre-tokenizer", "none"],
)
def test_a_tokenizer_whose_words_may_depend_on_each_other_has_no_memory(change):
    hf = wordpiece()
    change(hf.backend_tokenizer)
    assert Tokenizer("x", hf)._words is None


def test_a_byte_level_token_that_takes_the_space_after_it_allows_no_memory():
    hf = bytes_with(mask=False, add_prefix_space=False)
    hf.backend_tokenizer.add_special_tokens([AddedToken("<mask>", rstrip=True)])
    assert Tokenizer("x", hf)._words is None


class Counting:
    """A backend that counts the texts it encodes."""

    def __init__(self, backend):
        self.backend, self.count = backend, 0

    def encode_batch_fast(self, texts, **settings):
        self.count += len(texts)
        return self.backend.encode_batch_fast(texts, **settings)


def test_each_word_is_encoded_once_and_the_memory_is_bounded(monkeypatch):
    backend = Counting(wordpiece().backend_tokenizer)
    memory = word_memory.WordMemory("removed")
    first = memory.encode(backend, ["a red kite", "a kite"])
    assert backend.count == 3
    again = memory.encode(backend, ["a red kite", "a kite"])
    assert backend.count == 3
    assert np.array_equal(first.values, again.values)
    monkeypatch.setattr(word_memory, "MAX_WORDS", 4)
    memory.encode(backend, ["a co-op flies"])  # five words in all: the first three are forgotten
    assert backend.count == 6
    assert sorted(memory._numbers) == ["a", "co-op", "flies"]


def test_texts_of_mostly_new_words_are_encoded_whole(monkeypatch):
    monkeypatch.setattr(word_memory, "FEW_WORDS", 2)
    memory = word_memory.WordMemory("removed")
    assert memory.encode(wordpiece().backend_tokenizer, ["a red kite"]) is None


def test_a_memory_arrives_empty_in_other_processes():
    memory = word_memory.WordMemory("joined")
    memory.encode(TOKENIZERS["bytes"].hf.backend_tokenizer, ["a red kite"])
    copy = pickle.loads(pickle.dumps(memory))
    assert (copy.spaces, copy._numbers) == ("joined", {})
