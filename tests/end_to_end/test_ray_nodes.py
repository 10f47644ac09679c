"""A study on two machines of a Ray cluster, of which one is lost in the middle: its cells are run on the other.

The machines are raylets of this one; a raylet is killed together with the processes that it has started.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from mtdnn.study.cells import Outcome, read_outcome
from mtdnn.study.grid import Cell, Grid
from mtdnn.study.launchers import Here, Ray
from mtdnn.study.load import load_study
from mtdnn.study.run import train_cell
from mtdnn.study.scheduler import run_cells
from tests.conftest import Demo
from tests.end_to_end import test_study_killed
from tests.unit.study.test_study import attempts, grid_of, score_of_seed

LONGEST_WAIT_SECONDS = 600
unbroken = test_study_killed.unbroken  # a fixture: the same study, trained without a loss


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs, and the driver connected to it."""
    ray = pytest.importorskip("ray", reason="ray is an optional extra: pip install 'mtdnn[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the processes of Ray find this file
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default: on a busy machine they would wait for all others
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=found.address, log_to_driver=False)
    yield found
    ray.shutdown()
    found.shutdown()


def lose(cluster: Any, node: Any) -> None:
    """End all processes of a node at once, as when its machine loses power."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in [raylet, *raylet.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    cluster.remove_node(node, allow_graceful=False)


def waits_for_the_loss(cell: Cell) -> Outcome:
    """Notes where it runs, and lasts until another machine is lost."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    (cell.folder / "node").write_text(here)
    lost = cell.folder.parent.parent.parent / "lost"
    until = time.monotonic() + LONGEST_WAIT_SECONDS
    while not (lost.exists() and lost.read_text() not in ("", here)) and time.monotonic() < until:
        time.sleep(0.05)
    return score_of_seed(cell)


@pytest.mark.slow  # tests/unit/study/test_study.py has a process that is killed
def test_cells_of_a_lost_machine_are_run_again_on_another(cluster: Any, tmp_path: Path) -> None:
    stages = {"only": {"run": {"train": ["rte"]}, "axes": {"seed": [1, 2, 3]}}}
    report = {"compare": "seed", "reference": "1"}
    grid = grid_of(tmp_path, stages=stages, report=report)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    with ThreadPoolExecutor(1) as pool:
        study = pool.submit(run_cells, grid, Ray(waits_for_the_loss, jobs=2), progress=False)
        until = time.monotonic() + LONGEST_WAIT_SECONDS
        while len(running := [cell for cell in grid.cells if (cell.folder / "node").exists()]) < 2:
            assert time.monotonic() < until and not study.done()
            time.sleep(0.05)
        where = {cell.name: (cell.folder / "node").read_text() for cell in running}
        gone = nodes[0].node_id
        assert len(set(where.values())) == 2 and gone in where.values()
        lose(cluster, nodes[0])
        (grid.folder / "lost").write_text(gone)
        summary = study.result(LONGEST_WAIT_SECONDS)
    assert (summary.finished, summary.broken) == (3, {})
    assert all(read_outcome(cell) is not None for cell in grid.cells)
    histories = [attempts(cell) for cell in grid.cells]
    assert sum("lost" in events for events in histories) == 1, json.dumps(histories)
    (lost,) = [cell for cell in running if "lost" in attempts(cell)]
    assert (where[lost.name], (lost.folder / "node").read_text()) == (gone, nodes[1].node_id)
    assert attempts(lost) == ["start", "lost", "start", "finished"]
    other = grid_of(tmp_path, stages=stages, report=report, output=str(tmp_path / "other"))
    run_cells(other, Here(score_of_seed), progress=False)
    assert (other.folder / "results.csv").read_bytes() == (grid.folder / "results.csv").read_bytes()


@pytest.mark.slow
def test_a_study_whose_machine_is_lost_while_it_trains_ends_as_an_unbroken_one(
    cluster: Any,
    unbroken: Grid,
    demo: Demo,
    tmp_path: Path,
) -> None:
    grid = load_study(test_study_killed.write_study(demo, tmp_path))
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    with ThreadPoolExecutor(1) as pool:
        study = pool.submit(run_cells, grid, Ray(train_cell, jobs=2), progress=False)
        first = [cell for cell in grid.cells if not cell.needs]  # the two that start at once
        until = time.monotonic() + LONGEST_WAIT_SECONDS
        while not all((cell.run_folder / "log.jsonl").exists() for cell in first):
            assert time.monotonic() < until and not study.done()
            time.sleep(0.005)
        lose(cluster, nodes[0])
        summary = study.result(2 * LONGEST_WAIT_SECONDS)
    assert (summary.finished, summary.broken) == (3, {})
    assert ["lost" in attempts(cell) for cell in first].count(True) == 1
    assert (grid.folder / "results.csv").read_bytes() == (unbroken.folder / "results.csv").read_bytes()
