"""What used to be found out only after training is found out before it, and what is lost is written again."""

import gc
import itertools
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from mtdnn.cli.main import main
from mtdnn.errors import DataError
from mtdnn.model import MultiTaskModel
from mtdnn.runs import train as train_module
from mtdnn.runs.setup import Setup
from mtdnn.training.trainer import Trainer
from tests.reference.small_world import PREPRO, contents, make_world, succeed


@pytest.fixture(scope="module")
def prepared_world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trained_world(prepared_world, tmp_path_factory):
    """The same with a finished run."""
    folder = tmp_path_factory.mktemp("trained") / "world"
    shutil.copytree(prepared_world, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeed("train run.yml")
    return folder


@pytest.fixture
def prepared(prepared_world, tmp_path, monkeypatch):
    shutil.copytree(prepared_world, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")


@pytest.fixture
def trained(trained_world, tmp_path, monkeypatch):
    shutil.copytree(trained_world, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")


def flip_a_bit(path):
    """Change one bit in the middle of a file: its size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def refused(command, capsys):
    """What a command says that exits with status 2 and changes no file."""
    before = contents(Path("."))
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    left = {name: content for name, content in contents(Path(".")).items() if name != "run/.lock"}
    assert left == {name: content for name, content in before.items() if name != "run/.lock"}
    return said


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_damaged_store_is_found_before_training(prepared, capsys, monkeypatch, split):
    flip_a_bit(next(Path("prepared/nli", split).glob("*.arrow")))
    monkeypatch.delattr(Trainer, "train")
    said = refused("train run.yml", capsys)
    assert (
        f"prepared/nli/{split}" in said
        and "damaged: its content differs from what was written. Run: mtdnn prepro" in said
    )


def test_damaged_dev_and_test_stores_come_in_one_report(prepared, capsys):
    for split in ("dev", "test"):
        flip_a_bit(next(Path("prepared/nli", split).glob("*.arrow")))
    said = refused("train run.yml", capsys)
    assert "prepared/nli/dev" in said and "prepared/nli/test" in said


def test_a_damaged_store_that_a_stage_evaluates_is_found_before_its_cells_are_trained(prepared, capsys, monkeypatch):
    study = Path("study.yml")
    study.write_text(study.read_text().replace("keep: results", "keep: results, evaluate: [test]"))
    flip_a_bit(next(Path("prepared/nli/test").glob("*.arrow")))
    monkeypatch.delattr(Trainer, "train")
    said = refused("study study.yml", capsys)
    assert "prepared/nli/test" in said and "damaged: its content differs from what was written" in said


@pytest.mark.parametrize("stopped", [True, False])
def test_a_run_yml_edited_and_resumed_from_itself_is_refused(trained, capsys, stopped):
    """It would train on with the rate of the checkpoint and state the edited one."""
    if stopped:
        shutil.rmtree("run/last")
    config = Path("run/run.yml")
    config.write_text(config.read_text().replace("lr: 0.001", "lr: 0.002"))
    said = refused("train run/run.yml --resume", capsys)
    name = "step-6" if stopped else "last"
    assert f"run/run.yml: optimizer.lr: {name} was trained with 0.001, now it is 0.002. Undo the change" in said


def test_definitions_edited_in_the_run_s_folder_are_refused(trained, capsys):
    tasks, config = Path("run/tasks.yml"), Path("run/run.yml")
    tasks.write_text(tasks.read_text().replace("max_length: 12", "max_length: 12\n  dropout: 0.5"))
    config.write_text(config.read_text().replace("tasks: tasks.yml", "tasks: run/tasks.yml"))
    said = refused("train run/run.yml --resume", capsys)
    assert "run/tasks.yml: like.dropout: last was trained with" in said


def test_what_decides_nothing_may_be_edited(trained):
    config = Path("run/run.yml")
    config.write_text(config.read_text().replace("log_every: 2", "log_every: 3"))
    succeed("train run/run.yml --resume")


@pytest.mark.parametrize("lost", [["best"], ["best", "checkpoints"], ["best", "checkpoints/step-6"], ["best", "last"]])
def test_a_damaged_best_is_written_again_by_a_resumed_run(trained, lost):
    """From another checkpoint of its step where there is one, or else by training from a checkpoint before it."""
    before = contents(Path("run"))
    for name in lost:
        for path in Path("run", name).rglob("model.safetensors"):
            flip_a_bit(path)
    succeed("train run.yml --resume")
    after = contents(Path("run"))
    weights = [name for name in before if name.startswith(("best/", "last/", "log.jsonl", "predictions/", "results"))]
    assert len(weights) > 10
    assert {name: after.get(name) for name in weights} == {name: before[name] for name in weights}


def test_a_best_that_nothing_holds_any_more_is_trained_again(trained):
    before = contents(Path("run"))
    for name in ("best", "checkpoints"):
        shutil.rmtree(Path("run", name))
    said = succeed("train run.yml --resume")
    assert "run/best: missing or damaged; training from the start writes it again" in said
    after = {name: content for name, content in contents(Path("run")).items() if _is_same_again(name)}
    assert after == {name: content for name, content in before.items() if _is_same_again(name)}


def _is_same_again(name):
    """All but times, which TensorBoard's events hold too."""
    return not name.startswith("tensorboard") and name != "timing.jsonl"


def test_a_clock_that_is_set_back_changes_nothing(trained, monkeypatch):
    """All files are from the year 2100 when the run is resumed in 2001, and time runs backwards from then on."""
    before = {name: content for name, content in contents(Path("run")).items() if _is_same_again(name)}
    for name in ("last", "best", "checkpoints/step-6"):
        shutil.rmtree(Path("run", name))
    for path in Path(".").rglob("*"):
        os.utime(path, (4_102_444_800, 4_102_444_800))
    seconds = itertools.count(1_000_000_000, -1)
    monkeypatch.setattr(time, "time", lambda: float(next(seconds)))
    assert succeed(PREPRO).count("(unchanged)") == 5
    succeed("train run.yml --resume")
    assert {name: content for name, content in contents(Path("run")).items() if _is_same_again(name)} == before


def live():
    """How many models there are in memory, and how many numbers their parameters hold."""
    gc.collect()
    kinds = [(each, type(each)) for each in gc.get_objects()]
    models = sum(issubclass(kind, MultiTaskModel) for _, kind in kinds)
    return models, sum(each.numel() for each, kind in kinds if issubclass(kind, torch.nn.Parameter))


def test_a_run_that_cannot_start_leaves_no_thread_that_writes_its_events(prepared, monkeypatch, capsys):
    """TensorBoard's thread would write to a folder that nobody owns any more, and print its own traceback."""

    def refuse(self, *args):
        raise DataError("the optimizer's state cannot be read")

    hook, before = threading.excepthook, threading.enumerate()
    monkeypatch.setattr(Setup, "trainer", refuse)
    assert main(["train", "run.yml"]) == 2
    assert "the optimizer's state cannot be read" in capsys.readouterr().err
    assert (threading.excepthook, threading.enumerate()) == (hook, before)


def test_training_is_over_before_its_run_is_opened_again(prepared, monkeypatch):
    """Neither the trained model nor the teacher of the proximal term is held next to the model that is measured."""
    opened, counts, before = train_module.open_run, [], live()

    def counted(*args, **keywords):
        counts.append(live())
        return opened(*args, **keywords)

    monkeypatch.setattr(train_module, "open_run", counted)
    succeed("train run.yml")
    assert counts == [before]
