"""`~` is the home directory in every path: of YAML, of flags, of the front door and of converters."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import mtdnn
from data_prep import scitail
from mtdnn.cli.main import main
from tests.conftest import Demo


@pytest.fixture
def home(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home directory with the demo in it, and another one to work in, where nothing may come into being."""
    folder, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name, source in {"data": demo.data, "encoder": demo.encoder, "prepared": demo.prepared}.items():
        shutil.copytree(source, folder / name)
    blocks = yaml.safe_load(demo.tasks.read_text(encoding="utf-8"))
    (folder / "tasks.yml").write_text(yaml.safe_dump({"demo_nli": blocks["demo_nli"]}), encoding="utf-8")
    run = {"tasks": "~/tasks.yml", "data": "~/prepared", "encoder": "~/encoder", "output": "~/run", "max_steps": 1}
    (folder / "run.yml").write_text(yaml.safe_dump(run), encoding="utf-8")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(elsewhere)
    yield folder
    assert list(elsewhere.iterdir()) == []


def test_paths_in_a_run_and_in_flags(home: Path) -> None:
    assert main(["check", "~/tasks.yml", "--data=~/data", "--run=~/run.yml", "--encoder=~/encoder"]) == 0
    assert main(["prepro", "~/tasks.yml", "--data=~/data", "--encoder=~/encoder", "--out=~/again"]) == 0
    assert main(["train", "~/run.yml", "--data=~/again"]) == 0
    assert (home / "run" / "results.json").exists() and (home / "again" / "demo_nli").is_dir()
    assert main(["train", "--tasks=~/tasks.yml", "--data=~/again", "--encoder.run=~/run", "--output=~/next"]) == 0
    words = ["predict", "~/next", "--task", "demo_nli", "--input=~/data/demo_nli/dev.tsv", "--output=~/out.jsonl"]
    assert main(words) == 0 and main(["predict", "~/run,~/next", *words[2:], "--soft"]) == 0
    assert main(["score", "~/run/predictions/demo_nli.dev.jsonl"]) == 0 and (home / "out.jsonl").exists()
    assert main(["report", "~/run"]) == 0 and (home / "run" / "report.html").exists()
    assert main(["subset", "~/data/demo_nli/train.tsv", "--count", "3", "--out=~/few.tsv"]) == 0


def test_paths_of_the_front_door(home: Path) -> None:
    mtdnn.prepare("~/tasks.yml", data=Path("~/data"), encoder="~/encoder", out="~/again")
    config = mtdnn.load_run_config("~/run.yml", {"output": "~/other"})
    assert (config.output, config.encoder) == (str(home / "other"), str(home / "encoder"))
    mtdnn.train("~/run.yml", data="~/again", progress=False)
    run = mtdnn.open_run("~/run")
    assert run.evaluate(data="~/again")["demo_nli"]["dev"]["rows"] == 24
    assert len(run.predict("demo_nli", "~/data/demo_nli/dev.tsv")["demo_nli"]) == 24
    assert mtdnn.RunConfig(tasks="~/t", data="~/d", encoder={"run": "~/r"}, output="~").output == str(home)


def test_paths_in_tasks_and_studies(home: Path) -> None:
    block = {"task_type": "classification", "source": {"path": "~/set"}, "distill": {"from": ["~/a", "b/~"]}}
    task = mtdnn.load_task_defs({"a": {**block, "labels": ["x", "y"]}})["a"]
    assert task.source is not None and task.source.path == str(home / "set")
    assert task.distill is not None and task.distill.from_ == (str(home / "a"), "b/~")
    study = {
        "output": "~/study",
        "variables": {"data": None},
        "run": {"tasks": "~/tasks.yml", "data": "${data}/demo", "encoder": "~/encoder"},
        "stages": {"one": {"axes": {"seed": [1]}}},
    }
    (home / "study.yml").write_text(yaml.safe_dump(study), encoding="utf-8")
    grid = mtdnn.load_study("~/study.yml", variables={"data": "~/rows"})
    assert grid.folder == home / "study"
    assert grid.cells[0].config.data == str(home / "rows" / "demo")
    assert grid.cells[0].config.output.startswith(str(home / "study"))


def test_paths_of_a_converter(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "scitail").mkdir()
    monkeypatch.setattr(sys, "argv", ["scitail", "--input=~/scitail", "--out=~/rows"])
    with pytest.raises(SystemExit):
        scitail.run(scitail.convert, "SciTail")
    assert capsys.readouterr().err.startswith(str(home / "scitail"))


def test_a_name_that_begins_otherwise_is_left_alone() -> None:
    values = {"tasks": "a/~", "data": "./~", "encoder": "~nobody-of-this-name/x", "output": "o"}
    config = mtdnn.RunConfig(**values)
    assert {name: getattr(config, name) for name in values} == values
    assert os.path.expanduser("~nobody-of-this-name/x") == "~nobody-of-this-name/x"
