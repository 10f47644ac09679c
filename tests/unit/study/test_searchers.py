"""Processes of a search: how they end, and what each of them has of the machine."""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from mtdnn.errors import ConfigError, fault
from mtdnn.study import searchers
from mtdnn.study.searchers import work_in_processes


def first_is_killed(folder: Path) -> None:
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        (folder / "done").touch()
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def first_is_wrong(folder: Path) -> None:
    """Reports an error; the second would work for an hour, and leaves a note when it is stopped."""
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        try:
            (folder / "works").touch()
            time.sleep(3600)
        except KeyboardInterrupt:
            (folder / "stopped").touch()
            raise
    else:
        while not (folder / "works").exists():
            time.sleep(0.01)
        raise ConfigError(fault("run.yml", "epochs", "wrong", "Mend it."))


def notes_environment(folder: Path) -> None:
    found = {key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
    (folder / f"{os.getpid()}.json").write_text(json.dumps(found), encoding="utf-8")


def test_the_others_continue_when_a_process_is_killed(tmp_path):
    assert work_in_processes(partial(first_is_killed, tmp_path), 2) == [
        "its process was ended by signal 9 (out of memory?)"
    ]
    assert (tmp_path / "done").exists()


def test_an_error_of_one_is_raised_and_stops_the_others(tmp_path):
    with pytest.raises(ConfigError, match=r"^run.yml: epochs: wrong. Mend it.$"):
        work_in_processes(partial(first_is_wrong, tmp_path), 2)
    assert (tmp_path / "stopped").exists()


def test_each_process_has_a_gpu_and_its_share_of_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(searchers, "visible_gpus", lambda: ["5", "7"])
    monkeypatch.setattr(searchers, "threads_each", lambda jobs: 6 // jobs)
    assert work_in_processes(partial(notes_environment, tmp_path), 3) == []
    found = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.json")]
    assert sorted(each["CUDA_VISIBLE_DEVICES"] for each in found) == ["5", "5", "7"]
    assert {each["OMP_NUM_THREADS"] for each in found} == {"2"}
