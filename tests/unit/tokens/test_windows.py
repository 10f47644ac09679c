"""Tokens stand for whole words, whichever way a tokenizer counts characters."""

import random

import numpy as np
import pytest
from transformers import AutoTokenizer

from mtdnn.rows.example import Example
from mtdnn.runs.row_check import check
from mtdnn.tokens.windows import windows
from tests.reference.byte_level import LATE, byte_level
from tests.reference.project import WORDS, save_encoder
from tests.unit.task_types.conftest import bare

TEXTS = [
    "I went to Leiden , plan B and C",
    'She said: "Ada (Birch) won 7-5." née é 日本 x',
    "a",
    "  two  spaces\nand\ta tab ",
    "x.y,z/w 1999 v2.0 it's 'q'",
]
WAYS = [(steps, trim) for steps in LATE.values() for trim in (True, False)]


def cut(tokenizer, text, *, max_length=64, overlap=4):
    (row,) = windows(tokenizer, [text], max_length=max_length, overlap=overlap)
    return row


def spans(text, window):
    """(start, end) of each token of the text that stands for a character, without the spaces before it."""
    found = [(start, end) for start, end in window.offsets[window.inside].tolist() if text[start:end].strip()]
    return [(end - len(text[start:end].lstrip()), end) for start, end in found]


def random_text(draw):
    pieces = ["I", "went", "B", "née", "日", "(", ")", ".", "7", "Leiden", "x-y", "'s", "\u200b"]
    return "".join(draw.choice(pieces) + draw.choice([" ", " ", "", "\n"]) for _ in range(draw.randint(1, 14)))


@pytest.mark.parametrize(
    ("steps", "trim"), WAYS, ids=[f"{each}, trim {trim}" for each in LATE for trim in (True, False)]
)
def test_every_character_but_spaces_is_some_tokens(steps, trim):
    tokenizer = byte_level(steps, trim=trim, texts=TEXTS)
    draw = random.Random(0)
    for text in [*TEXTS, *(random_text(draw) for _ in range(100))]:
        for max_length in (64, 9):
            row = cut(tokenizer, text, max_length=max_length)
            covered = {place for window in row for start, end in spans(text, window) for place in range(start, end)}
            assert {place for place, character in enumerate(text) if character.strip("\u200b \n\t")} <= covered, text


@pytest.mark.parametrize("steps", LATE.values(), ids=LATE.keys())
def test_a_trimmed_token_represents_what_its_untrimmed_twin_does(steps):
    """The untrimmed tokenizer is never late, but counts the spaces it makes as the character that follows."""
    late, early = byte_level(steps, texts=TEXTS), byte_level(steps, trim=False, texts=TEXTS)
    for text in TEXTS:
        for mine, theirs in zip(cut(late, text), cut(early, text), strict=True):
            assert set(spans(text, mine)) == set(spans(text, theirs))


@pytest.mark.parametrize("steps", LATE.values(), ids=LATE.keys())
@pytest.mark.parametrize("overlap", [0, 1, 5])
def test_a_token_has_the_same_characters_in_each_window_that_holds_it(steps, overlap):
    tokenizer = byte_level(steps, texts=TEXTS)
    text = " ".join(TEXTS)
    whole = set(spans(text, cut(tokenizer, text, max_length=500)[0]))
    row = cut(tokenizer, text, max_length=12, overlap=overlap)
    assert len(row) > 4
    assert {each for window in row for each in spans(text, window)} == whole


@pytest.mark.parametrize("text", ["A red kite", "e\u0301te\u0301 \u200bred\x07 kite\ufffd.", "\u00adred boat"])
def test_offsets_of_other_tokenizers_stay_as_they_are(tmp_path, text):
    """A BERT tokenizer leaves control characters and marks over letters out; they belong to no token."""
    save_encoder(tmp_path, WORDS)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    (window,) = cut(tokenizer, text)
    expected = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert window.offsets.tolist() == [list(each) for each in expected]


TAGS = {"task_type": "sequence_labeling", "inputs": ["tokens"], "labels": ["O", "B-X"]}
SPAN = {"task_type": "span", "inputs": ["context", "question"]}


def encoded(block, tokenizer, examples, **more):
    task_type = bare({**block, **more})
    task_type.bind(tokenizer)
    return task_type, task_type.encode(examples, lambda texts: {})


@pytest.mark.parametrize("steps", LATE.values(), ids=LATE.keys())
@pytest.mark.parametrize("max_length", [64, 8])
def test_words_of_one_letter_are_tagged(steps, max_length):
    tokenizer = byte_level(steps, texts=TEXTS)
    rows = [text.split() for text in TEXTS]
    examples = [Example(str(n), (" ".join(words),), None, {"words": words}) for n, words in enumerate(rows)]
    task_type, columns = encoded(TAGS, tokenizer, examples, max_length=max_length, overlap=2)
    assert task_type.words_without_token(examples, columns) == []
    for number, words in enumerate(rows):
        marks = columns["words"].row(number)
        assert sorted(marks[marks >= 0].tolist()) == list(range(len(words)))


@pytest.mark.parametrize("steps", LATE.values(), ids=LATE.keys())
def test_answers_read_back_whole(steps):
    """Every word of the texts as an answer: its first and last token give its characters, spaces aside."""
    tokenizer = byte_level(steps, texts=TEXTS)
    for text in TEXTS[:1] + TEXTS[4:]:
        answers = [(text.index(f" {word} ") + 1, word) for word in text.split()[1:-1]]
        examples = [Example(word, (text, "what ?"), [(start, word)]) for start, word in answers]
        _, columns = encoded(SPAN, tokenizer, examples, max_length=96)
        for number, (_, word) in enumerate(answers):
            first, last = columns["label"].row(number)[:2].tolist()
            found = text[columns["first"].row(number)[first] : columns["behind"].row(number)[last]]
            assert first > 0 and found.strip() == word


def test_check_warns_of_words_without_a_token(project, tmp_path):
    save_encoder(tmp_path / "encoder", WORDS)
    project.define("tags: {task_type: sequence_labeling, inputs: [tokens], labels: [O, B-X], max_length: 16}\n")
    project.rows("tags/train", ["1\tO B-X O O\tA red \u200b kite", "2\tO O B-X\t\u200b boat \u00ad"])
    project.rows("tags/dev", ["1\tO B-X\tA kite"])
    found = check(project.definitions, data=project.data, encoder=tmp_path / "encoder", num_workers=1)
    assert [str(each) for each in found.warnings if "no token" in str(each)] == [
        "tags/train: tokens: 3 words have no token, '\\u200b' (2) most often. "
        "They are ignored, since the encoder's tokenizer drops them."
    ]
    assert np.sum([facts.words_without_token.total() for facts in found.splits]) == 3
