"""What `study`, `predict` and `evaluate` refuse, `study --dry_run` and `check` have found before, in the same words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtdnn.cli.main import main
from tests.conftest import Demo

Values = dict[str, Any]

BAD_STUDIES: dict[str, tuple[Values, Values]] = {
    "an unknown key": ({"epocs": 3}, {}),
    "a value of the wrong type": ({"epochs": "many"}, {}),
    "an unknown task": ({"train": ["demo_nil"]}, {}),
    "an unknown task to select by": ({"select_by": "demo_nil"}, {}),
    "a subset of an unknown task": ({"subset": {"demo_nil": {"rows": 3}}}, {}),
    "a subset of more rows than there are": ({"subset": {"demo_nli": {"rows": 10_000}}}, {}),
    "a subset that leaves no row": ({"subset": {"demo_nli": {"fraction": 0.001}}}, {}),
    "no encoder": ({"encoder": "no/such/encoder"}, {}),
    "no prepared rows": ({"data": "nowhere"}, {}),
    "no definitions": ({"tasks": "nothing.yml"}, {}),
    "a run of an unknown stage": ({"encoder": {"run": {"stage": "frst"}}}, {}),
    "an unknown regularizer": ({"regularizer": "smrt"}, {}),
    "an unknown option of a regularizer": ({"regularizer": {"name": "smart", "wait": 3}}, {}),
    "code that is not trusted": ({"regularizer": "mine.Regularizer"}, {}),
    "an unknown option of the optimizer": ({"optimizer": {"lr": 1e-3, "momentum": 0.9}}, {}),
    "an unknown mixing": ({"mixing": "rund_robin"}, {}),
    "a method that moves within a step, with accumulation": ({"regularizer": "free_at", "accumulate": 2}, {}),
    "soft labels that are not there": ({"distill": {"demo_nli": {"from": "no_such.jsonl"}}}, {}),
    "a batch of fewer tokens than a row": ({"max_tokens": 2}, {}),
    "an axis without values": ({}, {"axes": {"seed": []}}),
    "two names for one axis": ({}, {"axes": {"seed": [1], "run": [1]}}),
    "a split to evaluate that no task has": ({}, {"evaluate": ["trian"]}),
    "rows of a split to evaluate that are not prepared": ({}, {"evaluate": ["test"]}),
    "an unknown axis to skip": ({}, {"skip": [{"sed": 1}]}),
    "every cell skipped": ({}, {"skip": [{"seed": 1}]}),
}
BAD_ROWS: dict[str, bytes] = {
    "a column less": b"a\tA red kite flies.\tA kite flies.\n",
    "a column more": b"a\t\tA red kite flies.\tA kite flies.\tIt is red.\n",
    "an empty text": b"a\t\t\tA kite flies.\n",
    "an unknown label": b"a\tperhaps\tA red kite flies.\tA kite flies.\n",
    "an empty line": b"a\t\tA red kite flies.\tA kite flies.\n\nb\t\tA goat.\tA kite.\n",
    "a byte that is no text": b"a\t\tA red \xff flies.\tA kite flies.\n",
    "no row": b"",
}


def ended(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit status and the lines of errors."""
    capsys.readouterr()
    status = main(words)
    lines = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()
    return status, [line for line in lines if "/s]" not in line]


@pytest.mark.parametrize("name", BAD_STUDIES)
def test_what_a_study_refuses_is_found_by_its_dry_run(
    demo: Demo, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, stage = BAD_STUDIES[name]
    values = demo.run_values(tmp_path / "run", train=["demo_nli"], max_steps=1)
    values = {**values, "optimizer": {"lr": 1e-3}, **run}
    del values["optimizer.lr"], values["output"]
    study = {"output": str(tmp_path / "study"), "run": values, "stages": {"first": {"axes": {"seed": [1]}, **stage}}}
    path = tmp_path / "study.yml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    tried, found = ended(["study", str(path), "--dry_run"], capsys)
    ran, refused = ended(["study", str(path)], capsys)
    assert (tried, ran) == (2, 2), (found, refused)
    assert refused[0] in found
    assert not (tmp_path / "study" / "cells").exists()


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_predict_refuses_are_found_by_check(
    demo: Demo, demo_run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(demo.data, tmp_path / "data")
    rows = data / "demo_nli" / "dev.tsv"
    rows.write_bytes(BAD_ROWS[name])
    checked, found = ended(["check", str(demo_run / "tasks.yml"), "--data", str(data)], capsys)
    words = ["--task", "demo_nli", "--input", str(rows), "--output", str(tmp_path / "o.jsonl")]
    predicted, refused = ended(["predict", str(demo_run), *words], capsys)
    assert (checked, predicted) == (2, 2), (found, refused)
    assert any(refused[-1].startswith(line) for line in found)  # and says that it needs no label
    assert not (tmp_path / "o.jsonl").exists()
