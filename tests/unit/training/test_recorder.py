"""The log of a resumed run is that of an unbroken one."""

import errno
import json
import threading
import time
from pathlib import Path

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from mtdnn.training.recorder import Recorder, drop_after


def record(folder: Path, steps: range, *, resumed_at: int = 0) -> None:
    recorder = Recorder(folder, step=resumed_at)
    for step in steps:
        recorder.train(step, {"rte": {"task": 1 / step}}, {"lr": 0.1})
    recorder.evaluation(steps[-1], {"rte": {"dev": {"accuracy": 0.5}}}, 0.5)
    recorder.close()


def test_lines_after_the_checkpoint_are_forgotten_on_resume(tmp_path: Path) -> None:
    record(tmp_path / "whole", range(1, 6))
    record(tmp_path / "broken", range(1, 4))
    with (tmp_path / "broken" / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "tra')  # cut by a kill
    log = (tmp_path / "broken" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[3])["evaluation"]  # at step 3, which the unbroken run does not evaluate
    record(tmp_path / "broken", range(3, 6), resumed_at=2)
    assert (tmp_path / "broken" / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()


def test_a_log_that_is_not_there_is_nothing_to_forget(tmp_path: Path) -> None:
    drop_after(tmp_path / "log.jsonl", 3)
    assert not (tmp_path / "log.jsonl").exists()


def test_no_line_of_the_log_depends_on_the_clock(tmp_path: Path) -> None:
    record(tmp_path, range(1, 3))
    keys = {key for line in (tmp_path / "log.jsonl").read_text().splitlines() for key in json.loads(line)}
    assert keys == {"step", "train", "lr", "evaluation", "score"}
    assert json.loads((tmp_path / "timing.jsonl").read_text().splitlines()[-1])["seconds_per_step"] > 0


def test_an_error_in_tensorboard_s_thread_is_raised_here_without_a_traceback_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hook = threading.excepthook
    recorder = Recorder(tmp_path)
    monkeypatch.setattr(RecordWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        for step in range(1, 200):
            recorder.train(step, {"rte": {"task": 1.0}}, {"lr": 0.1})
            time.sleep(0.01)
    with pytest.raises(OSError, match="No space left"):
        recorder.close()
    assert capsys.readouterr().err == ""
    assert threading.excepthook is hook
