"""Generated texts: the decoder is transformers' own, shares no weight twice, and is decoded only for predictions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, BartConfig, BertConfig, BertModel, MT5Config, T5Config, UMT5Config

from data_prep.demo import train_tokenizer
from mtdnn.batch import IGNORED, Batch
from mtdnn.config.options import Named
from mtdnn.config.tasks import task_def_from
from mtdnn.data.jobs import block_faults
from mtdnn.errors import ConfigError
from mtdnn.metrics.base import METRICS, applicable, compute
from mtdnn.model import MultiTaskModel
from mtdnn.networks.adapters import Adapter
from mtdnn.networks.encoder import Encoder
from mtdnn.networks.modes import evaluation_mode
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.proximal import PROXIMAL
from mtdnn.rows.example import RowError
from mtdnn.runs.export import export_task
from mtdnn.runs.initialisation import init_decoders
from mtdnn.task_types.generation import Generation
from mtdnn.tokens.loading import load_tokenizer

BLOCK = {"task_type": "generation", "inputs": ["text"], "max_target_length": 6}
ROWS = [["1", "a red boat", "boat red"], ["2", "nobody", "storm came"], ["3", "the bell near a door", "door near bell"]]
KNOWN = [cell for row in ROWS for cell in row[1:]]
SIZES = {"d_model": 16, "pad_token_id": 0, "eos_token_id": 3}
OF_T5 = {"d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
OF_BART = {
    "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "bos_token_id": 2, "decoder_start_token_id": 3,
    "forced_eos_token_id": None, "max_position_embeddings": 40,
}  # fmt: skip
FAMILIES: dict[str, Any] = {
    "t5": (T5Config, OF_T5),
    "mt5": (MT5Config, OF_T5),
    "umt5": (UMT5Config, OF_T5),
    "untied t5": (T5Config, {**OF_T5, "tie_word_embeddings": False}),
    "bart": (BartConfig, OF_BART),
}


@pytest.fixture(params=list(FAMILIES))
def pair(request, tmp_path):
    """transformers' model of a family with random weights, and the folder of its files."""
    kind, sizes = FAMILIES[request.param]
    tokenizer = train_tokenizer(KNOWN)
    torch.manual_seed(0)
    whole = AutoModelForSeq2SeqLM.from_config(kind(vocab_size=len(tokenizer), **SIZES, **sizes)).eval()
    for weight in whole.parameters():  # biases start at 0 and would hide one that is missing
        weight.data.add_(0.1 * torch.randn_like(weight))
    whole.save_pretrained(tmp_path / "pair")
    tokenizer.save_pretrained(tmp_path / "pair")
    return whole, tmp_path / "pair"


def model_of(folder, made):
    model = MultiTaskModel(Encoder.from_pretrained(folder), {"task": made.type}).eval()
    init_decoders(model, str(folder))
    return model


@pytest.fixture
def made(make):
    return make(BLOCK, ROWS, known=KNOWN)


def test_targets_end_with_the_end_token_and_longer_ones_are_cut(made):
    batch, end = made.batch(), made.tokenizer.sep_token_id
    assert batch.labels[1].tolist()[-3:] == [IGNORED] * 3
    for row in batch.labels.tolist():
        kept = [each for each in row if each != IGNORED]
        assert kept[-1] == end and len(kept) <= 6
    assert made.columns["truncated"].tolist() == [False, False, True]
    assert batch.row_values["targets"] == [["a red boat"], ["nobody"], ["the bell near a door"]]


def test_loss_logits_and_texts_are_those_of_transformers(pair, made):
    whole, folder = pair
    model, batch = model_of(folder, made), made.batch()
    inputs = {"input_ids": batch.inputs["input_ids"], "attention_mask": batch.mask.long()}
    with torch.no_grad():
        theirs = whole(**inputs, labels=batch.labels)
        logits = model(batch)
    torch.testing.assert_close(logits, theirs.logits, rtol=1e-4, atol=1e-5)  # float32 sums in another order
    assert float(made.type.loss(logits, batch)) == pytest.approx(float(theirs.loss), rel=1e-5)
    records = model.predict(batch, ["task"])["task"]
    settings = made.type.generation_settings()
    expected = made.tokenizer.batch_decode(whole.generate(**inputs, **settings), skip_special_tokens=True)
    assert [each["prediction"] for each in records] == [text.strip() for text in expected]
    assert [each["label"] for each in records] == [[row[1]] for row in ROWS]
    nll = sum(each["scores"]["nll"] for each in records) / sum(each["scores"]["tokens"] for each in records)
    assert nll == pytest.approx(float(theirs.loss), rel=1e-5)


def test_beams_and_lengths_are_passed_to_generate(pair, make):
    whole, folder = pair
    more = {"num_beams": 3, "max_new_tokens": 5, "min_new_tokens": 2, "no_repeat_ngram_size": 2, "length_penalty": 2.0}
    made = make({**BLOCK, **more}, ROWS, known=KNOWN)
    batch = made.batch()
    inputs = {"input_ids": batch.inputs["input_ids"], "attention_mask": batch.mask.long()}
    found = whole.generate(**inputs, **more, eos_token_id=3, pad_token_id=0)
    expected = made.tokenizer.batch_decode(found, skip_special_tokens=True)
    records = model_of(folder, made).predict(batch, ["task"])["task"]
    assert [each["prediction"] for each in records] == [text.strip() for text in expected]


def test_no_weight_of_the_encoder_is_in_the_head(pair, made):
    model = model_of(pair[1], made)
    names = [name for name in model.state_dict() if name.startswith("heads.")]
    assert names and not any("encoder." in name or "shared" in name or "embed_tokens" in name for name in names)
    tied = pair[0].config.tie_word_embeddings
    assert any("lm_head" in name for name in names) == (not tied)
    assert len({id(weight) for weight in model.parameters()}) == len(list(model.parameters()))


def test_dropout_off_is_evaluation_and_the_teacher_decodes_with_its_own_encoder(pair, made):
    model, batch = model_of(pair[1], made).train(), made.batch()
    passed = ForwardPass(model, batch, seed=1, step=0)
    clean, off = passed.logits, passed.rerun(passed.embeddings, dropout="off")
    with evaluation_mode(model):
        torch.testing.assert_close(off, model(batch))
    assert not torch.equal(clean, off)
    assert torch.equal(passed.rerun(passed.embeddings), clean)
    proximal = PROXIMAL.get("momentum")(model, total_steps=2)
    before = passed.rerun_with(proximal.teacher.module)
    torch.testing.assert_close(before, off)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1)
    assert torch.equal(passed.rerun_with(proximal.teacher.module), before)


def test_a_copied_model_is_whole(pair, made):
    model, batch = model_of(pair[1], made), made.batch()
    copied = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(batch)
        for weight in model.parameters():
            weight.zero_()
        assert torch.equal(copied(batch), expected)


def test_other_tasks_share_the_encoder(pair, make):
    made = make(BLOCK, ROWS, known=KNOWN)
    labels = make({"task_type": "classification", "labels": ["a", "b"]}, [["1", "a", "boat red"]], known=KNOWN)
    model = MultiTaskModel(Encoder.from_pretrained(pair[1]), {"task": made.type, "other": labels.type})
    for task, each in (("task", made), ("other", labels)):
        batch = each.batch()
        model.zero_grad()
        each.type.loss(model(Batch(task, batch.inputs, batch.labels, batch.row_ids, batch.extras)), batch).backward()
        touched = {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}
        assert touched == {"encoder", "heads"}


@pytest.mark.parametrize("adapter", [None, "lora"])
def test_it_exports_to_the_familys_model_with_equal_output(pair, made, tmp_path, adapter):
    whole, folder = pair
    model, batch = model_of(folder, made), made.batch()
    if adapter is not None:
        encoder = Encoder.from_pretrained(folder)
        encoder.adapt(Adapter(Named(name=adapter)), base=str(folder), seed=0)
        model = MultiTaskModel(encoder, {"task": made.type}).eval()
        init_decoders(model, str(folder))
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.add_(0.05 if weight.requires_grad else 0.0)
    tokenizer = load_tokenizer(folder)
    export_task(model, "task", tmp_path / "out", save_tokenizer=tokenizer.save)
    exported = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    assert type(exported) is type(whole) and exported.generation_config.max_new_tokens == 6
    inputs = {"input_ids": batch.inputs["input_ids"], "attention_mask": batch.mask.long()}
    with torch.no_grad():
        logits = exported(**inputs, labels=batch.labels).logits
        torch.testing.assert_close(logits, model(batch), rtol=1e-4, atol=1e-5)
    texts = made.tokenizer.batch_decode(exported.generate(**inputs), skip_special_tokens=True)
    assert [text.strip() for text in texts] == [each["prediction"] for each in model.predict(batch, ["task"])["task"]]


def test_an_encoder_without_decoder_is_refused_with_its_place(tmp_path):
    tokenizer = train_tokenizer(KNOWN)
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    (fault,) = block_faults(task_def_from("task", BLOCK), load_tokenizer(tmp_path))
    assert "task.task_type: generation needs a decoder, and" in str(fault)
    assert str(fault).endswith("Choose an encoder-decoder, such as t5-small or facebook/bart-base.")


def test_targets_longer_than_the_decoders_positions_are_refused_before_anything_is_tokenized(tmp_path):
    tokenizer = train_tokenizer(KNOWN)
    tokenizer.save_pretrained(tmp_path)
    BartConfig(vocab_size=len(tokenizer), **SIZES, **OF_BART).save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    block = {**BLOCK, "max_length": 40, "max_target_length": 40, "max_new_tokens": 40}
    assert block_faults(task_def_from("task", block), loaded) == []
    found = block_faults(task_def_from("task", {**block, "max_target_length": 41, "max_new_tokens": 50}), loaded)
    assert [str(each).replace(str(tmp_path), "pair") for each in found] == [
        "task: task.max_target_length: 41 tokens; the decoder of pair takes at most 40. "
        "Set max_target_length to 40 or less.",
        "task: task.max_new_tokens: 50 tokens; the decoder of pair takes at most 40. Set max_new_tokens to 40 or less.",
    ]


@pytest.mark.parametrize("kind", ["masked_lm", "coreference"])
def test_check_finds_a_mask_token_that_a_task_lacks(tmp_path, kind):
    tokenizer = train_tokenizer(KNOWN)
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path)
    block = {"task_type": kind, "inputs": ["text"] if kind == "masked_lm" else ["text", "candidate"]}
    (fault,) = block_faults(task_def_from("task", block), load_tokenizer(tmp_path))
    assert "task.task_type: BertTokenizer has no mask token. Choose" in str(fault)


def test_a_tokenizer_without_end_is_refused(made):
    made.tokenizer.eos_token = made.tokenizer.sep_token = None
    with pytest.raises(ConfigError, match=r"task_type: .* has no token for the end of a text"):
        made.type.bind(made.tokenizer)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"labels": ["a"]}, "task.labels: a generation task has no labels"),
        ({"num_beams": 0}, "task.num_beams: 0: input should be greater than or equal to 1"),
        ({"min_new_tokens": 9}, "task.min_new_tokens: 9, but at most 6 tokens. Give 6 or less"),
        ({"metrics": ["accuracy"]}, "task.metrics: unknown metric 'accuracy'"),
        ({"head": "pooled"}, "task.head: unknown head 'pooled'"),
        ({"num_beam": 2}, "task.num_beam: unknown key"),
        ({"head": {"name": "decoder", "pooling": "first"}}, "task.head.pooling: unknown"),
    ],
)
def test_bad_options_are_refused(more, message):
    (fault,) = Generation.faults(task_def_from("task", {**BLOCK, **more}))
    assert message in str(fault)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": " "}, "text: empty text."),
        ({"label": ["a", ""]}, "label: an empty target."),
        ({"label": 7}, "label: 7 is neither a text nor a list of texts."),
        ({"label": '["a", }"]'}, "is not a list of targets"),
    ],
)
def test_bad_rows_are_refused(made, values, message):
    with pytest.raises(RowError, match=message):
        made.type.read({"id": "1", "label": "a", "text": "b", **values})


def test_labels_may_be_several_texts_or_missing_and_a_prefix_is_put_before_the_text(make):
    made = make({**BLOCK, "prefix": "boat "}, [["1", '["red", "a red"]', "bell"], ["2", "", "door"]], known=KNOWN)
    assert [each.texts for each in made.examples] == [("boat bell",), ("boat door",)]
    assert [each.label for each in made.examples] == [["red", "a red"], None]
    assert made.type.label_counts(made.columns["label"]) == {"target": 1, None: 1}


def test_metrics_of_texts_by_hand_and_by_their_packages():
    """ROUGE-L of "a b c" and "a c d": 2 of 3 words in both directions; the better of two texts counts."""
    records = [{"id": "1", "prediction": "a b c", "label": ["a c d", "x"]}]
    assert compute(["rougeL"], records) == {"rougeL": pytest.approx(2 / 3)}
    assert compute(["rouge1", "rouge2"], records) == {"rouge1": pytest.approx(2 / 3), "rouge2": 0.0}
    same = [{"id": "1", "prediction": "the bell is near a door", "label": ["it rang", "the bell is near a door"]}]
    same.append({"id": "2", "prediction": "it rained all night long", "label": ["it rained all night long"]})
    assert compute(["bleu"], same) == {"bleu": pytest.approx(1.0)}
    from sacrebleu import sentence_bleu

    one = [{"id": "1", "prediction": "the bell is near the red door", "label": ["the bell is near a door"]}]
    expected = sentence_bleu(one[0]["prediction"], one[0]["label"], smooth_method="exp").score / 100
    assert compute(["bleu"], one)["bleu"] == pytest.approx(expected)


def test_metrics_whose_package_is_missing_say_so(monkeypatch):
    from mtdnn.metrics import generated

    monkeypatch.setattr(generated, "find_spec", lambda name: None)
    demand = generated._demand("rouge_score", "rouge-score")
    record = {"id": "1", "prediction": "a", "label": ["a"]}
    assert "rougeL" in applicable([record]) and METRICS.get("rougeL").demand.met(record, ())
    assert not demand.met(record, ()) and "pip install 'mtdnn[generation]'" in demand.text


def test_bf16_and_unlabelled_rows_are_decoded(pair, made):
    model, batch = model_of(pair[1], made), made.batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        records = model.predict(Batch("task", batch.inputs, None, batch.row_ids), ["task"])["task"]
    assert [each["label"] for each in records] == [None] * 3
    assert all(isinstance(each["prediction"], str) for each in records)
