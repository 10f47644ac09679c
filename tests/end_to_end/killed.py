"""Carries out a run and kills itself, with SIGKILL, at a given point: `killed.py RUN.yml POINT`.

Points: `step:N` = after the N-th update, before anything is written down; `writing:N` = while a checkpoint is written,
at the N-th file's checksum; `renaming:N` = before the N-th checkpoint, written whole, gets its name; `asked:N` = after
the N-th update, by a SIGTERM to itself alone where it is the second process of several; `lost:N` = the same by SIGKILL.
"""

import os
import signal
import sys
from typing import Any

from mtdnn.config.run import load_run_config
from mtdnn.runs.train import train
from mtdnn.training import checkpoint
from mtdnn.training.trainer import Trainer


def die_at_call(owner: Any, name: str, number: int, *, by: int = signal.SIGKILL) -> None:
    """Let the `number`-th call of a function send the process a signal first."""
    function, calls = getattr(owner, name), 0

    def counted(*args: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), by)
        return function(*args, **keywords)

    setattr(owner, name, counted)


def main(config: str, point: str) -> None:
    kind, _, number = point.partition(":")
    if kind == "step":
        die_at_call(Trainer, "_after_step", int(number))
    elif kind == "writing":
        die_at_call(checkpoint, "file_sha256", int(number))
    elif kind == "renaming":
        die_at_call(checkpoint, "_replace", int(number))
    elif kind == "asked" and os.environ.get("RANK") == "1":
        die_at_call(Trainer, "_after_step", int(number), by=signal.SIGTERM)
    elif kind == "lost" and os.environ.get("RANK") == "1":
        die_at_call(Trainer, "_after_step", int(number))
    train(load_run_config(config), progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
