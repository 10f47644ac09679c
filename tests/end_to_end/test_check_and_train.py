"""What `train` refuses, `check --run` has found before, in the same words; what `check` passes, `train` carries out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtdnn.cli.main import main
from tests.conftest import Demo

Values = dict[str, Any]

BAD_RUNS: dict[str, tuple[Values, Values]] = {
    "an unknown key": ({"epocs": 3}, {}),
    "a value of the wrong type": ({"epochs": "many"}, {}),
    "an unknown task": ({"train": ["demo_nil"]}, {}),
    "selection by an unknown task": ({"select_by": "demo_nil"}, {}),
    "a subset of an unknown task": ({"subset": {"demo_nil": {"rows": 3}}}, {}),
    "a subset of more rows than there are": ({"subset": {"demo_nli": {"rows": 10_000}}}, {}),
    "a subset that leaves no row": ({"subset": {"demo_nli": {"fraction": 0.001}}}, {}),
    "no encoder": ({"encoder": "no/such/encoder"}, {}),
    "no run to start from": ({"encoder": {"run": "no/such/run"}}, {}),
    "an unknown regularizer": ({"regularizer": "smrt"}, {}),
    "an unknown option of a regularizer": ({"regularizer": {"name": "smart", "wait": 3}}, {}),
    "code that is not trusted": ({"regularizer": "mine.Regularizer"}, {}),
    "an unknown option of the optimizer": ({"optimizer": {"momentum": 0.9}}, {}),
    "an unknown schedule": ({"schedule": "cosin"}, {}),
    "an unknown mixing": ({"mixing": "rund_robin"}, {}),
    "an unknown proximal term": ({"proximal": "momentun"}, {}),
    "a method that moves within a step, with accumulation": ({"regularizer": "free_at", "accumulate": 2}, {}),
    "soft labels that are not there": ({"distill": {"demo_nli": {"from": "no_such.jsonl"}}}, {}),
    "a batch of fewer tokens than a row": ({"max_tokens": 2}, {}),
    "an unknown task type": ({}, {"task_type": "clasification"}),
    "an unknown metric": ({}, {"metrics": ["acuracy"]}),
    "an unknown head": ({}, {"head": "poled"}),
    "an unknown loss": ({}, {"loss": "cross_entrpy"}),
    "too many tokens for the encoder": ({}, {"max_length": 5000}),
    "a head to start from without an earlier run": ({}, {"init_head": {"from": "demo_target"}}),
}
GOOD_RUNS: dict[str, tuple[Values, Values]] = {
    "as it is": ({}, {}),
    "a subset": ({"subset": {"demo_nli": {"rows": 20}}}, {}),
    "smart": ({"regularizer": "smart", "proximal": "momentum"}, {}),
    "tokens in place of rows": ({"max_tokens": 512}, {}),
    "other words": ({"optimizer": {"name": "sgd", "momentum": 0.9}, "schedule": "cosine", "mixing": "uniform"}, {}),
    "the san head": ({}, {"head": "san"}),
}


def files(demo: Demo, folder: Path, run: Values, block: Values) -> tuple[Path, Path]:
    """Definitions and a run, with these values laid over those of the demo."""
    blocks = yaml.safe_load(demo.tasks.read_text(encoding="utf-8"))
    tasks, path = folder / "tasks.yml", folder / "run.yml"
    tasks.write_text(yaml.safe_dump({"demo_nli": {**blocks["demo_nli"], **block}}), encoding="utf-8")
    values = {**demo.run_values(folder / "run", tasks=str(tasks), max_steps=1), "optimizer": {"lr": 1e-3}, **run}
    values.pop("optimizer.lr")
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return tasks, path


def ended(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit status and the lines of errors."""
    capsys.readouterr()
    status = main(words)
    return status, capsys.readouterr().err.strip().splitlines()


@pytest.mark.parametrize("name", BAD_RUNS)
def test_what_train_refuses_is_found_by_check(
    demo: Demo, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks, run = files(demo, tmp_path, *BAD_RUNS[name])
    checked, found = ended(["check", str(tasks), "--data", str(demo.data), "--run", str(run)], capsys)
    trained, refused = ended(["train", str(run)], capsys)
    assert (checked, trained) == (2, 2), (found, refused)
    assert refused[0] in found
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", GOOD_RUNS)
def test_what_check_passes_is_trained(
    demo: Demo, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks, run = files(demo, tmp_path, *GOOD_RUNS[name])
    checked, found = ended(["check", str(tasks), "--data", str(demo.data), "--run", str(run)], capsys)
    assert (checked, found) == (0, [])
    prepared = str(tmp_path / "prepared")
    words = ["prepro", str(tasks), "--data", str(demo.data), "--encoder", str(demo.encoder), "--out", prepared]
    assert ended(words, capsys)[0] == 0
    status, refused = ended(["train", str(run), "--data", prepared], capsys)
    assert status == 0, refused
    assert json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["demo_nli"]
