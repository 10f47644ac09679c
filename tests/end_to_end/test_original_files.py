"""The original toolkit's task definitions and rows, as they stand, give the ids that toolkit documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from mtdnn.cli.main import main
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.store import open_store
from tests.reference.project import save_encoder

TASKS = """\
pairs:
  data_format: PremiseAndOneHypothesis
  enable_san: false
  labels:
  - not_entailment
  - entailment
  metric_meta:
  - ACC
  loss: CeCriterion
  kd_loss: MseCriterion
  adv_loss: SymKlCriterion
  n_class: 2
  task_type: Classification
single:
  data_format: PremiseOnly
  dropout_p: 0.05
  enable_san: false
  metric_meta:
  - ACC
  - MCC
  loss: CeCriterion
  kd_loss: MseCriterion
  adv_loss: SymKlCriterion
  n_class: 2
  task_type: Classification
scores:
  data_format: PremiseAndOneHypothesis
  enable_san: false
  metric_meta:
  - Pearson
  - Spearman
  n_class: 1
  loss: MseCriterion
  kd_loss: MseCriterion
  adv_loss: MseCriterion
  task_type: Regression
"""

ROWS = {  # id, label, premise, hypothesis, in one file per task and split
    "pairs": [("7", "entailment", "the red cat sits", "a cat"), ("8", "not_entailment", "a dog", "the cat sits here")],
    "single": [("0", "1", "the cat sits"), ("1", "0", "sits the red")],
    "scores": [("a", "3.800", "a red cat", "the cat"), ("b", "0", "the dog", "a red cat sits here")],
}
SPANS = """\
squad:
  data_format: MRC
  enable_san: false
  metric_meta:
  - EmF1
  n_class: 2
  task_type: Span
  loss: SpanCeCriterion
"""
LABELS = {"pairs": [1, 0], "single": [1, 0], "scores": [3.8, 0.0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Definitions and rows of that toolkit, and what `mtdnn prepro` made of them."""
    place = tmp_path_factory.mktemp("original")
    (place / "glue_task_def.yml").write_text(TASKS)
    (place / "data").mkdir()
    for task, rows in ROWS.items():
        lines = "".join("\t".join(row) + "\n" for row in rows)
        for split in ("train", "dev"):
            (place / "data" / f"{task}_{split}.tsv").write_text(lines)
    save_encoder(place / "encoder", ["the", "a", "red", "cat", "dog", "sits", "here"], max_positions=256)
    places = ["--data", str(place / "data"), "--encoder", str(place / "encoder")]
    assert main(["check", str(place / "glue_task_def.yml"), *places]) == 0
    assert main(["prepro", str(place / "glue_task_def.yml"), *places, "--out", str(place / "prepared")]) == 0
    return place


@pytest.mark.parametrize("task", ROWS)
@pytest.mark.parametrize("split", ["train", "dev"])
def test_token_segment_and_label_ids_are_those_it_documents(folder: Path, task: str, split: str) -> None:
    store = open_store(folder / "prepared", load_task_defs(folder / "glue_task_def.yml")[task], split)
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder")
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    for number, (row_id, _, *texts) in enumerate(ROWS[task]):
        columns = store.take(np.array([number]))
        ids, segments = [cls], [0]
        for segment, text in enumerate(texts):  # [CLS] premise [SEP] hypothesis [SEP], the hypothesis as segment 1
            words = tokenizer.convert_tokens_to_ids(text.split())
            ids += [*words, sep]
            segments += [segment] * (len(words) + 1)
        assert tokenizer.unk_token_id not in ids
        assert columns["input_ids"].values.tolist() == ids
        assert columns["token_type_ids"].values.tolist() == segments
        assert columns["id"] == [row_id]
        assert columns["label"].tolist() == pytest.approx([LABELS[task][number]])


def test_check_reports_each_translated_key_once(folder: Path, capsys) -> None:
    assert main(["check", str(folder / "glue_task_def.yml"), "--data", str(folder / "data")]) == 0
    reported = [line for line in capsys.readouterr().err.splitlines() if " is read as " in line]
    assert f"{folder}/glue_task_def.yml: single.dropout_p: 0.05 is read as dropout: 0.05" in reported
    assert len(reported) == len(set(reported))


def test_rows_of_squad_are_read_as_its_preparation_writes_them(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "tasks.yml").write_text(SPANS)
    (tmp_path / "data").mkdir()
    rows = ["q1\t4:::11:::0:::red cat\tthe red cat sits here\ta dog", "q2\t-1:::-1:::1:::\tthe dog sits\ta cat"]
    for split in ("train", "dev"):
        (tmp_path / "data" / f"squad_{split}.tsv").write_text("".join(f"{row}\n" for row in rows))
    places = [
        "--data",
        str(tmp_path / "data"),
        "--encoder",
        str(folder / "encoder"),
        "--out",
        str(tmp_path / "prepared"),
    ]
    assert main(["prepro", str(tmp_path / "tasks.yml"), *places]) == 0
    store = open_store(tmp_path / "prepared", load_task_defs(tmp_path / "tasks.yml")["squad"], "train")
    columns = store.take(np.array([0, 1]))
    assert columns["label"].values.tolist() == [5, 6, 0, 0]  # [CLS] a dog [SEP] the red cat …; none: the first token
    assert columns["answers"] == ['["red cat"]', "[]"]
    with (tmp_path / "data" / "squad_dev.tsv").open("a") as file:
        file.write("q3\t3:::10:::0:::red cat\tthe red cat sits here\ta dog\n")
    assert main(["prepro", str(tmp_path / "tasks.yml"), *places]) == 2
    place = f"{tmp_path}/data/squad_dev.tsv:3"
    assert f"{place}: label: 'red cat' is not at character 3 of the context." in capsys.readouterr().err
