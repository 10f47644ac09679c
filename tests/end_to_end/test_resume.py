"""A run that is killed anywhere and resumed ends as if nothing had happened, to the bit."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock
from safetensors.torch import load_file

from mtdnn.config.run import load_run_config
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.prepro import prepare
from mtdnn.errors import ConfigError, DataError
from mtdnn.runs.train import train
from mtdnn.training.checkpoint import newest_whole, read_training
from mtdnn.training.signals import Interrupted
from mtdnn.training.trainer import Trainer
from tests.conftest import REPOSITORY, Demo
from tests.reference.forks import finished

SETTINGS = {
    "checkpoint_every": 5,
    "evaluate_every": 4,
    "keep_checkpoints": 3,
    "regularizer": {"name": "smart", "epsilon": 1e-3},
    "proximal": {"name": "momentum"},
}


def equal(first: Any, second: Any) -> bool:
    """Equality to the bit of nested plain values and tensors."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)


def assert_same_run(first: Path, second: Path) -> None:
    """Weights of best and last, everything a resume needs, the log and the predictions are the same."""
    for name in ("best", "last"):
        assert equal(*(load_file(folder / name / "model.safetensors") for folder in (first, second)))
    newest = [newest_whole(folder / "checkpoints") for folder in (first, second)]
    assert newest[0] is not None and newest[1] is not None and newest[0].name == newest[1].name
    assert equal(read_training(newest[0]), read_training(newest[1]))
    assert (first / "log.jsonl").read_bytes() == (second / "log.jsonl").read_bytes()
    for path in (first / "predictions").iterdir():
        assert path.read_bytes() == (second / "predictions" / path.name).read_bytes()


def killed(values: dict[str, Any], point: str, folder: Path) -> None:
    """Run in a process of its own that kills itself at a point."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *outer, last = key.split(".")
        inner = nested
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = value
    config = folder / f"{point.replace(':', '-')}.yml"
    config.write_text(yaml.safe_dump(nested))
    script = REPOSITORY / "tests" / "end_to_end" / "killed.py"
    status, _, errors = finished(str(script), str(config), point)
    assert status == -signal.SIGKILL, errors[-2000:]


@pytest.fixture(scope="module")
def unbroken(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # as the killed processes: the order of a sum depends on the number of threads
    output = tmp_path_factory.mktemp("unbroken") / "run"
    train(load_run_config(None, demo.run_values(output, **SETTINGS)), progress=False)
    return output


@pytest.mark.parametrize("point", ["step:3", "step:13", "writing:12", "renaming:3"])
def test_a_killed_run_resumed_equals_the_unbroken_one(demo: Demo, unbroken: Path, tmp_path: Path, point: str) -> None:
    values = demo.run_values(tmp_path / "run", **SETTINGS)
    killed(values, point, tmp_path)
    train(load_run_config(None, values), resume=True, progress=False)
    assert_same_run(unbroken, tmp_path / "run")


def test_a_run_stopped_by_sigterm_leaves_a_checkpoint_to_resume_from(
    demo: Demo, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = demo.run_values(tmp_path / "run", **SETTINGS)
    step = Trainer.train_step

    def signalled(self: Trainer, parts: Any) -> None:
        step(self, parts)
        if self.progress.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="SIGTERM after step 7"):
        patched.setattr(Trainer, "train_step", signalled)
        train(load_run_config(None, values), progress=False)
    assert newest_whole(tmp_path / "run" / "checkpoints") == tmp_path / "run" / "checkpoints" / "step-7"
    train(load_run_config(None, values), resume=True, progress=False)
    assert_same_run(unbroken, tmp_path / "run")


def test_a_damaged_checkpoint_is_passed_over(demo: Demo, unbroken: Path, tmp_path: Path) -> None:
    values = demo.run_values(tmp_path / "run", **SETTINGS)
    killed(values, "step:13", tmp_path)
    weights = tmp_path / "run" / "checkpoints" / "step-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    train(load_run_config(None, values), resume=True, progress=False)
    assert_same_run(unbroken, tmp_path / "run")


def test_a_finished_run_is_not_trained_again_even_without_checkpoints_of_its_steps(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_run_config(None, demo.run_values(tmp_path / "run", epochs=1, checkpoint_every="never"))
    results = train(config, progress=False)
    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    monkeypatch.delattr(Trainer, "train")
    again = train(config, resume=True, progress=False)
    assert {task: again[task] for task in results} == results
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == log
    with pytest.raises(ConfigError, match="already contains a run"):
        train(config, progress=False)


def test_a_run_is_not_resumed_on_other_rows(demo: Demo, tmp_path: Path) -> None:
    data, prepared, run = tmp_path / "data", tmp_path / "prepared", tmp_path / "run"
    shutil.copytree(demo.data / "demo_nli", data / "demo_nli")
    task = {"demo_nli": load_task_defs(demo.tasks)["demo_nli"]}
    prepare(task, data=data, encoder=demo.encoder, out=prepared, num_workers=1)
    settings = {"data": str(prepared), "train": ["demo_nli"], "max_steps": 3, "subset.demo_nli.rows": 20}
    config = load_run_config(None, demo.run_values(run, **settings))
    train(config, progress=False)
    shutil.rmtree(run / "last")  # as if it had been stopped
    rows = data / "demo_nli" / "train.tsv"
    before = rows.read_text(encoding="utf-8")
    rows.write_text("".join(before.splitlines(keepends=True)[1:]), encoding="utf-8")
    prepare(task, data=data, encoder=demo.encoder, out=prepared, num_workers=1)
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    reported = r"prepared/demo_nli: the train rows differ from those .*step-3 was trained on \(20 then, 20 now\)\. Undo"
    with pytest.raises(DataError, match=reported):
        train(config, resume=True, progress=False)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files
    rows.write_text(before, encoding="utf-8")
    prepare(task, data=data, encoder=demo.encoder, out=prepared, num_workers=1)
    train(config, resume=True, progress=False)
    assert (run / "last").exists()


def test_gradients_that_are_logged_change_nothing_but_the_log(demo: Demo, unbroken: Path, tmp_path: Path) -> None:
    train(load_run_config(None, demo.run_values(tmp_path / "run", **SETTINGS, log_gradients=True)), progress=False)
    weights = (load_file(folder / "last" / "model.safetensors") for folder in (unbroken, tmp_path / "run"))
    assert equal(*weights)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    trained = [line["train"] for line in lines if "train" in line]
    logged = [task for line in trained for task in line.values()]
    assert all(task["gradient.task"] > 0 and task["gradient.smart"] > 0 for task in logged)
    assert max(map(len, trained)) > 1  # each task of a line, not that of its last step alone


def test_a_folder_that_another_process_trains_in_is_left_alone(demo: Demo, tmp_path: Path) -> None:
    values = demo.run_values(tmp_path / "run", train=["demo_nli"], max_steps=2)
    reported = "run: another mtdnn train is writing here"
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(DataError, match=reported):
        train(load_run_config(None, values), resume=True, progress=False)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    train(load_run_config(None, values), progress=False)
