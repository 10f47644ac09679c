"""A tokenizer that leaves with an exported model cuts rows where ours does."""

import json
import random

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors
from transformers import AutoConfig, AutoTokenizer, BertTokenizerLegacy, PreTrainedTokenizerFast
from transformers.utils import logging

from mtdnn.errors import DataError
from mtdnn.tokens.loading import load_tokenizer
from mtdnn.tokens.tokenizer import Tokenizer
from tests.reference.project import WORDS, save_encoder

TEXTS = [(" ".join(["a red kite flies over the lake", "slowly"][: 1 + n % 2] * (1 + n)),) for n in range(8)]
PAIRS = [(first[0], second[0]) for first, second in zip(TEXTS, reversed(TEXTS), strict=True)]


def wordpiece(folder, **settings):
    save_encoder(folder, WORDS)
    return AutoTokenizer.from_pretrained(folder, **settings)


def bytelevel(folder):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", *sorted(alphabet)])}
    backend = Backend(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **names)


MAKERS = {
    "no limit": wordpiece,
    "a limit above": lambda folder: wordpiece(folder, model_max_length=512),
    "a limit below": lambda folder: wordpiece(folder, model_max_length=6),
    "cut on the left": lambda folder: wordpiece(folder, truncation_side="left"),
    "bytes": bytelevel,
}


@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_rows_are_cut_as_ours_are(tmp_path, make, texts):
    ours = Tokenizer("x", make(tmp_path / "ours"))
    for max_length in (9, 16):
        expected = ours.cutting_at(max_length)(texts)["input_ids"]
        ours.save(tmp_path / str(max_length), max_length=max_length)
        saved = AutoTokenizer.from_pretrained(tmp_path / str(max_length))
        assert saved.model_max_length == max_length
        found = saved([list(each) if len(each) > 1 else each[0] for each in texts], truncation=True)["input_ids"]
        assert found == [expected.row(row).tolist() for row in range(len(texts))]
        assert max(map(len, found)) == max_length
        assert max(len(saved(*each)["input_ids"]) for each in texts) > max_length  # only if truncation is requested


def test_a_tokenizer_written_in_python_is_cut_too(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    ours = Tokenizer("x", BertTokenizerLegacy(str(tmp_path / "vocab.txt")))
    assert not ours.hf.is_fast
    ours.save(tmp_path / "saved", max_length=9)
    saved = BertTokenizerLegacy.from_pretrained(tmp_path / "saved")
    expected = ours.cutting_at(9)(TEXTS)["input_ids"]
    assert saved([each[0] for each in TEXTS], truncation=True)["input_ids"] == [
        expected.row(row).tolist() for row in range(len(TEXTS))
    ]


def test_the_file_alone_cuts_rows_for_those_who_read_it_without_transformers(tmp_path):
    ours = Tokenizer("x", wordpiece(tmp_path / "ours"))
    ours.save(tmp_path / "saved", max_length=9)
    backend = Backend.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    expected = ours.cutting_at(9)(TEXTS)["input_ids"]
    assert [each.ids for each in backend.encode_batch([each[0] for each in TEXTS])] == [
        expected.row(row).tolist() for row in range(len(TEXTS))
    ]


@pytest.mark.parametrize("make", [wordpiece, bytelevel])
def test_token_types_leave_only_for_a_model_that_is_given_them(tmp_path, make):
    """transformers' GPT-2 and XLM add the word embeddings of token types, which ours are never given."""
    ours = Tokenizer("x", make(tmp_path / "ours"))
    before = list(ours.hf.model_input_names)
    for token_types in (True, False):
        ours.save(tmp_path / "saved", max_length=9, token_types=token_types)
        saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
        encoded = saved(TEXTS[3][0], truncation=True)
        assert ("token_type_ids" in encoded) == (token_types and ours.has_segments)
        assert encoded["input_ids"] == ours.cutting_at(9)(TEXTS)["input_ids"].row(3).tolist()
    assert ours.hf.model_input_names == before


def test_saving_leaves_the_tokenizer_itself_as_it_was(tmp_path):
    ours = Tokenizer("x", wordpiece(tmp_path / "ours", model_max_length=512))
    before = ours.sha256, ours.hf.model_max_length, ours.hf.backend_tokenizer.truncation
    ours.save(tmp_path / "saved", max_length=random.Random(0).randint(5, 20))
    assert (Tokenizer("x", ours.hf).sha256, ours.hf.model_max_length, ours.hf.backend_tokenizer.truncation) == before


def test_a_key_that_we_set_is_not_reported_as_deprecated(tmp_path, caplog, monkeypatch):
    """transformers warns once in a process; here it warns each time."""
    logger = logging.get_logger("transformers.configuration_utils")
    monkeypatch.setattr(type(logger), "warning_once", lambda self, *words: self.warning(*words))
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    save_encoder(tmp_path, WORDS)
    load_tokenizer(tmp_path)
    assert "deprecated" not in caplog.text
    AutoConfig.from_pretrained(tmp_path, torch_dtype=None)
    assert "deprecated" in caplog.text


def test_a_token_with_an_absurd_id_is_refused(tmp_path):
    """Copying or saving such a tokenizer takes memory for every id below it; without it the process ends."""
    save_encoder(tmp_path, WORDS)
    file = tmp_path / "tokenizer.json"
    if not file.exists():
        AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    values = json.loads(file.read_text())
    values["model"]["vocab"]["lake"] = 2**31
    file.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"a token has the id 2147483648. .* ids are at most 10,000,000"):
        load_tokenizer(tmp_path)


def test_an_absurd_id_of_a_vocabulary_on_its_own_is_refused(tmp_path):
    """Of tokenizers that are built of `vocab.json`; a file without a vocabulary beside it is passed over."""
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 2**31}))
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    with pytest.raises(DataError, match=r"a token has the id 2147483648. .* ids are at most 10,000,000"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("added", [{"pad_token": "<new>"}, {"mask_token": "<new>"}])
def test_a_padding_or_mask_token_without_an_embedding_is_refused_at_once(tmp_path, added):
    """A common mistake: the tokenizer was extended and saved, the encoder's embeddings were not resized."""
    wordpiece(tmp_path, **added).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=rf"'<new>' the id {4 + len(WORDS)}; its config\.json says vocab_size"):
        load_tokenizer(tmp_path)
