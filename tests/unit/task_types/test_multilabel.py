"""Sets of labels: how they are written, learned, reported apart by thresholds, and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

import mtdnn
from mtdnn.batch import Batch
from mtdnn.cli.main import main
from mtdnn.config.tasks import task_def_from
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.networks.losses import binary_cross_entropy, binary_focal
from mtdnn.rows.example import RowError
from mtdnn.runs.export import export_task
from mtdnn.task_types.multilabel import Multilabel
from tests.reference.project import WORDS, Project, save_encoder

BLOCK = {"task_type": "multilabel", "labels": ["sport", "money", "war"]}


def made(**more: Any) -> Multilabel:
    return Multilabel(task_def_from("news", {**BLOCK, **more}))


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("money", ["money"]),
        ("war, sport", ["sport", "war"]),  # in the order of the task
        ("['war', 'money']", ["money", "war"]),
        (["war"], ["war"]),
        ("none", []),
        ([], []),
        ("", None),
        ("-", None),
    ],
)
def test_a_set_is_written_with_commas_or_as_a_list_and_none_is_the_empty_one(cell: Any, labels: Any) -> None:
    task_type = made()
    example = task_type.read({"id": "1", "text": "A text.", "label": cell})
    assert example.label == labels
    assert task_type.label_name(task_type.stored_label(labels)) == labels


@pytest.mark.parametrize(
    ("cell", "reported"),
    [
        ("mony", r"'mony' is not in news.labels .*Did you mean 'money'"),
        ("money,none", r"'none' is not in .*Write none alone for a row without any"),
        ("money,", r"'' is not in .*Write none alone"),
        ("[{[1]}]", r"'\{\[1\]\}' is not in news.labels"),
        (["war", "war"], r"'war' is given 2 times; Give it once|'war' is given 2 times.*Give it once"),
    ],
)
def test_a_bad_cell_is_refused(cell: Any, reported: str) -> None:
    with pytest.raises(RowError, match=reported):
        made().read({"id": "1", "text": "A text.", "label": cell})


@pytest.mark.parametrize(
    ("more", "reported"),
    [
        ({"labels": []}, "news.labels: no labels"),
        ({"labels": ["a", "b,c"]}, "news.labels: 'b,c' looks like a list of labels"),
        ({"labels": ["a", "none"]}, "news.labels: 'none' looks like"),
        ({"threshold": 1.5}, "news.threshold: 1.5: input should be less than 1"),
        ({"threshold": "best"}, "news.threshold: "),
        ({"metrics": ["accuracy"]}, "news.metrics: unknown metric 'accuracy'"),
        ({"loss": "cross_entropy"}, "news.loss: unknown loss 'cross_entropy'"),
    ],
)
def test_a_bad_block_is_refused(more: dict[str, Any], reported: str) -> None:
    faults = Multilabel.faults(task_def_from("news", {**BLOCK, **more}))
    assert any(reported in str(fault) for fault in faults), faults


def test_check_reports_a_bad_row_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project(tmp_path)
    project.define("news: {task_type: multilabel, labels: [sport, money], splits: {train: train}}\n")
    project.rows("news/train", ["1\tsport,mony\tA text.", "2\tnone\tA text."])
    assert main(["check", str(project.definitions), "--data", str(project.data)]) == 2
    assert "train.tsv:1: label: 'mony' is not in news.labels" in capsys.readouterr().err


def test_the_losses_are_those_of_pytorch_over_rows_that_are_labelled() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [torch.nan] * 3, [1, 1, 0]], dtype=torch.float64)
    known = ~labels.isnan().any(dim=-1)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits[known], labels[known])
    found = binary_cross_entropy(logits, labels, known)
    torch.testing.assert_close(found, wanted)
    right = torch.where(labels[known] == 1, logits[known].sigmoid(), 1 - logits[known].sigmoid())
    focal = binary_focal(logits, labels, known, gamma=2.0)
    torch.testing.assert_close(focal, (-((1 - right) ** 2) * right.log()).mean())
    torch.testing.assert_close(binary_focal(logits, labels, known, gamma=0.0), wanted)
    focal.backward()
    assert logits.grad is not None and bool((logits.grad[2] == 0).all()) and bool(logits.grad.isfinite().all())


def test_the_divergence_is_the_mean_over_labels_of_that_of_two_bernoulli_distributions() -> None:
    p_logits, q_logits = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -1.0]])
    p, q = p_logits.sigmoid(), q_logits.sigmoid()
    one_way = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    other_way = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    batch = Batch("news", {"mask": torch.ones(1, 1).bool()}, None, ["1"])
    found = made(labels=["a", "b"]).divergence(p_logits, q_logits, batch)
    torch.testing.assert_close(found, (one_way + other_way).mean(dim=1))


def model_of(**more: Any) -> MultiTaskModel:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    return MultiTaskModel(Encoder(BertModel(config)), {"news": made(**more)}).eval()


def test_thresholds_are_tuned_on_request_kept_with_the_head_and_exported(tmp_path: Path) -> None:
    sets = [["war"], ["sport", "war"], ["sport", "war"]]
    scores = [{"sport": 0.3 + row / 10, "money": 0.2, "war": 0.9} for row in range(3)]
    records = [
        {"id": "r", "prediction": [], "label": label, "scores": each} for label, each in zip(sets, scores, strict=True)
    ]
    model = model_of(tune_thresholds=True)
    head, task_type = model.heads["news"], model.task_types["news"]
    untuned = task_type.settle(records, head, tune=False)
    assert [each["prediction"] for each in untuned] == [["war"], ["war"], ["sport", "war"]]
    tuned = task_type.settle(records, head, tune=True)
    assert [each["prediction"] for each in tuned] == [each["label"] for each in records]
    assert head.state_dict()["thresholds"].tolist() == pytest.approx([0.35, 0.5, 0.45])
    fixed = model_of(threshold=0.35)
    settled = fixed.task_types["news"].settle(records, fixed.heads["news"], tune=True)
    assert [each["prediction"] for each in settled] == [["war"], ["sport", "war"], ["sport", "war"]]
    export_task(model, "news", tmp_path / "out", save_tokenizer=lambda *_, **__: None)
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert exported.config.problem_type == "multi_label_classification"
    assert exported.config.thresholds == pytest.approx({"sport": 0.35, "money": 0.5, "war": 0.45})
    ids = torch.randint(5, 60, (2, 5), generator=torch.Generator().manual_seed(1))
    batch = Batch("news", {"input_ids": ids, "mask": torch.ones_like(ids).bool()}, None, ["a", "b"])
    with torch.inference_mode():
        torch.testing.assert_close(exported(input_ids=ids).logits, model(batch), rtol=1e-4, atol=1e-5)


def test_a_run_learns_sets_and_is_scored_and_reported(tmp_path: Path) -> None:
    project = Project(tmp_path)
    words = {"sails": "boat", "flies": "kite", "lake": "water"}
    keys = f"labels: [{', '.join(words.values())}], tune_thresholds: true, max_length: 32"
    project.define(f"things: {{task_type: multilabel, {keys}}}\n")
    texts = [
        "The boat sails.",
        "A kite flies.",
        "A kite flies over the lake.",
        "The barn.",
        "The boat sails over the lake.",
    ]
    rows = [
        f"{number}\t{','.join(label for word, label in words.items() if word in text) or 'none'}\t{text}"
        for number, text in enumerate(texts * 6)
    ]
    project.rows("things/train", rows)
    project.rows("things/dev", rows[:5])
    encoder = save_encoder(tmp_path / "encoder", WORDS)
    config = BertConfig.from_pretrained(encoder, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    config.save_pretrained(encoder)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(encoder)
    place = ["--data", str(project.data), "--encoder", str(encoder), "--out", str(project.out)]
    assert main(["prepro", str(project.definitions), *place]) == 0
    flags = ["--tasks", project.definitions, "--data", project.out, "--encoder", encoder, "--output", tmp_path / "run"]
    flags += ["--optimizer.lr", "5e-3", "--epochs", "20", "--batch_size", "8", "--regularizer", "smart"]
    assert main(["train", *map(str, flags)]) == 0
    run = mtdnn.open_run(tmp_path / "run")
    results = run.evaluate()["things"]["dev"]
    assert results["f1_micro"] > 0.9 and results["rows"] == 5
    predictions = tmp_path / "run" / "predictions" / "things.dev.jsonl"
    assert mtdnn.score(predictions)["subset_accuracy"] == results["subset_accuracy"]
    assert main(["report", str(tmp_path / "run")]) == 0
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| label | rows | predicted | F1 |" in report and "| boat | 2 | 2 | 1.000 |" in report
