"""Rows that are longer than max_length get the same scores from an exported folder as from `mtdnn predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from mtdnn.cli.main import main
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.prepro import prepare
from tests.conftest import Demo

PAIRS = [("The dog sleeps . " * count, "A cat runs . " * (9 - count)) for count in range(1, 9)]
TASKS = """\
whole: {task_type: classification, inputs: [one], labels: [yes_, no_], max_length: 12, splits: {train: train}}
pairs: {task_type: classification, inputs: [one, two], labels: [a, b], max_length: 20, splits: {train: train}}
score: {task_type: regression, inputs: [one, two], max_length: 15, splits: {train: train}}
"""


@pytest.fixture(scope="module")
def run(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step over the three tasks, which cut rows at different lengths."""
    root = tmp_path_factory.mktemp("long")
    (root / "tasks.yml").write_text(TASKS, encoding="utf-8")
    for task, labels, texts in (("whole", "yes_ no_", 1), ("pairs", "a b", 2), ("score", "0 1", 2)):
        (root / task).mkdir()
        lines = ["\t".join([str(n), labels.split()[n % 2], *pair[:texts]]) for n, pair in enumerate(PAIRS)]
        (root / task / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tasks = load_task_defs(root / "tasks.yml")
    prepare(tasks, data=root, encoder=demo.encoder, out=root / "prepared", num_workers=1)
    flags = ["--tasks", root / "tasks.yml", "--data", root / "prepared", "--encoder", demo.encoder]
    assert main(["train", *map(str, flags), "--output", str(root / "run"), "--max_steps", "3"]) == 0
    return root / "run"


@pytest.mark.parametrize("task", ["whole", "pairs", "score"])
def test_an_exported_folder_scores_long_rows_as_predict_does(run: Path, tmp_path: Path, task: str) -> None:
    rows = run.parent / task / "train.tsv"
    assert main(["predict", str(run), "--task", task, "--input", str(rows), "--output", str(tmp_path / "o.jsonl")]) == 0
    assert main(["export", str(run), "--task", task, "--output", str(tmp_path / "out")]) == 0
    ours = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()]
    pipe: Any = pipeline("text-classification", str(tmp_path / "out"), top_k=None)
    texts = [{"text": first} | ({} if task == "whole" else {"text_pair": second}) for first, second in PAIRS]
    assert max(len(pipe.tokenizer(**each)["input_ids"]) for each in texts) > pipe.tokenizer.model_max_length
    for mine, theirs in zip(ours, pipe(texts, truncation=True), strict=True):
        scores = {each["label"]: each["score"] for each in theirs}
        expected = mine["scores"] or {"LABEL_0": mine["prediction"]}
        assert scores == pytest.approx(expected, abs=1e-5)  # float32, another order of the same sums
