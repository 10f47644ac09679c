"""What commit dc63209 wrote is read by today's code: prepared rows, a run, its checkpoints and predictions, a study.

tests/data/dc63209 is a project of two tasks and an encoder of one layer (tests/reference/project.py). That commit made
it:

    mtdnn prepro tasks.yml --data data --encoder encoder --out prepared
    mtdnn train --tasks tasks.yml --data prepared --encoder encoder --output run --max_steps 6 --batch_size 2 \\
        --seed 3 --checkpoint_every 3 --keep_checkpoints 2 --log_every 1 \\
        --regularizer smart --proximal.name momentum --optimizer.lr 1e-3

Of the run the checkpoints `last` and step-6 are left out, so that it is as if it had been killed between steps 3 and 6;
its log says what these steps were.
"""

import json
import logging
import shutil
from pathlib import Path

import pytest

import mtdnn
from mtdnn.cli.main import main

OLD = Path(__file__).parents[1] / "data" / "dc63209"
TOLERANCE = {"rel": 1e-4, "abs": 1e-6}
"""Another processor adds float32 numbers in another order: relative errors of 1e-7 in each of some hundred terms, which
six steps of AdamW multiply. On the processor that wrote the folder every number is equal to the last bit."""


STUDY = """\
output: study
run: {tasks: tasks.yml, data: prepared, encoder: encoder, max_steps: 2, optimizer.lr: 1e-3}
stages:
  first:
    axes:
      method:
        plain: {}
        smart: {regularizer: smart, proximal.name: momentum, schedule.warmup: 0}
        other:
          optimizer.name: sgd
          optimizer.momentum: 0.9
          schedule: {name: slanted_triangular, ratio: 16}
          mixing: {name: temperature, tau: 2}
          regularizer: {name: smart-mtdnn-release}
      seed: [1]
    evaluate: dev
  second:
    run: {encoder: {run: {stage: first}}, subset: {nli: {rows: 2}}, tasks.nli.dropout: 0.2}
    axes: {method: {plain: {}}, seed: [1]}
"""
CELLS = ["first/plain_1-5d5bf3ee", "first/smart_1-18de5e6a", "first/other_1-9d6a8b75", "second/plain_1-dda6e051"]
"""What that commit calls the cells of STUDY: folders whose names end in a hash of all that decides their numbers."""


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of the folder, which is the working directory, as the paths in it are relative."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


def test_its_run_is_evaluated_to_the_same_metrics_and_predictions(old):
    assert main(["evaluate", "run"]) == 0
    before = json.loads((OLD / "run" / "results.json").read_text())
    now = json.loads(Path("run/results.json").read_text())
    assert {task: now[task] for task in ("nli", "like")} == {task: before[task] for task in ("nli", "like")}
    for path in (OLD / "run" / "predictions").iterdir():
        for record, wanted in zip(lines_of(old / "run" / "predictions" / path.name), lines_of(path), strict=True):
            assert record["scores"] == pytest.approx(wanted["scores"], **TOLERANCE)
            assert {"id": record["id"], "label": record["label"]} == {"id": wanted["id"], "label": wanted["label"]}
    assert main(["score", str(OLD / "run" / "predictions" / "nli.dev.jsonl"), "--metrics", "accuracy"]) == 0


def test_its_run_predicts_rows_in_a_file_as_it_did(old):
    records = mtdnn.open_run("run").predict("nli", "data/nli/dev.tsv")["nli"]
    wanted = lines_of(OLD / "run" / "predictions" / "nli.dev.jsonl")
    assert [record["prediction"] for record in records] == [record["prediction"] for record in wanted]
    for record, each in zip(records, wanted, strict=True):
        assert record["scores"] == pytest.approx(each["scores"], **TOLERANCE)


def test_its_prepared_rows_are_unchanged_to_prepro(old, caplog):
    before = files_of("prepared")
    with caplog.at_level(logging.INFO, logger="mtdnn"):
        assert (
            main(
                ["prepro", "tasks.yml", "--data", "data", "--encoder", "encoder", "--out", "prepared", "--workers", "1"]
            )
            == 0
        )
    reported = [line for line in caplog.messages if "rows" in line and "no rows for this split" not in line]
    assert len(reported) == 4 and all(line.endswith("(unchanged)") for line in reported)
    assert {path: time for path, time in files_of("prepared").items() if path.name != ".lock"} == before


def test_a_new_run_trains_on_its_prepared_rows_as_the_old_one_did(old):
    """With every key of its run.yml, as a version before today wrote them all."""
    assert main(["train", "run/run.yml", "--output", "again"]) == 0
    assert_same_log(lines_of("again/log.jsonl"), lines_of(OLD / "run" / "log.jsonl"))


def test_its_killed_run_resumes_to_the_same_losses(old):
    assert main(["train", "run/run.yml", "--resume"]) == 0
    assert_same_log(lines_of("run/log.jsonl"), lines_of(OLD / "run" / "log.jsonl"))
    assert {path.name for path in Path("run/checkpoints").iterdir()} == {"step-3", "step-6"}
    assert mtdnn.open_run("run", checkpoint="last").step == 6


def assert_same_log(lines, wanted):
    """The same steps, losses, gradients and metrics; R_s itself is about 1e-12 here, rounding noise, and only small."""
    assert [line["step"] for line in lines] == [line["step"] for line in wanted] == [1, 2, 3, 3, 4, 5, 6, 6]
    for line, old in zip(lines, wanted, strict=True):
        assert line.get("evaluation") == old.get("evaluation")
        for task, values in old.get("train", {}).items():
            now = line["train"][task]
            assert 0 <= now["smart"] < 1e-10
            compared = ("task", "proximal", "gradient_norm", "proximal.drift")
            assert {name: now[name] for name in compared} == pytest.approx(
                {name: values[name] for name in compared}, **TOLERANCE
            )


def test_its_run_is_reported(old):
    assert main(["report", "run"]) == 0
    text = Path("run/report.md").read_text(encoding="utf-8")
    assert "The slow boat." in text  # the text of a row, from the file that the store names
    assert "accuracy" in text and "pearson" in text and "dc63209336a4" in text
    assert Path("run/report.html").is_file()


def test_another_run_starts_from_its_encoder_and_heads(old):
    words = "--tasks tasks.yml --data prepared --output next --max_steps 1 --encoder.run run --encoder.heads keep"
    assert main(["train", *words.split()]) == 0


def test_its_encoder_and_head_are_exported(old):
    assert main(["export", "run", "--task", "nli", "--output", "model"]) == 0
    assert Path("model/model.safetensors").is_file()


def test_the_cells_of_its_studies_are_found_again(old):
    """Else a finished cell would be run a second time."""
    Path("study.yml").write_text(STUDY, encoding="utf-8")
    assert [cell.name for cell in mtdnn.load_study("study.yml").cells] == CELLS
