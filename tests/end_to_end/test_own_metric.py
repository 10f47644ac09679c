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

pytestmark = pytest.mark.usefixtures("files_may_name_code")

MODULE = """\
from mtdnn.metrics.base import Metric, metric
from mtdnn.metrics.labels import NAMES

@metric("mistakes", NAMES, direction="minimize", range=(0, float("inf")))
def mistakes(records, labels):
    return sum(record["label"] != record["prediction"] for record in records)

@metric("out_of_100", NAMES, range=(0, 100))
def out_of_100(records, labels):
    return 100 * sum(record["label"] == record["prediction"] for record in records) / len(records)

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


def test_a_metric_of_another_range_is_shown_and_weighed_as_it_declares_where_its_module_is_gone_too(
    demo: Demo, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word, run = f"{module}.out_of_100", tmp_path / "run"
    tasks = tasks_with(demo, tmp_path / "tasks.yml", [word])
    train(load_run_config(None, demo.run_values(run, tasks=str(tasks), max_steps=3)), progress=False)
    results = json.loads((run / "results.json").read_text())
    value = results["demo_nli"]["dev"][word]
    assert value > 1
    assert results["_metrics"][word] == {"direction": "maximize", "range": [0, 100], "percent": False}
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["score"] for line in log if "evaluation" in line] == [pytest.approx(value / 100)]
    monkeypatch.setattr(METRICS, "_known", {name: METRICS.get(name) for name in METRICS if name != "out_of_100"})
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path)])
    monkeypatch.delitem(sys.modules, module)
    assert main(["report", str(run)]) == 0
    assert f"| {word} {value:.3f} |" in (run / "report.md").read_text(encoding="utf-8")


def test_a_mean_over_tasks_with_a_metric_without_a_range_is_refused_by_check_and_by_train(
    demo: Demo, module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = yaml.safe_load(demo.tasks.read_text())
    chosen = {name: blocks[name] for name in ("demo_nli", "demo_target")}
    chosen["demo_nli"]["metrics"] = [f"{module}.half"]
    tasks, run = tmp_path / "tasks.yml", tmp_path / "run.yml"
    tasks.write_text(yaml.safe_dump(chosen))
    values = {**demo.run_values(tmp_path / "run", tasks=str(tasks), select_by="mean"), "optimizer": {"lr": 1e-3}}
    values.pop("optimizer.lr")
    run.write_text(yaml.safe_dump(values))
    reported = (
        f": select_by: mean, but {module}.half of demo_nli has no range to compare it with others. "
        "Give select_by: a task's name, or a range to the metric: @metric(…, range=(0, 100))."
    )
    assert main(["check", str(tasks)]) == 0, "without a run nothing is chosen by a mean"
    capsys.readouterr()
    for command in (["check", str(tasks), "--run", str(run)], ["train", str(run)]):
        assert main(command) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "select_by" in line]
        assert line.startswith(str(run)) and line.endswith(reported)


@pytest.mark.parametrize(
    ("word", "reported"),
    [
        (
            "{}.bare",
            "demo_nli.metrics: 'own_metrics.bare' is a function, not a metric. Decorate the function with @metric",
        ),
        ("{}.halve", "demo_nli.metrics: cannot import metric 'own_metrics.halve'"),
    ],
)
def test_a_path_that_leads_to_no_metric_is_reported_by_check(
    demo: Demo, module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, reported: str
) -> None:
    tasks = tasks_with(demo, tmp_path / "tasks.yml", ["accuracy", word.format(module)])
    assert main(["check", str(tasks)]) == 2
    assert reported in capsys.readouterr().err
