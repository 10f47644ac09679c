"""Decoder-only families as encoders, with and without a pad token: trained with SMART, exported, predicted alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    PreTrainedTokenizerFast,
    Qwen3Config,
    pipeline,
)

import mtdnn
from mtdnn.cli.main import main

TEXTS = ["the red kite flies", "a boat sails over the blue lake", "the barn", "a slow red boat"]
WORDS = sorted({word for text in TEXTS for word in text.split()})
TASKS = "colour: {task_type: classification, labels: [red_, other], max_length: 16, splits: {train: train, dev: train}}"
SIZES = {
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=1),
    "qwen3": Qwen3Config(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=32,
        max_position_embeddings=32,
    ),
}


@pytest.mark.parametrize("pad", [True, False], ids=["with a pad token", "without"])
@pytest.mark.parametrize("family", list(SIZES))
def test_a_decoder_is_trained_and_its_export_scores_as_predict_does(tmp_path: Path, family: str, pad: bool) -> None:
    tokens = ["<pad>", "<eos>", "<unk>", *WORDS]
    backend = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"eos_token": "<eos>", "unk_token": "<unk>", **({"pad_token": "<pad>"} if pad else {})}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path / "decoder")
    torch.manual_seed(0)
    AutoModel.from_config(SIZES[family]).save_pretrained(tmp_path / "decoder")
    (tmp_path / "tasks.yml").write_text(TASKS)
    rows = [f"{n}\t{'red_' if 'red' in text else 'other'}\t{text}" for n, text in enumerate(TEXTS * 4)]
    (tmp_path / "data" / "colour").mkdir(parents=True)
    path = tmp_path / "data" / "colour" / "train.tsv"
    path.write_text("\n".join(rows) + "\n")
    place = [str(tmp_path / "tasks.yml"), "--data", str(tmp_path / "data"), "--encoder", str(tmp_path / "decoder")]
    assert main(["prepro", *place, "--out", str(tmp_path / "prepared")]) == 0
    flags = ["--tasks", place[0], "--data", str(tmp_path / "prepared"), *place[3:], "--output", str(tmp_path / "run")]
    flags += ["--regularizer", "smart", "--proximal", "momentum", "--epochs", "10", "--optimizer.lr", "1e-2"]
    assert main(["train", *flags, "--batch_size", "4", "--execution", "packed"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["colour"]["train"]["accuracy"] == 1.0
    assert main(["export", str(tmp_path / "run"), "--task", "colour", "--output", str(tmp_path / "out")]) == 0
    pipe: Any = pipeline("text-classification", str(tmp_path / "out"), top_k=None)
    predicted = (tmp_path / "run" / "predictions" / "colour.train.jsonl").read_text().splitlines()
    for record, theirs in zip(map(json.loads, predicted), pipe(TEXTS * 4, batch_size=4), strict=True):
        scores = {each["label"]: each["score"] for each in theirs}
        assert scores == pytest.approx(record["scores"], abs=1e-5)  # float32, another order of the same sums


@pytest.mark.parametrize("family", ["t5", "umt5"])
def test_the_encoder_of_an_encoder_decoder_is_trained_and_opened_again(tmp_path: Path, family: str) -> None:
    words = ["<pad>", "</s>", "<unk>", *WORDS]
    backend = Tokenizer(models.WordLevel({token: number for number, token in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2, "d_ff": 32, "vocab_size": 40}
    config = AutoConfig.for_model(family, **sizes, decoder_start_token_id=0)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path / "model")
    rows = [{"text": text, "label": "red_" if "red" in text else "other"} for text in TEXTS * 4]
    results = mtdnn.train(
        tasks={"colour": {"task_type": "classification", "labels": ["red_", "other"], "max_length": 16}},
        data={"colour": {"train": rows, "dev": rows}},
        encoder=tmp_path / "model", output=tmp_path / "run", epochs=10, batch_size=4, progress=False,
        optimizer={"lr": 1e-2}, regularizer="smart",
    )  # fmt: skip
    assert results["colour"]["dev"]["accuracy"] == 1.0
    records = mtdnn.open_run(tmp_path / "run").predict("colour", [(text,) for text in TEXTS])["colour"]
    assert [record["prediction"] for record in records] == ["red_", "other", "other", "red_"]
    assert main(["export", str(tmp_path / "run"), "--task", "colour", "--output", str(tmp_path / "out")]) == 2
    again = mtdnn.train(
        tasks={"colour": {"task_type": "classification", "labels": ["red_", "other"], "max_length": 16}},
        data={"colour": {"train": rows, "dev": rows}},
        encoder={"run": str(tmp_path / "run"), "heads": "keep"}, output=tmp_path / "again", max_steps=1,
        optimizer={"lr": 1e-9}, progress=False,
    )  # fmt: skip
    assert again["colour"]["dev"]["accuracy"] == 1.0
