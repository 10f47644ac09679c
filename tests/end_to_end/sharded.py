"""Trains runs one after another in each of the processes that a launcher started: `sharded.py RUN.yml[:resume] …`."""

import sys

from mtdnn.config.run import load_run_config
from mtdnn.runs.train import train

if __name__ == "__main__":
    for word in sys.argv[1:]:
        file, _, resume = word.partition(":")
        train(load_run_config(file), resume=resume == "resume", progress=False)
