"""Settings of accelerate's environment: taken from nowhere but the run, and refused where they say otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtdnn.cli.main import main
from mtdnn.config.run import RunConfig
from mtdnn.runs.environment import SETTINGS, setting_faults
from tests.conftest import REPOSITORY, Demo

PLACES = {"tasks": "t", "data": "d", "encoder": "e", "output": "o"}


def reported(environment: dict[str, str], **values: Any) -> list[str]:
    return [str(each) for each in setting_faults(RunConfig(**PLACES, **values), environment)]


@pytest.mark.parametrize(
    ("variable", "value", "run", "fix"),
    [
        ("MIXED_PRECISION", "bf16", "the run has precision: float32", "Write precision: bf16."),
        ("MIXED_PRECISION", "fp16", "the run has precision: float32", "Write precision: fp16."),
        ("MIXED_PRECISION", "fp8", "the run has precision: float32", "There are precision: float32, bf16 and"),
        (
            "GRADIENT_ACCUMULATION_STEPS",
            "4",
            "the run has accumulate: 1",
            "Write batch_size: 128 and accumulate: 4, as `accumulate` splits a batch.",
        ),
        ("GRADIENT_CLIPPING", "0.5", "the run has clip_norm: 1", "Write clip_norm: 0.5."),
        ("DYNAMO_BACKEND", "INDUCTOR", "the run has compile: false", "Write compile: true,"),
        ("USE_FSDP", "true", "the run has sharding: none", "Write sharding: full, by"),
        ("USE_DEEPSPEED", "true", "the run has sharding: none", "Write sharding: full, by"),
        ("USE_MEGATRON_LM", "true", "the run has sharding: none", "Write sharding: full, by"),
        ("USE_PARALLELISM_CONFIG", "true", "the run has sharding: none", "Write sharding: full, by"),
    ],
)
def test_what_a_run_does_not_do_is_refused_with_what_to_write(variable: str, value: str, run: str, fix: str) -> None:
    (line,) = reported({f"ACCELERATE_{variable}": value})
    assert line.startswith(f"ACCELERATE_{variable}: '{value}' is not taken from accelerate: {run}")
    assert fix in line


@pytest.mark.parametrize(
    ("variable", "value", "values"),
    [
        ("MIXED_PRECISION", "bf16", {"precision": "bf16"}),
        ("GRADIENT_ACCUMULATION_STEPS", "4", {"accumulate": 4}),
        ("GRADIENT_CLIPPING", "0.5", {"clip_norm": 0.5}),
        ("GRADIENT_CLIPPING", "1", {}),
        ("DYNAMO_BACKEND", "INDUCTOR", {"compile": True}),
    ],
)
def test_what_a_run_does_anyway_is_no_error(variable: str, value: str, values: dict[str, Any]) -> None:
    assert reported({f"ACCELERATE_{variable}": value}, **values) == []


def test_what_accelerate_sets_by_itself_is_no_error() -> None:
    """The variables of `accelerate launch` without any flag, as accelerate 1.11 writes them."""
    plain = {
        "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_DYNAMO_MODE": "default",
        "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False", "ACCELERATE_USE_CPU": "True", "ACCELERATE_USE_FSDP": "false",
    }  # fmt: skip
    for values in ({}, {"precision": "bf16", "accumulate": 2, "compile": True}):
        assert reported(plain, **values) == []
        assert reported({name: "1" if "STEPS" in name else "" for name in SETTINGS}, **values) == []


def test_training_is_refused_before_anything_is_written(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {**demo.run_values(tmp_path / "run"), "optimizer": {"lr": 1e-3}}
    values.pop("optimizer.lr")
    (tmp_path / "run.yml").write_text(yaml.safe_dump(values), encoding="utf-8")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert main(["train", str(tmp_path / "run.yml")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_FSDP"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "variable"),
    [
        pytest.param([], None, marks=pytest.mark.slow),  # what it sets then is in the test above
        (["--mixed_precision", "bf16"], "ACCELERATE_MIXED_PRECISION"),
    ],
    ids=["plain", "bf16"],
)
def test_accelerate_launch_itself(demo: Demo, tmp_path: Path, words: list[str], variable: str | None) -> None:
    values = demo.run_values(tmp_path / "run", max_steps=1, train="demo_nli")
    flags = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", *words]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HOME": str(tmp_path)}
    command = [*launcher, "-m", "mtdnn", "train", *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode == 0) == (variable is None), done.stderr[-2000:]
    if variable is not None:
        assert f"{variable}: 'bf16' is not taken from accelerate: the run has precision: float32" in done.stderr
