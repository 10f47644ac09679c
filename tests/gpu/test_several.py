"""Two processes with a GPU each, over NCCL: the run of one process, but for the order of sums."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mtdnn.config.run import load_run_config
from tests.conftest import REPOSITORY, Demo
from tests.end_to_end.test_distributed import (
    SETTINGS,
    logged,
    require_same_predictions,
    without_dropout,  # noqa: F401  a fixture
)


def trained(values: dict[str, Any], folder: Path, processes: int) -> Path:
    """The folder of a run that torchrun has started in so many processes."""
    config, output = folder / f"run{processes}.yml", folder / f"of_{processes}"
    config.write_text(load_run_config(None, {**values, "output": str(output)}).to_yaml())
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *launcher, "-m", "mtdnn", "train", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason=f"{torch.cuda.device_count()} CUDA devices; needs two")
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_gpus_train_and_predict_as_one_does(
    demo: Demo,
    without_dropout: dict[str, Any],  # noqa: F811
    tmp_path: Path,
    sharding: str,
) -> None:
    """Tolerances as over gloo."""
    values = demo.run_values(tmp_path / "unused", **{**SETTINGS, **without_dropout})
    one = trained(values, tmp_path, 1)
    two = trained({**values, "sharding": sharding}, tmp_path, 2)
    require_same_predictions(one, two, rel=1e-2)
    for first, second in zip(logged(one), logged(two), strict=True):
        compared = [name for name in first if ".smart." not in name]  # those are of the first process's rows alone
        assert {name: second[name] for name in compared} == pytest.approx(
            {name: first[name] for name in compared}, rel=1e-3, abs=1e-6
        )
