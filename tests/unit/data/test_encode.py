"""Examples of every task type → stored columns; tokens that the encoder has no embedding of are refused."""

import pytest
from transformers import AutoTokenizer, BertConfig

from mtdnn.config.tasks import task_def_from
from mtdnn.data.encode import encoded_by
from mtdnn.errors import DataError
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.tokens.loading import load_tokenizer
from tests.reference.project import WORDS, save_encoder

ADDED = "geocaching"

BLOCKS = {
    "classification": (
        {"inputs": ["text"], "labels": ["no", "yes"]},
        {"id": "1", "label": "yes", "text": f"a {ADDED} kite"},
    ),
    "sequence_labeling": (
        {"inputs": ["tokens"], "labels": ["O", "B"]},
        {"id": "1", "label": "O B O", "tokens": f"a {ADDED} kite"},
    ),
    "coreference": (
        {"inputs": ["text", "candidate"]},
        {"id": "1", "label": "0", "text": "the kite flies, as *it* is red", "candidate": [ADDED, "the lake"]},
    ),
}
"""One type for each way of tokenizing: texts, words, and the type's own."""


@pytest.fixture
def extended(tmp_path):
    """An encoder whose tokenizer has an added word and a mask; its configuration is for the tokens before."""
    save_encoder(tmp_path, [*WORDS, "[MASK]"])
    hf = AutoTokenizer.from_pretrained(tmp_path, mask_token="[MASK]")
    hf.add_tokens([ADDED])
    hf.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", BLOCKS)
def test_an_added_word_without_an_embedding_is_refused_where_a_row_has_it(extended, name):
    """A common mistake: the tokenizer was extended and saved, the encoder's embeddings were not resized."""
    block, row = BLOCKS[name]
    task_type = TASK_TYPES.get(name)(task_def_from("t", {"task_type": name, "max_length": 16, **block}))
    example, number = task_type.read(row), 5 + len(WORDS)
    with pytest.raises(DataError, match=rf"'{ADDED}' the id {number}; .* call model\.resize_token_embeddings"):
        encoded_by(task_type, [example], load_tokenizer(extended))
    BertConfig(vocab_size=number + 1, max_position_embeddings=64).save_pretrained(extended)
    assert encoded_by(task_type, [example], load_tokenizer(extended))["input_ids"].values.max() == number


def test_other_rows_are_not_refused_for_it(extended):
    block, row = BLOCKS["classification"]
    task_type = TASK_TYPES.get("classification")(task_def_from("t", {"task_type": "classification", **block}))
    tokenizer = load_tokenizer(extended)
    columns = encoded_by(task_type, [task_type.read({**row, "text": "a red kite"})], tokenizer)
    assert columns["input_ids"].values.max() < tokenizer.num_embeddings
