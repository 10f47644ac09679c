"""Checkpoints are whole or not there."""

import errno
import json
import threading
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import nn

from mtdnn.errors import DataError
from mtdnn.training import checkpoint


def save(folder: Path, model: nn.Module, step: int = 1) -> None:
    checkpoint.save_checkpoint(
        folder,
        model,
        save_encoder=lambda path: path.mkdir(),
        state={"step": step},
        training={"moments": torch.arange(3.0), "step": step},
    )


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_what_is_saved_is_read_back_to_the_bit(tmp_path: Path, model: nn.Module) -> None:
    save(tmp_path / "step-1", model)
    other = nn.Linear(3, 2)
    checkpoint.load_weights(tmp_path / "step-1", other)
    assert torch.equal(other.weight, model.weight) and torch.equal(other.bias, model.bias)
    assert checkpoint.read_state(tmp_path / "step-1") == {"step": 1}
    assert torch.equal(checkpoint.read_training(tmp_path / "step-1")["moments"], torch.arange(3.0))


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "state.json", "checksums.json"])
def test_a_file_cut_short_makes_the_checkpoint_before_it_the_newest(
    tmp_path: Path, model: nn.Module, name: str
) -> None:
    save(tmp_path / "step-1", model)
    save(tmp_path / "step-2", model, step=2)
    broken = tmp_path / "step-2" / name
    broken.write_bytes(broken.read_bytes()[:-3])
    assert checkpoint.newest_whole(tmp_path) == tmp_path / "step-1"
    with pytest.raises(DataError, match=name):
        checkpoint.open_checkpoint(tmp_path / "step-2")


def test_a_full_disk_leaves_what_was_there_and_says_so(
    tmp_path: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "best", model)
    before = {path: path.read_bytes() for path in checkpoint.files_below(tmp_path / "best")}

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DataError, match=r"best: cannot be written: No space left on device\. Free disk space"):
        save(tmp_path / "best", model, step=2)
    assert {path: path.read_bytes() for path in checkpoint.files_below(tmp_path)} == before


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path, model: nn.Module) -> None:
    save(tmp_path / "best", model)
    (tmp_path / "best").rename(tmp_path / ".best.before")
    assert checkpoint.open_checkpoint(tmp_path / "best") == tmp_path / "best"


def test_a_checkpoint_that_a_trainer_is_replacing_is_waited_for(tmp_path: Path, model: nn.Module) -> None:
    """Put back by a reader, it would be in the way of the new one."""
    save(tmp_path / "best", model)
    (tmp_path / "best").rename(tmp_path / ".best.before")
    save(tmp_path / ".new", model, step=2)
    with FileLock(tmp_path / ".lock"):
        trainer = threading.Timer(0.3, (tmp_path / ".new").rename, [tmp_path / "best"])
        trainer.start()
        assert checkpoint.open_checkpoint(tmp_path / "best") == tmp_path / "best"
        trainer.join()
    assert checkpoint.read_state(tmp_path / "best")["step"] == 2
    assert (tmp_path / ".best.before").exists()


def test_only_the_newest_are_kept_and_leftovers_removed(tmp_path: Path, model: nn.Module) -> None:
    folder = tmp_path / "checkpoints"
    for step in (9, 10, 100):
        save(folder / f"step-{step}", model, step)
    for leftover in (folder / ".step-101.partial-1", tmp_path / ".best.partial-1"):
        leftover.mkdir()
    checkpoint.keep_newest(folder, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["step-10", "step-100"]
    assert list(tmp_path.iterdir()) == [folder]


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path, model: nn.Module) -> None:
    save(tmp_path / "best", model)
    with pytest.raises(DataError, match="weights do not fit this model"):
        checkpoint.load_weights(tmp_path / "best", nn.Linear(3, 5))


def test_no_code_is_ever_unpickled(tmp_path: Path, model: nn.Module) -> None:
    save(tmp_path / "step-1", model)
    torch.save({"optimizer": nn.Linear}, tmp_path / "step-1" / "training.pt")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        checkpoint.read_training(tmp_path / "step-1")


def test_checksums_name_every_file(tmp_path: Path, model: nn.Module) -> None:
    save(tmp_path / "step-1", model)
    sums = json.loads((tmp_path / "step-1" / "checksums.json").read_text())
    assert sorted(sums) == ["model.safetensors", "state.json", "training.pt"]
