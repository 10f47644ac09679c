"""A study on two machines of a Ray cluster, of which one is lost in the middle: its cells are run on the other.

The machines are raylets of this one; killing a raylet ends the processes that it has started, as the loss of a machine
does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtdnn.study.cells import Outcome, read_outcome
from mtdnn.study.grid import Cell
from mtdnn.study.launchers import Here, Ray
from mtdnn.study.scheduler import run_cells
from tests.unit.study.test_study import attempts, grid_of, score_of_seed

LONGEST_WAIT_SECONDS = 120


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs, and the driver connected to it."""
    ray = pytest.importorskip("ray", reason="ray is an optional extra: pip install 'mtdnn[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the processes of Ray find this file
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=found.address, log_to_driver=False)
    yield found
    ray.shutdown()
    found.shutdown()


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
    summaries: list[Any] = []
    study = threading.Thread(
        target=lambda: summaries.append(run_cells(grid, Ray(waits_for_the_loss, jobs=2), progress=False))
    )
    study.start()
    until = time.monotonic() + LONGEST_WAIT_SECONDS
    while len(running := [cell for cell in grid.cells if (cell.folder / "node").exists()]) < 2:
        assert time.monotonic() < until and study.is_alive()
        time.sleep(0.05)
    where = {cell.name: (cell.folder / "node").read_text() for cell in running}
    assert len(set(where.values())) == 2
    gone = nodes[0].node_id
    assert gone in where.values()
    cluster.remove_node(nodes[0], allow_graceful=False)
    (grid.folder / "lost").write_text(gone)
    study.join(LONGEST_WAIT_SECONDS)
    assert not study.is_alive()
    assert (summaries[0].finished, summaries[0].broken) == (3, {})
    assert all(read_outcome(cell) is not None for cell in grid.cells)
    histories = [attempts(cell) for cell in grid.cells]
    assert sum("lost" in events for events in histories) == 1, json.dumps(histories)
    (lost,) = [cell for cell in running if "lost" in attempts(cell)]
    assert (where[lost.name], (lost.folder / "node").read_text()) == (gone, nodes[1].node_id)
    assert attempts(lost) == ["start", "lost", "start", "finished"]
    other = grid_of(tmp_path, stages=stages, report=report, output=str(tmp_path / "other"))
    run_cells(other, Here(score_of_seed), progress=False)
    assert (other.folder / "results.csv").read_bytes() == (grid.folder / "results.csv").read_bytes()
