"""The original toolkit's task definitions and rows, as they stand, give the ids that toolkit documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from mtdnn.cli import main
from mtdnn.data.store import open_store
from mtdnn.task_def import load_task_defs
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
