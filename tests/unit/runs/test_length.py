"""How long a run is, asked by check, by a dry run and by training: one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mtdnn.cli.main import main
from mtdnn.config.run import load_run_config
from mtdnn.config.tasks import load_task_defs
from mtdnn.errors import ConfigError
from mtdnn.runs.length import run_length, training_rows
from mtdnn.runs.row_check import check
from mtdnn.runs.setup import Setup
from mtdnn.study.size import run_size
from tests.conftest import Demo

PAIR = ["demo_nli", "demo_target"]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"epochs": 2.5},
        {"max_steps": 7},
        {"accumulate": 3},
        {"mixing": {"name": "round_robin", "turns": "equal", "exhausted": "stop"}},
        {"mixing": {"name": "temperature", "tau": 2}},
        {"mixing": "sequential"},
        {"mixing": {"name": "annealed"}, "max_steps": 20},
        {"subset": {"demo_nli": {"rows": 17}}},
        {"subset": {"demo_nli": {"fraction": 0.5}, "demo_target": {"rows": 1}}},
        {"max_tokens": 200},
        {"group_by_length": 3, "subset": {"demo_nli": {"rows": 40}}},
    ],
    ids=lambda values: " ".join(map(str, values)) or "plain",
)
def test_check_dry_run_and_training_agree(demo: Demo, tmp_path: Path, values: dict[str, Any]) -> None:
    config = load_run_config(None, demo.run_values(tmp_path / "run", train=PAIR, **values))
    run = tmp_path / "run.yml"
    run.write_text(config.to_yaml())
    setup = Setup.of(config)
    trained = {name: setup.tasks[name] for name in PAIR}
    size = run_size(config, trained)
    report = check(demo.tasks, data=demo.data, encoder=str(demo.encoder), run=run, num_workers=1)
    assert size.rows == {name: len(store) for name, store in setup.train_stores.items()}
    assert size.steps == report.steps == setup.plan.total_steps
    assert report.batches == setup.sampler.batches_per_task(0)


@pytest.mark.parametrize(
    ("subset", "line"),
    [
        (
            "{demo_nli: {rows: 10000}}",
            "subset.demo_nli.rows: 10000 of 60 rows. Give 1 to 60.",
        ),
        ("{demo_nli: {fraction: 0.01}}", "subset.demo_nli.fraction: 0.01 of 60 rows is no row. Give 0.0167 to 1."),
    ],
)
def test_a_subset_that_cannot_be_is_refused_alike_everywhere(
    demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str], subset: str, line: str
) -> None:
    run, study = tmp_path / "run.yml", tmp_path / "study.yml"
    text = f"tasks: {demo.tasks}\ndata: {demo.prepared}\nencoder: {demo.encoder}\n"
    text += f"train: [demo_nli]\nsubset: {subset}\n"
    run.write_text(f"{text}output: {tmp_path / 'run'}\n")
    cells = {
        "run": yaml.safe_load(text),
        "stages": {"fine": {"axes": {"seed": [1]}}},
        "output": str(tmp_path / "study"),
    }
    study.write_text(yaml.safe_dump(cells))
    for words in (
        ["check", str(demo.tasks), "--data", str(demo.data), "--run", str(run)],
        ["train", str(run)],
    ):
        assert main(words) == 2
        assert f"{run}:5: {line}" in capsys.readouterr().err
    for words in (["study", str(study), "--dry_run"], ["study", str(study)]):
        assert main(words) == 2
        assert f"{study}: fine (seed 1): {line}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists() and not (tmp_path / "study" / "cells").exists()


def test_the_least_fraction_that_is_named_leaves_a_row(demo: Demo) -> None:
    tasks = {"demo_nli": load_task_defs(demo.tasks)["demo_nli"]}
    for rows in (3, 7, 60, 120, 999, 123_457):
        values = demo.run_values(Path("run"), train=["demo_nli"])
        config = load_run_config(None, {**values, "subset.demo_nli.fraction": 1e-9})
        with pytest.raises(ConfigError) as caught:
            run_length(config, tasks, {"demo_nli": rows})
        least = float(str(caught.value).split("Give ")[1].split(" to")[0])
        named = load_run_config(None, {**values, "subset.demo_nli.fraction": least})
        assert training_rows(named, tasks["demo_nli"], rows) == 1
