"""Metrics of one's own, named by dotted path: checked, what the best checkpoint is chosen by, reported, scored."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtdnn.cli.main import main
from mtdnn.config.run import load_run_config
from mtdnn.metrics.base import METRICS
from mtdnn.runs.train import train
from tests.conftest import Demo

MODULE = """\
from mtdnn.metrics.base import Metric, metric
from mtdnn.metrics.labels import NAMES

@metric("mistakes", NAMES, direction="minimize", range=(0, float("inf")))
def mistakes(records, labels):
    return sum(record["label"] != record["prediction"] for record in records)

half = Metric("half", lambda records, labels: 0.5, NAMES)
bare = lambda records, labels: 1.0
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module on the path, forgotten afterwards with what it registered."""
    (tmp_path / "own_metrics.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_metrics", raising=False)
    monkeypatch.setattr(METRICS, "_known", {name: METRICS.get(name) for name in METRICS})
    return "own_metrics"


def tasks_with(demo: Demo, path: Path, metrics: list[str]) -> Path:
    block: dict[str, Any] = yaml.safe_load(demo.tasks.read_text())["demo_nli"]
    path.write_text(yaml.safe_dump({"demo_nli": {**block, "metrics": metrics}}))
    return path


def test_a_run_is_measured_and_its_best_checkpoint_chosen_by_metrics_of_a_module(
    demo: Demo, module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{module}.mistakes", f"{module}.half", "accuracy"]
    tasks, run = tasks_with(demo, tmp_path / "tasks.yml", words), tmp_path / "run"
    results = train(load_run_config(None, demo.run_values(run, tasks=str(tasks), max_steps=3)), progress=False)
    values = results["demo_nli"]["dev"]
    assert [name for name in values if name in words] == words
    assert values[f"{module}.mistakes"] == pytest.approx((1 - values["accuracy"]) * values["rows"])
    assert values[f"{module}.half"] == 0.5
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["score"] for line in log if "evaluation" in line] == [1 / (1 + values[f"{module}.mistakes"])]
    capsys.readouterr()
    assert main(["score", str(run / "predictions" / "demo_nli.dev.jsonl"), "--metrics", words[0]]) == 0
    assert words[0] in capsys.readouterr().out
    assert main(["report", str(run)]) == 0


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("{}.bare", "demo_nli.metrics: 'own_metrics.bare' is a function, no metric. Put @metric"),
        ("{}.halve", "demo_nli.metrics: cannot import metric 'own_metrics.halve'"),
    ],
)
def test_a_path_that_leads_to_no_metric_is_told_by_check(
    demo: Demo, module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, told: str
) -> None:
    tasks = tasks_with(demo, tmp_path / "tasks.yml", ["accuracy", word.format(module)])
    assert main(["check", str(tasks)]) == 2
    assert told in capsys.readouterr().err
