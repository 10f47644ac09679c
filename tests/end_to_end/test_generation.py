"""A T5 of random weights learns to write texts, next to a classification task with the same encoder."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

import mtdnn
from data_prep.demo import train_tokenizer
from mtdnn.cli.main import main
from mtdnn.config.yaml_source import dump_yaml

COLOURS = ["red", "old", "wet", "tall", "dry", "new", "odd", "big"]
THINGS = ["boat", "bell", "lamp", "door", "goat", "mill", "oak", "jug"]
PLACES = ["near", "under", "behind", "over"]
TASKS = {
    "backwards": {
        "task_type": "generation", "inputs": ["text"], "max_length": 16, "max_target_length": 8,
        "metrics": ["exact_match", "rougeL", "perplexity"],
    },
    "kind": {"task_type": "classification", "inputs": ["text"], "labels": ["old_", "other"], "max_length": 16},
}  # fmt: skip


def rows_of(texts: list[str], split: str) -> dict[str, list[dict[str, str]]]:
    """The words of each text in the other order, and whether it has the word old."""
    ids = [f"{split}-{number}" for number in range(len(texts))]
    turned = [" ".join(reversed(text.split())) for text in texts]
    kinds = ["old_" if "old" in text else "other" for text in texts]
    return {
        "backwards": [
            {"id": id, "text": text, "label": label} for id, text, label in zip(ids, texts, turned, strict=True)
        ],
        "kind": [{"id": id, "text": text, "label": label} for id, text, label in zip(ids, texts, kinds, strict=True)],
    }


def write_t5(folder: Path, texts: list[str], *, width: int = 32) -> None:
    tokenizer = train_tokenizer(texts)
    torch.manual_seed(0)
    sizes = {"d_model": width, "d_kv": width // 4, "d_ff": 2 * width, "num_layers": 1, "num_heads": 4}
    config = T5Config(
        vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=3, decoder_start_token_id=0, dropout_rate=0.0, **sizes
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A trained run of both tasks, and its rows: 208 to train on, 48 others to measure."""
    folder = tmp_path_factory.mktemp("generation")
    texts = [" ".join(words) for words in itertools.product(COLOURS, THINGS, PLACES)]
    random.Random(0).shuffle(texts)
    write_t5(folder / "t5", texts)
    train, dev = rows_of(texts[:-48], "train"), rows_of(texts[-48:], "dev")
    train["kind"] = train["kind"][:64]
    results = mtdnn.train(
        tasks=TASKS, data={name: {"train": train[name], "dev": dev[name]} for name in TASKS},
        encoder=str(folder / "t5"), output=str(folder / "run"), max_steps=160, batch_size=32, optimizer={"lr": 1e-2},
        schedule={"name": "constant"}, evaluate_every="never", checkpoint_every="never", progress=False, threads=1,
    )  # fmt: skip
    return {"folder": folder, "results": results, "dev": dev}


def test_it_learns_to_write_texts_that_it_has_not_seen(project: dict[str, Any]) -> None:
    found = project["results"]["backwards"]["dev"]
    assert found["exact_match"] > 0.95 and found["rougeL"] > 0.95 and found["perplexity"] < 1.3
    assert project["results"]["kind"]["dev"]["accuracy"] > 0.95
    assert found["rows"] == 48


def test_an_opened_run_predicts_evaluates_and_scores_the_same(project: dict[str, Any]) -> None:
    run = mtdnn.open_run(project["folder"] / "run", checkpoint="last")
    texts = [(row["text"],) for row in project["dev"]["backwards"][:8]]
    records = run.predict(["backwards", "kind"], texts)
    written = (project["folder"] / "run" / "predictions" / "backwards.dev.jsonl").read_text().splitlines()
    assert [each["prediction"] for each in records["backwards"]] == [
        json.loads(one)["prediction"] for one in written[:8]
    ]
    assert {each["prediction"] for each in records["kind"]} <= {"old_", "other"}
    again = run.evaluate(["backwards"])["backwards"]["dev"]
    assert again == pytest.approx(project["results"]["backwards"]["dev"])
    scored = mtdnn.score(project["folder"] / "run" / "predictions" / "backwards.dev.jsonl", metrics=["exact_match"])
    assert scored["exact_match"] == again["exact_match"]


def test_the_exported_model_writes_the_same_texts(project: dict[str, Any]) -> None:
    run, out = str(project["folder"] / "run"), project["folder"] / "out"
    assert main(["export", run, "--task", "backwards", "--checkpoint", "last", "--output", str(out)]) == 0
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    rows = project["dev"]["backwards"][:8]
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt", return_token_type_ids=False)
    texts = tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    assert [text.strip() for text in texts] == [row["label"] for row in rows]


def test_the_report_lists_the_worst_texts(project: dict[str, Any]) -> None:
    assert main(["report", str(project["folder"] / "run")]) == 0
    assert "backwards" in (project["folder"] / "run" / "report.md").read_text()


def test_an_earlier_run_starts_another_one_with_its_decoder(project: dict[str, Any], tmp_path: Path) -> None:
    """With `heads: keep` and one tiny step, the decoder still knows what it has learnt."""
    dev = project["dev"]["backwards"]
    results = mtdnn.train(
        tasks={"backwards": TASKS["backwards"]}, data={"backwards": {"train": dev, "dev": dev}},
        encoder={"run": str(project["folder"] / "run"), "checkpoint": "last", "heads": "keep"},
        output=str(tmp_path / "again"), max_steps=1, optimizer={"lr": 1e-9}, progress=False,
    )  # fmt: skip
    assert results["backwards"]["dev"]["exact_match"] > 0.95


def test_check_finds_what_train_refuses(project: dict[str, Any], demo: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "tasks.yml").write_text(dump_yaml({"backwards": {**TASKS["backwards"], "num_beams": 0}}))
    (tmp_path / "data" / "backwards").mkdir(parents=True)
    for split in ("train", "dev"):
        lines = "".join(f"{row['id']}\t{row['label']}\t{row['text']}\n" for row in project["dev"]["backwards"])
        (tmp_path / "data" / "backwards" / f"{split}.tsv").write_text(f"{lines}bad\tx\t \n")
    flags = ["--data", str(tmp_path / "data"), "--encoder", str(demo.encoder)]
    assert main(["check", str(tmp_path / "tasks.yml"), *flags]) == 2
    printed = capsys.readouterr()
    for expected in (
        "tasks.yml:11: backwards.num_beams: 0: input should be greater than or equal to 1",
        "tasks.yml:2: backwards.task_type: generation needs a decoder, and",
    ):
        assert expected in printed.out + printed.err
    (tmp_path / "tasks.yml").write_text(dump_yaml({"backwards": TASKS["backwards"]}))
    flags[-1] = str(project["folder"] / "t5")
    assert main(["check", str(tmp_path / "tasks.yml"), *flags]) == 2
    printed = capsys.readouterr()
    assert "train.tsv:49: text: empty text." in printed.out + printed.err
