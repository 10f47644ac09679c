"""Teachers → soft labels → student, by commands on the demo's rows; the student resumed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mtdnn.cli.main import main
from mtdnn.config.run import load_run_config
from mtdnn.errors import ConfigError
from mtdnn.runs.opened import soft_predictions
from mtdnn.runs.train import train
from tests.conftest import Demo
from tests.reference.interrupted import stopped_and_resumed

TASKS = ["demo_nli", "demo_similarity"]


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def folder(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, and the soft labels of each and of both, for two tasks."""
    folder = tmp_path_factory.mktemp("distillation")
    for seed in (1, 2):
        values = demo.run_values(folder / f"teacher-{seed}", seed=seed, train=TASKS, checkpoint_every="never")
        train(load_run_config(None, values), progress=False)
    teachers = [f"{folder}/teacher-1", f"{folder}/teacher-2"]
    for task in TASKS:
        rows = demo.data / task / "train.tsv"
        for name, runs in (("one", teachers[:1]), ("two", teachers[1:]), ("both", teachers)):
            words = f"--soft --task {task} --input {rows} --output {folder}/{name}.{task}.jsonl"
            assert main(["predict", ",".join(runs), *words.split()]) == 0
    return folder


def student(demo: Demo, folder: Path, name: str, **values: Any) -> dict[str, Any]:
    distill = {
        "demo_nli": {"from": str(folder / "both.demo_nli.jsonl"), "temperature": 2.0, "weight": 0.7},
        "demo_similarity": {"from": [str(folder / f"{which}.demo_similarity.jsonl") for which in ("one", "two")]},
    }
    more = {"train": TASKS, "distill": distill, "regularizer": {"name": "smart"}, "checkpoint_every": 3, **values}
    return demo.run_values(folder / name, **more)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "model.safetensors")


def test_soft_labels_of_several_teachers_are_the_mean_of_each(folder: Path) -> None:
    one, two, both = (records(folder / f"{name}.demo_nli.jsonl") for name in ("one", "two", "both"))
    assert len(both) == 60 and [record["id"] for record in both] == [record["id"] for record in one]
    for first, second, mean in zip(one, two, both, strict=True):
        expected = {label: (first["scores"][label] + second["scores"][label]) / 2 for label in first["scores"]}
        assert mean["scores"] == pytest.approx(expected, rel=1e-12)
        assert mean["prediction"] == max(expected, key=expected.__getitem__) and mean["label"] == first["label"]
    numbers = [
        [record["prediction"] for record in records(folder / f"{name}.demo_similarity.jsonl")]
        for name in ("one", "two", "both")
    ]
    np.testing.assert_allclose(numbers[2], np.mean(numbers[:2], axis=0), rtol=1e-12)


def test_the_soft_labels_of_one_teacher_are_its_predictions(demo: Demo, folder: Path) -> None:
    words = f"--task demo_nli --input {demo.data}/demo_nli/train.tsv --output {folder}/plain.jsonl"
    assert main(["predict", f"{folder}/teacher-1", *words.split()]) == 0
    assert records(folder / "plain.jsonl") == records(folder / "one.demo_nli.jsonl")


def test_the_predictions_of_an_ensemble_can_be_scored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", f"{folder}/both.demo_nli.jsonl", "--metrics", "accuracy"]) == 0
    right = [record["prediction"] == record["label"] for record in records(folder / "both.demo_nli.jsonl")]
    assert f"{np.mean(right):.4f}" in capsys.readouterr().out


def test_a_student_stopped_and_resumed_equals_the_unbroken_one(demo: Demo, folder: Path) -> None:
    whole = train(load_run_config(None, student(demo, folder, "student")), progress=False)
    config = load_run_config(None, student(demo, folder, "resumed"))
    assert stopped_and_resumed(config, step=7) == whole
    first, second = weights(folder / "student"), weights(folder / "resumed")
    assert all(torch.equal(first[name], second[name]) for name in first)
    changed = student(demo, folder, "resumed")
    changed["distill"]["demo_nli"]["weight"] = 0.6
    with pytest.raises(ConfigError, match=r"distill\.demo_nli\.weight: the run started with 0\.7, now it is 0\.6"):
        train(load_run_config(None, changed), resume=True, progress=False)


def test_weight_0_is_the_run_without_soft_labels_and_a_block_does_what_the_run_does(demo: Demo, folder: Path) -> None:
    off = student(demo, folder, "off", train=["demo_nli"], epochs=1)
    off["distill"] = {"demo_nli": {**off["distill"]["demo_nli"], "weight": 0}}
    train(load_run_config(None, off), progress=False)
    train(
        load_run_config(None, student(demo, folder, "plain", train=["demo_nli"], epochs=1, distill={})), progress=False
    )
    first, second = weights(folder / "off"), weights(folder / "plain")
    assert all(torch.equal(first[name], second[name]) for name in first)

    on = student(demo, folder, "on", train=["demo_nli"], epochs=1)
    on["distill"] = {"demo_nli": on["distill"]["demo_nli"]}
    train(load_run_config(None, on), progress=False)
    blocks = yaml.safe_load(demo.tasks.read_text(encoding="utf-8"))
    blocks["demo_nli"]["distill"] = on["distill"]["demo_nli"]
    (folder / "tasks.yml").write_text(yaml.safe_dump(blocks), encoding="utf-8")
    block = {**student(demo, folder, "block", train=["demo_nli"], epochs=1, distill={}), "tasks": f"{folder}/tasks.yml"}
    train(load_run_config(None, block), progress=False)
    third, fourth = weights(folder / "on"), weights(folder / "block")
    assert all(torch.equal(third[name], fourth[name]) for name in third)
    assert any(not torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (
            "--distill.demo_nli.from {short}",
            "{short}: id: no soft label for 'train-1' (1 of 60 train rows of demo_nli)",
        ),
        ("--distill.demo_nli.from {other}", "{other}: scores: row 'train-0': labels: none; demo_nli.labels"),
        ("--distill.demo_nly.from {short}", "distill: unknown task 'demo_nly'; known: demo_nli."),
        ("--distill.demo_nli.from {short} --distill.demo_nli.weight 2", "distill.demo_nli.weight"),
        ("--distill.demo_nli.weight 0.5", "distill.demo_nli.from: is missing"),
    ],
)
def test_faults_of_the_user_are_status_2_and_leave_no_run(
    demo: Demo, folder: Path, capsys: pytest.CaptureFixture[str], words: str, reported: str
) -> None:
    places = {"short": folder / "short.jsonl", "other": folder / "one.demo_similarity.jsonl"}
    lines = (folder / "one.demo_nli.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    places["short"].write_text("".join(line for line in lines if '"train-1"' not in line), encoding="utf-8")
    run = (
        f"--tasks {demo.tasks} --data {demo.prepared} --encoder {demo.encoder} --output {folder}/none --train demo_nli"
    )
    assert main(["train", *run.split(), *words.format(**places).split()]) == 2
    assert reported.format(**places) in capsys.readouterr().err
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    ("distill", "reported"),
    [
        ({"demo_nli": {"from": "{folder}/one.demo_nli.jsonl"}}, []),
        ({"demo_nli": {"from": "{folder}/none.jsonl"}}, ["{folder}/none.jsonl: cannot be read: "]),
        (
            {"demo_nli": {"from": ["{folder}/broken.jsonl", "{folder}/one.demo_similarity.jsonl"]}},
            [
                "{folder}/broken.jsonl:1: not a prediction record. ",
                "{folder}/one.demo_similarity.jsonl: scores: row 'train-0': labels: none; demo_nli.labels",
            ],
        ),
        ({"demo_nly": {"from": "x"}}, ["run.yml:3: distill: unknown task 'demo_nly'; known: "]),
    ],
)
def test_check_reads_the_files_of_soft_labels(
    demo: Demo, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], distill: Any, reported: list[str]
) -> None:
    (folder / "broken.jsonl").write_text("[]\n", encoding="utf-8")
    rest = f"tasks: {demo.tasks}\ndata: {demo.prepared}\n"
    block = yaml.safe_dump({"distill": distill}).replace("{folder}", str(folder))
    (tmp_path / "run.yml").write_text(f"{rest}{block}encoder: {demo.encoder}\noutput: none\n", encoding="utf-8")
    assert main(["check", str(demo.tasks), "--run", str(tmp_path / "run.yml")]) == (2 if reported else 0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= len(reported)
    for expected in reported:
        assert any(expected.replace("{folder}", str(folder)) in line for line in lines), lines


def test_a_type_without_soft_labels_is_refused(demo: Demo, folder: Path, tmp_path: Path) -> None:
    blocks = {
        "ranked": {"task_type": "ranking", "inputs": ["premise", "hypothesis"], "group_by": "premise", "max_length": 64}
    }
    blocks["ranked"]["labels"] = ["contradiction", "neutral", "entailment"]
    (tmp_path / "tasks.yml").write_text(yaml.safe_dump(blocks), encoding="utf-8")
    for split in ("train", "dev"):
        path = tmp_path / "data" / "ranked" / f"{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((demo.data / "demo_nli" / f"{split}.tsv").read_bytes())
    words = (
        f"prepro {tmp_path}/tasks.yml --data {tmp_path}/data --encoder {demo.encoder} --out {tmp_path}/out --workers 1"
    )
    assert main(words.split()) == 0
    values = {
        **demo.run_values(tmp_path / "run", max_steps=1),
        "tasks": f"{tmp_path}/tasks.yml",
        "data": f"{tmp_path}/out",
    }
    train(load_run_config(None, values), progress=False)
    with pytest.raises(ConfigError, match="'ranked' is a task of ranking, which has no soft labels"):
        soft_predictions([tmp_path / "run"], ["ranked"], tmp_path / "data" / "ranked" / "dev.tsv")
