"""Trains runs one after another in each of the processes that a launcher started: `several_runs.py RUN.yml[:WORD] …`.

WORD is `resume`, or `after` to sum gradients after the backward pass, not during it.
"""

import sys

from mtdnn.config.run import load_run_config
from mtdnn.runs.train import train
from mtdnn.training.updater import Updater

if __name__ == "__main__":
    during = Updater._has_one_backward
    for word in sys.argv[1:]:
        file, _, how = word.partition(":")
        setattr(Updater, "_has_one_backward", (lambda *given: False) if how == "after" else during)  # noqa: B010
        train(load_run_config(file), resume=how == "resume", progress=False)
